"""MATH-500, AIME, GPQA and LiveCodeBench: what is asked, what is hidden, and what counts as right."""

from __future__ import annotations

import csv
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from tts import registry
from tts.errors import ConfigError
from tts.resources import Resources
from tts.session import Session
from tts.tasks import Example, Task
from tts.tasks.competition_math import Aime24, Aime25, Math500
from tts.tasks.gpqa import GPQA
from tts.tasks.livecodebench import LiveCodeBench
from tts.types import Verdict

RealData = Callable[[str], Path]


@pytest.fixture
async def resources() -> AsyncIterator[Resources]:
    async with Resources() as made:
        yield made


def write(path: Path, *records: Any) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


async def graded(example: Example, answer: str, resources: Resources) -> Verdict:
    session = Session(example.problem, {}, resources=resources)
    return await session.verify(session.candidate(answer), example.truth)


def asked(example: Example) -> str:
    return example.problem.messages[0]["content"]  # type: ignore[index]


# -- mathematics ---------------------------------------------------------------------------------------------------


async def test_math500_asks_for_a_box_and_compares_by_meaning(tmp_path: Path, resources: Resources):
    record = {"problem": "What is sin 60?", "answer": r"\frac{\sqrt{3}}{2}", "subject": "Trigonometry", "level": 1}
    (example,) = Math500(path=write(tmp_path / "m.jsonl", record)).examples()
    assert (example.problem.id, example.problem.answer) == ("math500/0", "math_answer")
    assert example.problem.metadata == {"subject": "Trigonometry", "level": 1}
    assert r"\boxed{}" in asked(example)
    assert "What is sin 60?" in asked(example)
    assert (await graded(example, r"So it is $\boxed{\sqrt{3}/2}$.", resources)).passed
    assert (await graded(example, r"\boxed{\sqrt{\frac34}}", resources)).passed
    assert not (await graded(example, r"\boxed{\frac{1}{2}}", resources)).passed


def test_a_prompt_of_the_file_is_asked_as_it_is(tmp_path: Path):
    (example,) = Math500(path=write(tmp_path / "m.jsonl", {"prompt": "1 + 1?", "answer": 2})).examples()
    assert asked(example) == "1 + 1?"


@pytest.mark.parametrize("task", [Aime24, Aime25])
async def test_aime_compares_numbers(task: type[Math500], tmp_path: Path, resources: Resources):
    (example,) = task(path=write(tmp_path / "a.jsonl", {"problem": "?", "answer": "025"})).examples()
    assert example.problem.answer == "numeric_answer"
    assert (await graded(example, r"\boxed{25}", resources)).passed
    assert not (await graded(example, r"\boxed{26}", resources)).passed
    with pytest.raises(ConfigError, match=r"b\.jsonl:1: .*not a number"):
        list(task(path=write(tmp_path / "b.jsonl", {"problem": "?", "answer": "many"})).examples())


@pytest.mark.parametrize(
    ("task", "name", "count"), [(Math500, "math500", 500), (Aime24, "aime24", 30), (Aime25, "aime25", 30)]
)
async def test_every_reference_grades_itself(
    task: type[Math500], name: str, count: int, real_data: RealData, resources: Resources
):
    examples = list(task(path=real_data(f"{name}.jsonl")).examples())
    assert len({example.problem.id for example in examples}) == len(examples) == count
    for example in examples:
        reference = example.truth.reference  # type: ignore[attr-defined]
        assert (await graded(example, rf"Thus \boxed{{{reference}}}.", resources)).passed, reference


# -- gpqa ----------------------------------------------------------------------------------------------------------

QUESTION = {
    "Record ID": "rec1",
    "Question": "Which planet is the largest, by mass?",
    "Correct Answer": "Jupiter\n",
    "Incorrect Answer 1": "Saturn",
    "Incorrect Answer 2": "Earth, with its moon",
    "Incorrect Answer 3": "Mars",
    "High-level domain": "Physics",
}


def table(path: Path, *records: dict[str, str]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(QUESTION))
        writer.writeheader()
        writer.writerows(records)
    return path


