"""Tables as Markdown, and data as JSON knows it."""

import json
from math import inf, nan

import numpy as np
import pytest

from tts.tables import Table, number, plain


def test_markdown_sets_names_as_code_aligns_columns_and_keeps_notes():
    made = Table("Costs", ("strategy", "why"), ("tokens",), notes=["in all"])
    made.add_row("best_of_n:verifier=any_of(a|b)", "", "12")
    made.add_row("", "more", "3")
    assert made.markdown().splitlines() == [
        "### Costs",
        "",
        "| strategy | why | tokens |",
        "|---|---|--:|",
        "| `best_of_n:verifier=any_of(a\\|b)` |  | 12 |",
        "|  | more | 3 |",
        "",
        "in all",
    ]


def test_arrays_and_what_is_not_finite_are_plain_in_json():
    data = {"a": np.array([1.0, nan]), "b": (np.int64(2), inf), "c": {"d": "text", "e": None}}
    assert json.loads(json.dumps(plain(data), allow_nan=False)) == {
        "a": [1.0, None],
        "b": [2, None],
        "c": {"d": "text", "e": None},
    }


@pytest.mark.parametrize(("value", "text"), [(None, ""), (0.123456, "0.1235"), (12345.6, "12,346"), (2e12, "2e+12")])
def test_numbers_are_short(value: float | None, text: str):
    assert number(value) == text
