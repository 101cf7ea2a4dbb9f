"""What the sandbox is asked to run, and what it answers: plain data."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from tts.errors import TTSError
from tts.verifiers.sandbox.child.codec import Value

Status = Literal["ok", "error", "cpu", "wall", "memory", "output", "large", "crashed", "infra"]
"""How one case ended. All but ok, error, large and a caught MemoryError end the program. `large`: the values are too
large to be read here, and are digests of themselves. `infra`: not the program's fault, whatever it does."""


class SandboxError(TTSError):
    """Programs cannot be isolated here as strictly as requested."""


@dataclass(frozen=True, slots=True)
class ProgramLimits:
    """What one program may use. Verdicts depend on CPU time, and so not on how busy the machine is."""

    cpu_seconds: float = 10.0
    """For the whole program, all cases together; for each script."""
    case_cpu_seconds: float | None = None
    """For each case; None: only the total counts."""
    load_cpu_seconds: float | None = None
    """For the module's body, where cases have limits; None: as for a case."""
    wall_seconds: float | None = None
    """Elapsed time, to stop programs that sleep; by default `max(30, 10 * cpu_seconds)`."""
    memory_mb: int = 4096
    """Address space beyond what the bare interpreter uses."""
    output_kb: int = 16 << 10
    """Standard output and results together."""
    answer_kb: int = 32
    """Values of one case; of what is larger only digests are read, and its status is `large`."""
    processes: int = 256
    """Threads; processes too where the language needs them."""


@dataclass(frozen=True, slots=True)
class Invocation:
    """A call in the program's module."""

    path: str
    """Dotted: first a stored object or a name of the module, then attributes."""
    args: str
    """`codec.encode` of the tuple of positional arguments; "": the path is read, not called."""
    kwargs: str = ""
    """`codec.encode` of a dict, or ""."""
    store: str | None = None
    """Keep the value under this name on the program's side."""


@dataclass(frozen=True, slots=True)
class CaseResult:
    """How one case or one script ended, or the execution of the module's body."""

    status: Status
    values: tuple[Value, ...] = ()
    """Of each of its calls, up to the one that failed."""
    stdout: str = ""
    error: str = ""
    """`ValueError: text`: the program's own words, shortened; never to be trusted."""
    cpu_seconds: float = 0.0
    """Measured from outside, for scripts and for cases of an open program; otherwise 0."""
    objects: bool = False
    """Whether an object is among the values, of which only the name of its type has come."""


@dataclass(frozen=True, slots=True)
class Job:
    """One program and what to do with it: `cases` call its functions, `scripts` run it as `__main__`."""

    program: str
    cases: tuple[tuple[Invocation, ...], ...] = ()
    scripts: tuple[str, ...] = ()
    """The standard input of each run."""
    limits: ProgramLimits = ProgramLimits()
    preload: tuple[str, ...] = ()
    """Modules imported in advance, such as `numpy`."""
    warm_up: str = ""
    """Text of ours that is executed in advance, with no limits: every program finds done what it does."""
    stop_at_failure: Callable[[int, CaseResult], bool] | None = field(default=None, compare=False)
    """Called once after each case, in this process but not on its event loop where there is much to compare; True ends
    the program there. The values of a case that ended well are not kept then."""
    language: str = "python"
    """A name in `LANGUAGES`; languages other than Python run scripts alone."""
    starting: Literal["threads", "processes"] = "threads"
    """What its scripts may start. Processes can be contained only where namespaces are available."""
    isolation: Literal["required", "best_effort"] = "required"
    """Whether to refuse the job where only resource limits can contain the program, or to run it anyway."""


@dataclass(frozen=True, slots=True)
class JobResult:
    """How a job ended."""

    loaded: CaseResult
    """Executing the module's body; for other languages, compiling."""
    cases: tuple[CaseResult, ...]
    """In order; fewer than were asked for when one ended the program (it is the last) or the job was stopped."""
    cpu_seconds: float
    """Of everything that ran, measured from outside."""
    isolation: str
    """The layers that contained it, such as `namespaces+seccomp+landlock`."""


@dataclass(frozen=True, slots=True)
class Isolation:
    """One layer of isolation."""

    layer: str
    active: bool
    reason: str
    """What it provides, or why it is missing."""


@dataclass(frozen=True, slots=True)
class Language:
    """How programs in another language are compiled and run. They read standard input and write standard output."""

    file: str
    """The name of the file that holds the program's text."""
    run: tuple[str, ...]
    """The command; its first word is a path."""
    compile: tuple[str, ...] = ()
    """The command that makes what `run` runs, or nothing."""
    memory_mb: int | None = None
    """Address space that the toolchain's programs reserve without using it, in addition to the limit."""

    @property
    def available(self) -> bool:
        """Whether the toolchain is installed."""
        return os.access((self.compile or self.run)[0], os.X_OK)


LANGUAGES: dict[str, Language] = {
    "cpp": Language("main.cpp", ("/tmp/main",), ("/usr/bin/g++", "-O2", "-std=c++17", "-o", "main", "main.cpp")),
    "javascript": Language("main.js", ("/usr/bin/node", "main.js"), memory_mb=1 << 16),
}
"""Add an entry to support another language."""
