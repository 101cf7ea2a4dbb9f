"""Attempts in one conversation: what the model is told and what not, when it ends, and what it costs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.double import Fault, FaultKind, ModelDouble
from tests.support.solving import PROBLEM, check_exact, endpoint
from tts.base import Verifier
from tts.errors import ConfigError
from tts.solving import solve
from tts.types import Budget, Candidate, Problem, Result, Verdict
from tts.verifiers.numeric_answer import NumericAnswer

TRUTH = NumericAnswer(reference="42")
Body = dict[str, Any]


def asks_critic(body: Body) -> bool:
    return len(body["messages"]) == 1 and "student" in body["messages"][0]["content"]


def student(right_at: int) -> Callable[[Body, Any], str]:
    """Answers 1, 2, ... and 42 at the attempt `right_at`; as a critic it counts the attempts it sees."""

    def answer(body: Body, rng: Any) -> str:
        if asks_critic(body):
            return f"hint {body['messages'][0]['content'].count('<attempt number')}"
        attempt = (len(body["messages"]) + 1) // 2
        return f"Answer: {42 if attempt == right_at else attempt}"

    return answer


async def solved(strategy: str, answer: Callable[[Body, Any], str], **options: Any) -> tuple[Result, ModelDouble]:
    async with asyncio.timeout(120), ModelDouble(answer=answer) as double:
        return await solve(PROBLEM, strategy, endpoint(double), truth=TRUTH, **options), double


async def test_the_student_hears_that_it_was_wrong_and_a_hint_and_never_the_answer():
    result, double = await solved("sequential_feedback:rounds=5,verifier=oracle", student(3))
    check_exact(result, double.stats)
    assert result.oracle
    assert result.text == "Answer: 42"
    assert [candidate.content for candidate in result.candidates] == ["Answer: 1", "Answer: 2", "Answer: 42"]
    assert [candidate.parents for candidate in result.candidates] == [(), (0,), (1,)]
    said = [request.body["messages"] for request in double.requests]
    assert len(said) == 5  # three attempts, two hints
    last = said[-1]
    assert [turn["role"] for turn in last] == ["user", "assistant", "user", "assistant", "user"]
    assert "hint 1" in last[2]["content"]
    assert "one attempt" in last[2]["content"]
    assert "hint 2" in last[4]["content"]
    assert "2 attempts" in last[4]["content"]
    assert "42" not in "".join(turn["content"] for turn in last)
    critic = said[3]
    assert "Answer: 1" in critic[0]["content"]
    assert "Answer: 2" in critic[0]["content"]
    assert "42" not in critic[0]["content"]


async def test_each_attempt_carries_what_came_before_it():
    result, double = await solved("sequential_feedback:rounds=3,verifier=oracle", student(9))
    first, second, third = result.candidates
    assert (first.usage.requests, second.usage.requests, third.usage.requests) == (1, 3, 5)
    assert third.usage.completion_tokens == double.stats.completion_tokens
    assert result.selected is third  # the latest of equals
    assert result.ended == "complete"


async def test_an_imperfect_verifier_may_end_it_wrongly_and_is_no_oracle():
    verifier = "numeric_answer(reference=2)"
    result, _ = await solved(f"sequential_feedback:rounds=5,verifier={verifier}", student(4))
    assert result.text == "Answer: 2"
    assert not result.oracle


async def test_conversations_go_side_by_side_and_each_on_its_own():
    result, double = await solved("sequential_feedback:rounds=3,chains=4,verifier=oracle", student(9), stop_early=False)
    check_exact(result, double.stats)
    order = sorted(result.candidates, key=lambda candidate: candidate.spawned)
    assert [candidate.spawned for candidate in order] == [(r, c) for r in range(3) for c in range(4)]
    parent = {candidate.id: candidate for candidate in result.candidates}
    for candidate in order[4:]:
        assert parent[candidate.parents[0]].spawned == (candidate.spawned[0] - 1, candidate.spawned[1])


async def test_the_critic_may_be_another_model_which_must_be_there():
    async with ModelDouble(models=("student", "teacher"), answer=student(2)) as double:
        strategy = "sequential_feedback:critic=judge,verifier=oracle"
        models = {"policy": endpoint(double, model="student"), "judge": endpoint(double, model="teacher")}
        result = await solve(PROBLEM, strategy, models, truth=TRUTH)
        assert result.spent["judge"].requests == 1
        before = double.stats.received
        with pytest.raises(ConfigError, match="judge"):
            await solve(PROBLEM, strategy, {"policy": models["policy"]}, truth=TRUTH)
        assert double.stats.received == before


async def test_a_spent_budget_keeps_the_attempts():
    result, _ = await solved("sequential_feedback:rounds=9,verifier=oracle", student(9), budget=Budget(requests=4))
    assert result.ended == "budget"
    assert len(result.candidates) == 2


class ThreeChecks(Verifier):
    """Says which of three tests fail."""

    def check(self, problem: Problem, candidate: Candidate) -> Verdict:
        done = candidate.content.count("fixed")
        return Verdict(done / 3, done == 3, f"test {done + 1} fails" if done < 3 else "")


async def test_refinement_is_told_what_the_verifier_found():
    def author(body: Body, rng: Any) -> str:
        told = [turn["content"] for turn in body["messages"] if turn["role"] == "user"][1:]
        assert [f"test {i + 1} fails" in words for i, words in enumerate(told)] == [True] * len(told)
        return "fixed " * len(told) + "Answer: 7"

    result, double = await solved("self_refine:rounds=6", author, verifier=ThreeChecks())
    assert [candidate.verdict.score for candidate in result.candidates if candidate.verdict] == [0, 1 / 3, 2 / 3, 1]
    assert double.stats.received == 4
    check_exact(result, double.stats)


@pytest.mark.parametrize("feedback", ["self", "verifier"])
async def test_without_the_verifiers_words_the_model_criticises_itself(feedback: str):
    class Mute(Verifier):
        def check(self, problem: Problem, candidate: Candidate) -> Verdict:
            loud = feedback == "self"
            return Verdict(0.0, False, "from the verifier" if loud else "")

    def author(body: Body, rng: Any) -> str:
        return "the second step is wrong" if "Do not write" in body["messages"][0]["content"] else "Answer: 7"

    result, double = await solved(f"self_refine:rounds=2,feedback={feedback}", author, verifier=Mute())
    assert "the second step is wrong" in double.requests[-1].body["messages"][-1]["content"]
    assert "from the verifier" not in double.requests[-1].body["messages"][-1]["content"]
    assert result.candidates[1].usage.requests == 3


def improving(body: Body, rng: Any) -> str:
    """Answers 1, 2, ... and finds nothing wrong with the third."""
    asked = body["messages"][0]["content"]
    if "Do not write" in asked:
        return "Nothing is wrong." if "Answer: 3" in asked else "too small"
    return f"Answer: {(len(body['messages']) + 1) // 2}"


async def test_without_a_verifier_the_model_improves_its_answer_until_it_finds_nothing_wrong():
    result, double = await solved("self_refine:rounds=6", improving)
    assert [candidate.content for candidate in result.candidates] == ["Answer: 1", "Answer: 2", "Answer: 3"]
    assert result.text == "Answer: 3"
    assert double.stats.received == 3 + 3
    assert result.candidates[-1].usage.requests == 6, "the last criticism belongs to the attempt that it approves"
    assert not result.loose
    check_exact(result, double.stats)


async def test_what_a_verifier_has_refused_is_not_approved_by_the_model():
    class Strict(Verifier):
        def check(self, problem: Problem, candidate: Candidate) -> bool:
            return candidate.content == "Answer: 5"

    result, _ = await solved("self_refine:rounds=6", improving, verifier=Strict())
    assert len(result.candidates) == 5
    assert result.text == "Answer: 5"


# -- budget forcing ----------------------------------------------------------------------------------------------


async def test_thinking_goes_on_after_each_wait_and_every_length_has_an_answer():
    def think(body: Body, rng: Any) -> str:
        begun = body["prompt"]
        assert body["add_special_tokens"] is False  # the prompt is rendered already
        waits = begun.count("Wait")
        return f" {40 + waits}" if begun.endswith("Final answer:") else f"step {waits}.</think>"

    async with ModelDouble(answer=think) as double:
        result = await solve(PROBLEM, "budget_forcing:waits=2,intermediate=true", endpoint(double), truth=TRUTH)
    assert [candidate.content for candidate in result.candidates] == [f"Final answer: {40 + i}" for i in range(3)]
    assert result.text == "Final answer: 42"
    seen = [request.body for request in double.requests]
    head = seen[0]["prompt"].removesuffix("<think>\n")
    assert head.startswith("<|user|>")
    assert seen[-1]["prompt"].removeprefix(head) == (
        "<think>\nstep 0.\nWaitstep 1.\nWaitstep 2.</think>\n\nFinal answer:"
    )
    assert [body.get("stop") for body in seen] == [["</think>"], None] * 3
    costs = [candidate.usage.requests for candidate in result.candidates]
    assert costs == [2, 3, 4]  # all thoughts, and the own answer
    check_exact(result, double.stats)


async def test_by_default_only_the_longest_thought_is_answered_and_paid_for():
    def think(body: Body, rng: Any) -> str:
        return " 42" if body["prompt"].endswith("Final answer:") else "thought</think>"

    async with ModelDouble(answer=think) as double:
        result = await solve(PROBLEM, "budget_forcing:waits=3", endpoint(double), truth=TRUTH)
        (candidate,) = result.candidates
        assert candidate.spawned == (3,)
        assert candidate.content == "Final answer: 42"
        assert candidate.usage.requests == double.stats.received == 4 + 1
        check_exact(result, double.stats)


async def test_a_thought_that_the_server_refuses_leaves_the_one_before_it_to_be_answered():
    def think(body: Body, rng: Any) -> str:
        return " 42" if body["prompt"].endswith("Final answer:") else "thought</think>"

    def refused(number: int, body: Body) -> Fault | None:
        return Fault(FaultKind.BAD_REQUEST) if body["prompt"].endswith("Wait") else None

    async with ModelDouble(answer=think, faults=refused) as double:
        result = await solve(PROBLEM, "budget_forcing:waits=3", endpoint(double), truth=TRUTH)
    assert [(one.spawned, one.content) for one in result.candidates] == [((0,), "Final answer: 42")]
    assert len(result.failures) == 1


async def test_an_answer_that_cannot_be_continued_is_refused_before_anything_is_spent():
    async with ModelDouble(owned_by="somebody") as double:
        with pytest.raises(ConfigError, match=r"does not render .*Serve the model with .* raw text"):
            await solve(PROBLEM, "budget_forcing", endpoint(double), truth=TRUTH)
    assert double.stats.received == 0


async def test_thought_is_cut_where_its_tokens_are_used_up():
    def think(body: Body, rng: Any) -> str:
        return " 42" if body["prompt"].endswith("Final answer:") else "x" * 500

    async with ModelDouble(answer=think) as double:
        result = await solve(
            PROBLEM, "budget_forcing:waits=5,thinking_tokens=20,answer_tokens=9", endpoint(double), truth=TRUTH
        )
        (candidate,) = result.candidates
        assert [request.body["max_tokens"] for request in double.requests] == [20, 9]
        assert candidate.notes == {"thought": 20, "cut": True}
        check_exact(result, double.stats)
