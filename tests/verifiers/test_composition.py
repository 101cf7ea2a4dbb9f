"""Verifiers made of verifiers: what they decide, and that every part's cost is carried once."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tts import MockModel, registry, solve
from tts.base import Verifier
from tts.errors import BudgetSpent, ConfigError
from tts.resources import Resources
from tts.session import Session
from tts.types import Budget, Candidate, Problem, Verdict, total
from tts.verifiers.all_of import AllOf, AnyOf
from tts.verifiers.cached import Cached, Deduplicated
from tts.verifiers.cascade import Cascade
from tts.verifiers.numeric_answer import NumericAnswer
from tts.verifiers.oracle import Noisy
from tts.verifiers.weighted import Weighted

PROBLEM = Problem.from_prompt("?", id="p")
calls: Counter[str] = Counter()


class Says(Verifier):
    """Says what it is told to, for a second of CPU time."""

    score: float | None = 1.0
    passed: bool | None = None
    tag: str = "says"
    needs: ClassVar[frozenset[str]] = frozenset()

    async def verify(self, problem: Problem, candidate: Candidate, session: Session) -> Verdict:
        calls[self.tag] += 1
        await asyncio.sleep(0)
        return Verdict(self.score, self.passed, self.tag, cpu_seconds=1.0)


class Judges(Says):
    """Needs a model."""

    roles: ClassVar[frozenset[str]] = frozenset({"judge"})


class Breaks(Verifier):
    """Fails."""

    def check(self, problem: Problem, candidate: Candidate) -> bool:
        raise RuntimeError("broken")


registry.register("verifiers", Says)
registry.register("verifiers", Breaks)

decisions = st.sampled_from([True, False, None])
verdicts = st.lists(st.tuples(decisions, st.none() | st.floats(-5, 5)), min_size=1, max_size=4)


async def judged(verifier: Verifier, text: str = "a", session: Session | None = None) -> Verdict:
    session = session or Session(PROBLEM, {})
    return await session.verify(session.candidate(text), verifier)


def parts(said: list[tuple[bool | None, float | None]]) -> tuple[Says, ...]:
    return tuple(Says(passed=passed, score=score) for passed, score in said)


@given(said=verdicts)
def test_all_of_and_any_of_are_conjunction_and_disjunction_with_doubt(said: list[tuple[bool | None, float | None]]):
    every = asyncio.run(judged(AllOf(verifiers=parts(said))))
    some = asyncio.run(judged(AnyOf(verifiers=parts(said))))
    possible = [{passed} if passed is not None else {True, False} for passed, _ in said]
    for verdict, combine in ((every, all), (some, any)):
        outcomes = {combine(world) for world in worlds(possible)}
        assert verdict.passed is (outcomes.pop() if len(outcomes) == 1 else None)
    scores = [score for _, score in said if score is not None]
    assert every.score == (min(scores) if len(scores) == len(said) else None)
    assert some.score == (max(scores) if scores else None)


def worlds(possible: list[set[bool]]) -> list[list[bool]]:
    """Every way in which the undecided may turn out."""
    found: list[list[bool]] = [[]]
    for choices in possible:
        found = [[*world, choice] for world in found for choice in choices]
    return found


async def test_a_weighted_sum_ranks_or_with_a_threshold_decides():
    said = (Says(score=1.0), Says(score=0.5))
    assert (await judged(Weighted(verifiers=said))).score == 0.75
    decided = await judged(Weighted(verifiers=said, weights=(1, 2), threshold=2.0))
    assert (decided.score, decided.passed) == (2.0, True)
    unrated = await judged(Weighted(verifiers=(Says(score=None), Says())))
    assert (unrated.score, unrated.passed) == (None, None)


@pytest.mark.parametrize("kind", [AllOf, AnyOf, Weighted, Cascade])
async def test_the_cost_of_every_part_is_carried_once(kind: Any):
    session = Session(PROBLEM, {})
    inner = kind(verifiers=(Says(tag="b"), Says(tag="c")))
    verdict = await judged(kind(verifiers=(Says(tag="a"), inner)), "a", session)
    assert total(verdict.charges).verifier_seconds == 3.0
    assert session.spent.verifier_seconds == 3.0
    first = verdict.details["parts"][0]
    assert (first["verifier"], first["score"]) == ("says:tag=a", 1.0)


async def test_a_part_that_breaks_is_noted_and_rates_nothing():
    session = Session(PROBLEM, {})
    verdict = await judged(AllOf(verifiers=(Says(passed=True), Breaks())), "a", session)
    assert (verdict.passed, verdict.score) == (None, None)
    assert session.ledger.failures == ["breaks: RuntimeError: broken"]


async def test_a_spent_budget_stops_a_panel_as_itself():
    session = Session(PROBLEM, {}, budget=Budget(verifier_seconds=1.0))
    with pytest.raises(BudgetSpent):
        await judged(AllOf(verifiers=(Cascade(verifiers=(Says(), Says(), Says())), Says())), "a", session)


def test_roles_and_readiness_are_those_of_the_parts():
    verifier = Cached(verifier=AllOf(verifiers=(Says(), Judges())))
    assert verifier.roles == {"judge"}
    with pytest.raises(ConfigError, match="nothing to compare"):
        AllOf(verifiers=(Says(), NumericAnswer())).ready(PROBLEM)


async def test_a_missing_role_is_told_before_anything_is_spent():
    model = MockModel(lambda request: "a")
    with pytest.raises(ConfigError, match="judge"):
        await solve(PROBLEM, "best_of_n:n=1", model, verifier=Cascade(verifiers=(Says(), Judges())))


# -- cascade -------------------------------------------------------------------------------------------------------


async def test_a_cascade_spares_the_expensive_and_says_what_was_saved():
    calls.clear()
    session = Session(PROBLEM, {})
    cheap = Cascade(verifiers=(NumericAnswer(reference="1"), Says(tag="dear", score=0.25)))
    refused = await judged(cheap, "Answer: 2", session)
    assert (refused.passed, refused.score, calls["dear"]) == (False, None, 0)
    assert refused.details["skipped"] == ["says:score=0.25,tag=dear"]
    assert refused.details["saved"] is None  # nothing is known yet of what it costs
    through = await judged(cheap, "Answer: 1", session)
    assert (through.passed, through.score, calls["dear"]) == (None, 0.25, 1)
    assert "skipped" not in through.details
    saved = (await judged(cheap, "Answer: 3", session)).details["saved"]
    assert saved["verifier_seconds"] == 1.0


async def test_what_equal_candidates_share_counts_once_in_what_is_saved():
    session = Session(PROBLEM, {})
    cheap = Cascade(verifiers=(NumericAnswer(reference="1"), Cached(verifier=Says())))
    for text in ("Answer: 1", "Answer: 1"):
        await judged(cheap, text, session)
    assert (await judged(cheap, "Answer: 3", session)).details["saved"]["verifier_seconds"] == 0.5


async def test_a_threshold_leads_on():
    low = await judged(Cascade(verifiers=(Says(score=0.4), Says()), thresholds=(0.5,)))
    high = await judged(Cascade(verifiers=(Says(score=0.5), Says()), thresholds=(0.5,)))
    assert (low.passed, high.passed) == (False, None)
    with pytest.raises(ConfigError, match="2 verifiers have 1 thresholds"):
        registry.make("verifiers", "cascade:verifiers=[says,says],thresholds=[1,2]")


# -- cached --------------------------------------------------------------------------------------------------------


async def test_equal_texts_are_judged_once_also_at_the_same_time():
    calls.clear()
    session = Session(PROBLEM, {})
    verifier = Cached(verifier=Says(tag="once"))
    first, second, other = await asyncio.gather(*(judged(verifier, text, session) for text in ("a", "a", "b")))
    assert calls["once"] == 2
    assert first.score == second.score == 1.0
    assert [verdict.details.get("cached", False) for verdict in (first, second, other)] == [False, True, False]
    assert second.details["saved"]["verifier_seconds"] == 1.0
    assert total(first.charges | second.charges).verifier_seconds == 1.0
    assert session.spent.verifier_seconds == 2.0


async def test_another_search_of_the_run_books_a_known_verdict_as_reused():
    async with Resources() as resources:
        verifier = Cached(verifier=Says())
        await judged(verifier, "a", Session(PROBLEM, {}, resources=resources))
        again = Session(PROBLEM, {}, resources=resources)
        assert (await judged(verifier, "a", again)).details["cached"]
        assert (total(again.ledger.paid).verifier_seconds, total(again.ledger.reused).verifier_seconds) == (0, 1)
        elsewhere = Session(Problem.from_prompt("?", id="q"), {}, resources=resources)
        assert "cached" not in (await judged(verifier, "a", elsewhere)).details


async def test_what_could_not_be_rated_is_asked_again():
    calls.clear()
    session = Session(PROBLEM, {})
    for _ in range(2):
        assert (await judged(Cached(verifier=Says(tag="none", score=None)), "a", session)).score is None
    assert calls["none"] == 2


# -- deduplicated --------------------------------------------------------------------------------------------------

PROGRAM = """
def total(numbers, start=0):
    amount = start
    for number in numbers:
        amount += number
    return amount
