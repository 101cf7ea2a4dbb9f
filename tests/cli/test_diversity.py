"""`tts report` on plan searches: the tree of a problem, the diversity of candidates, gain against diversity."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Command
from tests.support.double import ModelDouble
from tests.support.planning import PARTS, Planner
from tests.support.threaded import serving

SUITE = {"entry_point": "f", "calls": [{"args": [1], "expected": 2}, {"args": [3], "expected": 4}]}
BODIES = ["x + 1", "1 + x", "x * 2", "x - 1", "2"]


class Mind(Planner):
    """Plans, writes one of five programs in turn, and judges ideas to be the same where both add."""

    def __call__(self, request: dict[str, Any], rng: object = None) -> str:
        last = request["messages"][-1]["content"]
        if "by which idea" in last:
            return "It adds." if "+" in last else "It does something else."
        if "same idea?" in last:
            return "Yes." if last.count("It adds.") == 2 else "No."
        return super().__call__(request, rng)

    def _answer(self, request: dict[str, Any]) -> str:
        return f"```python\ndef f(x):\n    return {BODIES[next(self._fresh) % 5]}\n```"

    _direct = _answer


@pytest.fixture
def planner() -> Iterator[ModelDouble]:
    with serving(answer=Mind(3, 3), max_model_len=200_000) as double:
        yield double


@pytest.fixture
def run(tts: Command, planner: ModelDouble, clean: Path) -> str:
    """The directory of a run of three strategies over two problems."""
    tests = SUITE | {"calls": SUITE["calls"][:1]}
    lines = [{"id": f"p{i}", "prompt": "Write f.", "tests": SUITE, "public_tests": tests} for i in range(2)]
    (clean / "problems.jsonl").write_text("\n".join(map(json.dumps, lines)))
    words = ["run", "--task", "jsonl:path=problems.jsonl", "--out", "one", "--quiet", "--base-url", planner.base_url]
    for strategy in ("plan_search:layers=1,vote=false", "idea_search:n=8", "repeated_sampling:n=8"):
        words += ["--strategy", strategy]
    ended = tts(*words, "--max-tokens", 2000, "--verifier", "unit_tests:isolation=best_effort")
    assert ended.code == 0, ended.err
    return "one"


def test_the_tree_shows_each_step_once_and_every_answer(tts: Command, run: str):
    ended = tts("report", run, "--study", "tree:problem=p0")
    assert ended.code == 0, ended.err
    assert ended.out.count("observations: ") == 7  # the combinations of three observations, up to two of them
    assert ended.out.count("criticism: ") == 7
    assert ended.out.count("answer ") == 14 + 8 + 8
    assert ended.out.count("selected") == 3
    assert ended.out.count(", right") >= 3
    assert "plan_search:vote=false,layers=1" in ended.out
    plans, ideas, samples = tts("report", run, "--study", "tree:problem=p0", "--json").json["tree"]
    assert {node["kind"] for node in plans["nodes"] if "above" not in node} == {"observations"}
    assert len(samples["nodes"]) == 8
    first = samples["nodes"][0]
    assert (first["kind"], first["answers"], first["visits"]) == ("answer", [0], 1)
    assert first["tokens"] == first["branch_tokens"] > 0
    assert sum(node["visits"] for node in ideas["nodes"] if "above" not in node) == 8


def test_a_problem_that_was_not_tried_is_told_with_those_that_were(tts: Command, run: str):
    ended = tts("report", run, "--study", "tree:problem=p7")
    assert ended.code == 2
    assert "p0, p1" in ended.err


def test_diversity_is_shown_beside_gain_without_any_model(tts: Command, run: str, planner: ModelDouble):
    asked = planner.stats.received
    report = tts("report", run, "--study", "diversity:plot=gain.svg", "--json").json
    for row in report["diversity"]:
        assert 0 < row["structure"] < row["programs"] < 1
        assert 0 < row["behaviours"] < row["programs"]  # x + 1 and 1 + x behave alike
        assert row["gain"] > 0
        assert "ideas" not in row
    assert len({row["k"] for row in report["diversity"]}) == 1  # gains at different k do not compare
    assert "<svg" in Path("gain.svg").read_text()
    assert planner.stats.received == asked
    assert "programs" in tts("report", run, "--study", "diversity").out


def test_a_judge_compares_ideas_and_is_asked_once(tts: Command, run: str, planner: ModelDouble):
    study = f"diversity:judge=test-model,base_url={planner.base_url}"
    words = ["report", run, "--study", study, "--json"]
    first = tts(*words)
    assert first.code == 0, first.err
    for row in first.json["diversity"]:
        assert 0 < row["ideas"] < 1  # two of five programs share an idea, as equal texts do
    asked = planner.stats.received
    assert tts(*words).json["diversity"] == first.json["diversity"]
    assert planner.stats.received == asked


def test_curves_of_plans_have_coverage_too(tts: Command, run: str):
    labels = {row["label"] for row in tts("report", run, "--json").json["curves"]}
    assert any(label.startswith("plan_search") and label.endswith("coverage") for label in labels)
    assert any(label.startswith("idea_search") and label.endswith("coverage") for label in labels)


def test_the_words_by_which_parts_are_told_apart_are_in_the_prompts():
    from tts.strategies.planning.prompts import CODE

    everything = " ".join(json.dumps(value) for value in CODE.model_dump().values()).replace("$count", "10")
    assert all(words in everything for words in PARTS.values())


def test_the_experiments_table_has_the_runs_figures_beside_the_papers(run: str, clean: Path):
    script = Path(__file__).parents[2] / "experiments" / "plansearch" / "table.py"
    words = [sys.executable, script, run, "--benchmark", "HumanEval+", "--k", "8"]
    wide = {**os.environ, "COLUMNS": "200"}
    said = subprocess.run(words, capture_output=True, text=True, timeout=120, check=True, env=wide).stdout
    assert "98.5" in said  # the paper's
    rows = {line.split("│")[2].split()[0]: line for line in said.splitlines() if "test-model" in line}
    assert len(rows) == 3
    assert re.search(r"100\.0 \([1-9]\d\.\d to 100\.0\)", rows["plan_search:vote=false,layers=1"])


@pytest.mark.parametrize("name", ["humaneval_plus", "mbpp_plus", "livecodebench", "lab_code"])
def test_the_configurations_of_the_reproduction_are_usable(name: str):
    from tts import registry
    from tts.runs import Experiment
    from tts.runs.config import load

    table = load(Path(__file__).parents[2] / "experiments" / "plansearch" / f"{name}.toml")
    if registry.parse_spec(table["task"])[0] not in registry.names("tasks"):
        pytest.skip(f"no task {name} is installed")
    made = Experiment.parse({**table, "models": {"model": {"model": "m", "base_url": "http://localhost/v1"}}})
    assert [strategy.name for strategy in made.strategies] == ["repeated_sampling", "idea_search", "plan_search"]
