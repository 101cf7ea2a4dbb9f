"""Instructions: what is asked can be met, and each constraint notices exactly what breaks it."""

from __future__ import annotations

import pytest

from tests.support.obedient import obedient
from tts import registry
from tts.tasks.instructions import Instructions
from tts.types import Candidate
from tts.verifiers.constraints import COMMON_WORDS, Constraint, Constraints

MEETS_AND_BREAKS = [
    ("words_at_least", "3", "one two three", "one two"),
    ("words_at_most", "3", "it's two three", "one two three four"),
    ("paragraphs", "2", "One.\nStill one.\n\nTwo.", "One.\n\nTwo.\n\nThree."),
    ("bullets", "2", "Here:\n- a\n - b", "- a\n* b"),
    ("heading", "River", "# The river\nText.", "The river\n# Text"),
    ("has", "stone", "A Stone, here.", "stones and milestone"),
    ("lacks", "stone", "stones", "one stone."),
    ("begins", "Dear", "Dear you", "My Dear"),
    ("ends", "all.", "That is all.", "That is all. Bye."),
    ("lower_case", "", "quiet 1!", "Not quiet"),
    ("no_commas", "", "one; two", "one, two"),
    ("language", "German", "Das ist nicht der Weg zu mir.", "That is not the way to me."),
]


@pytest.mark.parametrize(("kind", "value", "good", "bad"), MEETS_AND_BREAKS)
def test_a_constraint_is_met_or_broken(kind, value, good: str, bad: str):
    constraint = Constraint(kind=kind, value=value)
    assert constraint.check(good)[0]
    assert not constraint.check(bad)[0]
    assert str(value) in constraint.text


def test_the_verdict_tells_which_are_met():
    both = Constraints(constraints=(Constraint(kind="words_at_most", value="2"), Constraint(kind="has", value="tea")))
    (example,) = Instructions(count=1).examples()
    verdict = both.check(example.problem, Candidate(id=0, content="<think>tea</think>one two three tea", spawned=(0,)))
    assert (verdict.score, verdict.passed) == (0.5, False)
    assert [row["met"] for row in verdict.details["elements"]] == [False, True]
    assert verdict.feedback == "Not met: The text has at most 2 words. found: 4"


@pytest.mark.parametrize("language", COMMON_WORDS)
def test_a_text_of_the_commonest_words_of_a_language_is_in_it(language: str):
    assert Constraint(kind="language", value=language).check(COMMON_WORDS[language])[0]


def test_every_problem_can_be_solved_and_is_the_same_each_time():
    task = registry.make("tasks", "instructions:count=150")
    examples = list(task.examples())
    assert list(Instructions(count=10).examples()) == examples[:10]
    assert len({example.problem.id for example in examples}) == 150
    for problem, truth, _ in examples:
        assert isinstance(truth, Constraints)
        assert len({one.kind for one in truth.constraints}) == 5
        assert all(one.text in problem.messages[0]["content"] for one in truth.constraints)  # type: ignore[index]
        verdict = truth.check(problem, Candidate(id=0, content=obedient(truth.constraints), spawned=(0,)))
        assert verdict.passed, (verdict.feedback, obedient(truth.constraints))
