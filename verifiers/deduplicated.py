"""Equivalent programs or equal answers, judged once."""

from __future__ import annotations

import ast
from collections.abc import Hashable
from typing import Literal

from tts.base import AnswerField, answer_reader
from tts.session import Session
from tts.types import Candidate, Problem
from tts.verifiers.agreement import class_among
from tts.verifiers.cached import Cached
from tts.verifiers.programs.extract import LONGEST_PARSED, extract_program, syntax
from tts.verifiers.programs.normal_form import normal_form
from tts.verifiers.unit_tests import TestSuite, public_tests

_LOOKS_INSIDE = {"locals", "globals", "vars", "dir", "eval", "exec", "getattr", "setattr"}


class Deduplicated(Cached):
    """`cached` for candidates that differ only in what does not matter to the verifier.

    By `program`: local variable names, comments, docstrings, annotations and layout do not matter (programs that have
    classes or look names up may differ only in comments and layout). By `answer`: only the final answer matters,
    which suits a verifier that looks at nothing else; a judge of the reasoning would see one line of it for all.
    """

    by: Literal["program", "answer"] = "program"
    """What identical candidates have in common."""
    answer: AnswerField | None = None
    """How answers are parsed and compared; by default as the problem says."""

    def ready(self, problem: Problem) -> None:
        self.verifier.ready(problem)
        if self.by == "answer":
            answer_reader(problem, self.answer)

    async def identity(self, problem: Problem, candidate: Candidate, session: Session) -> Hashable:
        """The program's normal form or the answer's class; the text where there is neither."""
        if self.by == "answer":
            found = await class_among(session, candidate, answer_reader(problem, self.answer))
        else:
            suite = public_tests(problem) or TestSuite()
            program = extract_program(
                candidate.content, suite.entry_point, suite.prompt, suite.container, language=suite.language
            )
            found = program and _form(program)
        return found or await super().identity(problem, candidate, session)


def _form(program: str) -> Hashable:
    """Equal for programs that no test can tell apart; None for a program that cannot be parsed."""
    tree = syntax(program) if len(program) <= LONGEST_PARSED else 1
    if isinstance(tree, int):
        return None
    nodes = list(ast.walk(tree))
    try:
        if any(isinstance(node, ast.ClassDef) or getattr(node, "id", "") in _LOOKS_INSIDE for node in nodes):
            return ast.dump(tree)
    except RecursionError:
        return None
    form = normal_form(program)
    return form and (form, tuple(name for node in nodes if (name := _seen_from_outside(node))))


def _seen_from_outside(node: ast.AST) -> str | None:
    """The name by which other code calls a function or passes it an argument, if `node` is one."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return node.name
    return node.arg if isinstance(node, ast.arg | ast.keyword) else None
