"""How strategies search: how many samples they draw, when they stop, and that the server's order does not matter."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.support.double import Fault, FaultKind, ModelDouble, reply, solvable
from tests.support.solving import PROBLEM, check_exact, endpoint
from tts.base import Verifier
from tts.sampler.mock import MockModel
from tts.solving import solve
from tts.types import Budget, Candidate, Problem, Result, Verdict

RIGHT, CHECK = "numeric_answer(reference=42)", "numeric_answer:reference=42"


async def solved(strategy: str, double: ModelDouble, settings: dict[str, Any] | None = None, **options: Any) -> Result:
    async with asyncio.timeout(120):
        return await solve(PROBLEM, strategy, endpoint(double, **(settings or {})), **options)


@pytest.mark.parametrize(
    ("strategy", "samples"),
    [("single", 1), ("best_of_n:n=7", 7), ("self_consistency:n=7", 7), ("first_pass:k=7", 7)],
)
async def test_a_strategy_draws_as_many_samples_as_it_says(strategy, samples):
    async with ModelDouble(answer=solvable({"p": 0.0})) as double:
        result = await solved(strategy, double, verifier=CHECK, stop_early=False)
    assert len(result.candidates) == double.stats.choices == samples
    assert [candidate.arrived for candidate in result.candidates] == list(range(samples))
    assert sorted(candidate.spawned for candidate in result.candidates) == [(i,) for i in range(samples)]
    check_exact(result, double.stats)


async def test_the_baseline_needs_no_verifier_and_gives_its_answer():
    async with ModelDouble(answer=solvable({"p": 1.0})) as double:
        result = await solved("single", double)
    assert result.text is not None
    assert result.text.endswith("Answer: 42")
    assert result.candidates[0].verdict is None


@pytest.mark.parametrize(("batch", "drawn"), [(1, 4), (3, 6), (16, 10)])
async def test_first_pass_draws_batches_until_one_is_accepted(batch, drawn):
    asked = 0

    def fourth(body: dict[str, Any], rng: Any) -> str:
        nonlocal asked
        asked += 1
        return reply(42 if asked == 4 else 1, rng)

    async with ModelDouble(answer=fourth) as double:
        result = await solved(f"first_pass:k=10,batch={batch}", double, verifier=CHECK, stop_early=False)
    assert len(result.candidates) == double.stats.choices == drawn
    assert result.selected is not None
    assert result.selected.passed
    assert result.ended == "complete"


async def test_first_pass_abstains_or_falls_back_when_none_is_accepted():
    async with ModelDouble(answer=solvable({"p": 0.0})) as double:
        abstained = await solved("first_pass:k=5,batch=2", double, verifier=CHECK)
        fallen_back = await solved("first_pass:k=5,batch=2,abstain=false", double, verifier=CHECK)
    assert len(abstained.candidates) == len(fallen_back.candidates) == 5
    assert abstained.selected is abstained.answer is None
    assert fallen_back.selected is fallen_back.candidates[0]


async def test_answers_that_mean_the_same_are_counted_together_and_the_unparseable_abstain():
    texts = ["Answer: 42.0", "I cannot say.", "\\boxed{42}", "#### 42", "I cannot say.", "Answer: 7", "Answer: 7"]
    endless = iter(texts)
    result = await solve(
        PROBLEM,
        "self_consistency:n=7,answer=numeric_answer",
        MockModel(lambda request: next(endless)),
        stop_early=False,
    )
    assert [candidate.notes["answer"] for candidate in result.candidates] == ["42", None, "42", "42", None, "7", "7"]
    assert result.text == "Answer: 42.0"


async def test_a_vote_that_cannot_be_overturned_ends_the_search():
    texts = iter(["Answer: 42"] * 3 + ["Answer: 1"] * 7)
    model = MockModel(lambda request: next(texts), max_n=1, max_concurrency=1)
    result = await solve(PROBLEM, "self_consistency:n=5", model)
    assert result.ended == "settled"
    assert len(result.candidates) == 3
    assert result.text == "Answer: 42"


async def test_a_vote_may_be_weighted_by_a_verifier():
    class Digits(Verifier):
        """Long answers are better."""

        def check(self, problem: Problem, candidate: Candidate) -> float:
            return float(len(candidate.content))

    texts = iter(["Answer: 1"] * 3 + [f"{'So it must be. ' * 9}Answer: 42"])
    model = MockModel(lambda request: next(texts))
    result = await solve(PROBLEM, "self_consistency:n=4,weighted=true", model, verifier=Digits())
    assert result.selected is not None
    assert result.selected.notes["answer"] == "42"
    assert all(candidate.verdict is not None for candidate in result.candidates)


@pytest.mark.parametrize("strategy", [f"best_of_n:n=12,verifier={RIGHT}", "self_consistency:n=12"])
async def test_the_order_of_the_answers_does_not_change_the_selection(strategy):
    def texts(latency: Any) -> ModelDouble:
        return ModelDouble(answer=solvable({"p": 0.3}), latency=latency)

    selected = set()
    for latency in (0.0, lambda body, index: (body["seed"] * 7 % 12) * 0.004):
        async with texts(latency) as double:
            result = await solved(strategy, double, {"max_n": 1, "params": {"seed": 5}}, stop_early=False)
        assert result.selected is not None
        selected.add((result.selected.spawned, result.text))
    assert len(selected) == 1


async def test_verdicts_that_a_strategy_cannot_use_do_not_lose_candidates():
    class Undecided(Verifier):
        def check(self, problem: Problem, candidate: Candidate) -> Verdict:
            return Verdict(None)

    async with ModelDouble() as double:
        best = await solved("best_of_n:n=4", double, verifier=Undecided())
        vote = await solved("self_consistency:n=4,weighted=true", double, verifier=Undecided())
    assert best.selected is min(best.candidates, key=lambda candidate: candidate.spawned)
    assert vote.selected is None
    assert len(vote.candidates) == 4


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("budget", [None, Budget(requests=100)], ids=["no budget", "budget"])
@pytest.mark.parametrize(
    ("strategy", "candidates"),
    [
        ("single", 0),
        ("best_of_n:n=8", 7),
        ("self_consistency:n=8", 7),
        ("self_consistency:n=8,weighted=true", 7),
        ("first_pass:k=8", 1),
        ("first_pass:k=8,batch=3", 2),
    ],
)
async def test_a_rejected_request_loses_its_sample_and_not_the_search(strategy, candidates, budget, stream):
    async with ModelDouble(answer=solvable({"p": 1.0}), faults=[Fault(FaultKind.BAD_REQUEST)]) as double:
        settings = {"max_n": 1, "stream": stream}
        result = await solved(strategy, double, settings, verifier=CHECK, budget=budget, stop_early=False)
    assert len(result.candidates) == double.stats.choices == candidates
    (failure,) = result.failures
    assert "The request is malformed" in failure
    if candidates:
        assert result.ended == "complete"
        assert result.text is not None
        assert result.text.endswith("Answer: 42")
    else:
        assert result.ended == "failed"
        assert result.selected is None
