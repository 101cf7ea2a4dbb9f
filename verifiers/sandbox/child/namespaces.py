"""A world of its own for programs: namespaces(7) without any rights of the user.

The root is a small read-only tree that holds the system's libraries, the standard library under `/python`, the package
folders under `/packages/N` and the interpreter as `/interpreter/bin/python3`; `/tmp` is a private file system in
memory, the only writable place. The network is unconnected, there is no `/proc`, and nothing of the host can be named.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Sequence

from kernel import MOUNT, MOUNT_SETATTR, PIVOT_ROOT, SETNS, UMOUNT2, UNSHARE, syscall

NEW_USER, NEW_MOUNT, NEW_PID, NEW_NETWORK = 0x10000000, 0x20000, 0x20000000, 0x40000000
NEW_IPC, NEW_UTS, NEW_CGROUP = 0x08000000, 0x04000000, 0x02000000
NOSUID, NODEV, BIND, RECURSIVE, PRIVATE = 2, 4, 4096, 16384, 1 << 18
DETACH = 2
SYSTEM = ("usr", "lib", "lib32", "lib64", "libx32", "bin", "sbin", "etc/ld.so.cache", "etc/alternatives", "nix/store")
DEVICES = ("null", "zero", "urandom", "random")
PROGRAM_ID = 1000  # the user that programs run as, inside
NOBODY = 65534  # and outside, where the host's user is root


def unshare_world() -> int:
    """Enter new namespaces of every kind; the next child is the first process in them. Returns the programs' uid.

    Root outside maps a second, powerless user for the programs; any other user has only itself. Raises `OSError`.
    """
    uid, gid = os.getuid(), os.getgid()
    spaces = NEW_USER | NEW_MOUNT | NEW_PID | NEW_NETWORK | NEW_IPC | NEW_UTS | NEW_CGROUP
    if uid != 0:
        syscall(UNSHARE, spaces)
        _write("self", f"{PROGRAM_ID} {uid} 1", f"{PROGRAM_ID} {gid} 1", deny_groups=True)
        return PROGRAM_ID
    told, tell = os.pipe()  # only a process outside may map more than its own user
    outside = os.getpid()
    helper = os.fork()
    if helper == 0:
        os.close(tell)
        os.read(told, 1)
        maps = f"0 0 1\n{PROGRAM_ID} {NOBODY} 1"
        try:
            _write(str(outside), maps, maps, deny_groups=False)
        except OSError:
            os._exit(1)
        os._exit(0)
    os.close(told)
    try:
        syscall(UNSHARE, spaces)
    finally:
        os.close(tell)
        _, status = os.waitpid(helper, 0)
    if status:
        raise PermissionError("root may not map a second user")
    return PROGRAM_ID


def _write(process: str, users: str, groups: str, *, deny_groups: bool) -> None:
    for name, text in (("setgroups", "deny"), ("uid_map", users), ("gid_map", groups)):
        if name == "setgroups" and not deny_groups:
            continue
        with open(f"/proc/{process}/{name}", "w") as file:
            file.write(text)


def mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    """Call mount(2)."""
    syscall(MOUNT, *(text.encode() for text in (source, target, kind)), flags, data.encode())


def build_root(library: str, packages: Sequence[str]) -> None:
    """Make the tree described above this process's root. `library` is the folder that holds the standard library."""
    executable = os.path.realpath(sys.executable)
    mount("none", "/", "none", RECURSIVE | PRIVATE)
    mount("root", "/tmp", "tmpfs", NOSUID | NODEV, "mode=755,size=1m")
    os.chdir("/tmp")
    os.mkdir("old")
    syscall(PIVOT_ROOT, b".", b"old")
    os.chdir("/")
    places = {name: name for name in SYSTEM} | {f"packages/{i}": path[1:] for i, path in enumerate(packages)}
    if not library.startswith("/usr/"):
        places["python"] = library[1:]
    places["interpreter/bin/interpreter"] = executable[1:]
    for target, source in places.items():
        _graft(source, target)
    for device in DEVICES:
        _graft(f"dev/{device}", f"dev/{device}", devices=True)
    os.symlink("/python" if "python" in places else library, "/interpreter/lib")
    with open("/interpreter/bin/python3", "w") as script:
        script.write('#!/bin/sh\nLD_LIBRARY_PATH=/interpreter/lib exec /interpreter/bin/interpreter "$@"\n')
    os.chmod("/interpreter/bin/python3", 0o755)
    os.symlink("python3", "/interpreter/bin/python")
    os.symlink("/tmp/stdin", "/dev/stdin")
    os.symlink("/tmp", "/dev/shm")  # for the semaphores of locks between processes
    os.mkdir("/tmp")
    syscall(UMOUNT2, b"/old", DETACH)
    os.rmdir("/old")
    _read_only("/", recursive=False)


