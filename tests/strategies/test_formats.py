"""Formats of a prompt keep what it says, samples of several vote, and a bandit finds the extremes."""

from __future__ import annotations

import asyncio
import json
import re
import sqlite3
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.double import Fault, FaultKind, ModelDouble
from tests.support.solving import PROBLEM, endpoint
from tts import Experiment, MockModel, Problem, solve
from tts.errors import ConfigError
from tts.strategies.format_spread import PromptFormat, drawn_formats, fields_of
from tts.studies.formats import Formats, bandit, uniform

FORMATS = st.builds(lambda seed, i: drawn_formats(8, seed)[i], st.integers(0, 500), st.integers(0, 7))
WORDS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1).map(str.strip).filter(bool)


@given(FORMATS, WORDS, st.lists(WORDS, min_size=2, max_size=4), st.sampled_from(["({}) ", "{}. ", "{}) ", "{}: "]))
def test_a_format_never_changes_what_the_fields_say(way: PromptFormat, lead: str, values: list[str], item: str):
    """What is between them depends on the format alone: with other values in their places it is the same."""

    def text(lead: str, values: Sequence[str]) -> str:
        lines = (item.format("ABCD"[i]) + value for i, value in enumerate(values))
        return "\n".join([f"Lead: {lead}", *lines, "", "The end."])

    marks = [chr(0xE001 + i) for i in range(len(values))]
    around = re.split("[\ue000-\ue009]", way(text("\ue000", marks)))
    assert way(text(lead, values)) == "".join(chain(*zip_longest(around, [lead, *values], fillvalue="")))


@given(FORMATS, WORDS)
def test_a_text_without_options_is_one_field(way: PromptFormat, text: str):
    made = way(text)
    assert made.endswith(text) or fields_of(text)[1]


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("Which?\n\n(A) one\n(B) two\n\nAnswer: x", ("Which?", [("A", "one"), ("B", "two")], "Answer: x")),
        ("Which?\nA. one\nB. two", ("Which?", [("A", "one"), ("B", "two")], "")),
        ("(A) is one line", ("(A) is one line", [], "")),
        ("(B) two\n(C) three", ("(B) two\n(C) three", [], "")),
        ("  x = 1\n\n  y\n", ("x = 1\n\n  y", [], "")),
        ("(A) p\n(B) q\nor\n(A) r\n(B) s", ("(A) p\n(B) q\nor", [("A", "r"), ("B", "s")], "")),
    ],
)
def test_fields(text: str, fields: Any):
    assert fields_of(text) == fields


def test_formats_differ_and_are_the_seeds():
    for seed in range(5):
        formats = drawn_formats(90, seed)
        assert formats == drawn_formats(90, seed)
        assert formats[:7] == drawn_formats(7, seed)
        assert len({one("Which?") for one in formats}) == 90  # without options too
        assert len(drawn_formats(200, seed)) == 200
    assert drawn_formats(5, 0) != drawn_formats(5, 1)


async def test_each_sample_answers_the_question_in_another_format_and_they_vote():
    asked: list[str] = []

    def answer(body: dict[str, Any]) -> str:
        asked.append(body["messages"][-1]["content"])
        return "Answer: 41" if len(asked) == 1 else "Answer: 42"

    problem = Problem.from_prompt("What is 6 times 7?", system="Be brief.", answer="numeric_answer")
    result = await solve(problem, "format_spread:n=6", MockModel(answer), stop_early=False)
    assert len(set(asked)) == 6
    assert asked[0] == "What is 6 times 7?"
    assert all(text.endswith("What is 6 times 7?") for text in asked)
    assert result.text == "Answer: 42"
    names = [one.notes["format"] for one in sorted(result.candidates, key=lambda one: one.spawned)]
    assert names == ["as given", *map(str, drawn_formats(5, 0))]


async def test_a_verifier_may_choose_and_what_has_no_format_is_refused():
    said = iter(["Answer: 41", "Answer: 42", "Answer: 41"])
    spec = "format_spread:n=3,by=verdicts,verifier=numeric_answer(reference=42)"
    result = await solve(PROBLEM, spec, MockModel(lambda body: next(said)))
    assert result.text == "Answer: 42"
    with pytest.raises(ConfigError, match="is a raw text"):
        await solve(Problem(id="raw", messages="def f(", answer="numeric_answer"), "format_spread", MockModel(str))
    with pytest.raises(ConfigError, match="needs a verifier"):
        await solve(PROBLEM, "format_spread:by=verdicts", MockModel(str))


# -- the spread --------------------------------------------------------------------------------------------------------


def test_the_bandit_finds_best_and_worst_with_half_the_evaluations():
    rng = np.random.default_rng(1)
    found: dict[str, list[float]] = {"bandit": [], "uniform": [], "twice": []}
    for _ in range(40):
        rates = np.clip(rng.normal(0.5, 0.12, 64), 0.02, 0.98)
        outcomes = [(rng.random(200) < rate).astype(float) for rate in rates]
        for name, ends in (
            ("bandit", bandit(outcomes, 1600, 5, rng)),
            ("uniform", uniform(outcomes, 1600)),
            ("twice", uniform(outcomes, 3200)),
        ):
            found[name].append(rates[ends[0]] - rates[ends[1]])
    means = {name: float(np.mean(spreads)) for name, spreads in found.items()}
    assert means["bandit"] > means["uniform"] + 0.03
    assert means["bandit"] > means["twice"] - 0.015


