"""Programs that behave alike give the same answer: what they return is what votes compare.

Shi et al. 2022, "Natural Language to Code Translation with Execution" (arXiv 2204.11454), section 3: the program whose
results agree with those of most others (MBR-exec). With further inputs and votes of those alone that pass the public
tests it is the clustering of AlphaCode (Li et al. 2022, arXiv 2203.07814, section 4.6), whose inputs a model wrote;
here they are mutants of the tests' own, as in EvalPlus (Liu et al. 2023, arXiv 2305.01210, section 2.2).
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from time import time
from typing import Any, ClassVar

from pydantic import NonNegativeInt, PositiveFloat

from tts.base import AnswerVerifier
from tts.errors import ConfigError
from tts.session import Session
from tts.verifiers.programs.extract import defines, extract_program, with_setup
from tts.verifiers.programs.judging import VerdictCache
from tts.verifiers.programs.plan import expected_values, make_plan
from tts.verifiers.programs.suite import TestSuite
from tts.verifiers.sandbox import (
    CaseResult,
    Invocation,
    Job,
    Opaque,
    ProgramLimits,
    Sandbox,
    SandboxError,
    decode,
    encode,
)

Case = tuple[Invocation, ...]


class Behaviour(AnswerVerifier):
    """Reads a program as what it does on the inputs of the problem's public tests, for votes over code.

    The tests' expected values play no part. A program that fails on all inputs has no answer, nor has any where there
    is no input that can be given in plain data. As a verifier it accepts what behaves like the program `reference`.
    """

    runs_code: ClassVar[bool] = True

    mutants: NonNegativeInt = 0
    """Further inputs, each with a small change to one that calls a function; the same for all programs."""
    timeout: PositiveFloat = 10.0
    """Seconds of CPU time for all inputs, each at most a fifth of it, and for each input of `stdin`."""

    def parse(self, text: str) -> str | None:
        """What a program does cannot be read off it: see `read`."""
        raise ConfigError("behaviour needs whole answers, and runs them; name another reader")

    async def read(self, text: str, session: Session) -> str | None:
        """A digest of what the program does. Raises `ConfigError` where the problem has no tests."""
        suite = await session.resources.get(VerdictCache).suite(session.problem)
        if suite is None:
            raise ConfigError(f"{session.problem.id} has no tests whose inputs could be given to programs")
        where = (text, suite.entry_point, suite.prompt, suite.container)
        program = await asyncio.to_thread(extract_program, *where, language=suite.language)
        if program is None:
            return None
        return await session.once((self.spec, program), lambda inner: self._done(program, suite, inner))

    async def _done(self, program: str, suite: TestSuite, session: Session) -> str | None:
        sandbox = session.resources.get(Sandbox)
        in_container = bool(suite.container and defines(program, suite.container))
        cases = await session.once((self.spec, in_container), lambda _: self._cases(sandbox, suite, in_container))
        limits = ProgramLimits(cpu_seconds=self.timeout, case_cpu_seconds=self.timeout / 5)
        if suite.setup:
            program = with_setup(suite.setup, program)
        jobs = [Job(program, cases=cases, limits=limits)] if cases else []
        if suite.stdin:
            scripts = tuple(test.input for test in suite.stdin)
            jobs.append(
                Job(program, scripts=scripts, limits=replace(limits, case_cpu_seconds=None), language=suite.language)
            )
        did: list[Any] = []
        for job in jobs:
            began = time()
            result = await sandbox.run(job)
            session.pay_verifier(result.cpu_seconds, time() - began)
            ended = [result.loaded] if result.loaded.status != "ok" else list(result.cases)
            if any(one.status == "infra" for one in ended):
                raise SandboxError(f"the program could not be run: {ended[-1].error}")
            said = [_said(one, case) for one, case in zip(ended, job.cases or [()] * len(ended), strict=False)]
            did += said + [None] * (len(job.cases) + len(job.scripts) - len(said))
        return hashlib.blake2b(encode(did).encode(), digest_size=8).hexdigest() if any(did) else None

    async def _cases(self, sandbox: Sandbox, suite: TestSuite, in_container: bool) -> tuple[Case, ...]:
        expected = await expected_values(sandbox, suite)
        plan = await asyncio.to_thread(make_plan, suite, expected, in_container=in_container)
        cases = {case.calls: None for _, case in plan.cases}
        return *cases, *mutants(list(cases), self.mutants)


def _said(result: CaseResult, case: Case) -> list[str] | None:
    """What one input gave, as text: the values of the calls of `case` but for objects that are made and kept, or the
    words that a script printed; None where it gave nothing."""
    if result.status not in ("ok", "large"):
        return None
    told = zip(case, result.values, strict=False)
    return [_plain(value) for call, value in told if call.store is None] if case else ["", *result.stdout.split()]


def _plain(value: Any) -> str:
    """The same text for equal values: numbers by their value, floats to nine digits, sets and dicts in any order."""
    if isinstance(value, list | tuple):
        return f"{type(value).__name__}({','.join(map(_plain, value))})"
    if isinstance(value, set | frozenset):
        return f"set({','.join(sorted(map(_plain, value)))})"
    if isinstance(value, dict):
        return f"dict({','.join(sorted(f'{_plain(key)}:{_plain(one)}' for key, one in value.items()))})"
    if isinstance(value, float):
        return hex(int(value)) if value.is_integer() and abs(value) < 1e9 else f"{value:.9g}"
    if isinstance(value, bool | int):
        return hex(value)
    return value.type if isinstance(value, Opaque) else encode(value)


# -- inputs --------------------------------------------------------------------------------------------------------


def mutants(cases: Sequence[Case], count: int) -> Iterator[Case]:
    """Up to `count` further cases, each with one argument of the last call of one of `cases` changed a little."""
    rng, known = random.Random(0), set(cases)
    most = len(known) + count
    given = [(case, decode(case[-1].args)) for case in cases if case[-1].args]
    for _ in range(10 * count if any(args for _, args in given) else 0):
        if len(known) == most:
            return
        case, args = rng.choice(given)
        mutant = (*case[:-1], replace(case[-1], args=encode(tuple(_one_changed(args, rng)))))
        if mutant not in known:
            known.add(mutant)
            yield mutant


def _one_changed(values: Sequence[Any], rng: random.Random) -> list[Any]:
    place = rng.randrange(len(values)) if values else -1
    return [_changed(value, rng) if number == place else value for number, value in enumerate(values)]


def _changed(value: Any, rng: random.Random) -> Any:
    """A value of the same type that differs a little, or not at all."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + rng.choice((-1, 1))
    if isinstance(value, float):
        return value + rng.choice((-1.0, -0.5, 0.5, 1.0))
    if isinstance(value, dict):
        keys = list(value)
        return dict(zip(keys, _one_changed(list(value.values()), rng), strict=True))
    if not isinstance(value, str | list | tuple | set | frozenset) or not value:
        return value
    items = list(value)
    place = rng.randrange(len(items))
    match rng.randrange(3):
        case 0:
            del items[place]
        case 1:
            items.insert(place, rng.choice(items))
        case _ if isinstance(value, str):
            items[place] = rng.choice(items)
        case _:
            items[place] = _changed(items[place], rng)
    return "".join(items) if isinstance(value, str) else type(value)(items)
