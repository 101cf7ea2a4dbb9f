"""Final answers, compared as mathematics: part by part and as numbers, and by math-verify (Kydlíček 2025, extra `math`)
where that takes algebra. See `answers.math_forms` for what is read.

Expressions come from models. A LaTeX grammar reads them, and they are never evaluated as Python, but nobody knows what
they expand to. So math-verify compares them in programs that are kept warm in the sandbox, with limits on CPU time and
memory; a program that exceeds them is killed and replaced.
"""

from __future__ import annotations

import asyncio
import re
from contextlib import AsyncExitStack
from importlib.util import find_spec
from time import monotonic
from typing import Any

from tts.base import AnswerVerifier
from tts.concurrency import Once
from tts.errors import MissingExtra
from tts.session import Session
from tts.verifiers.answers.extraction import LONGEST_ANSWER, canonical, final_answers, last_number
from tts.verifiers.answers.math_forms import LONGEST_READ, equal_forms, normal, read
from tts.verifiers.sandbox import (
    CaseResult,
    Invocation,
    Job,
    ProgramLimits,
    RunningProgram,
    Sandbox,
    SandboxError,
    encode,
)

CPU_SECONDS = 1.0
"""Limit of one comparison; expressions that take longer count as different."""
ATTEMPTS = 2
"""Attempts at a comparison when the sandbox fails."""

PROGRAM = r"""
from math_verify import LatexExtractionConfig, parse, verify

CONFIG = [LatexExtractionConfig(boxed_match_priority=-1)]

def read(text):
    return parse(f"${text}$", CONFIG, fallback_mode="no_fallback", parsing_timeout=None)

def same(one, other):
    first, second = read(one), read(other)
    options = {"timeout_seconds": None, "allow_set_relation_comp": True}
    return bool(first and second) and (verify(first, second, **options) or verify(second, first, **options))

same(r"\frac{\sqrt{3}}{3} + x", r"x + \frac{1}{\sqrt{3}}")  # warm up: the first comparison is slow
"""
LIMITS = ProgramLimits(
    cpu_seconds=1e5, case_cpu_seconds=CPU_SECONDS, wall_seconds=1e6, memory_mb=1024, output_kb=1 << 16
)
JOB = Job(PROGRAM, limits=LIMITS, preload=("math_verify",), isolation="best_effort")


def require_math_verify() -> None:
    """Raise `MissingExtra` if math-verify is not installed."""
    if find_spec("math_verify") is None:
        raise MissingExtra("math", "comparing mathematical answers")


class MathEquality:
    """Decides whether two expressions mean the same; get it with `session.resources.get(MathEquality)`."""

    def __init__(self) -> None:
        self._sandbox = Sandbox()
        self._slots = asyncio.Semaphore(self._sandbox.workers)
        self._idle: list[tuple[RunningProgram, AsyncExitStack]] = []
        self._known: Once[CaseResult] = Once(1 << 14)

    async def same(self, one: str, other: str) -> tuple[bool, float]:
        """Whether two LaTeX expressions are equal, and the CPU seconds that this took: 0 if it was already known.

        An expression that cannot be read, or takes more than `CPU_SECONDS`, equals nothing. Raises `SandboxError` when
        the sandbox fails.
        """
        pair = (min(one, other), max(one, other))
        result, known = await self._known.get(pair, lambda: self._compared(pair))
        return result.status == "ok" and result.values[0] is True, 0.0 if known else result.cpu_seconds

    async def _compared(self, pair: tuple[str, str]) -> CaseResult:
        error = ""
        for _ in range(ATTEMPTS):
            async with self._slots:
                result = await self._asked(Invocation("same", encode(pair)))
            if result.status != "infra":
                return result
            error = result.error
        raise SandboxError(f"cannot run math-verify: {error}")

    async def _asked(self, call: Invocation) -> CaseResult:
        program, stack = self._idle.pop() if self._idle else await self._opened()
        try:
            result = await program.call(call) if program.loaded.status == "ok" else program.loaded
        except BaseException:  # a cancelled call would answer the next one
            await stack.aclose()
            raise
        if program.loaded.status != "ok":
            result = CaseResult("infra", error=f"{program.loaded.status}: {program.loaded.error}")
        if result.status in ("ok", "error"):
            self._idle.append((program, stack))
        else:
            await stack.aclose()
        return result

    async def _opened(self) -> tuple[RunningProgram, AsyncExitStack]:
        stack = AsyncExitStack()
        return await stack.enter_async_context(self._sandbox.open(JOB)), stack

    async def aclose(self) -> None:
        """End all programs and the sandbox."""
        while self._idle:
            await self._idle.pop()[1].aclose()
        await self._sandbox.aclose()


_BOX = re.compile(r"\\boxed\s*\{((?:[^{}]|\{(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*\})*)\}")
_BETWEEN = re.compile(r"[\s$.]*(?:,|;|and|or|\\text\{ ?(?:and|or) ?\}|,\s*and)[\s$]*")
_FORMULA = re.compile(r"\$\$?([^$]{1,500})\$\$?|\\\[(.{1,500}?)\\\]|\\\((.{1,500}?)\\\)", re.DOTALL)


class MathAnswer(AnswerVerifier):
    """Accepts an answer that means the same as the reference.

    Compares fractions, radicals and any algebra; tuples and intervals with their brackets; sets and lists in any order;
    and matrices. A unit, a percent sign or the name in `x = 3` may be missing but must not differ. Several adjacent
    boxes form one list. A decimal must agree to six places. Answers that cannot be compared within a second of CPU time
    count as different.
    """

    fallback: bool = True
    """Whether the last formula, or else the last number, counts if no answer is announced."""

    def model_post_init(self, context: Any) -> None:
        """Raise `MissingExtra` if math-verify is not installed."""
        require_math_verify()

    def parse(self, text: str) -> str | None:
        """The final answer in a single notation; None if there is none."""
        answers = final_answers(text)
        if answers is None:
            return None
        if answers:
            return normal(_boxed_together(text) or answers[0]) or None
        if "\n" not in text.strip() and len(text) <= LONGEST_READ and not _FORMULA.search(text):
            return normal(text) or None
        return self._last(text) if self.fallback else None

    def _last(self, text: str) -> str | None:
        formulas = _FORMULA.findall(text[-4 * LONGEST_READ :])
        if formulas:
            return normal("".join(formulas[-1]).rpartition("=")[2]) or None
        number = last_number(text)
        return None if number is None else canonical(number)

    async def equal(self, one: str, other: str, session: Session) -> bool:
        """Whether two parsed answers mean the same; the cost of algebra is charged to `session`."""

        async def algebra(first: str, second: str) -> bool:
            start = monotonic()
            same, cpu_seconds = await session.resources.get(MathEquality).same(first, second)
            if cpu_seconds:
                session.pay_verifier(cpu_seconds, monotonic() - start)
            return same

        return await equal_forms(read(one), read(other), algebra)


def _boxed_together(text: str) -> str | None:
    """The contents of the last adjacent boxes of `text` as one list; None if there is at most one."""
    found = list(_BOX.finditer(text[-LONGEST_ANSWER:]))
    together = found[-1:]
    for box in reversed(found[:-1]):
        if not _BETWEEN.fullmatch(box.string, box.end(), together[0].start()):
            break
        together.insert(0, box)
    return ", ".join(box[1] for box in together) if len(together) > 1 else None
