"""Which policy is asked: by what it says itself, or by who solved what elsewhere, for the target that was set."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.calibration import calibration
from tests.support.double import ModelDouble
from tests.support.solving import PROBLEM, check_account, endpoint
from tests.test_policies import closed_port
from tts import Budget, Experiment, Problem, Result, registry, solve
from tts.cli.calibrate import _by_strategy, write_profile
from tts.errors import ConfigError
from tts.strategies.routing import aimed, load
from tts.strategies.routing.expected import Abilities, expected, expected_by_abilities

NAMES = ("small", "large")
TABLES = ("solved", "cost", "agreement", "score")
MAKES = r"tts run .*policies=NAME.* tts calibrate RUN FILE"
EASY = Problem.from_prompt("An easy problem about 999", answer="numeric_answer")
HARD = Problem.from_prompt("A hard and long problem about 999", answer="numeric_answer")


def says(request: dict[str, Any], rng: Any) -> str:
    """The small model is right on what is easy, and contradicts itself on what is hard."""
    if request["model"] == "small" and "hard" in str(request["messages"]):
        return f"Answer: {rng.integers(100, 10**6)}"
    return "Answer: 42"


async def asked(spec: str, problem: Problem = PROBLEM, answer: Any = says, **settings: Any) -> tuple[Result, list[str]]:
    """The result, and the models that were asked for anything."""
    async with ModelDouble(models=NAMES, answer=answer) as double:
        models = {f"policy.{name}": endpoint(double, model=name) for name in NAMES}
        result = await solve(problem, spec, models, stop_early=False, **settings)
        await double.idle()
        check_account(result, double.stats)
        return result, [name for name in NAMES if double.by_model[name].received]


# -- cascade -----------------------------------------------------------------------------------------------------------


async def test_a_refused_answer_is_escalated_and_an_accepted_one_is_not():
    verifier = "numeric_answer:reference=42"
    for problem, models, answer in ((EASY, ["small"], "Answer: 42"), (HARD, ["small", "large"], "Answer: 42")):
        for inner in ("single", "best_of_n(n=2)", "self_consistency(n=3)"):
            result, there = await asked(f"cascade:strategy={inner}", problem, verifier=verifier)
            assert (result.text, there) == (answer, models)
            assert {one.notes["policy"] for one in result.candidates} == set(models)


async def test_an_answer_that_nothing_accepts_ends_with_the_last_policy():
    result, there = await asked("cascade", HARD, verifier="numeric_answer:reference=7")
    assert there == list(NAMES)
    assert result.selected is not None
    assert result.selected.notes["policy"] == "large"
    assert result.selected.verdict is None  # nobody would be asked after it: it need not be verified


async def test_disagreement_is_escalated_from_the_threshold_that_the_calibration_chooses():
    path = calibration("self_consistency:n=4", NAMES)
    spec = f"cascade:strategy=self_consistency(n=4),by=agreement,accuracy=0.9,calibration={path}"
    assert (await asked(spec, EASY))[1] == ["small"]
    result, there = await asked(spec, HARD)
    assert (result.text, there) == ("Answer: 42", list(NAMES))
    assert (await asked(spec.replace("accuracy=0.9", "cost=1"), HARD))[1] == ["small"]  # there is no money for more


async def test_what_no_threshold_reaches_is_refused_with_what_can_be_had():
    path = calibration("single", NAMES)
    with pytest.raises(
        ConfigError, match=r"cost 0\.5 on the calibration.* the most accurate has 1\.000 at 6.* costs 6"
    ):
        await asked(f"cascade:by=score,cost=0.5,calibration={path}", EASY, verifier="mean_logprob")


@pytest.mark.parametrize("spec", ["route", "cascade:by=agreement", "cascade:by=score,strategy=best_of_n(n=2)"])
async def test_without_a_calibration_the_command_that_makes_it_is_said_before_anything_is_sent(spec: str):
    async with ModelDouble(models=NAMES) as double:
        models = {f"policy.{name}": endpoint(double, model=name) for name in NAMES}
        with pytest.raises(ConfigError, match=MAKES):
            await solve(PROBLEM, spec, models, verifier="mean_logprob")
        assert not double.stats.choices
        result = await solve(PROBLEM, "route", endpoint(double, model="small"))  # of one there is nothing to choose
        assert result.text


async def test_a_calibration_of_the_problem_itself_or_of_others_than_these_is_refused(tmp_path: Path):
    path = calibration("single", NAMES, folder=tmp_path)
    with pytest.raises(ConfigError, match="was made of prompt itself"):
        await asked(f"route:calibration={path}", Problem.from_prompt("An easy problem about 2"))
    with pytest.raises(ConfigError, match=r"was made with single, not with best_of_n:n=2"):
        await asked(f"route:strategy=best_of_n(n=2),calibration={path}", verifier="mean_logprob")
    other = calibration("single", ("small", "huge"), folder=tmp_path)
    with pytest.raises(ConfigError, match=f"knows no policy large.*{MAKES}"):
        await asked(f"route:calibration={other}")
    content = json.loads(other.read_text()) | {"models": dict.fromkeys(NAMES, "huge")}
    other.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=f"knows huge, not small, as policy small.*{MAKES}"):
        await asked(f"route:calibration={other}")
    wrong = [content | {"solved": content["solved"][:5]}, content | {"texts": []}, content | {"cost": [[None, 1]] * 24}]
    for text in ("{}", "no json", '{"scores": []}', *map(json.dumps, wrong)):
        path.write_text(text)
        with pytest.raises(ConfigError, match=f"is no calibration of policies.*{MAKES}"):
            await asked(f"route:calibration={path}")
    with pytest.raises(ConfigError, match="cannot read the calibration"):
        await asked(f"route:calibration={tmp_path}/none.json")
    with registry.from_stranger(), pytest.raises(ConfigError, match="a request may not name files"):
        registry.make("strategies", f"route:calibration={path}")


BAD = [
    ({"models": {"small": "small"}, **{name: [[1]] * 24 for name in TABLES}}, "knows no policy large"),
    ({name: [[None] * 2] * 24 for name in ("agreement", "score")}, "has no agreement to go by"),
    ({"solved": [[0, 0]] * 24}, "no way to decide reaches accuracy"),
]


@pytest.mark.parametrize(("changed", "words"), BAD, ids=[words for _, words in BAD])
async def test_what_cannot_decide_is_refused_before_anything_is_spent_on_what_runs_beside_it(
    changed: dict[str, Any], words: str, tmp_path: Path
):
    file = calibration("self_consistency:n=4", NAMES, folder=tmp_path)
    file.write_text(json.dumps(json.loads(file.read_text()) | changed))
    spec = f"cascade:strategy=self_consistency(n=4),by=agreement,accuracy=0.9,calibration={file}"
    (path := tmp_path / "problems.jsonl").write_text(json.dumps({"prompt": "six times seven?", "answer": "42"}))
    async with ModelDouble(models=NAMES, answer=says) as double:
        common = {"base_url": double.base_url, "params": {"max_tokens": 60}}
        grid = {
            "task": f'jsonl:path="{path}",answer_verifier=numeric_answer',
            "models": {"mixed": {**common, "policies": {name: {} for name in NAMES}}},
            "strategies": ["single:policies=small", spec],
        }
        with pytest.raises(ConfigError, match=words) as refused:
            await Experiment.parse(grid).run(tmp_path / "run")
        assert not double.stats.choices
    assert "no way" in words or re.search(MAKES, str(refused.value))


def test_a_target_that_nothing_is_set_for_is_refused():
    with pytest.raises(ConfigError, match="by=agreement and by=score do"):
        registry.make("strategies", "cascade:accuracy=0.9")


@pytest.mark.parametrize("outer", ["route:k=5", "cascade:by=agreement"])
async def test_where_a_model_is_down_without_which_the_target_cannot_be_reached_the_others_answer(
    outer: str, tmp_path: Path
):
    names = ("tiny", *NAMES)
    path = calibration("self_consistency:n=4", names, folder=tmp_path)
    content = json.loads(path.read_text())
    content["solved"] = [[tiny, tiny, large] for tiny, _, large in content["solved"]]
    path.write_text(json.dumps(content))
    async with ModelDouble(models=names, answer=says) as double:
        models = {f"policy.{name}": endpoint(double, model=name) for name in names}
        gone = {"base_url": f"http://127.0.0.1:{closed_port()}/v1"}
        models["policy.large"] = models["policy.large"].model_copy(update=gone)
        spec = f"{outer},strategy=self_consistency(n=4),accuracy=1,calibration={path}"
        result = await solve(HARD, spec, models)
    assert result.selected is not None
    assert result.failures[0].startswith("policy.large is left out")


async def test_what_a_strategy_in_a_strategy_may_not_have_is_refused():
    with pytest.raises(ConfigError, match=r"give verifier= and policies= to cascade"):
        registry.make("strategies", "cascade:strategy=best_of_n(n=2,verifier=judge)")


# -- route -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["neighbours", "learned", "abilities"])
async def test_a_problem_goes_to_the_cheapest_policy_that_solves_its_like(by: str):
    spec = f"route:by={by},k=5,accuracy=0.95,calibration={calibration('single', NAMES)}"
    assert (await asked(spec, EASY))[1] == ["small"]
    assert (await asked(spec, HARD))[1] == ["large"]
    assert (await asked(spec.replace("accuracy=0.95", "cost=1"), HARD))[1] == ["small"]


async def test_a_router_passes_on_to_the_next_best_where_a_model_is_down():
    spec = f"route:k=5,accuracy=0.95,calibration={calibration('single', NAMES)}"
    async with ModelDouble(models=NAMES, answer=says) as double, ModelDouble(models=["large"]) as gone:
        models = {"policy.small": endpoint(double, model="small"), "policy.large": endpoint(gone, model="large")}
        gone._listener.close()
        await gone._server.shutdown(timeout=0.01)
        result = await solve(HARD, spec, models)
    assert result.text is not None
    assert result.selected is not None
    assert result.selected.notes["policy"] == "small"
    assert result.failures[0].startswith("policy.large is left out")


def test_nobody_is_expected_to_solve_a_problem_by_that_problem_itself(tmp_path: Path):
    """One text solved by chance among many like it that are not: its own result is not used for it."""
    path = calibration("single", NAMES, problems=20, folder=tmp_path)
    content = json.loads(path.read_text())
    content["texts"] = ["the same text"] * 20
    content["solved"] = [[float(i == 0), 1.0] for i in range(20)]
    path.write_text(json.dumps(content))
    known = load(path)
    for found in (expected(known, k=3), expected(known, k=None), expected_by_abilities(known, probes=4)):
        chances = found[:, 0]
        assert chances[0] < chances[1:].max() + 1e-9
        assert chances[0] < 0.2


def test_a_few_probes_describe_what_each_policy_can_do():
    known = load(calibration("single", NAMES, problems=40))
    found = Abilities.of(known, 2)
    assert sorted(found.solved.tolist()) == [pytest.approx([0, 1], abs=0.15), pytest.approx([1, 1], abs=0.15)]
    easy, hard = expected_by_abilities(known, ["An easy problem about 999", "A hard and long problem"], probes=2)
    assert easy[0] > 0.8 > 0.3 > hard[0]
    assert len(Abilities.of(load(calibration("single", NAMES, problems=3)), 16).probes) == 2  # two are alike


@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 100)), min_size=1, max_size=12),
    st.one_of(st.none(), st.floats(0.01, 1)),
    st.one_of(st.none(), st.floats(0.01, 100)),
)
def test_the_way_that_is_aimed_at_is_the_best_that_reaches_the_target(
    ways: list[tuple[float, float]], accuracy: float | None, cost: float | None
):
    accuracies, costs = (np.array(column) for column in zip(*ways, strict=True))
    fit = [(a, c) for a, c in ways if a >= (accuracy or 0) - 1e-12 and c <= (cost if cost is not None else np.inf)]
    try:
        a, c = ways[aimed(accuracies, costs, accuracy, cost)]
    except ConfigError:
        assert not fit
        return
    assert a >= (accuracy or 0) - 1e-9
    assert cost is None or c <= cost * (1 + 1e-9)
    if accuracy is not None:
        assert all(c <= other for _, other in fit)
    else:
        assert all(a >= other for other, _ in fit)


# -- from a stored run -------------------------------------------------------------------------------------------------


async def test_a_run_of_a_strategy_on_each_policy_makes_the_calibration(tmp_path: Path):
    path = tmp_path / "problems.jsonl"
    prompts = [f"{'A hard and long' if i % 2 else 'An easy'} problem about {i}" for i in range(12)]
    path.write_text("\n".join(json.dumps({"prompt": prompt, "answer": "42"}) for prompt in prompts))
    async with ModelDouble(models=NAMES, answer=says) as double:
        cards = {name: {"card": {"parameters": 10.0 ** (6 + place)}} for place, name in enumerate(NAMES)}
        common = {"base_url": double.base_url, "params": {"max_tokens": 60}}
        grid = {
            "task": f'jsonl:path="{path}",answer_verifier=numeric_answer',
            "models": {"mixed": {**common, "policies": cards}},
            "strategies": [f"self_consistency:n=4,policies={name}" for name in NAMES],
        }
        run = await Experiment.parse(grid).run(tmp_path / "run")
        out = tmp_path / "policies.json"
        words = write_profile(run, out, _by_strategy(run, None))
        assert words == "small, large on 12 problems, costs in flops"
        known = load(out)
        assert known.strategy == "self_consistency:n=4"
        assert known.models == {name: name for name in NAMES}
        assert known.texts == prompts
        assert known.solved.tolist() == [[float(not i % 2), 1.0] for i in range(12)]
        assert known.agreement.tolist() == [[0.25 if i % 2 else 1.0, 1.0] for i in range(12)]
        for place, track in enumerate(run.tracks):
            assert known.cost[:, place].sum() == pytest.approx(sum(part[-1] for part in track.cost("flops")))
        spec = f"self_consistency(n=4),accuracy=0.9,calibration={out}"
        grid["strategies"] = [f"cascade:by=agreement,strategy={spec}", f"route:k=3,strategy={spec}"]
        with pytest.raises(ConfigError, match="was made of"):
            await Experiment.parse(grid).run(tmp_path / "refused")
        path.write_text("\n".join(json.dumps({"prompt": f"{one} and more", "answer": "42"}) for one in prompts))
        found = await Experiment.parse({**grid, "budget": Budget(requests=20)}).run(tmp_path / "other")
        for track in found.tracks:
            policies = [{one.notes["policy"] for one in track.candidates(row)} for row in track.rows]
            hard = [int(row.problem.rpartition("/")[2]) % 2 for row in track.rows]
            assert [("large" in used) for used in policies] == [bool(one) for one in hard]
            assert all(flags[row.selected] for row, flags in zip(track.rows, track.correct, strict=True))
