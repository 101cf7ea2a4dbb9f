"""What the sandbox is asked and what it answers: plain data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from tts.errors import TTSError
from tts.verifiers.sandbox.codec import Value

Status = Literal["ok", "error", "cpu", "wall", "memory", "output", "crashed", "infra"]
"""What became of one case. All but ok, error and a caught MemoryError end the program. `infra`: not its fault."""


class SandboxError(TTSError):
    """Programs cannot be isolated here as well as was asked for."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one program may use. Verdicts hang on CPU time, so that they do not depend on how busy the machine is."""

    cpu_seconds: float = 10.0
    """Of the whole program, all its cases together; of each script."""
    case_cpu_seconds: float | None = None
    """Of each case; None: only the whole counts."""
    wall_seconds: float | None = None
    """The backstop for sleepers; by default `max(30, 10 * cpu_seconds)`."""
    memory_mb: int = 1024
    """Address space beyond what the bare interpreter uses."""
    output_kb: int = 1024
    """Standard output and results together."""
    processes: int = 64
    """Threads; processes too where the language needs them."""

    @property
    def wall(self) -> float:
        """The wall-clock backstop in seconds."""
        return max(30.0, 10 * self.cpu_seconds) if self.wall_seconds is None else self.wall_seconds


@dataclass(frozen=True, slots=True)
class Call:
    """A call in the program's module."""

    path: str
    """Dotted; its first part is a stored object or a name of the module, the others are attributes."""
    args: str
    """`codec.encode` of the tuple of positional arguments; "": the path is read, not called."""
    kwargs: str = ""
    """`codec.encode` of a dict, or ""."""
    store: str | None = None
    """Keep the value under this name on the program's side."""


@dataclass(frozen=True, slots=True)
class CaseResult:
    """What became of one case, of one script, or of executing the module's body."""

    status: Status
    values: tuple[Value, ...] = ()
    """Of each of its calls, up to the one that failed."""
    stdout: str = ""
    error: str = ""
    """`ValueError: text`: the program's own words, shortened, never to be trusted."""
    cpu_seconds: float = 0.0
    """Measured from outside, of a case that has a limit of its own and of a script; else 0."""


@dataclass(frozen=True, slots=True)
class Job:
    """One program and what to do with it: `cases` are calls of its functions, `scripts` runs of it as `__main__`."""

    program: str
    cases: tuple[tuple[Call, ...], ...] = ()
    scripts: tuple[str, ...] = ()
    """The standard input of each run."""
    limits: Limits = Limits()
    preload: tuple[str, ...] = ()
    """Modules that are imported beforehand, such as `numpy`."""
    stop_at_failure: Callable[[int, CaseResult], bool] | None = field(default=None, compare=False)
    """Asked after each case, in this process: True ends the program there."""
    isolate_cases: bool = False
    """A fresh process for each case."""
    language: str = "python"
    """A name in `languages.LANGUAGES`; those other than Python run scripts alone."""
    isolation: Literal["required", "best_effort"] = "required"
    """Whether to run the program at all where it can be held by resource limits alone."""


@dataclass(frozen=True, slots=True)
class JobResult:
    """What became of a job."""

    loaded: CaseResult
    """Executing the module's body; compiling, for other languages."""
    cases: tuple[CaseResult, ...]
    """In order; fewer when one ended the program (it is the last) or the job was stopped."""
    cpu_seconds: float
    """Of everything that ran, measured from outside."""
    isolation: str
    """The layers that held it, such as `namespaces+seccomp+landlock`."""


@dataclass(frozen=True, slots=True)
class Isolation:
    """One layer of isolation."""

    layer: str
    active: bool
    reason: str
    """What it gives; why it is missing."""
