"""System calls that Python has no name for, and the file rules made of them (landlock(7)). Linux only."""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from collections.abc import Callable, Sequence

libc: ctypes.CDLL = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long

MACHINE = platform.machine().replace("arm64", "aarch64")
_X86 = MACHINE == "x86_64"

SETNS = 308 if _X86 else 268
UNSHARE = 272 if _X86 else 97
PIVOT_ROOT = 155 if _X86 else 41
MOUNT = 165 if _X86 else 40
UMOUNT2 = 166 if _X86 else 39
CAPSET = 126 if _X86 else 91
SECCOMP = 317 if _X86 else 277
MOUNT_SETATTR = 442
LANDLOCK_CREATE_RULESET, LANDLOCK_ADD_RULE, LANDLOCK_RESTRICT_SELF = 444, 445, 446

PR_SET_PDEATHSIG, PR_SET_SECUREBITS, PR_SET_NO_NEW_PRIVS = 1, 28, 38


def syscall(number: int, *arguments: int | bytes | ctypes.Array | None) -> int:
    """The result of a system call. Raises `OSError`."""
    return prepared(number, *arguments)()


def prepared(number: int, *arguments: int | bytes | ctypes.Array | None) -> Callable[[], int]:
    """A system call prepared in advance, so that making it is quick."""
    words = [ctypes.c_long(number), *(ctypes.c_long(a) if isinstance(a, int) else a for a in arguments)]

    def call() -> int:
        result = libc.syscall(*words)
        if result < 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error))
        return result

    return call


def prctl(option: int, value: int) -> None:
    """Set an attribute of this process. Raises `OSError`."""
    zero = ctypes.c_ulong(0)
    if libc.prctl(option, ctypes.c_ulong(value), zero, zero, zero) < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"prctl({option}): {os.strerror(error)}")


def make_users_equal() -> None:
    """Strip every user id of its meaning, 0 included, here and in whatever is executed later."""
    prctl(PR_SET_SECUREBITS, 0x2F)


def dropping_capabilities() -> Callable[[], int]:
    """A call that gives up all capabilities."""
    return prepared(CAPSET, (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)())


# -- which files a program may touch: landlock(7) ------------------------------------------------------------------

READ = 0b1101  # execute, read files, read folders
FILE = 0b111 | 1 << 14 | 1 << 15  # what a rule on a single file may grant


def landlock_version() -> int:
    """The kernel's version of the interface. Raises `OSError` when it has none."""
    return syscall(LANDLOCK_CREATE_RULESET, None, 0, 1)


def file_rules(readable: Sequence[str], writable: Sequence[str]) -> int:
    """A descriptor of rules that allow these paths and what is below them, and no TCP, outside signals or sockets."""
    abi = landlock_version()
    files = (1 << 13) - 1 | (abi >= 2) << 13 | (abi >= 3) << 14 | (abi >= 5) << 15
    network = 3 if abi >= 4 else 0
    scopes = 3 if abi >= 6 else 0
    size = 24 if abi >= 6 else 16 if abi >= 4 else 8
    attributes = struct.pack("=QQQ", files, network, scopes)[:size]
    rules = syscall(LANDLOCK_CREATE_RULESET, attributes, size, 0)
    os.set_inheritable(rules, False)
    for path, access in [*((p, READ & files) for p in readable), *((p, files) for p in writable)]:
        try:
            place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue
        if not os.path.isdir(path):
            access &= FILE
        syscall(LANDLOCK_ADD_RULE, rules, 1, ctypes.create_string_buffer(struct.pack("=Qi", access, place), 12), 0)
        os.close(place)
    return rules


def applying_rules(rules: int) -> Callable[[], int]:
    """A call that puts a process under the rules for good. It must have given up new privileges."""
    return prepared(LANDLOCK_RESTRICT_SELF, rules, 0)
