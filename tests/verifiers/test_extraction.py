from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tts.verifiers.answers.extraction import canonical, clean, final_answers, last_number, parse_number


def last(text: str) -> str | None:
    answers = final_answers(text)
    return answers[0] if answers else None


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"first \boxed{5}, then \boxed{6}.", "6"),
        (r"\boxed{\frac{1}{\sqrt{2}}}", r"\frac{1}{\sqrt{2}}"),
        (r"\boxed{\left\{1, 2\right\}}", r"\left\{1, 2\right\}"),
        (r"\fbox{7} and more words", "7"),
        (r"\boxed {8}", "8"),
        ("reasoning\n#### 18", "18"),
        ("reasoning\n#### 18\n\nQuestion: another one?", "18"),
        ("#### Paris", "Paris"),
        ("Answer: 18", "18"),
        ("**Answer:** 18", "18"),
        ("**Final Answer**: **18**", "18"),
        ("Answer:\n\n18", "18"),
        ("So the answer is Paris. It lies on the Seine.", "Paris"),
        ("The answer is 5. No: Answer: 6", "6"),
        (r"Answer: \boxed{3}", "3"),
        (r"\boxed{3} is wrong. The answer is: 4", "4"),
        (r"Answer: $\text{Monday}$.", "Monday"),
    ],
)
def test_the_last_announced_answer_is_found(text: str, answer: str):
    assert last(text) == answer


def test_a_heading_is_not_an_answer():
    assert final_answers("#### Step 3: add\nthree and four") == []


def test_a_box_that_never_closes_means_the_answer_was_cut_off():
    assert final_answers(r"The answer is 4, so \boxed{4") is None


def test_an_unclosed_box_before_a_complete_answer_does_no_harm():
    assert final_answers("I will use `\\boxed{`.\nAnswer: 4") == ["4"]


def test_a_text_that_announces_nothing_has_no_answer():
    assert final_answers("There are 3 apples and 4 pears.") == []


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("18", "18"),
        ("18.", "18"),
        ("2,125", "2125"),
        ("1,234,567.50", "1234567.5"),
        ("1{,}234", "1234"),
        ("$18", "18"),
        (r"\$2.50", "2.5"),
        ("-$5", "-5"),
        ("−3", "-3"),
        ("US$18", "18"),
        ("50%", "50"),
        (r"50\%", "50"),
        ("18 dollars", "18"),
        (r"5 \text{ m}^2", "5"),
        ("12 km/h", "12"),
        ("3/4", "0.75"),
        (r"\frac{3}{4}", "0.75"),
        (r"-\dfrac12", "-0.5"),
        ("1.5e3", "1500"),
        (r"1.5 \times 10^{-3}", "0.0015"),
        ("x = 5", "5"),
        ("3 + 4 = 7", "7"),
        ("18. That is 3 more than 15.", "18"),
        ("Janet makes $18 a day", "18"),
        (".5", "0.5"),
        ("-0.0", "0"),
        ("1/3", "0.3333333333333333"),
    ],
)
def test_a_number_is_read_however_it_is_written(text: str, number: str):
    value = parse_number(text)
    assert value is not None
    assert canonical(value) == number


@pytest.mark.parametrize(
    "text", ["", "none", "3 and 4", "1,2", "10^3", r"2\pi", r"\sqrt{2}", "1/0", "x1", "1e999999999", "9" * 500]
)
def test_what_is_not_one_plain_number_is_none(text: str):
    assert parse_number(text) is None


def test_the_last_number_of_a_text():
    assert last_number("She has 3 apples, then buys 4: 3 + 4 = 7 apples.") == 7
    assert last_number("none at all") is None


@given(st.integers(-(10**30), 10**30))
def test_whole_numbers_survive_with_separators(number: int):
    assert parse_number(f"{number:,}") == number
    assert canonical(Fraction(number)) == str(number)


@given(st.floats(-1e15, 1e15))
def test_the_canonical_form_reads_back_as_the_same_double(number: float):
    value = parse_number(canonical(Fraction(number)))
    assert value is not None
    assert float(value) == number


PIECES = ["\n", r"\boxed{", "answer:", "####", r"\frac{", "\ud800", "\0", *"{}()=#*$1234,./e^-x ½"]


@given(st.lists(st.sampled_from(PIECES)).map("".join))
def test_odd_text_never_raises(text: str):
    for answer in final_answers(text) or []:
        parse_number(answer)
    last_number(text)
    parse_number(text)
    clean(text)


MEGABYTE = 1 << 20


UNITS = [r"\boxed{", r"\boxed{1}", "{", "}", "answer:", "answer: ", "####", "#### 1\n", " ", "9", "^", "$"]
UNITS += ["1 ", "1,111,", "1/", r"\frac{"]


@pytest.mark.parametrize("unit", UNITS)
def test_a_megabyte_of_anything_is_read_in_linear_time(unit: str):
    # what takes seconds already for a quadratic method on a megabyte would take the test runner hours
    text = unit * (MEGABYTE // len(unit))
    for hostile in (text, r"\boxed{" + text, text + "x", "1" + text + "1"):
        final_answers(hostile)
        last_number(hostile)
        parse_number(hostile)
