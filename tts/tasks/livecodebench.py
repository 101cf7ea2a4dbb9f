"""LiveCodeBench: dated problems of programming contests, so that those newer than a model can be selected (Jain et al.
2024, arXiv 2403.07974).

A problem's record has public and private tests, each for standard input or for a function. The private ones may be
packed: base64 of zlib of a pickled text.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
import pickle
import zlib
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any, ClassVar, Literal

from tts.errors import ConfigError
from tts.tasks import Example, Task
from tts.tasks.loading import Record, data_file, read_jsonl
from tts.types import Problem
from tts.verifiers.programs.suite import Call, InputOutput, TestSuite
from tts.verifiers.unit_tests import UnitTests

MODULES = (
    *("string", "re", "datetime", "collections", "heapq", "bisect", "copy", "math", "random", "statistics"),
    *("itertools", "functools", "operator", "io", "sys", "json", "builtins", "typing"),
)
"""What the benchmark's own runner imports before a program, by name and with all their names, later ones first."""
SETUP = "\n".join(
    [f"from {name} import *" for name in MODULES]
    + [f"import {', '.join(MODULES)}", "sys.setrecursionlimit(50_000)"]  # its limit, too
)
PRELOAD = ("datetime", "random", "statistics")
"""Those that load slowly."""


def livecodebench_suites(record: Mapping[str, Any]) -> tuple[TestSuite, TestSuite]:
    """The public suite, and the truth: all tests, public and private.

    Raises `ConfigError` for a record that does not have LiveCodeBench's form.
    """
    try:
        metadata = record.get("metadata") or {}
        name = (json.loads(metadata) if isinstance(metadata, str) else metadata).get("func_name")
        public, private = _tests(record["public_test_cases"]), _tests(record.get("private_test_cases") or "[]")
        return _suite(public, name), _suite([*public, *private], name)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(f"not a record of LiveCodeBench: {type(error).__name__}: {error}") from error


def _tests(packed: str | Sequence[Mapping[str, str]]) -> Sequence[Mapping[str, str]]:
    if not isinstance(packed, str):
        return packed
    try:
        return json.loads(packed)
    except ValueError:
        pass
    try:
        text = _TextOnly(io.BytesIO(zlib.decompress(base64.b64decode(packed)))).load()
        return json.loads(text)
    except (binascii.Error, zlib.error, pickle.UnpicklingError, EOFError) as error:
        raise ValueError(f"the private tests cannot be unpacked: {error}") from error


class _TextOnly(pickle.Unpickler):
    """Reads pickles of plain data: one that names any class or function is refused."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"a pickle that needs {module}.{name}")


def _suite(tests: Sequence[Mapping[str, str]], name: str | None) -> TestSuite:
    kinds = {test["testtype"] for test in tests}
    if kinds <= {"stdin"}:
        scripts = tuple(InputOutput(input=test["input"], output=test["output"]) for test in tests)
        return TestSuite(setup=SETUP, stdin=scripts, output="numbers", tolerance=0.0)
    if kinds != {"functional"} or not name:
        raise ValueError("tests must be all 'stdin', or all 'functional' with metadata.func_name")
    calls = tuple(
        Call(args=tuple(map(json.loads, test["input"].splitlines())), expected=json.loads(test["output"]))
        for test in tests
    )
    return TestSuite(setup=SETUP, entry_point=name, container="Solution", calls=calls)


FOLDER = "https://huggingface.co/datasets/livecodebench/code_generation_lite/resolve/main"
FUNCTION = (
    "Solve the following problem in Python by completing the given beginning. Reply with the whole program in one "
    "fenced python block.\n\n{question}\n\n```python\n{starter}\n```"
)
PROGRAM = (
    "Solve the following problem with a Python program that reads standard input and prints the answer. Reply with "
    "the whole program in one fenced python block.\n\n{question}"
)


class LiveCodeBench(Task):
    """A release of LiveCodeBench's code generation (lite); a program is right if it passes all tests."""

    name: ClassVar[str] = "livecodebench"

    path: Path | None = None
    """A local file in the original format (.jsonl); downloaded by default, hundreds of megabytes."""
    release: Literal[1, 2, 3, 4, 5, 6] = 6
    """Which file is downloaded; each has the problems that were new in its release."""
    since: date | None = None
    """The first day of the contests to include."""
    until: date | None = None
    """The last day of the contests to include."""
    difficulty: Literal["easy", "medium", "hard"] | None = None
    timeout: float = 30.0
    """Seconds of CPU time for all tests of a function together, and for each input of a program."""

    def examples(self) -> Iterator[Example]:
        """Problems with the benchmark's ids, in the order of the file."""
        name = f"test{'' if self.release == 1 else self.release}.jsonl"
        for record in read_jsonl(data_file(self.path, f"livecodebench_{name}", f"{FOLDER}/{name}")):
            if self._counts(record):
                yield self._example(record)

    def _counts(self, record: Record) -> bool:
        if self.difficulty and record.fields.get("difficulty") != self.difficulty:
            return False
        if self.since is None and self.until is None:
            return True
        try:
            day = date.fromisoformat(record.need("contest_date", str)[:10])
        except ValueError as error:
            raise record.error(f"'contest_date' is not a date: {error}") from error
        return (self.since or day) <= day <= (self.until or day)

    def _example(self, record: Record) -> Example:
        try:
            public, truth = livecodebench_suites(record.fields)
        except ConfigError as error:
            raise record.error(str(error)) from error
        question, starter = record.need("question_content", str), record.fields.get("starter_code") or ""
        form = FUNCTION if truth.entry_point else PROGRAM
        problem = Problem.from_prompt(
            form.format(question=question.strip(), starter=starter.strip()),
            id=f"livecodebench/{record.need('question_id', str, int)}",
            tests=public.model_dump(mode="json", exclude_defaults=True),
            verifier=UnitTests(timeout=self.timeout).spec,
            metadata={key: record.fields.get(key) or "" for key in ("platform", "difficulty", "contest_date")},
        )
        return Example(problem, UnitTests(tests=truth, preload=PRELOAD, timeout=self.timeout, stop_at_failure=True))
