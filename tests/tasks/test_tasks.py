from __future__ import annotations

import csv
import gzip
import json
import socket
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from tts import registry
from tts.errors import ConfigError
from tts.resources import Resources
from tts.session import Session
from tts.tasks import Example, Task
from tts.tasks.gsm8k import GSM8K
from tts.tasks.humaneval import WRONG_EXAMPLES, HumanEval, prompt_examples
from tts.tasks.jsonl import Jsonl
from tts.tasks.loading import data_file, read_jsonl
from tts.types import Verdict
from tts.verifiers.unit_tests import TestSuite, UnitTests

RealData = Callable[[str], Path]

NEXT = {
    "task_id": "HumanEval/900",
    "prompt": 'def after(x):\n    """The next number.\n    >>> after(1)\n    2\n    """\n',
    "entry_point": "after",
    "canonical_solution": "    return x + 1\n",
    "test": "def check(candidate):\n    assert candidate(10) == 11\n",
}


def write(path: Path, records: Iterable[Any]) -> Path:
    text = "".join(json.dumps(record) + "\n" for record in records)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


async def graded(example: Example, answer: str) -> Verdict:
    session = Session(example.problem, {})
    return await example.truth.verify(example.problem, session.candidate(answer), session)


# -- humaneval -----------------------------------------------------------------------------------------------------


async def test_humaneval_keeps_the_hidden_tests_from_the_problem(tmp_path: Path):
    (example,) = HumanEval(path=write(tmp_path / "he.jsonl.gz", [NEXT])).examples()
    assert example.problem.id == "HumanEval/900"
    assert example.problem.verifier == "unit_tests"
    assert example.problem.tests is not None
    assert example.problem.tests["asserts"] == ["assert after(1) == 2"]
    assert "candidate(10)" not in example.problem.model_dump_json()
    memorised = "```python\ndef after(x):\n    return 2\n```"
    session = Session(example.problem, {})
    public = await UnitTests().verify(example.problem, session.candidate(memorised), session)
    assert public.passed
    assert not (await graded(example, memorised)).passed
    assert (await graded(example, "```python\ndef after(x):\n    return x + 1\n```")).passed


async def test_humaneval_asks_a_chat_model_or_lets_a_base_model_continue(tmp_path: Path):
    path = write(tmp_path / "he.jsonl", [NEXT])
    (chat,) = HumanEval(path=path).examples()
    (completion,) = HumanEval(path=path, style="completion").examples()
    assert "The next number." in chat.problem.messages[0]["content"]  # type: ignore[index]
    assert completion.problem.messages == NEXT["prompt"]
    assert (await graded(completion, NEXT["canonical_solution"] + "\n\nprint(after(")).passed


@pytest.fixture
async def resources() -> AsyncIterator[Resources]:
    """One sandbox for many problems."""
    async with Resources() as made:
        yield made


async def test_every_reference_solution_of_humaneval_passes_hidden_and_public_tests(
    real_data: RealData, resources: Resources
):
    path = real_data("HumanEval.jsonl.gz")
    solutions = {line.fields["task_id"]: line.fields for line in read_jsonl(path)}
    failed, tests, covered = [], 0, 0
    for example in HumanEval(path=path).examples():
        problem, record = example.problem, solutions[example.problem.id]
        session = Session(problem, {}, resources=resources)
        for content in (record["canonical_solution"], record["prompt"] + record["canonical_solution"]):
            candidate = session.candidate(content)
            hidden = await example.truth.verify(problem, candidate, session)
            failed += [] if hidden.passed else [(problem.id, "hidden", hidden.feedback)]
        public = await UnitTests().verify(problem, candidate, session)
        failed += [(problem.id, "public", public.feedback)] if public.passed is False else []
        covered += public.passed is not None
        tests += public.details.get("total", 0)
    assert failed == []
    assert len(solutions) == 164
    assert (covered, tests) == (156, 446)


async def test_the_examples_left_out_are_in_the_prompts_and_are_wrong(real_data: RealData, resources: Resources):
    records = {line.fields["task_id"]: line.fields for line in read_jsonl(real_data("HumanEval.jsonl.gz"))}
    for example in HumanEval(path=real_data("HumanEval.jsonl.gz")).examples():
        for wrong in WRONG_EXAMPLES.get(example.problem.id, ()):
            record = records[example.problem.id]
            assert wrong in prompt_examples(record["prompt"], record["entry_point"])
            verifier = UnitTests(tests=TestSuite(prompt=record["prompt"], asserts=(wrong,)))
            session = Session(example.problem, {}, resources=resources)
            candidate = session.candidate(record["canonical_solution"])
            verdict = await verifier.verify(example.problem, candidate, session)
            assert verdict.details["kind"] == "wrong", wrong


