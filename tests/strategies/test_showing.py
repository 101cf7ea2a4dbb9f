"""Answers that are shown to a model: who reads what, who writes, and what is chosen."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.double import ModelDouble
from tests.support.solving import PROBLEM, check_account, endpoint
from tts import Budget, Candidate, Problem, Result, Verdict, registry, solve
from tts.base import Verifier
from tts.errors import ConfigError
from tts.strategies.gen_select import CHOICE

NAMES = ("small", "large")
Said = Callable[[str, str, list[str]], str]
"""(model, what it is asked, the answers it reads) -> what it says."""


def by_reading(say: Said) -> Any:
    def answer(request: dict[str, Any], rng: Any) -> str:
        asked = request["messages"][-1]["content"]
        read = re.findall(r'<answer number="\d+">\n(.*?)\n</answer>', asked, re.S)
        return say(request["model"], asked, read)

    return answer


async def searched(spec: str, say: Said, problem: Any = PROBLEM, **settings: Any) -> tuple[Result, ModelDouble]:
    async with ModelDouble(models=NAMES, answer=by_reading(say)) as double:
        models = {f"policy.{name}": endpoint(double, model=name) for name in NAMES}
        result = await solve(problem, spec, models, stop_early=False, **settings)
        await double.idle()
    check_account(result, double.stats)
    assert not result.failures
    return result, double


def rounds(result: Result) -> dict[int, list[Candidate]]:
    found: dict[int, list[Candidate]] = {}
    for one in sorted(result.candidates, key=lambda one: one.spawned):
        found.setdefault(one.notes["round"], []).append(one)
    return found


async def test_in_a_mixture_every_layer_reads_the_whole_one_before_and_the_strongest_writes_the_last():
    def say(model: str, asked: str, read: list[str]) -> str:
        return f"{model} after {len(read)}"

    result, double = await searched("fuse:n=4,rounds=3", say)
    layers = rounds(result)
    assert [[one.content for one in layers[i]] for i in (1, 2, 3)] == [
        ["small after 0", "small after 0", "large after 0", "large after 0"],
        ["small after 4", "small after 4", "large after 4", "large after 4"],
        ["large after 4"],
    ]
    assert result.text == "large after 4"
    assert set(layers[3][0].parents) == {one.id for one in layers[2]}
    assert result.selected is not None
    assert result.selected.usage.completion_tokens == double.stats.completion_tokens
    assert set(result.spent) == {"policy.small", "policy.large"}


@pytest.mark.parametrize(("n", "proposers"), [(1, "small"), (3, "small"), (1, "")])
async def test_the_strongest_writes_the_last_layer_in_the_light_of_what_the_proposers_drafted(n: int, proposers: str):
    """A small expert's draft in the context of a large model."""

    def say(model: str, asked: str, read: list[str]) -> str:
        return f"{model} reads {','.join(read)}" if read else f"draft of {model}"

    spec = f"fuse:n={n}" + (f",proposers={proposers}" if proposers else "")
    result, double = await searched(spec, say)
    layers = rounds(result)
    assert [one.content for one in layers[1]] == ["draft of small"] * n
    assert [one.content for one in layers[2]] == [f"large reads {','.join(['draft of small'] * n)}"]
    assert result.text == layers[2][0].content
    assert double.by_model["large"].served == 1
    with pytest.raises(ConfigError, match=r"no policy 'tiny' to propose; there are: policy\.small, policy\.large"):
        await searched("fuse:proposers=tiny", say)


async def test_with_one_policy_a_mixture_is_of_its_own_answers():
    async with ModelDouble(answer=by_reading(lambda model, asked, read: f"{len(read)}")) as double:
        result = await solve(PROBLEM, "fuse:n=3", endpoint(double), stop_early=False)
    assert result.text == "3"
    assert len(result.candidates) == 4


async def test_an_aggregation_merges_k_of_the_population_each_time_and_ends_in_a_vote():
    def say(model: str, asked: str, read: list[str]) -> str:
        return f"Answer: {41 + bool(read)}"

    result, _ = await searched("aggregate:n=5,k=2,rounds=3", say)
    populations = rounds(result)
    assert [len(populations[i]) for i in (1, 2, 3)] == [5, 5, 5]
    for before, after in ((1, 2), (2, 3)):
        there = {one.id for one in populations[before]}
        assert all(len(set(one.parents)) == 2 and set(one.parents) <= there for one in populations[after])
        assert len({one.parents for one in populations[after]}) > 1
    assert result.text == "Answer: 42"
    assert result.selected is not None
    assert result.selected.notes["round"] == 3


