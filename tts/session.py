"""What a strategy sees of the world: one session for each problem, the only door to models and verifiers."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Hashable, Mapping, Sequence
from contextlib import aclosing
from copy import copy
from dataclasses import replace
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import numpy as np

from tts.accounts import Ledger
from tts.base import AnswerVerifier, Verifier
from tts.calls import Calls, digest
from tts.clock import now
from tts.concurrency import concurrent_map
from tts.errors import BudgetSpent, ConfigError, EndpointRefused, cause_of
from tts.images import Pictures
from tts.once import Once
from tts.resources import Resources, SampleStore
from tts.sampler.sampler import Sampler
from tts.sampler.scoring import TokenScores
from tts.types import Budget, Candidate, Charge, Problem, Prompt, Sample, Usage, Verdict, total

T = TypeVar("T")

IN_PIECES = frozenset({"draft", "target"})
"""Roles that write an answer together, piece by piece."""


class Session:
    """One strategy at work on one problem. Everything it calls is accounted, budgeted, stored and cancellable."""

    def __init__(
        self,
        problem: Problem,
        models: Mapping[str, Sampler],
        *,
        verifier: Verifier | None = None,
        truth: Verifier | None = None,
        budget: Budget | None = None,
        seed: int = 0,
        stream: str = "",
        store: SampleStore | None = None,
        resources: Resources | None = None,
        folder: Path | None = None,
        sampling: Mapping[str, Any] | None = None,
    ) -> None:
        """`seed` and `stream` (a name, of the strategy say) determine `rng`; `seed` is part of stored addresses.

        `folder` is where files are kept: by default the working directory. `sampling` are parameters of what writes
        the answer (the policy, or draft and target), over the endpoint's own.
        """
        self.problem = problem
        self.budget = budget or Budget()
        self.verifier = verifier
        self.resources = resources if resources is not None else Resources()
        self.ledger = Ledger()
        self.pictures = Pictures(folder or Path())
        self.seed = seed
        self._stream = stream
        self._calls = Calls(models, self.ledger, self.budget, store, self.pictures, seed)
        self._truth = truth
        self._spawned = 0
        self._recorded: set[Charge] = set()
        self.unverified: dict[int, Candidate] = {}
        """Those whose verdict is awaited."""
        self._ids = count()
        self._made: Once[tuple[Any, BaseException | None, set[Charge]]] = Once(sys.maxsize)
        self._given = sampling or {}
        self._sampling = {**self._given, **(verifier.sampling if verifier is not None else {})}
        self._began = now()

    @cached_property
    def rng(self) -> np.random.Generator:
        """Random numbers that depend on the seed, the problem and the strategy alone."""
        digest = hashlib.blake2b(f"{self.seed}\0{self.problem.id}\0{self._stream}".encode(), digest_size=16)
        return np.random.default_rng(int.from_bytes(digest.digest(), "big"))

    @property
    def elapsed(self) -> float:
        """Seconds since the session began."""
        return now() - self._began

    @property
    def spent(self) -> Usage:
        """All charges so far, new and re-used."""
        return total(self.ledger.paid | self.ledger.reused)

    @property
    def calls_left(self) -> float:
        """About how many further calls the budget has room for, by what those so far cost; infinite at first."""
        return self._calls.calls_left

    def sampler(self, role: str) -> Sampler:
        """The sampler of `role`. Raises `ConfigError` naming the roles that exist."""
        return self._calls.sampler(role)

    # -- sampling --------------------------------------------------------------------------------------------------

    def sample(
        self, prompt: Prompt | None = None, *, n: int = 1, role: str = "policy", **params: Any
    ) -> AsyncGenerator[Sample, None]:
        """`n` samples of `prompt` (the problem's own by default), as they complete.

        Stored answers to the same prompt and parameters come first and cost nothing new. The samples' spawn numbers
        are taken now, in the order of the calls. Raises `BudgetSpent` once no further sample is allowed, after all
        that were; `SamplingFailed` when the server answers none. Samples whose request it rejects are only missing,
        and noted in `ledger.failures`.
        """
        prompt = self.problem.messages if prompt is None else prompt
        first, self._spawned = self._spawned, self._spawned + n
        if role == "policy" and self._sampling:
            params = {**self._sampling, **params}
        elif role in IN_PIECES and self._given:
            params = {**self._given, **params}
        return self._sample(self._calls.samples(prompt, range(first, first + n), role, params))

    async def _sample(self, drawn: AsyncGenerator[Sample, None]) -> AsyncGenerator[Sample, None]:
        async with aclosing(drawn) as samples:
            async for sample in samples:
                self._recorded.update(sample.charges)
                yield sample

    async def score(
        self, prompt: Prompt, continuation: str | Sequence[int], *, role: str = "target", special: bool = True
    ) -> TokenScores:
        """Log-probability of every token of `continuation` after `prompt` under the role's model, stored like samples.

        See `tts.sampler.scoring.score` for where tokens begin and what `special` is. Raises `ConfigError` where the
        server cannot score, `BudgetSpent` once nothing more is allowed, and `EndpointError` when this very score could
        not be had.
        """
        scores = await self._calls.scores(prompt, continuation, role, special)
        self._recorded.update(scores.charges)
        return scores

    async def post(self, path: str, body: Mapping[str, Any], *, role: str) -> Any:
        """The JSON answer of the role's server to `body`, for what is no sample: a reward, an embedding.

        The model is filled in; `path` is one of `Client.post`. The same request is asked once, and stored.
        """

        async def ask(session: Session) -> Any:
            data, charges = await self._calls.post(path, body, role)
            session._recorded.update(charges)
            return data

        return await self.once(("post", role, path, json.dumps(body, sort_keys=True)), ask)

    async def once(self, key: Hashable, make: Callable[[Session], Awaitable[T]]) -> T:
        """What `make(session)` gives, made once for this problem however many candidates need it.

        All who ask carry what it cost. If it fails they all fail with its error.
        """

        async def made() -> tuple[Any, BaseException | None, set[Charge]]:
            inner = self._inner(str(key))
            try:
                return await make(inner), None, inner._recorded
            except Exception as error:
                return None, _own_failure(error), inner._recorded

        (value, error, charges), _ = await self._made.get(key, made)
        self._recorded |= charges
        if error is not None:
            raise error
        return value

    async def remember(self, about: Any, value: str) -> str:
        """`value`, or what an interrupted run remembered `about` the same: for decisions that would fall otherwise
        when they are taken again."""
        if (store := self._calls.store) is None:
            return value
        key = digest(["remember", self._stream, self.problem.id, self.seed, about])
        if stored := (await store.get(key, [0])).get(0):
            return stored.text
        await store.put(key, Sample(value))
        return value

    # -- candidates and verdicts -------------------------------------------------------------------------------------

    def candidate(
        self,
        content: str | Sample,
        *samples: Sample,
        parents: Sequence[Candidate] = (),
        spawned: tuple[int, ...] | None = None,
        **notes: Any,
    ) -> Candidate:
        """A candidate made of `samples` (and of `parents`), with everything they cost.

        `content` may be the sample that is the answer. `spawned` defaults to the answer's spawn number.
        """
        if isinstance(content, Sample):
            samples, content = (*samples, content), content.text
        charges = frozenset(charge for sample in samples for charge in sample.charges)
        charges = charges.union(*(parent.charges for parent in parents))
        number = next(self._ids)
        return Candidate(
            id=number,
            content=content,
            spawned=spawned or (samples[-1].index if samples else number,),
            samples=samples,
            parents=tuple(parent.id for parent in parents),
            charges=charges,
            notes=notes,
        )

    def propose(
        self, prompt: Prompt | None = None, *, n: int = 1, role: str = "policy", **params: Any
    ) -> AsyncGenerator[Candidate, None]:
        """`sample`, each as a candidate."""
        return self._propose(self.sample(prompt, n=n, role=role, **params))

    async def _propose(self, drawn: AsyncGenerator[Sample, None]) -> AsyncGenerator[Candidate, None]:
        async with aclosing(drawn) as samples:
            async for sample in samples:
                yield self.candidate(sample)

    async def verify(self, candidate: Candidate, verifier: Verifier | None = None) -> Verdict:
        """The verdict of `verifier` (the session's by default), with what it cost.

        A verifier that fails gives a verdict without a score, and the failure is noted; the candidate is not lost.
        """
        verifier = verifier or self.verifier
        if verifier is None:
            raise ConfigError("this run has no verifier; name one (--verifier, or `verifier` of the strategy)")
        self._calls.allowance.check_verifier()
        inner = self._inner(f"{verifier.name}\0{candidate.spawned}")
        began = now()
        try:
            verdict = await verifier.verify(self.problem, candidate, inner)
        except Exception as raised:
            error = _own_failure(raised)
            self.ledger.failures.append(f"{verifier.name}: {type(error).__name__}: {error}")
            verdict = Verdict(None, details={"error": f"{type(error).__name__}: {error}"})
        if verdict.cpu_seconds:
            inner.pay_verifier(verdict.cpu_seconds, now() - began)
        charges = verdict.charges | inner._recorded
        self._recorded |= charges
        return replace(verdict, charges=charges)

    def pay_verifier(self, cpu_seconds: float, seconds: float) -> None:
        """Book CPU time spent on checking what is verified now; `seconds` is how long ago it began."""
        charge = Charge(uuid4().hex, "verifier", Usage(verifier_seconds=cpu_seconds, seconds=seconds), now() - seconds)
        self.ledger.pay(charge)
        self._recorded.add(charge)

    async def classified(self, candidate: Candidate, reader: AnswerVerifier, known: list[str]) -> Candidate:
        """`candidate` with the class of its answer in `notes`, and what finding it cost.

        `known` are the answers so far, to which a new one is added: classify one candidate after the other. An answer
        whose comparison fails has no class, and the failure is noted.
        """
        inner, answer = self._inner(f"{reader.name}\0{candidate.spawned}"), None
        try:
            answer = await reader.class_of(reader.parse(candidate.content), known, inner)
        except Exception as raised:
            error = _own_failure(raised)
            self.ledger.failures.append(f"{reader.name}: {type(error).__name__}: {error}")
        self._recorded |= inner._recorded
        charges = candidate.charges | inner._recorded
        return replace(candidate, notes={**candidate.notes, "answer": answer}, charges=charges)

    def _inner(self, stream: str) -> Session:
        """A session with the same ledger and budget, but a record and random numbers of its own."""
        inner = copy(self)
        inner._recorded, inner.unverified, inner._spawned, inner._sampling = set(), {}, 0, {}
        inner._stream = f"{self._stream}\0{stream}"
        inner.__dict__.pop("rng", None)
        return inner

    async def verified(
        self, candidates: AsyncIterable[Candidate], verifier: Verifier | None = None
    ) -> AsyncGenerator[Candidate, None]:
        """`candidates` with their verdicts, each verified as it arrives, in the order the verdicts are ready.

        One that the budget leaves no room to verify comes without a verdict; `BudgetSpent` is raised at the end.
        """
        spent: BudgetSpent | None = None

        async def one(candidate: Candidate) -> Candidate:
            nonlocal spent
            self.unverified[candidate.id] = candidate
            try:
                verdict = await self.verify(candidate, verifier)
            except BudgetSpent as error:
                spent = error
                return candidate
            self.unverified.pop(candidate.id, None)
            return replace(candidate, verdict=verdict, charges=candidate.charges | verdict.charges)

        async with aclosing(concurrent_map(one, candidates)) as results:
            async for candidate in results:
                yield candidate
        if spent is not None:
            raise spent

    async def consult_truth(self, candidate: Candidate) -> Verdict:
        """The hidden truth's verdict, for the `oracle` verifier only: the result is labelled by it for good."""
        if self._truth is None:
            raise ConfigError("the oracle needs a task that has a truth; this problem has none")
        self.ledger.oracle_used = True
        return await self._truth.verify(self.problem, candidate, self)


def _own_failure(raised: Exception) -> BaseException:
    """What went wrong, if it concerns this verdict alone; what ends the search is raised again."""
    error = cause_of(raised)
    if isinstance(error, BudgetSpent | EndpointRefused | ConfigError):
        raise error from raised.__cause__
    return error
