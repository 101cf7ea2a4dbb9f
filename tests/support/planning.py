"""A model that plays every part of a plan search, each by the words it is asked with."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from itertools import count
from typing import Any

PARTS: Mapping[str, str] = {
    "derive": "These observations on it are correct",
    "observe": "find 10 things",
    "list": "List the new observations alone",
    "filter": "Keep only those",
    "form": "Give that list as JSON",
    "idea": "Think of an approach that not everybody",
    "sketch": "Use these observations",
    "criticise": "You coach a student",
    "fix": "Taking your criticism into account",
    "pseudocode": "write it as high-level pseudocode",
    "answer": "Follow this outline",
    "direct": "Write the program that solves",
}
"""Words of the prompt set `code`, by the part that is asked for."""


def part_of(request: Mapping[str, Any]) -> str:
    """What `request` asks for."""
    last = request["messages"][-1]["content"]
    return next(part for part, words in PARTS.items() if words in last)


def layer_of(request: Mapping[str, Any]) -> int:
    """In which layer observations are asked for."""
    return 2 if PARTS["derive"] in request["messages"][1]["content"] else 1


class Planner:
    """Answers `n1` observations to the problem and `n2` to a combination of them, all different, and counts."""

    def __init__(
        self, n1: int, n2: int, says: Mapping[str, Callable[[dict[str, Any]], str] | str] | None = None
    ) -> None:
        """`says` replaces what is answered to a part: a text, or a function of the request."""
        self._n1, self._n2 = n1, n2
        self._says = says or {}
        self._fresh = count()
        self.asked: list[tuple[str, dict[str, Any]]] = []

    @property
    def parts(self) -> list[str]:
        """The parts asked for, in order."""
        return [part for part, _ in self.asked]

    def __call__(self, request: dict[str, Any], rng: object = None) -> str:
        """The answer."""
        part = part_of(request)
        self.asked.append((part, request))
        said = self._says.get(part)
        if said is not None:
            return said if isinstance(said, str) else said(request)
        return getattr(self, f"_{part}", self._words)(request)

    def _form(self, request: dict[str, Any]) -> str:
        n = self._n1 if layer_of(request) == 1 else self._n2
        return json.dumps({"observations": [f"observation {next(self._fresh)}" for _ in range(n)]})

    def _answer(self, request: dict[str, Any]) -> str:
        return f"```python\ndef f(x):\n    return x + {next(self._fresh)}\n```"

    _direct = _answer

    def _words(self, request: dict[str, Any]) -> str:
        return f"{part_of(request)} {next(self._fresh)}"