async def test_in_a_debate_each_agent_stays_itself_and_reads_the_others():
    def say(model: str, asked: str, read: list[str]) -> str:
        own = re.search(r"Your answer was:\n\n(.*?)\n\n", asked)
        return f"{model} had {own[1] if own else 'nothing'} read {len(read)}."

    result, _ = await searched("debate:n=3,rounds=2", say)
    first, second = rounds(result).values()
    assert [one.content for one in first] == [f"{name} had nothing read 0." for name in ("small", "small", "large")]
    for one, before in zip(second, first, strict=True):
        assert one.samples[-1].role == before.samples[-1].role
        assert before.id not in one.parents
        assert one.content.endswith("read 2.")


async def test_what_is_chosen_most_often_wins_and_equal_answers_count_together():
    def say(model: str, asked: str, read: list[str]) -> str:
        if not read:
            return "Answer: 7" if model == "small" else "Answer: 42"
        right = [i for i, text in enumerate(read, 1) if text == "Answer: 42"]
        return f"Choice: 99, or rather\nChoice: **{right[0]}**"

    problem = PROBLEM.model_copy(update={"answer": "numeric_answer"})
    result, double = await searched("gen_select:n=6,window=6,runs=3", say, problem)
    assert result.text == "Answer: 42"
    last = max(result.candidates, key=lambda one: one.spawned)
    assert len(last.notes["choices"]) == 3
    assert double.stats.received == 2 + 3
    assert last.usage.completion_tokens == double.stats.completion_tokens
    chooser = registry.make("strategies", result.strategy)
    ordered = sorted(result.candidates, key=lambda one: one.spawned)
    assert chooser.select(ordered[:5]).content == "Answer: 7"  # the vote: what was chosen stands with the last


async def test_summaries_are_compared_in_place_of_answers():
    def say(model: str, asked: str, read: list[str]) -> str:
        if "Sum up" in asked:
            return f"sum of {read[0]}"
        return f"Choice: {read.index('sum of large') + 1}" if read else model

    result, _ = await searched("gen_select:n=4,summarise=true", say, Problem.from_prompt("Why?"))
    assert result.text == "large"


@pytest.mark.parametrize("said", ["no idea", "Choice: 0", "Choice: 9", ""])
async def test_a_choice_that_cannot_be_read_is_noted_and_the_vote_decides(said: str):
    async with ModelDouble(answer=by_reading(lambda model, asked, read: said if read else "Answer: 42")) as double:
        result = await solve(PROBLEM, "universal_self_consistency:n=3", endpoint(double), stop_early=False)
    assert result.text == "Answer: 42"
    assert any("a choice cannot be read" in words for words in result.failures)


@pytest.mark.parametrize(
    ("text", "number"),
    [("Choice: 2", "2"), ("**Choice:** 3", "3"), ("choice - answer 4", "4"), ("Choice: answer number 5.", "5")],
)
def test_choices_are_read_as_models_write_them(text: str, number: str):
    assert CHOICE.findall(text) == [number]


async def test_a_spent_budget_keeps_the_answers_and_the_choices_that_were_made():
    def say(model: str, asked: str, read: list[str]) -> str:
        return "Choice: 2" if read else "Answer: 42"

    async with ModelDouble(models=NAMES, answer=by_reading(say)) as double:
        models = {f"policy.{name}": endpoint(double, model=name) for name in NAMES}
        result = await solve(PROBLEM, "gen_select:n=4,runs=5", models, budget=Budget(requests=4), stop_early=False)
    assert result.ended == "budget"
    assert len(result.candidates) == 4
    assert result.text == "Answer: 42"
    last = max(result.candidates, key=lambda one: one.spawned)
    assert len(last.notes["choices"]) == 2


async def test_the_arm_that_gives_better_answers_is_drawn_more_often():
    class ByModel(Verifier):
        def check(self, problem: Problem, candidate: Candidate) -> Verdict:
            return Verdict(0.9 if candidate.content.startswith("large") else 0.1, None, scale="positive")

    async with ModelDouble(models=NAMES, answer=lambda request, rng: f"{request['model']} {rng.random()}") as double:
        models = {f"policy.{name}": endpoint(double, model=name) for name in NAMES}
        drawn: Counter[str] = Counter()
        for seed in range(4):
            result = await solve(PROBLEM, "ab_mcts:n=12", models, verifier=ByModel(), seed=seed, stop_early=False)
            for one in result.candidates:
                drawn[one.content.split()[0]] += 1
    assert drawn["large"] > 2 * drawn["small"] > 0
