"""Math-verify (Kydlíček 2025) in sandboxed programs that are kept warm.

Expressions come from models. A LaTeX grammar reads them, and they are never evaluated as Python, but nobody knows what
they expand to. So each comparison runs outside this process with limits on CPU time and memory, and a program that
exceeds them is killed and replaced.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from importlib.util import find_spec

from tts.concurrency import Once
from tts.errors import MissingExtra
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
