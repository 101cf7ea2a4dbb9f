"""Programs that do the same in the same way, or answers that mean the same, judged once."""

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
    """`cached` for candidates that differ in what the verifier does not look at, though not to the letter.

    By `program`: names of local variables, comments, docstrings, annotations and layout do not count (programs with
    classes, or that look names up, must be alike but for comments and layout). By `answer`: nothing counts but the
    final answer, which suits a verifier that goes by it; a judge of the way there would judge one way for all.
    """

    by: Literal["program", "answer"] = "program"
    """What identical candidates have in common."""
    answer: AnswerField | None = None
    """How answers are parsed and compared; the problem's own way by default."""

    def ready(self, problem: Problem) -> None:
        """Answers must be readable where they count."""
        self.verifier.ready(problem)
        if self.by == "answer":
            answer_reader(problem, self.answer)

    async def identity(self, problem: Problem, candidate: Candidate, session: Session) -> Hashable:
        """The program's form, or the class of the answer; the text where there is none."""
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
    """Equal for programs that no test can tell apart; None for what cannot be parsed."""
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
    """The name by which other code calls a function or passes it an argument."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return node.name
    return node.arg if isinstance(node, ast.arg | ast.keyword) else None
