from __future__ import annotations

import pytest
from pydantic import ValidationError

from tts import registry
from tts.base import AnswerVerifier
from tts.errors import ConfigError
from tts.session import Session
from tts.types import Problem, Verdict
from tts.verifiers.exact_answer import ExactAnswer
from tts.verifiers.numeric_answer import NumericAnswer
from tts.verifiers.oracle import Oracle

PROBLEM = Problem.from_prompt("How many?")


async def judged(verifier: AnswerVerifier, text: str) -> Verdict:
    session = Session(PROBLEM, {})
    return await verifier.verify(PROBLEM, session.candidate(text), session)


@pytest.mark.parametrize("reference", ["18", "#### 18", "18 - 0 = 18\n#### 18", "$18.00"])
async def test_a_right_number_passes_whatever_the_form_of_the_reference(reference: str):
    verdict = await judged(NumericAnswer(reference=reference), "It is 3 * 6.\nAnswer: 18 dollars")
    assert (verdict.passed, verdict.score, verdict.details["answer"]) == (True, 1.0, "18")


async def test_a_wrong_number_and_no_number_are_refused_with_a_reason():
    wrong = await judged(NumericAnswer(reference="2,125"), "Answer: 2126")
    absent = await judged(NumericAnswer(reference="2,125"), "I do not know")
    assert (wrong.passed, wrong.feedback) == (False, "wrong answer")
    assert (absent.passed, absent.feedback) == (False, "no final answer found")


async def test_zero_is_a_number():
    assert (await judged(NumericAnswer(reference="0"), "Answer: 0")).passed is True
    assert (await judged(NumericAnswer(reference="0"), "Answer: none")).passed is False


async def test_a_candidate_cut_off_inside_its_box_has_no_answer():
    assert (await judged(NumericAnswer(reference="12"), r"so 12: \boxed{12")).passed is False


def test_the_last_number_counts_only_as_a_fallback():
    text = "First 3,\nthen 4 makes 7 in all.\nDone."
    assert NumericAnswer().parse(text) == "7"
    assert NumericAnswer(fallback=False).parse(text) is None


def test_an_announcement_without_a_number_is_passed_over():
    assert NumericAnswer().parse("The answer is 18.\nI hope that this answer is clear.") == "18"


def test_tolerance_is_relative_and_absolute_below_one():
    rough = NumericAnswer(tolerance=0.01)
    assert rough.same("1000", "1009")
    assert not rough.same("1000", "1011")
    assert rough.same("0.001", "0.009")
    assert not NumericAnswer().same("1000000", "1000001")
    assert NumericAnswer().same("0.1", "0.10000000000000002")


async def test_votes_meet_in_one_class():
    reader, session, known = NumericAnswer(), Session(PROBLEM, {}), []
    texts = ("Answer: 1/2", r"\boxed{0.5}", "#### .50")
    assert {(await session.compared(text, reader, known))["answer"] for text in texts} == {"0.5"}


def test_a_reference_that_is_no_number_is_refused_at_once():
    with pytest.raises(ValidationError, match="exact_answer"):
        NumericAnswer(reference="Paris")


async def test_texts_are_equal_but_for_case_emphasis_and_spacing():
    verifier = ExactAnswer(reference="New York")
    assert (await judged(verifier, "The answer is **new  york**.")).passed
    assert (await judged(verifier, "New York")).passed
    assert not (await judged(verifier, "Answer: York")).passed
    assert not (await judged(ExactAnswer(reference="New York", case_sensitive=True), "Answer: new york")).passed


def test_a_text_of_several_lines_that_announces_nothing_has_no_answer():
    assert ExactAnswer().parse("Well.\nParis, I think") is None
    assert ExactAnswer(bare=False).parse("Paris") is None


@pytest.mark.parametrize("name", ["exact_answer", "numeric_answer", "unit_tests", "oracle"])
def test_they_are_found_by_name_and_rebuilt_from_their_configuration(name: str):
    verifier = registry.make("verifiers", name)
    assert registry.make("verifiers", verifier.config()) == verifier


async def test_the_oracle_gives_the_truth_and_leaves_a_mark():
    session = Session(PROBLEM, {}, truth=NumericAnswer(reference="18"))
    assert not session.ledger.oracle_used
    verdict = await Oracle().verify(PROBLEM, session.candidate("Answer: 18"), session)
    assert verdict.passed
    assert session.ledger.oracle_used


async def test_the_oracle_needs_a_truth():
    session = Session(PROBLEM, {})
    with pytest.raises(ConfigError, match="truth"):
        await Oracle().verify(PROBLEM, session.candidate("18"), session)
