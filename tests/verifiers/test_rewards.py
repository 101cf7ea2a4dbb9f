"""Reward models and embeddings over HTTP: every route, every token accounted, nothing rated twice."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from tests.support.double import ModelDouble
from tests.support.judges import policy, quality, roles, speaking
from tests.support.rewards import RewardDouble
from tests.support.solving import PROBLEM
from tts import Endpoint, Experiment, solve
from tts.errors import ConfigError
from tts.prompting import answer_of
from tts.registry import make
from tts.session import Session
from tts.solving import open_models
from tts.types import Budget, Candidate, Verdict, by_role


def at(double: RewardDouble, **settings: Any) -> Endpoint:
    return Endpoint(model="reward", base_url=double.base_url, retry_wait=0.005, **settings)


async def rated(double: RewardDouble, spec: str, *answers: str, role: str = "reward") -> tuple[list[Verdict], Session]:
    async with open_models({role: at(double, max_attempts=2)}) as samplers:
        session = Session(PROBLEM, samplers)
        verifier = make("verifiers", spec)
        return [await session.verify(session.candidate(answer), verifier) for answer in answers], session


def by_quality(text: str) -> float:
    return quality(text)[0] / 10


@pytest.mark.parametrize("route", ["classify", "pooling", "score", "chat"])
async def test_every_route_gives_the_reward_and_its_tokens_are_the_rewards(route: str):
    async with ModelDouble(**speaking(policy=policy)) as double, RewardDouble(reward=by_quality) as rewards:
        models = {**roles(double), "reward": at(rewards)}
        result = await solve(PROBLEM, f"best_of_n:n=10,verifier=outcome_reward(route={route})", models)
        assert all(c.verdict and c.verdict.score == by_quality(c.content) for c in result.candidates)
        assert result.selected is not None
        assert by_quality(result.selected.content) == max(by_quality(c.content) for c in result.candidates)
        distinct = {answer_of(candidate) for candidate in result.candidates}
        assert result.spent["reward"].requests == len(rewards.asked) == len(distinct)
        assert result.spent["reward"].prompt_tokens == rewards.prompt_tokens
        assert result.spent["reward"].completion_tokens == 0
    body = rewards.asked[0][1]
    if route == "score":
        assert body["text_1"] == PROBLEM.messages[0]["content"]  # type: ignore[index]
    else:
        assert [message["role"] for message in body["messages"]] == ["user", "assistant"]


@pytest.mark.parametrize("route", ["classify", "score"])
async def test_parameters_do_not_choose_another_model(route: str):
    async with RewardDouble(reward=by_quality) as rewards:
        spec = f'outcome_reward:route={route},params={{"model": "another", "priority": 1}}'
        (verdict,), _ = await rated(rewards, spec, "quality 4")
    assert verdict.score == 0.4
    assert {(body["model"], body["priority"]) for _, body in rewards.asked} == {("reward", 1)}


async def test_a_failed_rating_is_a_missing_score_and_the_next_one_is_had():
    async with RewardDouble(reward=by_quality, failing=2) as rewards:
        (lost, found), session = await rated(rewards, "outcome_reward", "quality 3", "quality 4")
    assert lost.score is None
    assert found.score == 0.4
    assert "out of memory" in session.ledger.failures[0]
    assert session.ledger.wasted["reward"].requests == 2


@pytest.mark.parametrize("value", [float("nan"), "high"])
async def test_a_reward_that_is_no_number_is_missing(value: Any):
    async with RewardDouble(reward=lambda text: value) as rewards:
        (verdict,), session = await rated(rewards, "outcome_reward:route=score", "x")
    assert verdict.score is None
    assert "no reward in the answer" in session.ledger.failures[0]


async def test_rewards_are_stored_and_a_resumed_run_asks_for_none_of_them(tmp_path: Any):
    problems = tmp_path / "p.jsonl"
    problems.write_text('{"prompt": "a", "answer": "10"}\n{"prompt": "b", "answer": "10"}')
    async with ModelDouble(**speaking(policy=policy), seed=1) as double, RewardDouble(reward=by_quality) as rewards:
        models = {**roles(double), "reward": at(rewards)}
        table = {"m": {name: one.model_dump(mode="json") for name, one in models.items()}}
        grid = {"task": f'jsonl:path="{problems}"', "models": table, "verifier": "outcome_reward"}
        await Experiment.parse({**grid, "strategies": ["best_of_n:n=4"]}).run(tmp_path / "run")
        asked, sampled = len(rewards.asked), double.stats.choices
        more = Experiment.parse({**grid, "strategies": ["best_of_n:n=4", "best_of_n:n=6"]})
        run = await more.run(tmp_path / "run", resume=True)
        assert double.stats.choices == sampled + 4
        assert asked < len(rewards.asked) <= asked + 4
    assert sum(usage.requests for row in run.tracks[1].rows for usage in [row.reused["reward"]]) == asked


async def test_a_budget_holds_for_rewards():
    async with ModelDouble(**speaking(policy=policy)) as double, RewardDouble(reward=by_quality) as rewards:
        models = {**roles(double), "reward": at(rewards)}
        result = await solve(PROBLEM, "best_of_n:n=8,verifier=outcome_reward", models, budget=Budget(requests=4))
        asked = len(rewards.asked)
    assert result.ended == "budget"
    assert result.usage.requests <= 4
    rated = [c for c in result.candidates if c.verdict is not None]
    assert 1 <= asked <= len(rated) < len(result.candidates)
    assert result.selected in rated


# -- steps -------------------------------------------------------------------------------------------------------------


def per_step(text: str) -> float:
    return {1: 0.9, 2: 0.5, 3: 0.8}[text.count("step")]


@pytest.mark.parametrize("separator", [False, True], ids=["prefixes", "step tokens"])
@pytest.mark.parametrize(
    ("aggregate", "score"), [("last", 0.8), ("min", 0.5), ("max", 0.9), ("mean", 2.2 / 3), ("prod", 0.36)]
)
async def test_steps_are_rated_each_and_aggregated(aggregate: str, score: float, separator: bool):
    spec = f"process_reward:aggregate={aggregate}" + (',separator="<eos>"' if separator else "")
    async with RewardDouble(reward=per_step, separator="<eos>") as rewards:
        (verdict,), _ = await rated(rewards, spec, "step a\n\nstep b\n\n\n\nstep c\n\n")
    assert verdict.score == pytest.approx(score)
    assert verdict.details["steps"] == [0.9, 0.5, 0.8]
    assert len(rewards.asked) == (1 if separator else 3)


async def test_a_growing_answer_pays_for_each_step_once_and_siblings_share_theirs():
    async with RewardDouble(reward=per_step) as rewards:
        answers = ["step a", "step a\n\nstep b", "step a\n\nstep b\n\nstep c", "step a\n\nstep z"]
        verdicts, session = await rated(rewards, "process_reward", *answers)
    assert [verdict.details["steps"] for verdict in verdicts] == [[0.9], [0.9, 0.5], [0.9, 0.5, 0.8], [0.9, 0.5]]
    assert len(rewards.asked) == 4
    assert [len(verdict.charges) for verdict in verdicts] == [1, 2, 3, 2]
    assert by_role(session.ledger.paid)["reward"].requests == 4


async def test_rows_that_do_not_fit_the_steps_are_no_rating():
    async with RewardDouble(reward=per_step, separator="<other>") as rewards:
        (verdict,), session = await rated(rewards, 'process_reward:separator="<eos>"', "step a\n\nstep b")
    assert verdict.score is None
    assert "2 steps and 0 rewards; does the server pool at '<eos>'?" in session.ledger.failures[0]


@pytest.mark.parametrize("separator", ["", ',separator=" ки"'], ids=["turns", "text"])
async def test_a_model_that_calls_steps_right_or_wrong_rates_them_by_the_chance_of_right(separator: str):
    spec = f'process_reward:labels=["+","-"]{separator}'
    async with RewardDouble(reward=per_step) as rewards:
        verdicts, session = await rated(rewards, spec, "step a", "step a\n\nstep b\n\n", "step a\n\nstep b\n\nstep c")
    assert [verdict.details["steps"] for verdict in verdicts] == [
        pytest.approx(steps) for steps in ([0.9], [0.9, 0.5], [0.9, 0.5, 0.8])
    ]
    assert [verdict.weight for verdict in verdicts] == pytest.approx([0.9, 0.5, 0.8])  # probabilities
    asked = [body for _, body in rewards.asked if "logprobs" in body]
    assert len(asked) == 3  # each step once
    question = "[[p]] What is 6 times 7?"
    if separator:
        assert asked[2]["prompt"] == f"{question} step a ки\n\nstep b ки\n\nstep c ки"
    else:
        turns = [f"{question} step a", "+", "step b", "+", "step c"]
        assert [turn["content"] for turn in asked[2]["messages"]] == turns
        assert [turn["role"] for turn in asked[2]["messages"]] == ["user", "assistant"] * 2 + ["user"]
    assert by_role(session.ledger.paid)["reward"].requests == 3


@pytest.mark.parametrize("separator", ["", ',separator=" ки"'], ids=["turns", "text"])
async def test_chances_of_labels_are_exact_where_the_server_tells_them_by_token(separator: str):
    spec = f'process_reward:labels=["+","-"],exact=true{separator}'
    async with RewardDouble(reward=per_step) as rewards:
        verdicts, session = await rated(rewards, spec, "step a", "step a\n\nstep b\n\n", "step a\n\nstep b\n\nstep c")
        with pytest.raises(ConfigError, match="are not one token each"):
            await rated(rewards, spec.replace('"+"', '"good"'), "step a")
    assert [verdict.details["steps"] for verdict in verdicts] == [[0.9], [0.9, 0.5], [0.9, 0.5, 0.8]]
    bodies = [body for path, body in rewards.asked if path == "/generative_scoring"]
    assert len(bodies) == 3  # each step once
    assert {tuple(body["label_token_ids"]) for body in bodies} == {(ord("+"), ord("-"))}
    assert by_role(session.ledger.paid)["reward"].requests == 3
    assert by_role(session.ledger.paid)["reward"].prompt_tokens == rewards.prompt_tokens
    with pytest.raises(ConfigError, match="exact needs labels"):
        make("verifiers", "process_reward:exact=true")


async def test_a_model_that_says_something_else_rates_nothing():
    async with RewardDouble(reward=per_step) as rewards:
        (verdict,), session = await rated(rewards, 'process_reward:labels=["good","bad"]', "step a")
    assert verdict.score is None
    assert "neither of ('good', 'bad') is among the model's likeliest tokens" in session.ledger.failures[0]


@pytest.mark.parametrize(
    "rows", [[], [{"data": []}], [{"data": [[0.1, 0.9]] * 3}], [{"data": [[0.1, 0.9], [0, None]]}]]
)
async def test_any_other_number_of_rewards_than_of_steps_is_no_rating(rows: list[Any]):
    class Odd(RewardDouble):
        def _answer(self, path: str, text: str) -> dict[str, Any]:
            return {"data": rows}

    async with Odd() as rewards:
        (verdict,), session = await rated(rewards, 'process_reward:separator="<eos>",aggregate=min', "step a\n\nstep b")
    assert verdict.score is None
    assert "2 steps and" in session.ledger.failures[0]


async def test_an_answer_without_steps_has_no_rating():
    async with RewardDouble() as rewards:
        (verdict,), _ = await rated(rewards, "process_reward", " \n\n ")
    assert verdict.score is None
    assert not rewards.asked


# -- embeddings --------------------------------------------------------------------------------------------------------

VECTORS = {"cat": [1.0, 0.1], "kitten": [2.0, 0.4], "dog": [1.0, 0.6], "stone": [-1.0, 1.0]}


def embed(text: str) -> Sequence[float]:
    return VECTORS.get(text, [0.0, 3.0])


async def test_the_answer_nearest_to_all_others_is_selected_at_every_size():
    said = iter(VECTORS)
    async with (
        ModelDouble(**speaking(policy=lambda asked, rng: next(said))) as double,
        RewardDouble(embed=embed) as rewards,
    ):
        models = {**roles(double), "embed": at(rewards)}
        result = await solve(PROBLEM, "best_of_n:n=4,verifier=embedding_similarity", models)
    units = np.array([np.array(v) / np.linalg.norm(v) for v in VECTORS.values()])
    nearness = ((units @ units.T).sum(axis=1) - 1) / 3
    ordered = sorted(result.candidates, key=lambda candidate: candidate.spawned)
    assert [c.verdict and c.verdict.score for c in ordered] == pytest.approx(nearness.tolist(), abs=1e-3)
    assert result.selected is not None
    assert result.selected.content == list(VECTORS)[int(np.argmax(nearness))]
    assert result.spent["embed"].requests == 4


@pytest.mark.parametrize(("spec", "score"), [('to=reference,reference="cat"', 0.995), ("to=problem", 0.196)])
async def test_similarity_to_a_text_and_to_the_question(spec: str, score: float):
    async with RewardDouble(embed=embed) as rewards:
        (verdict,), _ = await rated(rewards, f"embedding_similarity:{spec}", "kitten", role="embed")
    assert verdict.score == pytest.approx(score, abs=1e-3)


def test_ratings_in_company_survive_being_stored_as_json():
    verifier = make("verifiers", "embedding_similarity")
    made = [
        Candidate(id=i, content=text, spawned=(i,), verdict=Verdict(1.0, details={"embedding": vector}))
        for i, (text, vector) in enumerate(VECTORS.items())
    ]
    stored = json.loads(json.dumps([dict(c.verdict.details) for c in verifier.among(made) if c.verdict]))
    assert [details["embedding"] for details in stored] == list(VECTORS.values())
    unrated = Candidate(id=9, content="", spawned=(9,))
    assert verifier.among([unrated]) == [unrated]
