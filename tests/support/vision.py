"""A judge that sees: it measures the picture that it is shown, and reads the rest of what it is asked by its words."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from tests.support.answers import question
from tests.support.painter import STRESS, met, pictures
from tests.support.redesign import section
from tests.support.scenes import PLACES, Thing, measured, things

EXTRA = "If possible"
"""What follows these words in a request is no core element."""


class Vision:
    """Plays `judge`, who overlooks things when it describes and likes to say yes, and `policy`, who rewrites.

    `kindness` is the chance of a yes, asked whether something is so that is not; `credulity` that of finding a
    statement entailed by a text that does not say it.
    """

    def __init__(self, overlooks: float = 0.2, kindness: float = 0.0, credulity: float = 0.0) -> None:
        self.overlooks, self.kindness, self.credulity = overlooks, kindness, credulity
        self.asked: list[dict[str, Any]] = []

    def answer(self, request: dict[str, Any], rng: np.random.Generator) -> str:
        self.asked.append(request)
        asked = question(request)
        return self.rewrite(asked, rng) if request["model"] == "policy" else self.judge(asked, seen(request), rng)

    def rewrite(self, asked: str, rng: np.random.Generator) -> str:
        """The prompt with what is missed stressed, each time a little different."""
        missed = " and ".join(map(str, things(section("missed", asked))))
        stress = f" {STRESS}{missed}." if missed else ""
        return f"{section('prompt', asked)}{stress} This is version {rng.integers(1_000_000)}."

    def judge(self, asked: str, scene: Sequence[Thing] | None, rng: np.random.Generator) -> str:
        if request := section("request", asked):
            return json.dumps({"elements": [_element(thing, request) for thing in things(request)]})
        if statements := section("statements", asked):
            final = "neutral:" not in asked
            evidence = section("evidence", asked)
            findings = [_finding(line, evidence, final) for line in statements.splitlines()]
            credited = [{**one, "finding": "entailed"} if rng.random() < self.credulity else one for one in findings]
            return json.dumps({"findings": credited})
        assert scene is not None, f"asked of a picture without one: {asked[:200]}"
        if questions := section("questions", asked):
            return json.dumps({"answers": [_told(line, scene) for line in questions.splitlines()]})
        if "yes or no" in asked:
            return "yes" if set(things(asked)) <= set(scene) or rng.random() < self.kindness else "no"
        if task := section("task", asked):
            return json.dumps({"grade": int(met(task, scene) == 1 or rng.random() < self.kindness)})
        mentioned = [str(thing) for thing in scene if rng.random() > self.overlooks]
        return f"On white: {', '.join(mentioned) or 'something'}."


def seen(request: dict[str, Any]) -> Sequence[Thing] | None:
    """What is in the picture that comes with a request, the last of several."""
    shown = pictures(request)
    return measured(shown[-1]) if shown else None


def _element(thing: Thing, request: str) -> dict[str, str]:
    core = thing in things(request.partition(EXTRA)[0])
    return {
        "text": f"there is {thing}",
        "kind": "core" if core else "extra",
        "question": f"What is at the {thing.place}?",
    }


def _finding(line: str, evidence: str, final: bool) -> dict[str, Any]:
    number, (wanted,) = int(line.partition(".")[0]), things(line)
    there = [thing for thing in things(evidence) if thing.place == wanted.place]
    why = ", ".join(map(str, there)) or "nothing there"
    finding = "entailed" if wanted in there else "contradicted" if there or final else "neutral"
    return {"number": number, "why": why, "finding": finding}


def _told(line: str, scene: Sequence[Thing]) -> str:
    place = next(place for place in PLACES if f"at the {place}?" in line)
    return ", ".join(str(thing) for thing in scene if thing.place == place) or "nothing"
