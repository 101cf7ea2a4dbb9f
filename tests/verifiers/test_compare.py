from __future__ import annotations

import math
from typing import Any

import pytest

from tts.verifiers.programs.compare import output_difference, same_as_reference, same_json, same_output, shown
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
    assert not is_plain({"a": [range(3)]})
    assert not is_plain(type("Int", (int,), {})(3))
