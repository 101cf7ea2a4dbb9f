"""`tts list`: all plug-ins installed, with their parameters, wherever they come from and whether or not they work."""

import re
import sys
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field

from tests.cli.conftest import Command, finished, start
from tts import registry
from tts.cli.listing import type_text


def test_lists_every_strategy_verifier_task_and_study(tts: Command):
    index, details = tts("list").out, tts("list", "--details").out
    groups: list[registry.Group] = ["strategies", "verifiers", "tasks", "environments", "studies"]
    for group in groups:
        assert f"{group}\n" in index
        assert f"{group}\n" in details
        for name in registry.names(group):
            assert re.search(rf"^  {name}  ", index, re.MULTILINE)
            assert re.search(rf"^  {name}( \(from .+\))?: ", details, re.MULTILINE)  # those of others say whose
    assert len(index.splitlines()) == sum(1 + len(registry.names(group)) for group in groups) + 2
    assert max(map(len, index.splitlines())) <= 120


def test_shows_the_parameters_of_one_with_type_default_and_meaning(tts: Command):
    said = tts("list", "strategies", "best_of_n").out
    assert "      n: int > 0 = 16\n          Samples.\n" in said
    assert "first_pass" not in said


@pytest.mark.parametrize("width", [60, 80])
def test_lines_end_between_words_where_the_terminal_is_narrow(
    tts: Command, width: int, monkeypatch: pytest.MonkeyPatch
):
    wide = tts("list", "--details").out
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    narrow = re.sub(r"\x1b\[\d*m", "", tts("list", "--details").out)
    assert [line for line in narrow.splitlines() if len(line) > width and len(line.split()) > 1] == []
    assert narrow.split() == wide.split()


def test_a_name_is_found_whatever_its_group(tts: Command):
    (entry,) = tts("list", "first_pass", "--json").json
    assert (entry["group"], entry["source"], entry["error"]) == ("strategies", "ttscale", None)
    parameters = {parameter["name"]: parameter for parameter in entry["parameters"]}
    assert parameters["abstain"] | {"type": "bool", "default": True, "required": False} == parameters["abstain"]
    (task,) = tts("list", "tasks", "jsonl", "--json").json
    assert next(parameter for parameter in task["parameters"] if parameter["name"] == "path")["required"]


def test_an_unknown_name_is_told_with_what_may_be_meant(tts: Command):
    ended = tts("list", "strategies", "gsm8k")
    assert ended.code == 2
    assert "`tts list strategies` has all" in ended.err
    assert "did you mean best_of_n" in tts("list", "best").err


def test_a_plug_in_that_cannot_be_imported_is_shown_with_its_reason(clean: Path):
    site = clean / "site"
    metadata = site / "broken_things-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-things\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[tts.strategies]\nbroken = broken_things:Broken\n")
    (site / "broken_things.py").write_text("import a_module_that_is_missing\n")
    where = {"PYTHONPATH": f"{site}:{Path(__file__).parents[2]}"}
    ended = finished(start("list", env=where))
    assert ended.code == 0
    assert re.search(r"broken +\(from broken-things\) cannot be used", ended.out)
    assert "best_of_n" in ended.out
    details = finished(start("list", "broken", env=where)).out
    assert "broken (from broken-things): cannot be used" in details
    assert "a_module_that_is_missing" in details
    used = finished(start("solve", "What?", "--strategy", "broken", env=where))
    assert used.code == 2
    assert used.err.startswith("error: ")
    assert "a_module_that_is_missing" in used.err


@pytest.mark.parametrize(
    ("annotation", "text"),
    [
        (int | None, "int | None"),
        (list[Annotated[float, Field(ge=0, lt=1)]], "list[float ≥ 0 < 1]"),
        (tuple[str, ...], "tuple[str, ...]"),
        (dict[str, int | None], "dict[str, int | None]"),
        (Literal["mean", "last"], '"mean" | "last"'),
        (Path, "Path"),
    ],
)
def test_types_read_as_users_write_them(annotation: object, text: str):
    assert type_text(annotation) == text
