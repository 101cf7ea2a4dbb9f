"""System calls that Python has no name for. Linux; the program's side: standard library alone."""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Callable

libc = ctypes.CDLL(None, use_errno=True)
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
    """`syscall`, to be made later, and quickly then."""
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
    """No user id means anything any more, 0 included, here and in whatever is executed later."""
    prctl(PR_SET_SECUREBITS, 0x2F)


def dropping_capabilities() -> Callable[[], int]:
    """What gives up all capabilities."""
    return prepared(CAPSET, (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)())
