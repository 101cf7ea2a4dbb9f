"""Votes are counted in classes that depend on which answers there are, and not on which came first."""

from __future__ import annotations

from itertools import permutations
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as some

from tts import MockModel
from tts.base import AnswerVerifier, answer_classes, decided, majority, tally
from tts.session import Session
from tts.solving import drive, open_models, open_session
from tts.strategies.self_consistency import SelfConsistency
from tts.types import Candidate, Problem
from tts.verifiers.agreement import Agreement

PROBLEM = Problem.from_prompt("How long is it?")


class Length(AnswerVerifier):
    """Lengths, of which the unit may be missing: not transitive."""

    def parse(self, text: str) -> str | None:
        return text or None

    def same(self, one: str, other: str) -> bool:
        (first, *unit), (second, *others) = one.split(), other.split()
        return first == second and (not unit or not others or unit == others)


LENGTHS = ["12", "12", "12", "10", "10 m", "10 m", "10 cm"]


async def classified(texts: list[str], arrival: list[int]) -> list[Candidate]:
    session, known = Session(PROBLEM, {}), list[str]()
    made = [session.candidate(text, spawned=(i,)) for i, text in enumerate(texts)]
    return [await session.classify(made[i], Length(), known) for i in arrival]


def partition(candidates: list[Candidate]) -> set[frozenset[int]]:
    ordered = sorted(candidates, key=lambda one: one.spawned)
    found: dict[str, set[int]] = {}
    for one, name in zip(ordered, answer_classes([one.notes for one in ordered]), strict=True):
        if name is not None:
            found.setdefault(name, set()).add(one.spawned[0])
    return {frozenset(members) for members in found.values()}


@pytest.mark.parametrize("texts", list(permutations(LENGTHS))[::97])
async def test_who_wins_does_not_depend_on_who_comes_first(texts: tuple[str, ...]):
    rest = list(texts)
    vote = SelfConsistency(n=7, answer=Length())
    async with open_models(MockModel(lambda request: rest.pop())) as models:
        result = await drive(vote, open_session(PROBLEM, vote, models))
    assert (result.text or "").startswith("10")


@given(some.lists(some.sampled_from(["1", "1 m", "1 cm", "2", "2 m", "3 m", "3 cm", ""]), max_size=9), some.integers())
async def test_classes_are_those_of_the_set_in_any_order_and_in_any_part_of_it(texts: list[str], seed: int):
    random, places = Random(seed), list(range(len(texts)))
    first = await classified(texts, places)
    random.shuffle(places)
    second = await classified(texts, places)
    kept = {i for i in places if random.random() < 0.7}
    for chosen in (set(places), kept):
        one = [candidate for candidate in first if candidate.spawned[0] in chosen]
        other = [candidate for candidate in second if candidate.spawned[0] in chosen]
        assert partition(one) == partition(other)
        assert tally(one) == tally(other)
        assert getattr(majority(one), "spawned", None) == getattr(majority(other), "spawned", None)


async def test_agreement_counts_the_same_classes():
    session = Session(PROBLEM, {})
    rater = Agreement(answer=Length())
    made = [await session.judged(session.candidate(text), rater) for text in reversed(LENGTHS)]
    scores = [one.verdict.score for one in rater.among(made) if one.verdict]
    assert scores == pytest.approx([4 / 7] * 4 + [3 / 7] * 3)


async def test_a_vote_is_not_settled_while_answers_to_come_could_join_the_others():
    leading = await classified(["12", "12", "12", "10 m", "10 cm"], list(range(5)))
    assert not decided(leading, 6 + 1)
    assert not decided(leading, 6)  # a 10 would make it 3 to 3
    assert decided(leading, 5)
