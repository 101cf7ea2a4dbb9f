"""A writer with habits, a model that rewrites by the words it is given, and a judge who reports what it reads."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from tests.support.answers import question

MISSED = re.compile(r"^- there is a (\w+)", re.MULTILINE)


def section(name: str, asked: str) -> str:
    found = re.search(rf"<{name}>\n(.*?)\n</{name}>", asked, re.DOTALL)
    return found[1] if found else ""


class Writer:
    """Asked for `Things: a b c d e f`, it writes each thing with the chance `keeps`, and a thing of which the prompt
    says `do not forget the ...` with the chance `obeys`. What its draft has, it keeps."""

    def __init__(self, things: Sequence[str], keeps: Sequence[float], obeys: float = 1.0, extra: Sequence[str] = ()):
        self.things, self.keeps, self.obeys = list(things), dict(zip(things, keeps, strict=True)), obeys
        self.extra = set(extra)
        self.prompts: list[str] = []
        self.rewrites: list[str] = []
        self.judged: list[str] = []

    @property
    def problem(self) -> str:
        return "Things: " + " ".join(self.things)

    def policy(self, asked: str, rng: np.random.Generator) -> str:
        if "<prompt>" in asked:
            return self.rewriter(asked, rng)
        self.prompts.append(asked)
        wording = asked.partition("<attempt>")[0]
        draft = section("attempt", asked).split()
        stressed = set(re.findall(r"do not forget the (\w+)", wording))
        chance = {t: self.obeys if t in stressed else self.keeps[t] for t in self.things}
        return "Made: " + " ".join(t for t in self.things if t in draft or rng.random() < chance[t])

    def rewriter(self, asked: str, rng: np.random.Generator) -> str:
        self.rewrites.append(asked)
        stress = [f"do not forget the {thing}" for thing in MISSED.findall(section("missed", asked))]
        return ", ".join([section("prompt", asked), *stress])

    def judge(self, asked: str, rng: np.random.Generator) -> str:
        self.judged.append(asked)
        if request := section("request", asked):
            things = re.findall(r"\w+", request.partition("Things:")[2])
            return json.dumps({"elements": [self._element(t) for t in things]})
        if statements := section("statements", asked):
            told = section("evidence", asked).split()
            return json.dumps({"findings": [self._finding(line, told) for line in statements.splitlines()]})
        return "It has " + " ".join(section("content", asked).removeprefix("Made:").split())

    def _element(self, thing: str) -> dict[str, str]:
        kind = "extra" if thing in self.extra else "core"
        return {"text": f"there is a {thing}", "kind": kind, "question": f"Which {thing}s are there?"}

    @staticmethod
    def _finding(line: str, told: list[str]) -> dict[str, Any]:
        number, thing = re.findall(r"(\d+)\. there is a (\w+)", line)[0]
        there = thing in told
        return {
            "number": int(number),
            "why": "" if there else "absent",
            "finding": "entailed" if there else "contradicted",
        }

    def answer(self, request: dict[str, Any], rng: np.random.Generator) -> str:
        return (self.judge if request["model"] == "judge" else self.policy)(question(request), rng)