# -- gsm8k ---------------------------------------------------------------------------------------------------------


async def test_gsm8k_grades_the_final_number(tmp_path: Path):
    record = {"question": "How much is 1,000 and 1,125?", "answer": "It is <<1000+1125=2125>>2125.\n#### 2,125"}
    (example,) = GSM8K(path=write(tmp_path / "gsm8k.jsonl", [record])).examples()
    assert example.problem.id == "gsm8k/0"
    assert example.problem.answer == "numeric_answer"
    assert record["question"] in example.problem.messages[0]["content"]  # type: ignore[index]
    assert "2125" not in example.problem.model_dump_json()
    assert (await graded(example, "1,000 + 1,125 = 2,125.\nAnswer: 2,125")).passed
    assert not (await graded(example, "Answer: 2,126")).passed


async def test_every_reference_of_gsm8k_grades_itself(real_data: RealData):
    path = real_data("gsm8k_test.jsonl")
    answers = [line.fields["answer"] for line in read_jsonl(path)]
    examples = list(GSM8K(path=path).examples())
    assert len(examples) == len(answers) == 1319
    assert len({example.problem.id for example in examples}) == 1319
    for example, answer in zip(examples, answers, strict=True):
        assert (await graded(example, answer)).passed, answer
        assert not (await graded(example, answer + "1")).passed, answer


def test_gsm8k_names_the_line_that_has_no_reference(tmp_path: Path):
    good = {"question": "?", "answer": "#### 1"}
    with pytest.raises(ConfigError, match=r"g\.jsonl:2: .*####"):
        list(GSM8K(path=write(tmp_path / "g.jsonl", [good, {"question": "?", "answer": "1"}])).examples())


# -- jsonl ---------------------------------------------------------------------------------------------------------


async def test_jsonl_reads_answers_and_tests(tmp_path: Path):
    suite = {"entry_point": "f", "calls": [{"args": [2], "expected": 4}]}
    public = {"entry_point": "f", "asserts": ["assert f(1) == 2"]}
    records = [
        {"prompt": "2 + 3?", "answer": 5},
        {"id": "double", "prompt": [{"role": "user", "content": "f"}], "tests": suite, "public_tests": public},
    ]
    path = write(tmp_path / "mine.v1.jsonl", records)
    number, code = Jsonl(path=path, answer_verifier="numeric_answer:tolerance=0.1").examples()
    assert (number.problem.id, code.problem.id) == ("mine/0", "double")
    assert list(number.problem.messages) == [{"role": "user", "content": "2 + 3?"}]
    assert number.problem.answer == "numeric_answer:tolerance=0.1"
    assert (await graded(number, "Answer: 5.4")).passed
    assert not (await graded(number, "Answer: 8")).passed
    assert code.problem.tests == public
    assert code.problem.verifier == "unit_tests"
    assert (await graded(code, "def f(x): return 2 * x")).passed
    assert not (await graded(code, "def f(x): return x + 1")).passed


async def test_jsonl_has_problems_for_agents(tmp_path: Path):
    """`files` make a workspace, whose folder tests call; a table has them as JSON."""
    files = {"shop.py": "def price(n):\n    return 2 * n\n"}
    tests = {"setup": "from shop import price", "entry_point": "price", "calls": [{"args": [2], "expected": 6}]}
    record = {"id": "shop", "prompt": "Three each.", "files": files, "tests": tests, "public_tests": tests}
    path = write(tmp_path / "problems.jsonl", [record, {**record, "id": "own", "environment": "workspace:turns=3"}])
    shop, own = Jsonl(path=path).examples()
    assert (shop.problem.environment, own.problem.environment) == ("workspace", "workspace:turns=3")
    assert (shop.problem.verifier, shop.problem.metadata) == ("folder_tests", {"files": files})
    patch = "--- a/shop.py\n+++ b/shop.py\n@@ -1,2 +1,2 @@\n def price(n):\n-    return 2 * n\n+    return 3 * n\n"
    assert (await graded(shop, patch)).passed is True
    assert (await graded(shop, "")).passed is False
    table = tmp_path / "problems.csv"
    with table.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerows([["prompt", "files", "tests"], ["Three each.", json.dumps(files), json.dumps(tests)]])
    (one,) = Jsonl(path=table).examples()
    assert one.problem.metadata == {"files": files}


