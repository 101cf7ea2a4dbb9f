"""A warm interpreter that forks a confined process for each program. Started by `worker.py`, never imported.

    python -s -P -S zygote.py DESCRIPTOR

Over the socket it is told once how to set itself up, and replies which layers hold. Then, for each program, it receives
limits and the program's own descriptors, forks, and reports the process (a pidfd) and later how it ended. The program
itself never passes through here: it goes straight from the judge to the forked process, so that no trace of it can
reach the next. Standard library alone; this process holds no secrets and runs no foreign code.
"""

from __future__ import annotations

import array
import contextlib
import functools
import gc
import importlib.machinery
import json
import os
import resource
import signal
import socket
import sys
from typing import Any

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import codec  # noqa: F401
import confinement
import folders
import program

# What programs import most: it is already loaded for them. Each makes every fork a little larger; `threading` and
# `random` would cost most, because of the hooks that they run at each fork.
USUAL = (
    "abc", "array", "bisect", "collections", "collections.abc", "contextlib", "copy", "dataclasses", "enum",
    "functools", "heapq", "io", "itertools", "json", "math", "operator", "re", "string", "struct", "sys",
    "time", "types", "typing",
)  # fmt: skip
LINUX = sys.platform == "linux"
OWN_MODULES = ("codec", "confinement", "folders", "kernel", "namespaces", "program", "seccomp")
SIZE = "/proc/self/statm"
DESCRIPTORS = socket.CMSG_SPACE(4 * array.array("i").itemsize)  # that come with one order


def main() -> None:
    """Set up, then serve until the socket closes."""
    control = socket.socket(fileno=int(sys.argv[1]))
    control.set_inheritable(False)
    config, _ = receive(control)
    if config is None:
        return
    os.environ.clear()
    doing = "layers"
    try:
        if not sys.dont_write_bytecode:
            keep_bytecode(config["preload"], config["packages"])
        layers, memory, program_id, spaces, tmp = isolate(config)
        sys.dont_write_bytecode = True
        doing = "preload"
        for name in [*USUAL, *config["preload"]]:
            importlib.import_module(name)
        exec(config["warm_up"], {"__name__": "warm_up"})
        doing = "layers"
        writable = "/tmp" if tmp else config["folder"]
        confined = confinement.Confinement(**layers, writable=writable, memory=address_space(memory))
    except BaseException as error:
        send(control, {"failed": doing, "reason": f"{type(error).__name__}: {error}"})
        return
    announce(control, os.getpid(), layers=layers)
    os.chdir(writable)
    os.environ["TMPDIR"] = writable
    program.prepare()
    confinement.limit_all()
    gc.collect()
    gc.freeze()
    serve(control, confined, program_id, spaces, tmp, config["folder"])
    if config["folder"]:
        clean_up(config["folder"])


def keep_bytecode(preload: list[str], packages: list[str]) -> None:
    """Import once where that keeps bytecode that no installer has left: in its layers this process can write none."""
    found = [importlib.machinery.PathFinder.find_spec(name, packages) for name in preload]
    lacking = [spec.cached for spec in found if spec and spec.cached and not os.path.exists(spec.cached)]
    if not any(os.access(os.path.dirname(os.path.dirname(path)), os.W_OK) for path in lacking):
        return
    importer = os.fork()
    if importer == 0:
        sys.path += packages
        with contextlib.suppress(BaseException):  # what it is, is said where it is imported to stay
            for name in preload:
                importlib.import_module(name)
        os._exit(0)
    os.waitpid(importer, 0)


def isolate(config: dict[str, Any]) -> tuple[dict[str, bool], int, int | None, Any, Any]:
    """Enter the layers that are wanted.

    Returns which of them hold, a descriptor to read this process's size from, the uid of programs, and what renews
    process namespaces and /tmp.
    """
    layers = {name: name in config["layers"] for name in ("namespaces", "seccomp", "landlock")}
    here = sys.path.pop(0)
    sys.path += config["packages"]
    if not LINUX:
        return layers, -1, None, None, None
    sys.path.insert(0, here)
    for name in OWN_MODULES:  # read while they can be
        importlib.import_module(name)
    sys.path.remove(here)
    probe(layers)
    if not layers["namespaces"]:
        signal.signal(signal.SIGTERM, lambda *_: clean_up(config["folder"]))
        die_with_parent(os.getppid(), signal.SIGTERM)
        return layers, os.open(SIZE, os.O_RDONLY | os.O_CLOEXEC), None, None, None
    import namespaces

    owner = os.getppid()
    program_id = namespaces.unshare_world()
    die_with_parent(owner)
    child = os.fork()
    if child:
        guard_until_end(child)
    die_with_parent(0)  # the guard, which is outside of the new namespace
    own, size = (os.open(path, os.O_RDONLY | os.O_CLOEXEC) for path in ("/proc/self/ns/pid", SIZE))
    outside = os.path.dirname(os.path.dirname(os.__file__))
    library = os.path.realpath(outside)
    namespaces.build_root(library, config["packages"])
    sys.path[:] = namespaces.search_path(library, config["packages"])
    namespaces.relocate_packages(outside, os.path.dirname(sys.path[0]))
    importlib.invalidate_caches()
    tmp = namespaces.PrivateTmp(program_id, config["tmp_mb"])
    return layers, size, program_id, namespaces.ProcessSpaces(own), tmp


