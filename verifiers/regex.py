"""Answers found by a regular expression (extra `answers`: the `regex` library, which can time out a search)."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from functools import cached_property
from typing import Any

from tts import registry
from tts.base import AnswerVerifier
from tts.errors import ConfigError, MissingExtra
from tts.resources import Resources
from tts.session import Session
from tts.types import Candidate, Problem, Verdict
from tts.verifiers.answers.extraction import clean
from tts.verifiers.sandbox import Invocation, Job, ProgramLimits, Sandbox, SandboxError, encode

COMPILING = ProgramLimits(cpu_seconds=1.0, memory_mb=512)
"""A short pattern can take minutes and all memory to compile."""

COMPILE_SECONDS = 0.02
"""CPU time that compiling a stranger's pattern may take; afterwards it is compiled on the event loop."""

COMPILE = """
import time
import regex

def seconds(pattern):
    begin = time.thread_time()
    regex.compile(pattern)
    return time.thread_time() - begin
"""

CPU_SECONDS = 0.1
"""About the limit of one search, in the CPU time of its thread; a text that takes longer has no match."""
LONGEST_PATTERN = 2000
"""Characters of a pattern."""


class Regex(AnswerVerifier):
    r"""Accepts a text that matches a pattern, or one whose match is the reference.

    `regex:pattern="^\\d{4}-\\d\\d-\\d\\d$",whole=true` checks a format; `regex:pattern="Result: (\\d+)",reference=42`
    compares the last match: the group called `answer`, else the first group, else the whole match.
    """

    pattern: str
    """In the syntax of Python's `re`; with `(?s)` `.` also matches newlines, with `(?m)` `^` and `$` match at lines."""
    whole: bool = False
    """Whether it must match the whole text, apart from surrounding spaces."""
    absent: bool = False
    """Without a reference: accepts a text that does not match, instead of one that does."""

    def model_post_init(self, context: Any) -> None:
        """Raise `ConfigError` for an invalid pattern, `MissingExtra` where the library is not installed."""
        if registry.trusted():
            self._compiled  # noqa: B018

    async def vet(self, resources: Resources) -> None:
        """Compile the pattern where neither time nor memory can run out."""
        call = Invocation("seconds", encode((self.pattern,)))
        job = Job(COMPILE, ((call,),), limits=COMPILING, preload=("regex",), isolation="best_effort")
        result = await resources.get(Sandbox).run(job)
        case = result.cases[0] if result.cases else result.loaded
        if case.status == "infra":
            raise SandboxError(f"cannot compile the pattern: {case.error}")
        if case.status == "error" and not case.error.startswith("MemoryError"):
            raise ConfigError(f"invalid pattern {self.pattern!r}: {case.error}")
        if case.status != "ok" or not isinstance(case.values[0], float) or case.values[0] > COMPILE_SECONDS:
            raise ConfigError(f"the pattern {self.pattern[:200]!r} takes too long to compile")

    @cached_property
    def _compiled(self) -> Any:
        if len(self.pattern) > LONGEST_PATTERN:
            raise ConfigError(
                f"the pattern has {len(self.pattern):,} characters; at most {LONGEST_PATTERN:,} are compiled"
            )
        try:
            import regex
        except ImportError:
            raise MissingExtra("answers", "the verifier regex") from None
        try:
            return regex.compile(self.pattern)
        except (regex.error, RecursionError) as error:
            raise ConfigError(f"invalid pattern {self.pattern!r}: {error}") from None

    def ready(self, problem: Problem) -> None:
        pass  # it needs no reference

    def parse(self, text: str) -> str | None:
        found = self._last_match(text)
        if found is None:
            return None
        group = "answer" if "answer" in self._compiled.groupindex else min(1, self._compiled.groups)
        return None if found[group] is None else clean(found[group])

    async def read(self, text: str, session: Session) -> str | None:
        return await asyncio.to_thread(self.parse, text)

    def _last_match(self, text: str) -> Any:
        began, allowed = time.thread_time(), CPU_SECONDS
        while time.thread_time() - began < CPU_SECONDS / 2:
            try:
                return self._search(text, allowed)
            except TimeoutError:  # the library counts the time of all threads: this one may have had little of it
                allowed *= 4
        return None

    def _search(self, text: str, seconds: float) -> Any:
        limits = {"timeout": seconds, "concurrent": True}  # concurrent: searching releases the interpreter's lock
        if self.whole:
            return self._compiled.fullmatch(text.strip(), **limits)
        return next(iter(deque(self._compiled.finditer(text, **limits), maxlen=1)), None)

    async def verify(self, problem: Problem, candidate: Candidate, session: Session) -> Verdict:
        if self.reference is not None:
            return await super().verify(problem, candidate, session)
        found = await asyncio.to_thread(self._last_match, candidate.content)
        passed = (found is None) == self.absent
        feedback = "" if passed else f"the text must {'not ' if self.absent else ''}match {self.pattern}"
        return Verdict(float(passed), passed, feedback, {"answer": found[0][:200]} if found else {})