@given(st.integers(1, 60), st.integers(1, 7), st.integers(0, 9))
def test_a_bandit_never_evaluates_more_than_it_may_and_all_it_may_tell_it_all(evaluations: int, batch: int, seed: int):
    rng = np.random.default_rng(seed)
    outcomes = [np.zeros(6), np.ones(6), np.array([0, 1, 0, 1, 0, 1.0])]
    read = [0, 0, 0]

    class Counted(np.ndarray):
        def __getitem__(self, key: Any) -> Any:
            read[self.place] += key.stop - key.start  # type: ignore[attr-defined]
            return np.asarray(self)[key]

    counted = []
    for place, one in enumerate(outcomes):
        made = one.view(Counted)
        made.place = place  # type: ignore[attr-defined]
        counted.append(made)
    ends = bandit(counted, evaluations, batch, rng)
    assert sum(read) == min(evaluations, 18)
    assert evaluations < 18 or ends == (1, 0)


async def test_the_study_tells_best_and_worst_format_of_a_run(tmp_path: Path):
    formats = drawn_formats(7, 0)
    lucky, hated = formats[2]("?"), formats[5]("?")

    def answer(request: dict[str, Any], rng: np.random.Generator) -> str:
        text = request["messages"][-1]["content"]
        rate = 1.0 if text.startswith(lucky[:-1]) else 0.0 if text.startswith(hated[:-1]) else 0.5
        return "Answer: 42" if rng.random() < rate else "Answer: 0"

    path = tmp_path / "problems.jsonl"
    path.write_text("\n".join(json.dumps({"prompt": f"Six by seven, {i}?", "answer": 42}) for i in range(20)))
    table = {"task": f'jsonl:path="{path}"', "strategies": ["format_spread:n=8"], "stop_early": False}
    async with ModelDouble(answer=answer) as double:
        run = await Experiment.parse({**table, "models": endpoint(double)}).run(tmp_path / "run")
    (row,) = Formats(evaluations=160).findings({"": run}).data  # type: ignore[misc]
    assert (row["formats"][row["best"]], row["formats"][row["worst"]]) == (str(formats[2]), str(formats[5]))
    assert (row["accuracies"][row["best"]], row["accuracies"][row["worst"]]) == (1.0, 0.0)
    assert row["held_out"][0] > 0.8 > 0.2 > row["held_out"][1]
    assert row["bandit"] == [1.0, 0.0]
    assert row["size"] == 160
    plain = await Experiment.parse(
        {**table, "strategies": ["single"], "models": {"m": MockModel(lambda body: "Answer: 42")}}
    ).run(tmp_path / "plain")
    with pytest.raises(ConfigError, match="needs format_spread"):
        Formats().findings({"": plain})


async def test_a_live_bandit_spends_a_budget_on_the_ends_and_a_resumed_run_draws_as_it_would_have(tmp_path: Path):
    formats = drawn_formats(15, 0)
    rates = {str(one): 0.5 for one in formats} | {str(formats[3]): 0.95, str(formats[9]): 0.05}

    def answer(request: dict[str, Any], rng: np.random.Generator) -> str:
        text = request["messages"][-1]["content"]
        known = next((str(one) for one in formats if text == one(text[text.index("Six") :])), "as given")
        return "Answer: 42" if rng.random() < rates.get(known, 0.5) else "Answer: 0"

    async def run(out: str, policy: str = "thompson", *, resume: bool = False) -> tuple[dict[str, int], dict[str, Any]]:
        table = {
            "task": f'jsonl:path="{path}"',
            "strategies": ["format_spread:n=16,by=verdicts,bandit=true,verifier=oracle"],
            "total_budget": f"requests=200,policy={policy}",
        }
        faults = None if resume or out == "whole" else {Fault(FaultKind.SERVER_ERROR): 0.1}
        async with asyncio.timeout(120), ModelDouble(answer=answer, latency=(0, 0.005), faults=faults) as double:
            served = endpoint(double, identity="it", params={"seed": 3})
            found = await Experiment.parse({**table, "models": served}).run(tmp_path / out, resume=resume)
        (track,), (row,) = found.tracks, Formats().findings({"": found}).data  # type: ignore[misc]
        assert isinstance(row, dict)
        asked = Counter(one.notes["format"] for row in track.rows for one in track.candidates(row))
        assert asked.total() == track.usage().requests == 200
        return dict(asked), row

    path = tmp_path / "problems.jsonl"
    path.write_text("\n".join(json.dumps({"prompt": f"Six by seven, {i}?", "answer": 42}) for i in range(40)))
    asked, told = await run("whole")
    assert [told["formats"][told[end]] for end in ("best", "worst")] == [str(formats[3]), str(formats[9])]
    assert (told["evaluations"], told["size"]) == (200, 16 * 40)
    assert asked[str(formats[3])] + asked[str(formats[9])] > 200 / 4
    even, _ = await run("even", "uniform")
    assert max(even.values()) - min(even.values()) <= 5
    assert (await run("again"))[0] == asked
    with closing(sqlite3.connect(tmp_path / "again" / "run.sqlite", isolation_level=None)) as database:
        database.execute("PRAGMA foreign_keys = ON")
        database.execute("DELETE FROM cells WHERE id % 2 = 0")
        database.execute("DELETE FROM samples WHERE rowid % 3 = 0")
    resumed, again = await run("again", resume=True)
    assert resumed == asked
    for names in ("formats", "accuracies"):
        assert sorted(again[names]) == sorted(told[names])


async def test_a_bandit_without_verdicts_or_a_budget_is_refused_with_what_to_add():
    with pytest.raises(ConfigError, match="add by=verdicts"):
        await solve(PROBLEM, "format_spread:bandit=true", MockModel(str))
    spec = "format_spread:bandit=true,by=verdicts,verifier=numeric_answer(reference=42)"
    with pytest.raises(ConfigError, match="--total-budget requests=500"):
        await solve(PROBLEM, spec, MockModel(str))
