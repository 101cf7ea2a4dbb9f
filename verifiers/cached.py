"""Identical or equivalent answers, judged once."""

from __future__ import annotations

import ast
import json
from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import Literal

from tts.base import AnswerField, VerifierField, answer_reader
from tts.concurrency import Once
from tts.session import Session
from tts.types import Candidate, Problem, Verdict, total
from tts.verifiers.agreement import answer_among
from tts.verifiers.composition import Composite
from tts.verifiers.programs.extract import LONGEST_PARSED, extract_program, normal_form, syntax
from tts.verifiers.programs.judging import VerdictCache
from tts.verifiers.programs.suite import TestSuite

KEPT = 1 << 16  # verdicts


class Verdicts(Once[Verdict]):
    """The verdicts of a run."""

    def __init__(self) -> None:
        super().__init__(KEPT)


class Cached(Composite):
    """Gives candidates with the same text for the same problem one verdict, even when they are judged concurrently.

    Each of them carries the verdict's cost, which counts once. Verdicts are shared by all strategies of a run; a later
    strategy books their cost as reused. `unit_tests` needs no cache: it remembers the programs it has run.
    """

    verifier: VerifierField
    """The verifier whose verdicts are kept."""

    @property
    def relative(self) -> bool:
        return self.verifier.relative

    @property
    def tells_elements(self) -> bool:
        return self.verifier.tells_elements

    def among(self, candidates: Sequence[Candidate]) -> Sequence[Candidate]:
        return self.verifier.among(candidates)

    async def identity(self, problem: Problem, candidate: Candidate, session: Session) -> Hashable:
        """What candidates that share a verdict have in common."""
        return candidate.content, json.dumps(candidate.tool_calls, default=str)

    async def verify(self, problem: Problem, candidate: Candidate, session: Session) -> Verdict:
        """The first such candidate's verdict, which is kept unless it rates nothing.

        `details` of the others has `cached` and, as `saved`, what the first one's verdict cost.
        """
        identity = await self.identity(problem, candidate, session)
        key = (json.dumps(self.config(), default=str), problem.id, identity)
        verdict, known = await session.resources.get(Verdicts).get(
            key,
            lambda: session.verify(candidate, self.verifier),
            keep=lambda verdict: verdict.score is not None or verdict.passed is not None,
        )
        details = verdict.details
        if known:
            details = {**details, "cached": True, "saved": total(verdict.charges).as_dict()}
        return replace(verdict, details=details, cpu_seconds=0.0)  # the time is among its charges


_LOOKS_INSIDE = {"locals", "globals", "vars", "dir", "eval", "exec", "getattr", "setattr"}


class Deduplicated(Cached):
    """`cached` for candidates that differ only in what does not matter to the verifier.

    By `program`: local variable names, comments, docstrings, annotations and layout do not matter (programs that have
    classes or look names up may differ only in comments and layout). By `answer`: only the final answer matters,
    which suits a verifier that looks at nothing else; a judge of the reasoning would judge one candidate's for all.
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
            found = (await answer_among(session, candidate, answer_reader(problem, self.answer)))["answer"]
        else:
            suite = await session.resources.get(VerdictCache).suite(problem) or TestSuite()
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
