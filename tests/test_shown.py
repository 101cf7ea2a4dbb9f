"""How objects show themselves where one types their name: shortly, by what they are, never by an address in memory."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

import tts
from tests.support.double import ModelDouble
from tts import curves
from tts.report import RunComparison
from tts.runs import Experiment
from tts.text import counted


def kinds() -> list[type]:
    named = [*(getattr(tts, name) for name in tts.__all__), *(getattr(curves, name) for name in curves.__all__)]
    bases = (tts.Episode,)  # users derive their own from it
    return [kind for kind in named if isinstance(kind, type) and kind not in bases]


@pytest.mark.parametrize("kind", kinds(), ids=lambda kind: kind.__name__)
def test_every_public_class_says_what_it_is(kind: type):
    assert kind.__repr__ is not object.__repr__


async def test_a_run_and_all_that_is_made_of_it_fit_a_line_or_two(tmp_path: Path):
    lines = [json.dumps({"id": f"p{i}", "prompt": "What is 6 * 7?", "answer": 42}) for i in range(3)]
    (tmp_path / "questions.jsonl").write_text("\n".join(lines))
    async with ModelDouble(answer=lambda *_: "Answer: 42") as double:
        endpoint = tts.Endpoint(model="test-model", base_url=double.base_url)
        experiment = Experiment.parse(
            {
                "task": f"jsonl:path={tmp_path / 'questions.jsonl'},answer_verifier=numeric_answer",
                "strategies": ["self_consistency:n=4", "single"],
                "models": {"small": endpoint},
            }
        )
        run = await experiment.run(tmp_path / "run")
        async with tts.Sampler(endpoint) as sampler:
            session = tts.Session(tts.Problem.from_prompt("?", id="p7"), {"policy": sampler}, stream="single")
            told = [repr(sampler), repr(session)]
            assert double.base_url in told[0]
            assert "p7" in told[1]
        result = await tts.solve("6 * 7?", "self_consistency:n=4,answer=numeric_answer", endpoint)
    assert repr(run) == f"Run('{tmp_path}/run': self_consistency, single with small on jsonl)"
    found: list[Any] = [experiment, run, run.tracks[0], run.curves()[0], RunComparison([run]), result, *told]
    assert [one for one in map(repr, found) if " at 0x" in one or len(one) > 500] == []
    assert "parsed='42'" in repr(result)


def test_settings_show_what_is_not_as_by_default():
    assert repr(tts.Budget(requests=3)) == "Budget(requests=3)"
    assert repr(Experiment.model_fields["budget"].get_default(call_default_factory=True)) == "Budget()"


def test_one_is_not_several():
    assert [counted(n, "cell") for n in (0, 1, 2, 1234)] == ["0 cells", "1 cell", "2 cells", "1,234 cells"]
    assert [counted(n, "problem has", "problems have") for n in (1, 2)] == ["1 problem has", "2 problems have"]


@pytest.mark.parametrize("part", ["cli", "curves", "report", "runs", "studies", "tasks", "solving.py", "tables.py"])
def test_messages_count_by_counted_which_knows_one_from_several(part: str):
    nouns = "problem|sample|candidate|cell|request|attempt|verdict|run|node|score|point|call|visit|row"
    several = re.compile(rf"\{{(?:len\(.*?\)|[^{{}}]*:,(?:\.0f)?)\}} (?:[a-z]+ )?(?:{nouns})s\b(?!/)")
    place = Path(tts.__file__).parent / part
    files = [place] if place.is_file() else sorted(place.rglob("*.py"))
    lines = [f"{path.name}:{line}" for path in files for line in path.read_text().splitlines()]
    assert [line for line in lines if several.search(line)] == []
