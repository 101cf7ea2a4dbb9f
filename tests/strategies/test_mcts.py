"""Monte Carlo tree search: its visits and choices are those of a plain reference, and nothing it pays for is lost."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from math import inf, log, sqrt
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.branching import DIGITS, Branching, KnownValue, Memory, chance
from tts.errors import ConfigError
from tts.sampler.mock import MockModel
from tts.solving import solve
from tts.strategies.mcts import Mcts, Place
from tts.strategies.stepwise import Node
from tts.types import Budget, Result, total

VALUES = KnownValue()


def reference(policy: str, until: str, simulations: int, width: int, depth: int) -> tuple[dict[str, int], set[str]]:
    """Visits by text, and the texts found, of a search written down as plainly as can be."""
    visits, worth = defaultdict[str, int](int), defaultdict[str, float](float)
    below: dict[str, list[str]] = {}

    def score(text: str, above: str) -> tuple[float, float]:
        n, many = visits[text], visits[above]
        if policy == "uct":
            return (worth[text] / n + sqrt(2) * sqrt(log(many) / n) if n else inf), chance(text)
        c = log((many + 19653) / 19652) + 1.25
        return (worth[text] / n if n else chance(text)) + c / width * sqrt(many) / (1 + n), chance(text)

    for _ in range(simulations):
        path = [""]
        while True:
            while path[-1] in below:
                path.append(max(below[path[-1]], key=lambda text: score(text, path[-1])))
            leaf = path[-1]
            if leaf.count("\n") == depth - 1 and leaf[-1:].isdigit():
                break
            last = leaf.count("\n") == depth - 1
            below[leaf] = [f"{leaf}{i}" + ("" if last else "\n") for i in range(width)]
            if until == "leaf":
                break
            if last:
                path.append(max(below[leaf], key=lambda text: score(text, leaf)))
                break
        for text in path:
            visits[text] += 1
            worth[text] += chance(path[-1]) if path[-1] else 0.0
    return {text: n for text, n in visits.items() if n}, {text for texts in below.values() for text in texts}


async def searched(world: Branching, options: dict[str, Any] | None = None, **fields: Any) -> Result:
    async with asyncio.timeout(60):
        settings = {"verifier": VALUES, "stop_early": False, **(options or {})}
        return await solve(DIGITS, Mcts(step="\n", **fields), world.endpoint, **settings)


def read(result: Result) -> tuple[dict[str, int], dict[str, str]]:
    """Visits by text, and the texts of all nodes by name."""
    records = [record for one in sorted(result.candidates, key=lambda one: one.spawned) for record in one.notes["tree"]]
    texts = {"": ""}
    for record in records:
        texts[record["node"]] = texts[record["node"].rpartition(".")[0]] + record["text"]
    last = max(result.candidates, key=lambda one: one.spawned)
    return {texts[name]: n for name, n in last.notes["visits"].items()}, texts


@settings(max_examples=25, deadline=None)
@given(
    policy=st.sampled_from(["uct", "puct"]),
    until=st.sampled_from(["leaf", "answer"]),
    simulations=st.integers(1, 30),
    width=st.integers(1, 4),
    depth=st.integers(1, 4),
)
def test_visits_are_those_of_a_plain_reference(policy, until, simulations, width, depth):
    fields = {"policy": policy, "until": until, "simulations": simulations, "branching": width}
    result = asyncio.run(searched(Branching(depth), **fields))
    visits, texts = read(result)
    expected, found = reference(policy, until, simulations, width, depth)
    assert visits == expected
    assert set(texts.values()) == found | {""}
    whole = [text for text in found if text[-1] != "\n"]
    if whole:
        assert {one.content for one in result.candidates} == set(whole)
        assert result.answer == max(whole, key=chance)
    else:
        assert [one.cut_off for one in result.candidates] == [True]