def probe(layers: dict[str, bool]) -> None:
    """Raise `OSError`, its text starting with the layer's name, when the kernel lacks one that is wanted."""
    import kernel
    import seccomp

    if layers["seccomp"] and (reason := seccomp.supported()):
        raise OSError(f"seccomp: {reason}")
    if layers["landlock"]:
        try:
            kernel.landlock_version()
        except OSError as error:
            raise OSError(f"landlock: {error}") from error


def die_with_parent(owner: int, by: signal.Signals = signal.SIGKILL) -> None:
    """End when `owner` ends, the process that started this one (its number as seen from here)."""
    import kernel

    kernel.prctl(kernel.PR_SET_PDEATHSIG, by)
    if os.getppid() != owner:
        os.kill(os.getpid(), by)


at_work = 0
"""The process of the program that runs, if one does."""


def clean_up(folder: str) -> None:
    """The judge has ended or been killed: end the program, remove what it left, and end. Does not return."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        if at_work:
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(at_work, signal.SIGKILL)
                os.waitpid(at_work, 0)
        folders.empty(folder)
        os.rmdir(folder)
    finally:
        os._exit(0)


def guard_until_end(child: int) -> None:
    """The process between the judge and the new process namespace: it only waits. Does not return."""
    os.closerange(3, 64)
    _, status = os.waitpid(child, 0)
    os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


def address_space(size: int) -> int:
    """The size of this process's address space in bytes."""
    return int(os.pread(size, 100, 0).split()[0]) * resource.getpagesize() if size >= 0 else 256 << 20


# -- one program after the other -----------------------------------------------------------------------------------


def serve(control: socket.socket, confined: Any, program_id: int | None, spaces: Any, tmp: Any, folder: str) -> None:
    """Fork a program for each order until there are no more orders."""
    global at_work
    owner = os.getpid()
    while True:
        order, descriptors = receive(control)
        if order is None:
            return
        if order["fresh"]:
            if tmp is not None and tmp.renew():
                confined.renew(sys.path)
            elif tmp is None:
                folders.empty(folder)
        if spaces is not None:
            spaces.prepare()
        at_work = process = os.fork()
        if process == 0:
            if spaces is None:
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
            if LINUX and spaces is None:  # no namespace ends it when this process ends
                order["owner"] = owner
            become_program(control, order, descriptors, confined, program_id, folder if tmp is None else "/tmp")
        announce(control, process)
        for descriptor in descriptors:
            os.close(descriptor)
        _, status, usage = os.wait4(process, 0)
        at_work = 0
        cpu = usage.ru_utime + usage.ru_stime
        control.sendall(b'{"status": %d, "cpu": %f, "rss": %d}\n' % (status, cpu, usage.ru_maxrss))


def become_program(
    control: socket.socket, order: dict[str, Any], descriptors: list[int], confined: Any, id: int | None, folder: str
) -> None:
    """In the fork: keep only the program's own descriptors, give up all rights, and run it. Does not return."""
    data, *others = descriptors
    try:
        remote = others.pop() if order["remote"] else None
        if others:
            os.dup2(others[0], 1)
            os.dup2(os.memfd_create("stdin") if LINUX else nameless_file(folder), 0)
        if "owner" in order:
            die_with_parent(order["owner"])
        confined.enter(order, id)
        control.detach()
        data = own(data, remote)
        for name in OWN_MODULES:
            if name != "codec" or remote is None:
                sys.modules.pop(name, None)
        program.serve(3)
    except BaseException as error:
        os.write(data, f"{type(error).__name__}: {error}".encode())
        os._exit(97)
    os._exit(0)


def own(data: int, remote: int | None) -> int:
    """Close all descriptors but the standard ones and these, which become 3 (returned) and 4."""
    if remote is not None:
        data, remote = os.dup2(data, 100), os.dup2(remote, 101)
        os.dup2(remote, 4)
    os.dup2(data, 3)
    os.closerange(4 if remote is None else 5, 1024)
    return 3


def nameless_file(folder: str) -> int:
    """A file that exists only while it is open."""
    path = os.path.join(folder, "stdin")
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    os.unlink(path)
    return file


def announce(control: socket.socket, process: int, **message: Any) -> None:
    """Report a process by its pidfd, which means the same in every process namespace."""
    if not LINUX:
        return send(control, {"pid": process, **message})
    text = json.dumps(message).encode() + b"\n" if message else b"{}\n"
    descriptor = os.pidfd_open(process)
    control.sendmsg([text], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]))])
    return os.close(descriptor)


def send(control: socket.socket, message: dict[str, Any]) -> None:
    """Send one line of JSON."""
    control.sendall(json.dumps(message).encode() + b"\n")


def receive(control: socket.socket) -> tuple[dict[str, Any] | None, list[int]]:
    """Receive one line of JSON, and the descriptors that came with it; None at the end."""
    text, descriptors = b"", array.array("i")
    while not text.endswith(b"\n"):
        part, ancillary, _, _ = control.recvmsg(1 << 16, DESCRIPTORS)
        if not part:
            return None, []
        text += part
        for _, _, numbers in ancillary:
            descriptors.frombytes(numbers)
    return parsed(text), descriptors.tolist()


@functools.lru_cache(1)  # most orders are like the one before
def parsed(text: bytes) -> dict[str, Any]:
    """What one line of JSON says."""
    return json.loads(text)


if __name__ == "__main__":
    main()