"""


async def judged_once(verifier: Deduplicated, texts: list[str], problem: Problem = PROBLEM) -> list[bool]:
    """Of each text, whether the verdict of an earlier one was taken."""
    session = Session(problem, {})
    verdicts = [await judged(verifier, text, session) for text in texts]
    assert all(verdict.score == 1.0 for verdict in verdicts)
    assert total(frozenset().union(*(verdict.charges for verdict in verdicts))) == session.spent
    return ["saved" in verdict.details for verdict in verdicts]


async def test_a_program_is_judged_once_however_it_is_written():
    calls.clear()
    commented = PROGRAM.replace("amount = start", '"""Add up."""\n    amount = start  # so far')
    alike = [PROGRAM, PROGRAM.replace("amount", "so_far"), commented, f"Here:\n```python\n{PROGRAM}```"]
    assert await judged_once(Deduplicated(verifier=Says(tag="once")), alike) == [False, True, True, True]
    assert calls["once"] == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (PROGRAM, PROGRAM.replace("+=", "-=")),
        (PROGRAM, PROGRAM.replace("total", "sum_up")),
        (PROGRAM, PROGRAM.replace("start", "first")),
        ("key = len\nprint(sorted('ab', key=key))", "reverse = len\nprint(sorted('ab', reverse=reverse))"),
        ("class P:\n    x: int\n    y: int", "class P:\n    y: int\n    x: int"),
        ("a = 1\nprint(eval('a'))", "b = 1\nprint(eval('a'))"),
        ("def f(:", "def g(:"),
    ],
)
async def test_programs_that_a_test_could_tell_apart_are_judged_apart(one: str, other: str):
    assert await judged_once(Deduplicated(verifier=Says()), [one, other, one]) == [False, False, True]


async def test_by_answer_candidates_that_conclude_the_same_are_judged_once():
    problem = Problem.from_prompt("?", id="p", answer="numeric_answer")
    texts = ["6 * 7\nAnswer: 42", "Answer: 42.0", "Answer: 41", "I do not know", "I do not know", "No idea"]
    found = await judged_once(Deduplicated(verifier=Says(), by="answer"), texts, problem)
    assert found == [False, True, False, False, True, False]
    with pytest.raises(ConfigError, match="does not say how its answers are read"):
        Deduplicated(verifier=Says(), by="answer").ready(PROBLEM)


# -- noisy ---------------------------------------------------------------------------------------------------------


async def test_noise_has_its_rates_and_is_the_same_every_time():
    accepted, refused = Says(passed=True), Says(passed=False)
    for inner, rate in ((accepted, 0.3), (refused, 0.1)):
        verifier = Noisy(verifier=inner, fnr=0.3, fpr=0.1)
        turned = [(await judged(verifier, str(i))).details["turned"] for i in range(2000)]
        spread = (rate * (1 - rate) / 2000) ** 0.5
        assert abs(sum(turned) / 2000 - rate) < 5 * spread
        assert turned[:50] == [(await judged(verifier, str(i))).details["turned"] for i in range(50)]
        other = Noisy(verifier=inner, fnr=0.3, fpr=0.1, seed=1)
        assert turned[:200] != [(await judged(other, str(i))).details["turned"] for i in range(200)]


async def test_noise_leaves_no_trace_of_the_truth():
    lying = await judged(Noisy(verifier=Says(passed=True, score=0.9), fnr=1.0))
    assert (lying.passed, lying.score, lying.feedback) == (False, 0.0, "")
    exact = await judged(Noisy(verifier=Says(passed=True, score=0.9)))
    assert (exact.passed, exact.score, exact.feedback) == (True, 1.0, "")
    assert (await judged(Noisy(verifier=Says(passed=None)))).score is None


# -- specs ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "spec",
    [
        'all_of:verifiers=[says,regex(pattern="a,[b]")]',
        "any_of:verifiers=[says(tag=x),all_of(verifiers=[says,says])]",
        "weighted:verifiers=[says,says(tag=x)],weights=[1.0,2.5]",
        "cascade:verifiers=[says,cached(verifier=says)],thresholds=[null]",
        "noisy:fpr=0.1,verifier=numeric_answer(reference=42)",
        "cached:verifier=noisy(fnr=0.5)",
        "deduplicated:by=answer,answer=choice,verifier=says",
    ],
)
def test_they_are_written_as_text_and_read_back(spec: str):
    verifier = registry.make("verifiers", spec)
    assert registry.make("verifiers", verifier.spec) == verifier
    assert registry.make("verifiers", verifier.config()) == verifier


def test_a_number_of_weights_that_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match="2 verifiers need as many weights"):
        registry.make("verifiers", "weighted:verifiers=[says,says],weights=[1]")


@pytest.mark.parametrize("spec", ["all_of:verifiers=[says,mean_logprob]", "cached:verifier=min_window_confidence"])
async def test_samples_are_drawn_with_what_the_parts_need(spec: str):
    bodies: list[dict[str, Any]] = []
    await solve(PROBLEM, "best_of_n:n=2", MockModel(lambda body: bodies.append(body) or "42"), verifier=spec)
    assert all(body["logprobs"] is True for body in bodies)
    assert bodies