async def test_the_fields_of_jsonl_may_have_other_names(tmp_path: Path):
    path = write(tmp_path / "mine.jsonl", [{"question": "Capital of France?", "gold": "Paris", "key": 7}])
    task = Jsonl(path=path, prompt_field="question", answer_field="gold", id_field="key")
    (example,) = task.examples()
    assert example.problem.id == "7"
    assert (await graded(example, "The answer is Paris.")).passed


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"answer": 1}, "no 'prompt'"),
        ({"prompt": 3, "answer": 1}, "'prompt' must be text or a list, not a number"),
        ({"prompt": ["hello"], "answer": 1}, "chat messages"),
        ({"prompt": "?"}, "no truth"),
        ({"prompt": "?", "tests": {}}, "no truth"),
        ({"prompt": "?", "tests": {"cases": []}}, "'tests' does not have the form of a TestSuite"),
        ({"prompt": "?", "answer": 1, "public_tests": [1]}, "'public_tests' must be an object, not a list"),
        ({"prompt": "?", "answer": "Paris"}, "is not a number"),
        ({"prompt": "?", "answer": 1, "id": "a"}, "must be unique"),
        (["prompt"], "expected a JSON object"),
    ],
)
def test_a_line_that_cannot_be_used_is_named(record: Any, words: str, tmp_path: Path):
    path = write(tmp_path / "mine.jsonl", [{"prompt": "?", "answer": 1, "id": "a"}, record])
    with pytest.raises(ConfigError, match=rf"mine\.jsonl:2: .*{words}"):
        list(Jsonl(path=path, answer_verifier="numeric_answer").examples())


# -- loading -------------------------------------------------------------------------------------------------------


def test_empty_lines_count_but_are_skipped(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n\n{"a": 2}\n\nnot json\n')
    lines = read_jsonl(path)
    assert [next(lines).fields["a"], next(lines).fields["a"]] == [1, 2]
    with pytest.raises(ConfigError, match=r"a\.jsonl:5: not JSON"):
        next(lines)


@pytest.mark.parametrize("content", [b"no gzip at all", gzip.compress(mtime=0, data=b'{"a": 1}\n' * 1000)[:-20]])
def test_a_damaged_file_is_a_clear_error(content: bytes, tmp_path: Path):
    (tmp_path / "a.jsonl.gz").write_bytes(content)
    with pytest.raises(ConfigError, match=r"cannot read .*a\.jsonl\.gz"):
        list(read_jsonl(tmp_path / "a.jsonl.gz"))


def test_a_missing_local_file_is_never_replaced_by_a_download(tmp_path: Path):
    with pytest.raises(ConfigError, match="there is no file"):
        data_file(tmp_path / "absent", "x", "http://127.0.0.1:9/x")


@contextmanager
def answering(*answers: bytes) -> Iterator[tuple[str, list[bytes]]]:
    """The URL of a server that gives each connection the next of `answers`, and the requests that came."""
    asked: list[bytes] = []

    def serve() -> None:
        for answer in answers:
            with listener.accept()[0] as connection:
                asked.append(connection.recv(1 << 16))
                connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/x"
        serving = Thread(target=serve, daemon=True)
        serving.start()
        yield url, asked


def test_a_download_happens_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TTS_DATA", str(tmp_path / "cache"))
    moved = b"HTTP/1.1 302 Found\r\nlocation: /y\r\ncontent-length: 0\r\n\r\n"
    with answering(moved, b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ndata") as (url, asked):
        for _ in range(2):
            assert data_file(None, "x.txt", url).read_bytes() == b"data"
    assert [one.split(b" HTTP")[0] for one in asked] == [b"GET /x", b"GET /y"]
    assert [file.name for file in (tmp_path / "cache").iterdir()] == ["x.txt"]


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n9\r\nhalf",
        b"What?\r\n\r\n",
    ],
    ids=["nothing", "an error", "half", "half a chunk", "no http"],
)
def test_a_download_is_whole_or_not_at_all(answer: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TTS_DATA", str(tmp_path))
    with answering(answer) as (url, _), pytest.raises(ConfigError, match="path=FILE"):
        data_file(None, "x.txt", url)
    assert list(tmp_path.iterdir()) == []


def test_offline_the_error_says_how_to_give_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TTS_DATA", str(tmp_path))
    with pytest.raises(ConfigError, match="path=FILE"):
        data_file(None, "x.txt", "http://127.0.0.1:9/x")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("spec", ["humaneval:style=completion", "gsm8k", "jsonl:path=a.jsonl"])
def test_tasks_are_found_by_name(spec: str):
    task = registry.make("tasks", spec)
    assert isinstance(task, Task)
    assert registry.make("tasks", task.config()) == task


def test_jsonl_needs_a_path():
    with pytest.raises(ConfigError, match="path"):
        registry.make("tasks", "jsonl")
