"""Benchmarks: problems that a solver may see and, apart from them, the truth that grades it.

A task is a plug-in (entry point group `tts.tasks`). The truth of a problem is a verifier that holds the hidden
reference; only the grader and the `oracle` verifier can reach it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from tts.base import Verifier
from tts.registry import Plugin
from tts.types import Problem


class Example(NamedTuple):
    """A problem and the truth that grades it."""

    problem: Problem
    truth: Verifier
    solution: str = ""
    """A worked answer as a model would write it, where the task has one: what a demonstration shows."""


class Task(Plugin):
    """A named source of examples; its parameters say where the data is and which part of it is used."""

    def examples(self) -> Iterator[Example]:
        """All examples, in a fixed order, with ids that are unique within the task.

        Raises `ConfigError` if the data is missing or unreadable, saying which line is at fault and what to do.
        """
        raise NotImplementedError

    @property
    def training(self) -> Task | None:
        """A task whose examples may be shown to those who are tested on this one, for it has none of its problems."""
        return None
