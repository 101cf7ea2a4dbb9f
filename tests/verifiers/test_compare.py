from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tts.verifiers.programs.compare import output_difference, same_output, shown
from tts.verifiers.programs.equality import same_as_reference, same_json
from tts.verifiers.sandbox import Opaque, is_plain

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("got", "expected", "atol", "same"),
    [
        (1, 1, 0, True),
        (True, 1, 0, True),
        (1, 1.0, 0, True),
        (1.0 + 5e-7, 1.0, 0, True),
        (1.0 + 5e-6, 1.0, 0, False),
        (1e9 + 50, 1e9, 0, True),
        (1e9 + 500, 1e9, 0, False),
        (1.00005, 1.0, 1e-4, True),
        ([1.0, 2.0000001], [1.0, 2.0], 0, True),
        ((1.0, 2.0000001), [1.0, 2.0], 0, False),
        ([1.0000001, 2], [1.0, 2], 0, False),
        ([1.0000001, 2], [1.0, 2], 1e-6, True),
        ([1.0], [1.0, 2.0], 0, False),
        ([1, 2], (1, 2), 0, False),
        (2, 1, 1e-6, False),
        (NAN, NAN, 0, True),
        ([NAN, 1.0], [NAN, 1.0], 0, True),
        (1.0, NAN, 1e-6, False),
        (INF, INF, 0, True),
        (-INF, INF, 1e-6, False),
        (1e308, INF, 1e-6, False),
        (10**400, 1.0, 1e-6, False),
        (None, 1.0, 0, False),
        ("1.0", 1.0, 0, False),
        (Opaque("X"), 1.0, 1e-6, False),
        ([Opaque("X")], [1.0], 1e-6, False),
        (Opaque("X"), None, 0, False),
    ],
)
def test_the_rule_of_references(got: Any, expected: Any, atol: float, same: bool):
    assert same_as_reference(got, expected, atol) is same


def test_json_knows_no_tuples_and_floats_may_be_rounded():
    assert same_json((1, (2,)), [1, [2]])
    assert same_json({"a": 0.1 + 0.2}, {"a": 0.3})
    assert not same_json([1, 2], [1])
    assert not same_json({"a": 1, "b": 2}, {"a": 1})
    assert not same_json(Opaque("X"), None)
    assert not same_json([Opaque("X")], [[]])


@pytest.mark.parametrize(
    ("mode", "got", "expected", "same"),
    [
        ("lines", "1 2 \n3\n\n", "1 2\n3", True),
        ("lines", "1  2", "1 2", False),
        ("lines", "1\r\n2", "1\n2", True),
        ("lines", " 1", "1", False),
        ("exact", "1\n", "1", False),
        ("exact", "1\n", "1\n", True),
        ("tokens", "1\n 2", "1 2\n", True),
        ("tokens", "12", "1 2", False),
        ("numbers", "0.3333333\nx", "0.33333333\nx", True),
        ("numbers", "1.0 YES", "1 YES", True),
        ("numbers", "1 2", "1\n2", False),
        ("numbers", "0.34", "0.33", False),
        ("numbers", "nan", "nan", True),
        ("numbers", "YES", "NO", False),
        ("numbers", "\n 1\n", "1", True),
    ],
)
def test_outputs_compare_by_mode(mode: Any, got: str, expected: str, same: bool):
    assert same_output(got, expected, mode, 1e-6) is same


def test_the_first_line_that_differs_is_shown():
    assert output_difference("1\n2\n3", "1\n5\n3") == "line 2 of the output: expected '5', got '2'"
    assert output_difference("", "7") == "output: expected '7', got ''"
    assert output_difference("1", "1\n2") == "line 2 of the output: expected '2', got the end"


def test_values_are_shown_short_whatever_they_are():
    assert shown(Opaque("Evil")) == "an object of type Evil"
    assert len(shown("a" * 100_000)) < 200
    assert "int" in shown(10**10_000)


