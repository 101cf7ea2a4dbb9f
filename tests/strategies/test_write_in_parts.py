"""A text that is planned and then written part by part, and how its length is rated."""

from __future__ import annotations

from typing import Any

import pytest

from tests.gateway.serving import serving
from tests.support.double import ModelDouble
from tests.support.solving import check_account, check_exact, endpoint
from tts import Budget, Candidate, Problem, registry, solve
from tts.errors import ConfigError

ESSAY = Problem.from_prompt("Write a 1,200-word essay on tea.", id="tea")
PLAN = "1. origins (400 words)\n\n2. trade (400 words)\n3. ceremony (400 words)\n"


def writes(request: dict[str, Any], rng: Any) -> str:
    asked = request["messages"][-1]["content"]
    if "Plan the text" in asked:
        return PLAN
    number = asked.partition("Go on with part ")[2][:1]
    return f"<think>hm</think>\n\nThis is part {number}."


async def test_each_part_reads_the_plan_and_what_was_written_and_a_text_is_one_candidate():
    async with ModelDouble(answer=writes) as double:
        result = await solve(ESSAY, "write_in_parts", endpoint(double))
        check_exact(result, double.stats)
        asked = [request.body["messages"][-1]["content"] for request in double.requests if "messages" in request.body]
    (one,) = result.candidates
    assert one.content == "This is part 1.\n\nThis is part 2.\n\nThis is part 3."
    assert one.usage.completion_tokens == double.stats.completion_tokens
    assert one.notes["parts"] == 3
    assert len(asked) == 4
    for number, words in enumerate(asked[1:], 1):
        assert "2. trade (400 words)" in words
        assert ESSAY.messages[-1]["content"] in words  # pyright: ignore[reportIndexIssue, reportArgumentType]
        assert [f"This is part {i}." in words for i in (1, 2, 3)] == [i < number for i in (1, 2, 3)]


async def test_what_the_plan_has_too_much_is_left_out_and_a_plan_of_nothing_is_one_part():
    async with ModelDouble(answer=writes) as double:
        result = await solve(ESSAY, "write_in_parts:parts=2", endpoint(double))
        assert result.text == "This is part 1.\n\nThis is part 2."
        assert result.failures == ("a plan has 3 parts; the first 2 are written",)
    async with ModelDouble(answer=lambda request, rng: "" if "Plan" in str(request) else "All.") as double:
        result = await solve(ESSAY, "write_in_parts", endpoint(double))
    assert result.text == "All."


@pytest.mark.parametrize("budget", [{"requests": 3}, {"completion_tokens": 130}], ids=str)
async def test_a_spent_budget_leaves_what_was_written(budget: dict[str, int]):
    async with ModelDouble(answer=writes) as double:
        settings = {"params": {"max_tokens": 90}}
        result = await solve(ESSAY, "write_in_parts", endpoint(double, **settings), budget=Budget(**budget))
        check_account(result, double.stats)
    assert result.ended == "budget"
    assert (result.text or "").startswith("This is part 1.")
    assert "part 3" not in (result.text or "")
    assert all(one.cut_off for one in result.candidates)


async def test_a_text_behind_the_gateway_keeps_to_the_length_that_the_client_allows():
    async with ModelDouble(answer=writes) as double, serving(double) as served:
        answer = await served.chat("write_in_parts@qwen", ESSAY.messages, max_tokens=50)
        written = [request.body for request in double.requests if "Go on" in str(request.body)]
    choice = answer.json()["choices"][0]
    assert [body["max_tokens"] for body in written] == [50, 50 - len("<think>hm</think>\n\nThis is part 1.")]
    assert choice["finish_reason"] == "length"
    assert choice["message"]["content"].startswith("This is part 1.")


async def test_the_best_of_several_texts_is_the_one_of_the_length_that_was_asked_for():
    lengths = iter([100, 1100, 3000])

    def answer(request: dict[str, Any], rng: Any) -> str:
        return "one part" if "Plan the text" in str(request) else "word " * next(lengths)

    async with ModelDouble(answer=answer) as double:
        result = await solve(ESSAY, "write_in_parts:n=3,verifier=requested_length", endpoint(double), stop_early=False)
        check_exact(result, double.stats)
    assert len(str(result.text).split()) == 1100


@pytest.mark.parametrize(
    ("words", "score"), [(1200, 1), (4800, 0), (9000, 0), (400, 0), (0, 0), (3000, 0.5), (600, 0.5), (800, 0.75)]
)
def test_a_length_is_rated_as_in_the_paper(words: int, score: float):
    text = Candidate(id=0, content="w " * words, spawned=(0,))
    verdict = registry.make("verifiers", "requested_length").check(ESSAY, text)
    assert verdict.score == pytest.approx(score)


@pytest.mark.parametrize(
    ("prompt", "wanted"),
    [
        ("500 words", 500),
        ("a 2.500-word text", 2500),
        ("In 10,000 Words", 10000),
        ("Use 5 swords", None),
        ("0 words", None),
    ],
)
def test_the_number_of_words_is_read_off_the_problem_or_asked_for(prompt: str, wanted: int | None):
    problem, verifier = Problem.from_prompt(prompt), registry.make("verifiers", "requested_length")
    assert verifier.wanted(problem) == wanted
    if wanted is None:
        with pytest.raises(ConfigError, match="requested_length:words="):
            verifier.ready(problem)
