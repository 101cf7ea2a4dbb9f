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
from pathlib import Path
from time import monotonic
from typing import Any

from tts.base import AnswerVerifier
from tts.concurrency import Once
from tts.errors import MissingExtra
from tts.session import Session
from tts.verifiers.answers.extraction import (
    LONGEST_ANSWER,
    boxes,
    canonical,
    clean,
    final_answers,
    last_number,
    own_part,
)
from tts.verifiers.answers.math_forms import LONGEST_READ, equal_forms, normal, read
from tts.verifiers.answers.math_values import same_values
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

CPU_SECONDS = 0.4
"""Limit of evaluating an expression, and of one comparison by math-verify; what takes longer equals nothing."""
ATTEMPTS = 2
"""Attempts at a comparison when the sandbox fails."""

PROGRAM = (Path(__file__).parent / "answers" / "math_child.py").read_text(encoding="utf-8")
LIMITS = ProgramLimits(
    cpu_seconds=1e5,
    case_cpu_seconds=CPU_SECONDS,
    load_cpu_seconds=60.0,  # SymPy, where its bytecode is not kept, and the first comparison: no text's fault
    wall_seconds=1e6,
    memory_mb=1024,
    output_kb=1 << 16,
)
JOB = Job(PROGRAM, limits=LIMITS, preload=("math_verify",), warm_up=PROGRAM, isolation="best_effort")


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

        Each is evaluated once, however many others it is compared with. An expression that cannot be read, or takes
        more than `CPU_SECONDS`, equals nothing. Raises `SandboxError` when the sandbox fails.
        """
        pair = (min(one, other), max(one, other))
        worth, seconds = [], 0.0
        for text in pair:
            result, cpu_seconds = await self._known_or_asked(Invocation("values", encode((text,))))
            seconds += cpu_seconds
            if result.status not in ("ok", "error"):
                return False, seconds
            worth.append(result.values[0] if result.status == "ok" else [])
        decided = same_values(worth[0], worth[1], pair)
        if decided is None:
            result, cpu_seconds = await self._known_or_asked(Invocation("same", encode(pair)))
            seconds += cpu_seconds
            decided = result.status == "ok" and result.values[0] is True
        return decided, seconds

    async def _known_or_asked(self, call: Invocation) -> tuple[CaseResult, float]:
        result, known = await self._known.get(call, lambda: self._answered(call))
        return result, 0.0 if known else result.cpu_seconds

    async def _answered(self, call: Invocation) -> CaseResult:
        error = ""
        for _ in range(ATTEMPTS):
            async with self._slots:
                result = await self._asked(call)
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


_BETWEEN = re.compile(
    r"(?:[\s$.]|\\[()\[\]])*+(?:,\s*and\b|,|;|and\b|or\b|\\text\{ ?(?:and|or) ?\})(?:[\s$]|\\[()\[\]])*+"
)
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
        text = own_part(text)
        if answers:
            return normal(_boxed_together(text) or _stated(answers[0])) or None
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


_REASON = re.compile(r",?\s(?:because|since|which|where|as)\s.*", re.DOTALL)
_REMARK = re.compile(r"\s\((?!mod)[^()]*(?<![\\A-Za-z])[A-Za-z]{3}[^()]*\)$")
_OUTSIDE = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{3,}")


def _stated(answer: str) -> str:
    """An announced answer without the words around its only formula, or else without reason and remark behind it."""
    whole = f"${answer}" if answer.count("$") % 2 else answer
    formulas = list(_FORMULA.finditer(whole))
    if len(formulas) == 1 and _OUTSIDE.search(whole[: formulas[0].start()] + " " + whole[formulas[0].end() :]):
        return "".join(formulas[0].groups(""))
    return _REMARK.sub("", _REASON.sub("", answer)) or answer


def _boxed_together(text: str) -> str | None:
    """The contents of the last adjacent boxes of `text` as one list; None if there is at most one."""
    text, found = text[-LONGEST_ANSWER:], boxes(text)
    together = found[-1:]
    for box in reversed(found[:-1]):
        if box[1] > together[0][0] or not _BETWEEN.fullmatch(text, box[1], together[0][0]):
            break
        together.insert(0, box)
    return ", ".join(clean(content) for _, _, content in together) if len(together) > 1 else None
