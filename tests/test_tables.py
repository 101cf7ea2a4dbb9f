"""Tables as Markdown, and data as JSON knows it."""

import io
import json
import re
from math import inf, nan

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from rich.console import Console

from tts.tables import Table, broken, interval, number, percent, plain, summary_table
from tts.text import visible_json


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


SPEC = "best_of_n:n=64,verifier=all_of(verifiers=[unit_tests(timeout=5),judge(criterion=brevity)])"


def printed(table: Table, width: int) -> list[str]:
    out = io.StringIO()
    Console(file=out, width=width).print(table)
    return out.getvalue().splitlines()


@pytest.mark.parametrize("width", [80, 120])
def test_a_table_fits_whole_numbers_and_names_broken_between_words(width: int):
    made = Table("Costs", ("strategy", "model"), ("accuracy", "95 %", "tokens", "money"), notes=["a note " * 30])
    made.add_row("single", "Qwen/Qwen2.5-Coder-0.5B-Instruct", "41.7%", "19.0 to 68.6%", "123,456,789", "")
    made.add_row(SPEC, "Qwen/Qwen2.5-Coder-0.5B-Instruct", "100.0%", "45.5 to 92.3%", "4,612", "")
    lines = printed(made, width)
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    for whole in (
        "single ",
        "123,456,789",
        "45.5 to 92.3%",
        "accuracy",
        "best_of_n:",
        "unit_tests(",
        "timeout",
        "judge(",
    ):
        assert whole in text
    assert "money" not in text


@pytest.mark.parametrize("width", [60, 80, 120])
def test_where_numbers_do_not_fit_they_go_on_below_and_none_is_cut(width: int):
    names = ("strategy", "model"), tuple(f"column {i}" for i in range(12))
    made = Table("Details", *names)
    made.add_row(SPEC, "lab-target", *(f"{i}{i},000.0 to {i}" for i in range(12)))
    lines = printed(made, width)
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    assert all(f"column {i}" in text and f"{i}{i},000.0 to {i}" in text for i in range(12))
    assert text.count("strategy") == text.count("lab-target") > 1
    assert "unit_tests(" in text


@given(st.text("ab:,=/ ([", max_size=60), st.integers(8, 30))
def test_a_broken_name_loses_nothing_and_is_cut_after_a_mark(text: str, width: int):
    lines = broken(text, width).split("\n")
    assert "".join("".join(lines).split()) == "".join(text.split())
    assert all(
        re.search(r"[,:/=(]$", line) or text[: text.find(line) + len(line) + 1].endswith(" ") for line in lines[:-1]
    )
    assert all(len(line) <= width or not re.search(r"[,:/=(\s].", line) for line in lines)


def test_an_empty_column_is_left_out_of_markdown_and_a_shared_name_of_all():
    made = Table("Of x · m", ("curve", "model"), ("k",), notes=["x · m: few"])
    made.add_row("x · m", "", "1")
    assert made.renamed({" · m": ""}).markdown() == "### Of x\n\n| curve | k |\n|---|--:|\n| `x` | 1 |\n\nx: few"


def test_a_share_reads_the_same_whatever_way_it_was_computed():
    shares = (0.0875, 7 / 80, np.nextafter(0.0875, 0), np.nextafter(0.0875, 1))
    assert len({percent(float(share)) for share in shares}) == 1
    assert interval(0.0875, 0.0875).split(" to ") == [percent(0.0875)[:-1], percent(0.0875)]


def test_counts_below_a_summary_say_whose_they_are():
    names = ("oracle", "settled_early", "budget_ended", "cut_off", "estimated_tokens")
    row = dict.fromkeys(names, 0) | {"accuracy": 0.5, "low": 0.4, "high": 0.6, "coverage": 0.5, "estimator": "replay"}
    row |= {"model": "m", "problems": 9, "candidates": 9, "completion_tokens": 9, "requests": 9, "money": None}
    row |= {"lost_samples": 0, "failed": 0, "ungraded": 0, "ungraded_candidates": 0, "unrated_candidates": 0}
    rows = [row | {"strategy": name, "abstained": 7} for name in ("one", "two")]
    words = "problems without a selected answer, which count as not solved: 7"
    assert summary_table({"": rows}).notes == [f"{words} (one)", f"{words} (two)"]
    assert summary_table({"": rows[:1]}).notes == [words]


HOSTILE = st.text("`|<>[]()!&a1.#-+*~ \n\r\t\0\x1b\x9b\u2028\u202e\ud800", max_size=30)


@given(HOSTILE, HOSTILE)
def test_what_strangers_write_is_shown_and_never_acts(name: str, words: str):
    """On the terminal, in Markdown and in HTML: names of models, problems and runs may be theirs."""
    made = Table(words, ("curve", "model"), ("k",), notes=[words])
    made.add_row(name, words, "1")
    shown = "\n".join(printed(made, 80))
    assert not re.search("[\0-\x08\x0b-\x1f\x7f-\x9f\u202e\ud800]", shown)
    html = re.sub("</?(table|caption|tr|th|td|div)( style='[a-z-: ]*')?>", "", made.html())
    assert "<" not in html
    rendered = MarkdownIt("commonmark").enable("table").render(made.markdown())
    assert not re.search(r"<(?!/?(table|thead|tbody|tr|th|td|h3|p|code|em|strong)\b)", rendered)
    if name.strip() and words.strip():
        assert rendered.count("<tr>") == 2


@given(st.lists(HOSTILE))
def test_json_is_shown_and_never_acts_and_says_the_same(words: list[str]):
    shown = visible_json(json.dumps(words, indent=2, ensure_ascii=False))
    assert not re.search("[\0-\x08\x0b-\x1f\x7f-\x9f\u202e\ud800]", shown)
    assert json.loads(shown) == words
