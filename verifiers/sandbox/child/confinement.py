"""What a program's own process gives up before the first line of the program runs. Standard library alone."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Callable
from typing import Any

STACK = 112 << 20  # deep recursion is legitimate; the address space is laid out for 128 MiB
OPEN_FILES = 128
LIMITS = ("CPU", "AS", "FSIZE", "NPROC", "CORE", "NOFILE", "STACK")
CEILINGS = {kind: resource.getrlimit(kind)[1] for kind in (getattr(resource, f"RLIMIT_{name}") for name in LIMITS)}
"""What this process may have at most, from its start; below 0 without end."""


class Confinement:
    """The layers: prepared once in the zygote, entered by each program after its fork."""

    def __init__(self, *, namespaces: bool, seccomp: bool, landlock: bool, writable: str, memory: int) -> None:
        self._namespaces = namespaces
        self._filters: dict[str, Any] = {}
        self._landlock = landlock
        self._rules = -1
        self._apply_rules: Callable[[], int] | None = None
        self._drop: Callable[[], int] | None = None
        self._writable = writable
        self._base_memory = memory
        self._switches_user = sys.platform == "linux" and os.getuid() == 0
        if sys.platform == "linux" and seccomp:
            from seccomp import STARTING, Filter

            self._filters = {starting: Filter(starting, namespaces=namespaces) for starting in STARTING}
        self.renew(sys.path)
        if sys.platform == "linux":
            import kernel

            if namespaces or os.getuid() == 0:
                kernel.make_users_equal()
                self._drop = kernel.dropping_capabilities()
            kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)  # every program inherits it

    def renew(self, readable: list[str]) -> None:
        """Make the file rules again, because the writable folder is a new one."""
        if not self._landlock:
            return
        import kernel

        if self._rules >= 0:
            os.close(self._rules)
        system = ["/"] if self._namespaces else ["/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache", *readable]
        devices = [f"/dev/{name}" for name in ("null", "zero", "urandom", "random")]
        self._rules = kernel.file_rules(system, [self._writable, *devices])
        self._apply_rules = kernel.applying_rules(self._rules)

    def enter(self, limits: dict[str, Any], program_id: int | None) -> None:
        """Give up all rights. Raises `OSError` when a layer that was promised does not hold."""
        if program_id is not None and self._switches_user:
            os.setgroups([])
            os.setresgid(program_id, program_id, program_id)
            os.setresuid(program_id, program_id, program_id)
        self._limit(limits)
        if self._drop:
            self._drop()
        if self._apply_rules:
            self._apply_rules()
        if self._filters:
            self._filters[limits["starting"]].apply()

    def _limit(self, limits: dict[str, Any]) -> None:
        seconds, memory = int(limits["cpu"]) + 1, self._base_memory + limits["memory"]
        lower(resource.RLIMIT_CPU, seconds, seconds + 1)
        lower(resource.RLIMIT_AS, memory, memory)
        lower(resource.RLIMIT_FSIZE, limits["file"], limits["file"])
        if self._namespaces:  # else it would count all of the user's processes
            processes = limits["processes"] + 2  # with the zygote and the process that waits for it
            lower(resource.RLIMIT_NPROC, processes, processes)


def limit_all() -> None:
    """Set the limits that are the same for all programs; they do not hamper the zygote."""
    os.umask(0o022)
    lower(resource.RLIMIT_CORE, 0, 0)
    lower(resource.RLIMIT_NOFILE, OPEN_FILES, OPEN_FILES)
    lower(resource.RLIMIT_STACK, STACK, STACK)


def lower(kind: int, soft: int, hard: int) -> None:
    """Set a resource limit, unless a stricter one is in force."""
    ceiling = CEILINGS[kind]
    try:
        resource.setrlimit(kind, (soft, hard) if ceiling < 0 else (min(soft, ceiling), min(hard, ceiling)))
    except (ValueError, OSError):
        if sys.platform == "linux":
            raise
