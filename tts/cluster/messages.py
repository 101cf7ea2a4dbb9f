"""What driver and workers tell each other, and how it becomes bytes."""

from __future__ import annotations

import pickle
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tts.registry import Plugin
from tts.runs.config import Grid
from tts.runs.runner import GridRow
from tts.sampler import Endpoint
from tts.sampler.shares import Report, ShareGrant

LEASE = 15.0
"""Seconds after which a worker that has heard nothing ends itself, and one that has said nothing is written off."""

PULSE = 1.0
"""Seconds after which a worker says something, even if it has nothing to say."""


@dataclass(frozen=True, slots=True)
class Hello:
    """The first thing that a worker hears."""

    grid: Grid
    """Without its task: rows carry their problems."""
    endpoints: list[Endpoint]
    """Each once, with its key; grants and reports name them by their place."""
    models: dict[str, dict[str, int]]
    """Places of endpoints by model and role."""
    plugins: dict[tuple[str, str], type[Plugin]]
    """Plug-ins that were registered by hand."""
    folder: Path
    cores: int
    """Programs that may run at once."""
    scoring: int
    """Workers among which the limits on scoring requests are divided."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What a worker says of itself, first of all."""

    node: str
    """The name of its machine."""
    node_id: str
    """As Ray has it."""
    pid: int
    version: str
    """Of the library."""
    sees_folder: bool
    """Whether the run's directory is on this node too."""


@dataclass(slots=True)
class Inbox:
    """What a worker hears."""

    acks: list[tuple[int, Any]] = field(default_factory=list)
    """Results of its calls by number, once they are committed or known; an exception where one failed."""
    due: bool = False
    """Whether there are more acks, for which it should come."""
    rows: list[tuple[int, GridRow]] = field(default_factory=list)
    give: int = 0
    """Rows to hand over to others, as many of these as wait for their turn."""
    grants: list[ShareGrant] = field(default_factory=list)
    stop: bool = False


@dataclass(slots=True)
class Outbox:
    """What a worker says."""

    calls: list[tuple[int, str, tuple[Any, ...]]] = field(default_factory=list)
    """Number, method of the store or of the turns, arguments."""
    done: list[int] = field(default_factory=list)
    """Rows that are finished."""
    given: list[int] = field(default_factory=list)
    """Rows that it hands over."""
    reports: dict[int, Report] = field(default_factory=dict)
    room: int = 0
    """Further rows that it could run."""
    notices: list[tuple[int, str]] = field(default_factory=list)
    """Level and text of what it would log."""
    error: Exception | None = None
    """What has ended its work."""
    stopped: bool = False


def pack(message: Any) -> bytes:
    """`message` as bytes. Plain pickle is fast; what it cannot name, such as classes of `__main__`, goes by value."""
    if not isinstance(message, Hello) and not (isinstance(message, Inbox) and message.rows):
        try:
            return pickle.dumps(message, 5)
        except (pickle.PicklingError, AttributeError, TypeError):
            pass
    from ray.cloudpickle import cloudpickle

    return cloudpickle.dumps(message)


unpack = pickle.loads


def portable(error: BaseException) -> Exception:
    """`error`, or one that says the same if it cannot travel."""
    from tts.errors import TTSError

    try:
        copy = pickle.loads(pickle.dumps(error))
        if type(copy) is type(error) and isinstance(copy, Exception):
            return copy
    except Exception:  # third-party errors may fail in any way
        pass
    return TTSError(f"{type(error).__name__}: {error}" if not isinstance(error, TTSError) else str(error))