def test_plain_data_is_built_in_all_the_way_down():
    assert is_plain([1, (2.0, None), {"a": {1, b"x"}}])
    assert not is_plain([1, Opaque("X")])
    assert not is_plain({"a": [iter([3])]})
    assert not is_plain(type("Int", (int,), {})(3))


# -- integers are exact, whatever the tolerance ---------------------------------------------------------------------

LARGE = st.integers(10**6, 10**40) | st.integers(-(10**40), -(10**6))


@given(LARGE, st.integers(-5, 5).filter(bool), st.floats(0, 1e-3))
def test_a_whole_number_is_never_near_another(number: int, step: int, tolerance: float):
    other = number + step
    for wrap in (lambda x: x, lambda x: [x], lambda x: {"a": [1, x]}, lambda x: [[x], "b"]):
        assert not same_json(wrap(other), wrap(number))
        assert same_json(wrap(number), wrap(number))
    assert not same_as_reference(other, number, tolerance)
    assert not same_as_reference([1.0, other], [1.0, number], tolerance)
    assert not same_output(f"x\n1 {other}", f"x\n1 {number}", "numbers", tolerance)
    assert same_output(f"{number}.00", str(number), "numbers", tolerance)


@given(LARGE, st.floats(0, 1e-3))
def test_a_float_is_a_whole_number_only_if_it_is_exactly_that(number: int, tolerance: float):
    same = float(number) == number
    assert same_json(float(number), number) is same
    assert same_as_reference([float(number)], [number], tolerance) is same
    assert same_output(f"{float(number):.1f}", str(number), "numbers", tolerance) is same
    assert same_output(repr(float(number)), str(number), "numbers", tolerance) is (
        Decimal(repr(float(number))) == number
    )


@pytest.mark.parametrize(
    ("got", "expected"),
    [
        (9007199254740992, 9007199254740993),
        (1000000007.4, 1000000007),
        (1000000007.4, 1000000007.0),
        (5000000.5, 5000000),
        (123456790.0, 123456789),
        (10**24, 10**24 + 1),
        (2.0000001, 2),
        (1 + 0j, 2),
        ([1e24], [10**24 + 1]),
    ],
)
def test_what_is_only_near_a_whole_number_is_wrong(got: Any, expected: Any):
    assert not same_json(got, expected)
    if type(expected) is int:
        assert not same_output(str(got), str(expected), "numbers", 1e-6)
        assert not same_as_reference(got, expected, 1e-6)


@pytest.mark.parametrize(
    ("got", "expected", "tolerance", "same"),
    [
        ("1_0", "10", 0.0, False),
        ("1_0", "10.0", 1e-6, False),
        ("1,000", "1000", 1e-6, False),
        ("١٠", "10", 1e-6, False),
        ("9007199254740992", "9007199254740993", 0.0, False),
        ("9007199254740992.0", "9007199254740993.0", 0.0, False),
        ("1e24", "1000000000000000000000001", 1e-6, False),
        ("1e24", "1000000000000000000000000", 0.0, True),
        ("1e3", "1000", 0.0, True),
        ("0.10", "0.1", 0.0, True),
        ("-0", "0", 0.0, True),
        ("-0.0", "0", 0.0, True),
        ("+5", "5", 0.0, True),
        ("3", "2.9999999", 1e-6, True),
        ("2.9999999", "3", 1e-6, False),
        ("inf", "Infinity", 0.0, True),
        ("-inf", "inf", 1e-6, False),
        ("0x10", "16", 1e-6, False),
        ("1e999999", "2e999999", 1e-6, False),
        ("9" * 100_000, "9" * 99_999 + "8", 1e-6, False),
        ("9" * 100_000, "9" * 100_000 + ".0", 1e-6, True),
    ],
)
def test_words_are_numbers_by_their_exact_value(got: str, expected: str, tolerance: float, same: bool):
    assert same_output(got, expected, "numbers", tolerance) is same
