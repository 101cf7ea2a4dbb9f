"""What the double says: answers whose probability of being right is known for every problem."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Answer = Callable[[dict[str, Any], np.random.Generator], str]
"""(request body, generator of this choice) -> the text of one choice."""

Wording = str | Mapping[str, str] | Callable[[str, np.random.Generator], str]
"""The final answer to every problem, or by problem id, or (problem id, generator) -> the whole text."""

_MARKER = re.compile(r"\[\[([^\[\]]+)\]\]")


def text_of(content: str | list[dict[str, Any]] | None) -> str:
    """The text of a message's content, which may be absent or a list of typed parts."""
    if isinstance(content, list):
        return "".join(part.get("text", "") for part in content)
    return content or ""


def question(request: dict[str, Any]) -> str:
    """What is asked: the last user message, or the whole prompt of a plain completion."""
    if "messages" in request:
        users = (m for m in reversed(request["messages"]) if m["role"] == "user")
        return text_of(next(users, {}).get("content"))
    prompt = request["prompt"]
    return prompt if isinstance(prompt, str) else bytes(prompt).decode("utf-8", "replace")


def reply(answer: object, rng: np.random.Generator) -> str:
    """A short piece of reasoning, different each time in length and wording, that ends in `Answer: ...`."""
    steps = rng.integers(0, 1_000_000, size=rng.integers(1, 6)).tolist()
    return "".join(f"This step gives {step}.\n" for step in steps) + f"Answer: {answer}"


def wrong_number(problem: str, rng: np.random.Generator) -> str:
    """A reply with one of a thousand five-digit answers from 90000 on."""
    return reply(90_000 + rng.integers(1000), rng)


def solvable(
    probabilities: Mapping[str, float],
    right: Wording = "42",
    wrong: Wording = wrong_number,
    *,
    otherwise: float | None = None,
) -> Answer:
    """Answer rightly with the probability of the problem that is asked.

    The problem is named by a marker `[[problem-id]]` in the question. `otherwise` is the probability of
    questions that name none of `probabilities`; without it they raise LookupError.
    """

    def answer(request: dict[str, Any], rng: np.random.Generator) -> str:
        named = [name for name in _MARKER.findall(question(request)) if name in probabilities]
        problem = named[-1] if named else ""
        probability = probabilities.get(problem, otherwise)
        if probability is None:
            raise LookupError(f"no [[problem]] with a known probability in {question(request)[:200]!r}")
        wording = right if rng.random() < probability else wrong
        if callable(wording):
            return wording(problem, rng)
        return reply(wording if isinstance(wording, str) else wording[problem], rng)

    return answer
