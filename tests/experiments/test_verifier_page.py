"""The page on verifiers and the table on early termination are written from runs, and say what does not pay."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from experiments.confidence.table import table
from experiments.verifiers.page import CONFIGS, experiment, named, rewritten, verifier_table
from tests.support.double import ModelDouble
from tests.support.judges import roles, speaking
from tts import Experiment
from tts.registry import make

PAGE = Path(__file__).parents[2] / "docs" / "verifiers.md"


async def made(folder: Path, *strategies: str, double: ModelDouble) -> tuple[Experiment, list[str]]:
    problems = folder / "p.jsonl"
    problems.write_text("\n".join(json.dumps({"prompt": f"{i} times 7?", "answer": "42"}) for i in range(6)))
    models = {"m": {name: one.model_dump(mode="json") for name, one in roles(double).items()}}
    task = f'jsonl:path="{problems}",answer_verifier=numeric_answer'
    sampling = {"logprobs": True, "top_logprobs": 20}
    grid = Experiment.parse({"task": task, "strategies": list(strategies), "models": models, "sampling": sampling})
    run = await grid.run(folder / "run")
    return grid, [await verifier_table(run, grid) if len(strategies) > 2 else "", table(run)]


async def test_a_row_for_each_verifier_with_its_cost_and_a_plain_word_on_those_that_do_not_pay(tmp_path: Path):
    double = ModelDouble(
        **speaking(
            policy=lambda asked, rng: f"Answer: {42 if rng.random() < 0.5 else rng.integers(90, 99)}",
            judge=lambda asked, rng: json.dumps({"grade": 10 if "42" in asked.split("<answer>")[1] else 1}),
        )
    )
    strategies = [f"best_of_n:n=8,verifier={one}" for one in ("judge", "mean_logprob", "regex(pattern=A)")]
    async with double:
        _, (page, _) = await made(tmp_path, "self_consistency:n=8", *strategies, double=double)
    rows = {line.split("|")[1].strip(): line.split("|")[2:-1] for line in page.splitlines() if line.startswith("| `")}
    auroc, _, over_random, _, tokens, seconds = (cell.strip() for cell in rows["`judge`"])
    assert auroc == "1.000"
    assert over_random.startswith("yes (+")
    assert float(tokens) > 50
    assert float(seconds) > 0
    assert [cell.strip() for cell in rows["`regex:pattern=A`"]][0::4] == ["0.500", "0.0"]
    worthless = next(line for line in page.splitlines() if line.startswith("- No better than a random sample"))
    assert "`regex:pattern=A`" in worthless
    assert "`judge`" not in worthless
    assert "the majority of 8 " in page
    nothing = re.search(r"knows nothing would choose a right one ([\d.]+) %", page)
    assert nothing is not None
    assert 10 < float(nothing[1]) < 50  # one right text among several wrong ones


async def test_what_is_saved_is_measured_against_the_whole_samples(tmp_path: Path):
    strategies = ("self_consistency:n=8", "self_consistency:n=4")
    async with ModelDouble(**speaking(policy=lambda asked, rng: "Answer: 42")) as double:
        _, (_, found) = await made(tmp_path, *strategies, double=double)
    whole, half = (line.split("|")[1:-1] for line in found.splitlines()[2:])
    assert [cell.strip() for cell in half][2:] == ["50.0", "0.0", "100.0 (59.4 to 100.0)", "+0.0 (-40.6 to +40.6)"]
    assert int(whole[1].replace(",", "")) == 2 * int(half[1].replace(",", ""))


@pytest.mark.parametrize("name", CONFIGS)
def test_the_page_has_a_place_for_each_run_and_each_config_is_one_that_runs(name: str):
    page = PAGE.read_text()
    again = rewritten(page, name, "nothing")
    assert f"<!-- {name}: begin -->\nnothing\n<!-- {name}: end -->" in again
    assert rewritten(again, name, "x") == rewritten(page, name, "x")
    grid, left_out = experiment(CONFIGS[name])
    assert grid.strategies
    assert {role for verifier in left_out for role in verifier.roles} <= {"reward"}
    with pytest.raises(ValueError, match="no marks"):
        rewritten(page, "unheard of", "")


def test_prompts_are_left_out_of_a_verifiers_name():
    spec = 'cascade:verifiers=[unit_tests,logprob_judge(prompt="$problem\\n\\n$answer?",yes=Yes)]'
    assert named(make("verifiers", spec)) == "cascade:verifiers=[unit_tests,logprob_judge(yes=Yes)]"
    assert named(make("verifiers", 'logprob_judge:prompt="$answer, \\"?\\""')) == "logprob_judge"
