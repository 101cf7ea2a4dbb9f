"""Your own problems: a file with one record a line, a table, or a data set of the Hugging Face hub.

    {"prompt": "What is 2 + 3?", "answer": 5}
    {"id": "double", "prompt": [{"role": "user", "content": "Write double(x) in Python."}],
     "tests": {"entry_point": "double", "calls": [{"args": [2], "expected": 4}]},
     "public_tests": {"asserts": ["assert double(1) == 2"]}}

    {"prompt": "Repair the fault.", "files": {"shop.py": "def price(n): ..."},
     "tests": {"setup": "from shop import price", "entry_point": "price", "calls": [{"args": [2], "expected": 6}]}}

(each on one line of a .jsonl file; the same in .json, .csv, .tsv or .parquet). `answer` or `tests` is the truth;
the solver may see `public_tests`. Both kinds of tests have the form of `tts.verifiers.unit_tests.TestSuite`.
`environment` is the spec of where the model acts; with `files`, texts by path, that is a `workspace` unless it says
otherwise, and tests call what is in the folder.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tts import registry
from tts.base import Verifier, VerifierField
from tts.errors import ConfigError
from tts.tasks import Example, Task
from tts.tasks.loading import Record, hub_records, local_file, read_records
from tts.types import Problem
from tts.verifiers.folder_tests import FolderTests
from tts.verifiers.unit_tests import TestSuite, UnitTests


class Jsonl(Task):
    """Any file of prompts with answers or tests."""

    path: Path
    """The file, .jsonl, .json, .csv, .tsv (also .gz) or .parquet; or `hf:NAME`, a data set of the Hugging Face hub."""
    subset: str | None = None
    """Of a data set of the hub: which of its configurations."""
    split: str = "test"
    """Of a data set of the hub: which of its splits."""
    revision: str | None = None
    """Of a data set of the hub: the commit or tag; by default the newest."""
    answer_verifier: str = "exact_answer"
    """Spec of the verifier that compares answers: exact_answer, numeric_answer, math_answer, ..."""
    prompt_field: str = "prompt"
    """The field with the text of a user message or a list of chat messages."""
    template: str | None = None
    """The prompt, instead of a field's, with the names of fields in braces: "{question} Choose from {choices}."."""
    answer_field: str = "answer"
    tests_field: str = "tests"
    public_tests_field: str = "public_tests"
    files_field: str = "files"
    environment_field: str = "environment"
    solution_field: str = "solution"
    """The field with a worked answer, for those who show the problem as a solved example."""
    grader: VerifierField | None = None
    """Grades problems that have neither an answer nor tests: a verifier such as judge(accept=0.8)."""
    id_field: str = "id"
    """The field with the id; by default the id is the name of the file and the number of the problem: data/0."""

    @property
    def training(self) -> Task | None:
        other = self.path.as_posix().startswith("hf:") and "train" not in self.split
        return self.model_copy(update={"split": "train"}) if other else None

    def examples(self) -> Iterator[Example]:
        """One example for each record."""
        seen: dict[str, str] = {}
        name = self.path.name.removeprefix("hf:").partition(".")[0]
        for number, record in enumerate(self._records()):
            id = str(record.fields.get(self.id_field, f"{name}/{number}"))
            if id in seen:
                raise record.error(f"{seen[id]} already has the id '{id}'; ids must be unique")
            seen[id] = record.place
            yield self._example(record, id)

    def _records(self) -> Iterator[Record]:
        name = self.path.as_posix()
        if name.startswith("hf:"):
            return hub_records(name[3:], self.subset, self.split, self.revision)
        return read_records(local_file(self.path))

    def _prompt(self, record: Record) -> Any:
        if self.template is None:
            return record.need(self.prompt_field, str, list)
        return re.sub(r"\{(\w+)\}", lambda field: str(record.need(field[1])), self.template)

    def _example(self, record: Record, id: str) -> Example:
        prompt = self._prompt(record)
        messages = prompt if isinstance(prompt, list) else [{"role": "user", "content": prompt}]
        public = self._suite(record, self.public_tests_field)
        answered = record.fields.get(self.answer_field) is not None
        fields: dict[str, Any] = {"id": id, "messages": messages, **self._place(record)}
        runner = FolderTests if "metadata" in fields else UnitTests
        if public is not None:
            fields |= {"tests": public.model_dump(mode="json", exclude_defaults=True), "verifier": runner.name}
        if answered:
            fields["answer"] = self.answer_verifier
        try:
            problem, solution = Problem(**fields), str(record.fields.get(self.solution_field) or "")
        except ValidationError as error:
            raise record.error(f"'{self.prompt_field}' is not a list of chat messages: {error}") from error
        try:
            if problem.environment is not None:
                registry.make("environments", problem.environment).ready(problem)
        except ConfigError as error:
            raise record.error(str(error)) from error
        return Example(problem, self._truth(record, answered, runner), solution)

    def _place(self, record: Record) -> dict[str, Any]:
        """Where the model acts, and the files that are there."""
        files, place = (record.fields.get(name) for name in (self.files_field, self.environment_field))
        if files is None:
            return {} if place is None else {"environment": record.need(self.environment_field, str)}
        if isinstance(files, str):  # in a cell of a table
            try:
                files = json.loads(files)
            except ValueError as error:
                raise record.error(f"'{self.files_field}' is not JSON: {error}") from error
        if isinstance(files, dict):
            files = {path: text for path, text in files.items() if text is not None}  # no file here, but in other rows
        place = "workspace" if place is None else record.need(self.environment_field, str)
        return {"environment": place, "metadata": {"files": files}}

    def _truth(self, record: Record, answered: bool, runner: type[UnitTests]) -> Verifier:
        if answered:
            reference = record.need(self.answer_field, str, int, float)
            name, parameters = registry.parse_spec(self.answer_verifier)
            try:
                return registry.make("verifiers", {"name": name, **parameters, "reference": str(reference)})
            except ConfigError as error:
                raise record.error(str(error)) from error
        tests = self._suite(record, self.tests_field)
        if not tests and self.grader is not None:
            return self.grader
        if not tests:
            raise record.error(
                f"no truth: give '{self.answer_field}', '{self.tests_field}' with at least one test, or grader="
            )
        return runner(tests=tests)

    def _suite(self, record: Record, key: str) -> TestSuite | None:
        value = record.fields.get(key)
        if value is None:
            return None
        try:
            return TestSuite.model_validate(json.loads(value) if isinstance(value, str) else record.need(key, dict))
        except ValueError as error:
            raise record.error(f"'{key}' does not have the form of a TestSuite: {error}") from error