async def test_gpqa_mixes_the_options_and_grades_the_letter(tmp_path: Path, resources: Resources):
    path = table(tmp_path / "g.csv", QUESTION)
    letters = set()
    for seed in range(20):
        (example,) = GPQA(path=path, seed=seed).examples()
        assert example.problem.id == "gpqa/rec1"
        text = asked(example)
        letter = text[text.index(") Jupiter") - 1]
        letters.add(letter)
        assert "reference" not in example.problem.model_dump_json()
        assert (await graded(example, f"Heaviest by far.\nAnswer: {letter}", resources)).passed
        assert (await graded(example, "Answer: Jupiter", resources)).passed
        assert not (await graded(example, "Answer: Saturn", resources)).passed
    assert letters == set("ABCD")
    assert list(GPQA(path=path).examples()) == list(GPQA(path=path).examples())


async def test_gpqa_votes_by_letter_and_by_option(tmp_path: Path):
    (example,) = GPQA(path=table(tmp_path / "g.csv", QUESTION)).examples()
    assert example.problem.answer is not None
    reader = registry.make("verifiers", example.problem.answer)
    assert reader.parse("Answer: Mars") in "ABCD"
    assert reader.reference is None


def test_a_record_without_an_answer_is_named(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"g\.csv:1: 'Correct Answer' is empty"):
        list(GPQA(path=table(tmp_path / "g.csv", {**QUESTION, "Correct Answer": ""})).examples())


# -- livecodebench -------------------------------------------------------------------------------------------------


def contest(**fields: Any) -> dict[str, Any]:
    tests = [{"input": "3\n", "output": "6\n", "testtype": "stdin"}]
    hidden = [{"input": "50\n", "output": "100\n", "testtype": "stdin"}]
    return {
        "question_id": "1873_A",
        "question_content": "Double the number.",
        "platform": "codeforces",
        "difficulty": "easy",
        "contest_date": "2024-08-21T00:00:00",
        "starter_code": "",
        "public_test_cases": json.dumps(tests),
        "private_test_cases": json.dumps(hidden),
        "metadata": "{}",
    } | fields


FUNCTIONAL = contest(
    question_id=3000,
    contest_date="2025-01-04T00:00:00",
    difficulty="hard",
    starter_code="class Solution:\n    def double(self, x: int) -> int:\n        ",
    public_test_cases=json.dumps([{"input": "3", "output": "6", "testtype": "functional"}]),
    private_test_cases=json.dumps([{"input": "50", "output": "100", "testtype": "functional"}]),
    metadata=json.dumps({"func_name": "double"}),
)


async def test_livecodebench_judges_programs_and_functions(tmp_path: Path, resources: Resources):
    program, function = LiveCodeBench(path=write(tmp_path / "l.jsonl", contest(), FUNCTIONAL)).examples()
    assert (program.problem.id, function.problem.id) == ("livecodebench/1873_A", "livecodebench/3000")
    assert "standard input" in asked(program)
    assert "class Solution" in asked(function)
    for example in (program, function):
        assert "100" not in example.problem.model_dump_json()
        assert example.problem.verifier == "unit_tests:timeout=30.0"
    assert (await graded(program, "```python\nprint(2 * int(input()))\n```", resources)).passed
    assert not (await graded(program, "```python\nprint(6)\n```", resources)).passed
    double = "```python\nclass Solution:\n    def double(self, x):\n        return 2 * x\n```"
    assert (await graded(function, double, resources)).passed
    assert not (await graded(function, double.replace("2 * x", "6"), resources)).passed


def test_livecodebench_chooses_by_date_and_difficulty(tmp_path: Path):
    path = write(tmp_path / "l.jsonl", contest(), FUNCTIONAL)

    def ids(**chosen: Any) -> list[str]:
        task: Task = registry.make("tasks", {"name": "livecodebench", "path": str(path), **chosen})
        assert registry.make("tasks", task.config()) == task
        return [example.problem.id.partition("/")[2] for example in task.examples()]

    assert ids(since="2024-09-01") == ["3000"]
    assert ids(until="2024-08-21") == ["1873_A"]
    assert ids(difficulty="hard") == ["3000"]
    assert ids() == ["1873_A", "3000"]


def test_a_record_of_another_form_names_its_line(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"l\.jsonl:2: .*LiveCodeBench"):
        list(LiveCodeBench(path=write(tmp_path / "l.jsonl", contest(), {"question_id": 1})).examples())
