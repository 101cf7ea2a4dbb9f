"""Problems of your own: a file with one JSON object a line.

    {"prompt": "What is 2 + 3?", "answer": 5}
    {"id": "double", "prompt": [{"role": "user", "content": "Write double(x) in Python."}],
     "tests": {"entry_point": "double", "calls": [{"args": [2], "expected": 4}]},
     "public_tests": {"asserts": ["assert double(1) == 2"]}}

(each on one line). `answer` or `tests` is the truth; `public_tests` may be shown to the solver. Both kinds of
tests have the form of `tts.verifiers.unit_tests.TestSuite`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tts import registry
from tts.base import Verifier, VerifierField
from tts.errors import ConfigError
from tts.tasks import Example, Task
from tts.tasks.loading import Line, local_file, read_jsonl
from tts.types import Problem
from tts.verifiers.unit_tests import TestSuite, UnitTests


class Jsonl(Task):
    """Any file with prompts and answers, or prompts and tests."""

    path: Path
    """The file, .jsonl or .jsonl.gz."""
    answer_verifier: str = "exact_answer"
    """Spec of the answer verifier that compares answers: exact_answer, numeric_answer, math_answer, ..."""
    prompt_field: str = "prompt"
    """Holds the text of a user message, or a list of chat messages."""
    answer_field: str = "answer"
    tests_field: str = "tests"
    public_tests_field: str = "public_tests"
    grader: VerifierField | None = None
    """Grades the answers to prompts that have neither an answer nor tests: a verifier such as judge(accept=0.8)."""
    id_field: str = "id"
    """Where it is missing the id is the file's name and the number of the problem: data/0."""

    def examples(self) -> Iterator[Example]:
        """One example for each line that is not empty."""
        path = local_file(self.path)
        seen: dict[str, str] = {}
        for number, line in enumerate(read_jsonl(path)):
            id = str(line.record.get(self.id_field, f"{path.name.partition('.')[0]}/{number}"))
            if id in seen:
                raise line.error(f"the id '{id}' is that of {seen[id]} already; ids must be unique")
            seen[id] = line.place
            yield self._example(line, id)

    def _example(self, line: Line, id: str) -> Example:
        prompt = line.need(self.prompt_field, str, list)
        messages = prompt if isinstance(prompt, list) else [{"role": "user", "content": prompt}]
        public = self._suite(line, self.public_tests_field)
        answered = line.record.get(self.answer_field) is not None
        fields: dict[str, Any] = {"id": id, "messages": messages}
        if public is not None:
            fields |= {"tests": public.model_dump(mode="json", exclude_defaults=True), "verifier": UnitTests.name}
        if answered:
            fields["answer"] = self.answer_verifier
        try:
            return Example(Problem(**fields), self._truth(line, answered))
        except ValidationError as error:
            raise line.error(f"'{self.prompt_field}' is not a list of chat messages: {error}") from error

    def _truth(self, line: Line, answered: bool) -> Verifier:
        if answered:
            reference = line.need(self.answer_field, str, int, float)
            name, parameters = registry.parse_spec(self.answer_verifier)
            try:
                return registry.make("verifiers", {"name": name, **parameters, "reference": str(reference)})
            except ConfigError as error:
                raise line.error(str(error)) from error
        tests = self._suite(line, self.tests_field)
        if not tests and self.grader is not None:
            return self.grader
        if not tests:
            raise line.error(
                f"neither '{self.answer_field}' nor '{self.tests_field}' with a test: no truth; give one, or grader="
            )
        return UnitTests(tests=tests)

    def _suite(self, line: Line, key: str) -> TestSuite | None:
        if line.record.get(key) is None:
            return None
        try:
            return TestSuite.model_validate(line.need(key, dict))
        except ValidationError as error:
            raise line.error(f"'{key}' does not have the form of a TestSuite: {error}") from error
