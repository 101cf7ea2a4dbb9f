"""Judging programs in tests."""

from __future__ import annotations

from typing import Any, Protocol

from tts.types import Verdict

NEXT: dict[str, Any] = {
    "entry_point": "f",
    "calls": [{"args": [1], "expected": 2}, {"args": [2], "expected": 3}],
}
"""f(x) is x + 1."""


class Judged(Protocol):
    """The verdict on a program, on tests given as plain data (`NEXT` by default), with the verifier's parameters."""

    async def __call__(self, code: str, tests: dict[str, Any] | None = None, /, **parameters: Any) -> Verdict: ...
