"""A program that is kept open: each call goes out alone, so that its CPU time and its limit are its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from tts.verifiers.sandbox.jobs import Call, CaseResult
from tts.verifiers.sandbox.runs import Run, order_of


class Program:
    """A program that is kept open for one call after the other."""

    def __init__(self, run: Run) -> None:
        self.loaded = CaseResult("infra")
        self._run = run
        self._last: CaseResult | None = None

    @property
    def isolation(self) -> str:
        """The layers that hold it."""
        return self._run.worker.isolation

    @property
    def cpu_seconds(self) -> float:
        """CPU time of the whole program up to now."""
        return self._run.cpu_seconds or self._run.handle.cpu_seconds()

    async def load(self, source: str) -> None:
        """Execute the module's body."""
        self._run.send({"load": source, "output": self._run.limits.output_kb * 1024})
        self.loaded = await self._timed()

    async def call(self, call: Call) -> CaseResult:
        """One call. After the program's end every further one gives that end again."""
        if self._last is not None:
            return self._last
        self._run.send(order_of((call,)))
        return await self._timed()

    async def case(self, calls: tuple[Call, ...]) -> CaseResult:
        """Several calls as one."""
        self._run.send(order_of(calls))
        return await self._timed()

    def hand_over(self) -> int:
        """The descriptor that this program listens and answers at, for another that calls it from now on."""
        return self._run.hand_over()

    async def over(self) -> CaseResult:
        """Wait for its end: how it ended."""
        return await self._run.over()

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Inside, the limit of one case holds for what others have it do."""
        watch, handle = self._run.watch, self._run.handle
        watch.case_begin, watch.case_limit = handle.cpu_seconds(), self._run.limits.case_cpu_seconds
        watch.check()
        yield
        watch.case_limit = None

    async def _timed(self) -> CaseResult:
        run = self._run
        run.watch.case_begin = begin = run.handle.cpu_seconds()
        run.watch.case_limit = limit = run.limits.case_cpu_seconds
        if limit is not None:
            run.watch.check()
        result = await run.answer()
        run.watch.case_limit = None
        used = (run.handle.cpu_seconds() if run.fate is None else run.cpu_seconds) - begin
        if limit is not None and used > limit and run.fate is None:
            run.watch.end("cpu")
            result = await run.over()
        result = replace(result, cpu_seconds=max(used, 0.0))
        if result.status not in ("ok", "error", "memory") or run.fate is not None:
            self._last = run.fate or result
        return result
