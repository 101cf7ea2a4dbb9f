"""MBPP: short Python functions from a description (Austin et al. 2021, "Program Synthesis with Large Language Models",
arXiv 2108.07732), the 427 problems that its authors checked by hand. The first of a problem's assertions is its
public test, and in the prompt; all of them are the truth.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from tts.tasks import Example, Task
from tts.tasks.loading import Line, data_file, read_json_list
from tts.types import Problem
from tts.verifiers.programs.extract import syntax
from tts.verifiers.unit_tests import TestSuite, UnitTests

URL = "https://raw.githubusercontent.com/google-research/google-research/master/mbpp/sanitized-mbpp.json"
INSTRUCTION = (
    "You are an expert Python programmer, and here is your task: {task} Reply with the whole code in one fenced "
    "python block. Your code should pass this test:\n\n{test}"
)


class MBPP(Task):
    """The sanitized part of MBPP; a program is right when it passes all assertions."""

    name: ClassVar[str] = "mbpp"

    path: Path | None = None
    """A local file in the original format (a JSON list); downloaded by default."""

    def examples(self) -> Iterator[Example]:
        """Problems `Mbpp/2` to `Mbpp/809`, with gaps."""
        for line in read_json_list(data_file(self.path, "mbpp_sanitized.json", URL)):
            id, task = f"Mbpp/{line.need('task_id', int)}", line.need("prompt", str)
            asserts = tuple(line.need("test_list", list))
            name = _entry_point(line, asserts[0])
            truth = TestSuite(entry_point=name, setup="\n".join(line.need("test_imports", list)), asserts=asserts)
            public = truth.model_copy(update={"asserts": asserts[:1]})
            problem = Problem.from_prompt(
                INSTRUCTION.format(task=task, test=asserts[0]),
                id=id,
                tests=public.model_dump(mode="json", exclude_defaults=True),
                verifier=UnitTests.name,
                metadata={"entry_point": name},
            )
            yield Example(problem, UnitTests(tests=truth, stop_at_failure=True))


def _entry_point(line: Line, test: str) -> str:
    """The function that the reference solution defines and `test` calls."""
    code, call = syntax(line.need("code", str)), syntax(test)
    if isinstance(code, int) or isinstance(call, int):
        raise line.error("'code' or 'test_list' is no Python")
    defined = {node.name for node in code.body if isinstance(node, ast.FunctionDef)}
    called = [node.id for node in ast.walk(call) if isinstance(node, ast.Name)]
    for name in called:
        if name in defined:
            return name
    raise line.error("the first test calls no function that 'code' defines")
