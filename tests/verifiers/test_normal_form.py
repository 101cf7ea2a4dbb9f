"""The normal form sees what a program does and not how it is written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as some

from tts.verifiers.programs.extract import normal_form

PROGRAM = """
def largest(numbers, start=0):
    best = start
    for number in numbers:
        if number > best:
            best = number
    return best
"""


@pytest.mark.parametrize(
    "other",
    [
        PROGRAM.replace("number", "x").replace("best", "top").replace("largest", "f"),
        PROGRAM.replace("    best = start", '    """Finds the largest."""\n    best = start  # so far'),
        PROGRAM.replace("(numbers, start=0)", "(numbers: list[int], start: int = 0) -> int"),
        PROGRAM.replace("best = start", "best: int = start"),
        PROGRAM.replace("\n    ", "\n        ").replace("\ndef", "\n\ndef"),
    ],
)
def test_names_comments_annotations_and_layout_do_not_count(other: str):
    assert other != PROGRAM
    assert normal_form(other) == normal_form(PROGRAM)


@pytest.mark.parametrize(
    "other",
    [
        PROGRAM.replace(">", ">="),
        PROGRAM.replace("start=0", "start=1"),
        PROGRAM.replace("best = start", "best = numbers"),
        PROGRAM.replace("for number in numbers", "for number in sorted(numbers)"),
        "def largest(numbers, start=0):\n    return max([start, *numbers])",
    ],
)
def test_what_is_done_counts(other: str):
    assert normal_form(other) != normal_form(PROGRAM)


def test_names_that_are_not_the_programs_own_stay():
    assert normal_form("def f(x):\n    return min(x)") != normal_form("def f(x):\n    return max(x)")
    assert normal_form("import a\nprint(a.b)") != normal_form("import a\nprint(a.c)")


@pytest.mark.parametrize("text", ["", "Sorry, no.", "def f(:", "sorry", "'a text'", "x" * 200_000, "\0"])
def test_what_is_no_program_has_none(text: str):
    assert normal_form(text) is None


@given(some.text(alphabet="def f(x):\n =+1[]'\"#", max_size=80))
def test_no_text_breaks_it(text: str):
    assert normal_form(text) == normal_form(f"{text}\n\n# the end")


def test_a_program_too_deep_to_walk_has_none():
    assert normal_form("x = " + "-" * 5000 + "1") is None
