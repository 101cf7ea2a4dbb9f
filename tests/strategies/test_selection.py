"""How strategies select: pure, deterministic, and settled only when nothing can change any more."""

from __future__ import annotations

from collections import Counter
from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tts.strategies.best_of_n import BestOfN
from tts.strategies.first_pass import FirstPass
from tts.strategies.self_consistency import SelfConsistency
from tts.strategies.single import Single
from tts.types import Candidate, Verdict

VERDICTS = st.none() | st.builds(
    Verdict, st.none() | st.floats(-2, 2), st.none() | st.booleans(), feedback=st.just(""), details=st.just({})
)
ANSWERS = st.none() | st.sampled_from("abc")


def candidates(*verdicts: Verdict | None, answers: tuple[str | None, ...] = ()) -> list[Candidate]:
    """Candidates in spawned order with the verdicts or the parsed answers."""
    made = [Candidate(id=i, content=f"c{i}", spawned=(i,), verdict=v) for i, v in enumerate(verdicts)]
    return made or [
        Candidate(id=i, content=f"c{i}", spawned=(i,), notes={"answer": answer}) for i, answer in enumerate(answers)
    ]


def votes(*answers: str | None, n: int = 16) -> str | None:
    """The answer that a vote selects."""
    selected = SelfConsistency(n=n).select(candidates(answers=answers))
    return None if selected is None else selected.notes["answer"]


def name(candidate: Candidate | None) -> str | None:
    return None if candidate is None else candidate.content


# -- best of n ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("verdicts", "best"),
    [
        ([Verdict(0.1), Verdict(0.9), Verdict(0.5)], "c1"),
        ([Verdict(0.9), Verdict(0.9)], "c0"),
        ([Verdict(0.9, False), Verdict(0.1, True)], "c1"),
        ([Verdict(0.9, False), Verdict(0.1)], "c1"),
        ([None, Verdict(None), Verdict(-5.0)], "c2"),
        ([Verdict(-5.0, False), None], "c0"),
        ([None, Verdict(None)], "c0"),
        ([Verdict(None, True), Verdict(0.5)], "c0"),
        ([Verdict(None, True), Verdict(0.5, True)], "c1"),
        ([], None),
    ],
)
def test_the_best_verdict_wins_and_the_earliest_among_equals(verdicts, best):
    assert name(BestOfN().select(candidates(*verdicts))) == best


def test_a_single_sample_is_taken_as_it_is():
    assert Single().select([]) is None
    assert name(Single().select(candidates(None))) == "c0"


# -- first pass --------------------------------------------------------------------------------------------------------

REFUSED, PASSED = Verdict(0.2, False), Verdict(1.0, True)


@pytest.mark.parametrize(
    ("verdicts", "abstains", "falls_back"),
    [
        ([REFUSED, PASSED, Verdict(2.0, True)], "c1", "c1"),
        ([REFUSED, Verdict(0.7, False), None], None, "c1"),
        ([None], None, "c0"),
        ([], None, None),
    ],
)
def test_first_pass_takes_the_first_accepted_and_else_abstains_or_falls_back(verdicts, abstains, falls_back):
    assert name(FirstPass().select(candidates(*verdicts))) == abstains
    assert name(FirstPass(abstain=False).select(candidates(*verdicts))) == falls_back


# -- votes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answers", "winner"),
    [
        (("a", "b", "b"), "b"),
        (("b", "a", "a", "b"), "b"),
        (("a", "b"), "a"),
        ((None, None, "b"), "b"),
        ((None, None), None),
        ((), None),
    ],
)
def test_the_most_frequent_answer_wins_and_the_earliest_among_equals(answers, winner):
    assert votes(*answers) == winner


@given(st.lists(ANSWERS, max_size=12))
def test_the_selected_candidate_is_the_first_of_the_class_with_most_votes(answers):
    made = candidates(answers=tuple(answers))
    selected = SelfConsistency().select(made)
    counted = Counter(answer for answer in answers if answer is not None)
    if not counted:
        assert selected is None
        return
    assert selected is not None
    most = max(counted.values())
    tied = {answer for answer, count in counted.items() if count == most}
    assert selected is next(c for c in made if c.notes["answer"] in tied)


def test_weights_are_the_verifiers_scores_and_the_unrated_do_not_vote():
    strategy = SelfConsistency(weighted=True)

    def select(*pairs: tuple[str | None, float | None]) -> Any:
        made = [
            Candidate(id=i, content="", spawned=(i,), notes={"answer": answer}, verdict=Verdict(score))
            for i, (answer, score) in enumerate(pairs)
        ]
        selected = strategy.select(made)
        return None if selected is None else selected.notes["answer"]

    assert select(("a", 0.1), ("a", 0.2), ("b", 0.9)) == "b"
    assert select(("a", 0.5), ("b", 0.25), ("b", 0.25)) == "a"
    assert select(("a", None), ("a", None), ("b", 0.1)) == "b"
    assert select((None, 5.0), ("b", 0.1)) == "b"
    assert select(("a", None)) is None
    assert strategy.settled([]) is False


@given(st.integers(1, 6), st.data())
def test_a_settled_vote_cannot_be_changed_by_any_remaining_votes(n, data):
    answers = data.draw(st.lists(ANSWERS, max_size=n))
    positions = data.draw(st.permutations(range(n)))  # votes arrive in another order than they were spawned
    strategy = SelfConsistency(n=n)

    def winner(given_: list[str | None]) -> str | None:
        made = [
            Candidate(id=i, content="", spawned=(positions[i],), notes={"answer": answer})
            for i, answer in enumerate(given_)
        ]
        selected = strategy.select(made)
        return None if selected is None else selected.notes["answer"]

    made = [
        Candidate(id=i, content="", spawned=(positions[i],), notes={"answer": answer})
        for i, answer in enumerate(answers)
    ]
    outcomes = {winner([*answers, *rest]) for rest in product([None, "a", "b", "c", "d"], repeat=n - len(answers))}
    if strategy.settled(made):
        assert outcomes == {winner(answers)}
    else:  # those to come could join all other answers into one class, which draws even at least
        votes = Counter(answer for answer in answers if answer is not None)
        assert 2 * max(votes.values(), default=0) - votes.total() <= n - len(answers)


def test_an_accepted_candidate_settles_a_search_for_the_best():
    for strategy in (BestOfN(), FirstPass()):
        assert not strategy.settled(candidates(REFUSED, None, Verdict(5.0)))
        assert strategy.settled(candidates(REFUSED, PASSED))


@given(st.lists(VERDICTS, max_size=8), st.randoms(use_true_random=False))
def test_selection_is_pure(verdicts, rng):
    made = candidates(*verdicts) if verdicts else []
    copy = list(made)
    for strategy in (BestOfN(), FirstPass(), FirstPass(abstain=False), Single()):
        first = strategy.select(made)
        strategy.settled(made)
        assert made == copy
        assert strategy.select(made) is first
        assert first is None or first in made