def _graft(source: str, target: str, *, devices: bool = False) -> None:
    """Show the old root's `source` in the new root as `target`, read-only."""
    origin = f"/old/{source}"
    os.makedirs(os.path.dirname(f"/{target}"), exist_ok=True)
    if os.path.islink(origin):
        return os.symlink(os.readlink(origin), f"/{target}")
    if os.path.isdir(origin):
        os.mkdir(f"/{target}")
    elif os.path.exists(origin):
        os.close(os.open(f"/{target}", os.O_CREAT, 0o644))
    else:
        return None
    mount(origin, f"/{target}", "none", BIND | RECURSIVE)
    return _read_only(f"/{target}", devices=devices)


def _read_only(target: str, *, devices: bool = False, recursive: bool = True) -> None:
    attributes = 1 | 2 | (0 if devices else 4)  # read-only, no set-uid, no devices
    words = (ctypes.c_uint64 * 4)(attributes, 0, 0, 0)
    syscall(MOUNT_SETATTR, -100, target.encode(), 0x8000 if recursive else 0, words, 32)


class PrivateTmp:
    """A `/tmp` that is new for each program; it is replaced only when one has touched it."""

    def __init__(self, owner: int, megabytes: int) -> None:
        self._options = f"mode=1777,uid={owner},gid={owner},size={megabytes}m,nr_inodes=4096"
        self._mount()

    def _mount(self) -> None:
        mount("tmp", "/tmp", "tmpfs", NOSUID | NODEV, self._options)
        self._untouched = self._traces()

    def _traces(self) -> tuple[int, ...]:
        """What every change alters: the time of the last change, and as that is coarse, the contents too."""
        folder, system = os.stat("/tmp"), os.statvfs("/tmp")
        return folder.st_ctime_ns, folder.st_mode, folder.st_uid, system.f_ffree, system.f_bfree

    def renew(self) -> bool:
        """Empty it; whether there was anything to do."""
        if self._traces() == self._untouched:
            return False
        syscall(UMOUNT2, b"/tmp", DETACH)
        self._mount()
        os.chdir("/tmp")
        return True


class ProcessSpaces:
    """Gives the next child a process namespace of its own, again and again."""

    def __init__(self, own: int) -> None:
        self._own = own  # descriptor of this process's namespace

    def prepare(self) -> None:
        """Make the next child the first in a new namespace, so that all it starts dies with it."""
        syscall(SETNS, self._own, NEW_PID)
        syscall(UNSHARE, NEW_PID)


def search_path(library: str, packages: Sequence[str]) -> list[str]:
    """`sys.path` as it is inside."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    base = library if library.startswith("/usr/") else "/python"
    return [f"{base}/{version}", f"{base}/{version}/lib-dynload", *(f"/packages/{i}" for i in range(len(packages)))]


def relocate_packages(outside: str, inside: str) -> None:
    """Let packages that were imported outside find their other modules inside."""
    for module in list(sys.modules.values()):
        places = getattr(module, "__path__", ())
        if any(place.startswith(f"{outside}/") for place in places):
            module.__path__ = [place.replace(outside, inside, 1) for place in places]
