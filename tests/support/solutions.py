"""Answers that are written in chunks: whoever goes on with a solution writes what the one before would have written."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

_BEGUN = re.compile(r"<\|assistant\|>\n(.*)\Z", re.DOTALL)


def begun(body: dict[str, Any]) -> str:
    """What is written of the answer already, in a plain completion of a chat prompt or of a raw text."""
    prompt = body["prompt"]
    text = prompt if isinstance(prompt, str) else bytes(prompt).decode()
    found = _BEGUN.search(text)
    return found[1] if found else text.partition("\n")[2]


def solution(number: int, *, right: float = 0.6, longest: int = 30) -> str:
    """The solution with this number: some steps, the answer 42 or a wrong one, and words after it."""
    rng = np.random.default_rng(number)
    steps = "".join(f"step {step}\n" for step in rng.integers(0, 10**6, size=rng.integers(3, longest)))
    answer = 42 if rng.random() < right else int(rng.integers(100, 105))
    return f"solution {number:06}\n{steps}Answer: {answer}\n" + "And so on. " * 40


def continued(body: dict[str, Any], rng: np.random.Generator) -> str:
    """The rest of the solution that the prompt begins, or all of a new one."""
    text = begun(body)
    named = re.match(r"solution (\d{6})\n", text)
    whole = solution(int(named[1]) if named else int(rng.integers(10**6)))
    return whole[len(text) :] if named else whole
