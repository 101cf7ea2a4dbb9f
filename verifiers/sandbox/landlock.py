"""Which files a program may touch, held by landlock(7). Program's side: standard library alone."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Callable, Sequence

from kernel import LANDLOCK_ADD_RULE, LANDLOCK_CREATE_RULESET, LANDLOCK_RESTRICT_SELF, prepared, syscall

READ = 0b1101  # execute, read files, read folders
FILE = 0b111 | 1 << 14 | 1 << 15  # what a rule on a single file may grant


def version() -> int:
    """The kernel's version of the interface. Raises `OSError` when it has none."""
    return syscall(LANDLOCK_CREATE_RULESET, None, 0, 1)


def ruleset(readable: Sequence[str], writable: Sequence[str]) -> int:
    """A descriptor of rules that allow these paths and what is beneath; no TCP, no signals or sockets outside."""
    abi = version()
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


def applying(rules: int) -> Callable[[], int]:
    """What holds a process by the rules, for good. It must have given up new privileges."""
    return prepared(LANDLOCK_RESTRICT_SELF, rules, 0)
