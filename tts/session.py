"""What a strategy sees of the world: one session for each problem, the only door to models and verifiers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing
from copy import copy
from dataclasses import replace
from functools import cached_property
from itertools import count
from time import monotonic, time
from typing import Any, Protocol, TypeVar, cast
from uuid import uuid4

import numpy as np

from tts.aio import Flow, concurrent_map, flow
from tts.base import Verifier
from tts.errors import BudgetSpent, ConfigError, EndpointRefused, SamplingFailed
from tts.ledger import Allowance, Grant, Ledger
from tts.sampler.sampler import Sampler
from tts.sampler.scoring import TokenScores, score
from tts.sampler.wire import estimate_prompt
from tts.types import Budget, Candidate, Charge, Problem, Prompt, Sample, Usage, Verdict, total

T = TypeVar("T")

SEED_STRIDE = 1_000_003
"""Between the sampling seeds of successive seeds of a run; larger than any number of samples of a prompt."""


class SampleStore(Protocol):
    """Where answers are kept. `key` is the address of a prompt with everything that shaped its answers."""

    async def get(self, key: bytes, occurrences: Sequence[int]) -> dict[int, Sample]:
        """The stored samples among `occurrences`."""
        ...

    def put(self, key: bytes, sample: Sample) -> Awaitable[None]:
        """Begin to keep `sample` under its index; awaiting the result waits until it is safe."""
        ...


class Shared:
    """Things that the sessions of a run share and that end with it: worker pools, loaded models."""

    def __init__(self) -> None:
        self._made: dict[type, Any] = {}
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Shared:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    def get(self, kind: type[T]) -> T:
        """The run's only `kind()`; if it has an `aclose`, it is called when the run ends."""
        if kind not in self._made:
            self._made[kind] = made = kind()
            if hasattr(made, "aclose"):
                self._stack.push_async_callback(cast(Any, made).aclose)
        return self._made[kind]


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
        shared: Shared | None = None,
    ) -> None:
        """`seed` and `stream` (a name, of the strategy say) determine `rng`; `seed` is part of stored addresses."""
        self.problem = problem
        self.budget = budget or Budget()
        self.verifier = verifier
        self.shared = shared if shared is not None else Shared()
        self.ledger = Ledger()
        self.seed = seed
        self._stream = stream
        self._models = models
        self._truth = truth
        self._store = store
        self._allowance = Allowance(self.budget, self._price)
        self._capped = self._allowance.capped
        self._occurrences: dict[bytes, int] = {}
        self._spawned = 0
        self._recorded: set[Charge] = set()
        self._ids = count()
        self._began = monotonic()
        if self._capped:
            self.ledger.watchers.append(self._allowance.book)

    @cached_property
    def rng(self) -> np.random.Generator:
        """Random numbers that depend on the seed, the problem and the strategy alone."""
        digest = hashlib.blake2b(f"{self.seed}\0{self.problem.id}\0{self._stream}".encode(), digest_size=16)
        return np.random.default_rng(int.from_bytes(digest.digest(), "big"))

    @property
    def elapsed(self) -> float:
        """Seconds since the session began."""
        return monotonic() - self._began

    @property
    def spent(self) -> Usage:
        """All charges so far, new and re-used."""
        return total(self.ledger.paid | self.ledger.reused)

    def sampler(self, role: str) -> Sampler:
        """The sampler of `role`. Raises `ConfigError` naming the roles that exist."""
        try:
            return self._models[role]
        except KeyError:
            raise ConfigError(f"no model for the role '{role}'; there are: {', '.join(self._models)}") from None

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
        return self._sample(prompt, range(first, first + n), role, params)

    async def _sample(
        self, prompt: Prompt, spawns: range, role: str, params: dict[str, Any]
    ) -> AsyncGenerator[Sample, None]:
        sampler = self.sampler(role)
        base = params.get("seed", sampler.endpoint.params.get("seed"))
        if base is not None and self.seed:  # another seed of the run is another stream of samples
            params = {**params, "seed": int(base) + SEED_STRIDE * self.seed}
        draw = self._draw_within_budget if self._capped else self._draw
        key = self._address(sampler, prompt, params)
        first = self._occurrences.get(key, 0)
        self._occurrences[key] = first + len(spawns)
        spawn_of = {first + i: spawn for i, spawn in enumerate(spawns)}
        async with aclosing(draw(sampler, prompt, key, spawn_of, role, params)) as samples:
            async for sample in samples:
                yield sample

    async def _draw(
        self,
        sampler: Sampler,
        prompt: Prompt,
        key: bytes,
        spawn_of: dict[int, int],
        role: str,
        params: dict[str, Any],
    ) -> AsyncGenerator[Sample, None]:
        """One sample for each occurrence in `spawn_of`, under its spawn number, from the store or the server."""
        stored = await self._store.get(key, list(spawn_of)) if self._store else {}
        for occurrence, sample in sorted(stored.items()):
            for charge in sample.charges:
                self.ledger.reuse(charge)
            self._recorded.update(sample.charges)
            yield replace(sample, index=spawn_of[occurrence])
        missing = [occurrence for occurrence in spawn_of if occurrence not in stored]
        if not missing:
            return
        saved: dict[int, Awaitable[None]] = {}

        def save(sample: Sample) -> None:
            if self._store is not None:
                saved[sample.index] = self._store.put(key, sample)

        drawn = sampler.sample(prompt, missing, role=role, ledger=self.ledger, on_sample=save, **params)
        try:
            async with aclosing(drawn) as samples:
                async for sample in samples:
                    if sample.index in saved:
                        await saved.pop(sample.index)
                    self._recorded.update(sample.charges)
                    spawn = spawn_of[sample.index]
                    yield sample if spawn == sample.index else replace(sample, index=spawn)
        except SamplingFailed as error:  # a request that is rejected loses its samples, not the search
            rejected = error.status is not None and 400 <= error.status < 500 and error.status != 429
            if not stored and not rejected:
                raise

    async def _draw_within_budget(
        self,
        sampler: Sampler,
        prompt: Prompt,
        key: bytes,
        spawn_of: dict[int, int],
        role: str,
        params: dict[str, Any],
    ) -> AsyncGenerator[Sample, None]:
        """`_draw` in as many batches as the budget grants room for, side by side."""
        failures: list[SamplingFailed] = []

        async def draw(out: Flow[Sample], batch: AsyncGenerator[Sample, None]) -> None:
            try:
                async with aclosing(batch) as samples:
                    async for sample in samples:
                        out.emit(sample)
            except SamplingFailed as error:  # loses its own samples, not those of the other batches
                failures.append(error)

        async def draw_all(out: Flow[Sample]) -> None:
            missing = list(spawn_of.items())
            while missing:
                grant, options = await self._reserve(sampler, prompt, role, len(missing), params)
                batch, missing = dict(missing[: grant.samples]), missing[grant.samples :]
                place = key if options is params else self._address(sampler, prompt, options)
                task = out.start(draw(out, self._draw(sampler, prompt, place, batch, role, options)))
                task.add_done_callback(lambda _, grant=grant: self._allowance.release(grant))

        def begin(out: Flow[Sample]) -> None:
            out.start(draw_all(out))

        any_had = False
        async with aclosing(flow(begin)) as samples:
            async for sample in samples:
                any_had = True
                yield sample
        if failures and not any_had:
            raise failures[-1]

    async def _reserve(
        self, sampler: Sampler, prompt: Prompt, role: str, wanted: int, params: dict[str, Any]
    ) -> tuple[Grant, dict[str, Any]]:
        """Room for some of the `wanted` samples, and the parameters that keep them within it."""
        await sampler.identify()
        merged = {**sampler.endpoint.params, **params}
        limit = "max_completion_tokens" if "max_completion_tokens" in merged else "max_tokens"
        most = merged.get(limit) or sampler.context_length  # a server without a limit stops at the end of its context
        per_request = sampler.endpoint.max_n if sampler.takes_n else 1
        grant = await self._allowance.reserve(role, wanted, per_request, estimate_prompt(prompt), most)
        if grant.tokens != most:
            params = {**params, limit: grant.tokens}
        return grant, params

    def _address(self, sampler: Sampler, prompt: Prompt, params: Mapping[str, Any]) -> bytes:
        options = {**sampler.endpoint.params, **params}
        content = [sampler.endpoint.filed_as, sampler.endpoint.model, prompt, options, self.seed]
        text = json.dumps(content, sort_keys=True, separators=(",", ":"), default=str)
        return hashlib.blake2b(text.encode(), digest_size=16).digest()

    async def score(self, prompt: Prompt, continuation: str | Sequence[int], *, role: str = "target") -> TokenScores:
        """Log-probability of every token of `continuation` after `prompt` under the role's model."""
        grant = Grant()
        if self._capped:  # a server scores while it generates one token
            size = estimate_prompt(prompt) + estimate_prompt(continuation)
            grant = await self._allowance.reserve(role, 1, 1, size, 1)
        try:
            scores = await score(self.sampler(role), prompt, continuation, role=role, ledger=self.ledger)
        finally:
            self._allowance.release(grant)
        self._recorded.update(scores.charges)
        return scores

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
        self._allowance.check_verifier()
        inner = copy(self)  # the same ledger and budget, but a record and random numbers of its own
        inner._recorded, inner._spawned = set(), 0
        inner._stream = f"{self._stream}\0{verifier.name}\0{candidate.spawned}"
        inner.__dict__.pop("rng", None)
        began, begin = monotonic(), time()
        try:
            verdict = await verifier.verify(self.problem, candidate, inner)
        except (BudgetSpent, EndpointRefused, ConfigError):
            raise
        except Exception as error:
            self.ledger.failures.append(f"{verifier.name}: {type(error).__name__}: {error}")
            verdict = Verdict(None, details={"error": f"{type(error).__name__}: {error}"})
        if verdict.cpu_seconds:
            own = Usage(verifier_seconds=verdict.cpu_seconds, seconds=monotonic() - began)
            charge = Charge(uuid4().hex, "verifier", own, begin)
            self.ledger.pay(charge)
            inner._recorded.add(charge)
        charges = verdict.charges | inner._recorded
        self._recorded |= charges
        return replace(verdict, charges=charges)

    async def verified(
        self, candidates: AsyncIterable[Candidate], verifier: Verifier | None = None
    ) -> AsyncGenerator[Candidate, None]:
        """`candidates` with their verdicts, each verified as it arrives, in the order the verdicts are ready.

        One that the budget leaves no room to verify comes without a verdict; `BudgetSpent` is raised at the end.
        """
        spent: BudgetSpent | None = None

        async def one(candidate: Candidate) -> Candidate:
            nonlocal spent
            try:
                verdict = await self.verify(candidate, verifier)
            except BudgetSpent as error:
                spent = error
                return candidate
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

    def _price(self, role: str, usage: Usage) -> float:
        return self._models[role].endpoint.money(usage) if role in self._models else 0.0
