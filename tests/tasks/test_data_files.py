"""Problems in the forms in which people have them: tables, data sets of the hub, and tasks as files."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from tts import registry
from tts.errors import ConfigError
from tts.tasks import Task
from tts.tasks.jsonl import Jsonl

ROWS = [
    {"key": "a", "question": "2 + 3?", "options": "5, 6\nor 7", "gold": 5},
    {"key": "b", "question": 'What is "six" {x}?', "options": "ä", "gold": 6},
]
MAPPED: dict[str, Any] = {
    "template": "{question} One of {options}. \\boxed{}",
    "answer_field": "gold",
    "id_field": "key",
    "answer_verifier": "numeric_answer",
}


def write_json(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text(json.dumps(rows))


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8-sig") as file:  # with the mark that spreadsheets put first
        made = csv.DictWriter(file, rows[0], delimiter="\t" if path.suffix == ".tsv" else ",")
        made.writeheader()
        made.writerows(rows)


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)


WRITERS: dict[str, Callable[[Path, list[dict[str, Any]]], None]] = {
    "json": write_json,
    "csv": write_csv,
    "tsv": write_csv,
    "parquet": write_parquet,
}


def told(task: Task) -> list[tuple[str, Any, Any]]:
    """Ids, prompts and references of a task."""
    return [
        (example.problem.id, example.problem.messages[0]["content"], example.truth.config()["reference"])  # type: ignore[index]
        for example in task.examples()
    ]


EXPECTED = [
    ("a", "2 + 3? One of 5, 6\nor 7. \\boxed{}", "5"),
    ("b", 'What is "six" {x}? One of ä. \\boxed{}', "6"),
]


@pytest.mark.parametrize("kind", WRITERS)
def test_every_kind_of_file_gives_the_same_problems(kind: str, tmp_path: Path):
    path = tmp_path / f"mine.{kind}"
    WRITERS[kind](path, ROWS)
    assert told(Jsonl(path=path, **MAPPED)) == EXPECTED
    if kind != "parquet":
        packed = tmp_path / f"packed.{kind}.gz"
        packed.write_bytes(gzip.compress(path.read_bytes()))
        assert told(Jsonl(path=packed, **MAPPED)) == EXPECTED


words = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r"), min_size=1)


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.fixed_dictionaries({"prompt": words, "answer": words}), min_size=1, max_size=3))
def test_any_text_comes_out_of_a_table_as_it_went_in(tmp_path: Path, rows: list[dict[str, str]]):
    for kind, write in WRITERS.items():
        write(path := tmp_path / f"any.{kind}", rows)
        found = [(prompt, reference) for _, prompt, reference in told(Jsonl(path=path))]
        assert found == [(row["prompt"], row["answer"]) for row in rows]


def test_a_cell_of_a_table_may_hold_tests_and_an_empty_one_is_none(tmp_path: Path):
    suite = json.dumps({"entry_point": "f", "calls": [{"args": [2], "expected": 4}]})
    write_csv(path := tmp_path / "code.csv", [{"prompt": "f", "tests": suite, "answer": "", "id": ""}])
    (example,) = Jsonl(path=path).examples()
    assert example.problem.id == "code/0"
    assert example.truth.name == "unit_tests"


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", b"prompt,answer\nonly one\n", "a.csv:2: not 2 cells"),
        ("a.csv", b'prompt,answer\n"open', "a.csv"),
        ("a.csv", b"prompt\n\xff\n", "a.csv as CSV: it is not a text in UTF-8"),
        ("a.jsonl", b'{"prompt": "\xfc"}', r"a.jsonl:1: not JSON: it is not a text in UTF-8 \(byte 0xfc\)"),
        ("a.json", b'{"a": [{"prompt": 1}], "b": [{"prompt": 1}]}', "expected a JSON list, or an object that has one"),
        ("a.csv.gz", b"not gzip", "a.csv.gz as CSV"),
        ("a.json", b'{"prompt": 1}', "expected a JSON list"),
        ("a.parquet", b"PAR1 no", "a.parquet as Parquet"),
    ],
)
def test_a_file_that_cannot_be_read_is_told(name: str, content: bytes, words: str, tmp_path: Path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=words.replace(".", r"\.")):
        list(Jsonl(path=tmp_path / name).examples())


def test_a_template_that_names_no_field_is_told(tmp_path: Path):
    write_json(path := tmp_path / "a.json", ROWS)
    with pytest.raises(ConfigError, match=r"a\.json:1: no 'nothing'; there are: key, question"):
        list(Jsonl(path=path, template="{nothing}", answer_field="gold").examples())


def test_a_data_set_in_a_form_of_the_hub_is_a_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("datasets", reason="needs the extra hub")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "mine" / "main").mkdir(parents=True)
    write_parquet(tmp_path / "mine" / "main" / "dev.parquet", ROWS)
    card = "---\nconfigs:\n- config_name: main\n  data_files:\n  - split: dev\n    path: main/dev.parquet\n---\n"
    (tmp_path / "mine" / "README.md").write_text(card)
    spec = f"jsonl:path=hf:{tmp_path}/mine,subset=main,split=dev"
    parameters = registry.parse_spec(spec)[1]
    assert told(Jsonl(**parameters, **MAPPED)) == EXPECTED
    with pytest.raises(ConfigError, match=r"cannot load hf:.*mine.*test"):
        list(Jsonl(**{**parameters, "split": "test"}).examples())


def test_a_task_may_be_a_file_beside_its_data(tmp_path: Path):
    write_csv(tmp_path / "mine.csv", ROWS)
    table = 'name = "jsonl"\npath = "mine.csv"\n' + "".join(
        f"{key} = {json.dumps(text)}\n" for key, text in MAPPED.items()
    )
    (tmp_path / "mine.toml").write_text(table)
    task = registry.make("tasks", str(tmp_path / "mine.toml"))
    assert told(task) == EXPECTED
    assert registry.make("tasks", task.config()) == task


@pytest.mark.parametrize(("content", "words"), [("name =", "mine.toml"), ("n = 1", "'name'"), (None, "No such file")])
def test_a_task_file_that_cannot_be_used_is_told(content: str | None, words: str, tmp_path: Path):
    if content is not None:
        (tmp_path / "mine.toml").write_text(content)
    with pytest.raises(ConfigError, match=words):
        registry.make("tasks", str(tmp_path / "mine.toml"))


def test_a_stranger_names_no_file():
    with registry.from_stranger(), pytest.raises(ConfigError, match=r"no '/etc/some\.toml' among the tasks"):
        registry.make("tasks", "/etc/some.toml")


def test_a_list_of_problems_may_stand_in_an_object(tmp_path: Path):
    problems = [{"prompt": f"{i}?", "answer": i} for i in range(2)]
    (tmp_path / "a.json").write_text(json.dumps({"version": "1.1", "authors": ["A"], "data": problems}))
    assert [e.problem.messages for e in Jsonl(path=tmp_path / "a.json").examples()] == [
        [{"role": "user", "content": f"{i}?"}] for i in range(2)
    ]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("data/mine.csv", r"a file of problems is jsonl:path=data/mine.csv"),
        ("mine.toml:limit=3", "the parameters of a task in a file stand in the file"),
        ("gsm", "did you mean 'gsm8k'"),
        ("human", "did you mean 'humaneval'"),
    ],
)
def test_what_was_meant_by_a_task_that_there_is_not_is_said(name: str, words: str):
    with pytest.raises(ConfigError, match=words):
        registry.make("tasks", name)
