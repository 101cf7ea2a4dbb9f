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
from tts.errors import BudgetSpent, ConfigError, EndpointRefused
from tts.ledger import Allowance, Grant, Ledger
from tts.sampler.sampler import Sampler
from tts.sampler.scoring import TokenScores, score
from tts.sampler.wire import estimate_prompt
from tts.types import Budget, Candidate, Charge, Problem, Prompt, Sample, Usage, Verdict, total

T = TypeVar("T")


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
        self.shared = shared or Shared()
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
        that were; `SamplingFailed` when none could be had.
        """
        prompt = self.problem.messages if prompt is None else prompt
        first, self._spawned = self._spawned, self._spawned + n
        return self._sample(prompt, range(first, first + n), role, params)

    async def _sample(
        self, prompt: Prompt, spawns: range, role: str, params: dict[str, Any]
    ) -> AsyncGenerator[Sample, None]:
        sampler = self.sampler(role)

        def begin(out: Flow[Sample]) -> None:
            out.start(self._draw_within_budget(out, sampler, prompt, spawns, role, params))

        batches = flow(begin) if self._capped else self._draw(sampler, prompt, spawns, role, params)
        async with aclosing(batches) as samples:
            async for sample in samples:
                yield sample

    async def _draw(
        self, sampler: Sampler, prompt: Prompt, spawns: Sequence[int], role: str, params: dict[str, Any]
    ) -> AsyncGenerator[Sample, None]:
        """One sample for each of `spawns`, from the store or the server."""
        key = self._address(sampler, prompt, params)
        first = self._occurrences.get(key, 0)
        self._occurrences[key] = first + len(spawns)
        spawn_of = {first + i: spawn for i, spawn in enumerate(spawns)}
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
        async with aclosing(drawn) as samples:
            async for sample in samples:
                if sample.index in saved:
                    await saved.pop(sample.index)
                self._recorded.update(sample.charges)
                spawn = spawn_of[sample.index]
                yield sample if spawn == sample.index else replace(sample, index=spawn)

    async def _draw_within_budget(
        self,
        out: Flow[Sample],
        sampler: Sampler,
        prompt: Prompt,
        spawns: Sequence[int],
        role: str,
        params: dict[str, Any],
    ) -> None:
        """`_draw` in as many batches as the budget grants room for, side by side."""
        missing = list(spawns)
        while missing:
            grant, options = await self._reserve(sampler, prompt, role, len(missing), params)
            batch, missing = missing[: grant.samples], missing[grant.samples :]
            out.start(self._draw_granted(out, self._draw(sampler, prompt, batch, role, options), grant))

    async def _draw_granted(self, out: Flow[Sample], batch: AsyncGenerator[Sample, None], grant: Grant) -> None:
        try:
            async with aclosing(batch) as samples:
                async for sample in samples:
                    out.emit(sample)
        finally:
            self._allowance.release(grant)

    async def _reserve(
        self, sampler: Sampler, prompt: Prompt, role: str, wanted: int, params: dict[str, Any]
    ) -> tuple[Grant, dict[str, Any]]:
        """Room for some of the `wanted` samples, and the parameters that keep them within it."""
        merged = {**sampler.endpoint.params, **params}
        limit = "max_completion_tokens" if "max_completion_tokens" in merged else "max_tokens"
        per_request = 1 if sampler.takes_n is False else sampler.endpoint.max_n
        grant = await self._allowance.reserve(role, wanted, per_request, estimate_prompt(prompt), merged.get(limit))
        if grant.tokens is not None and grant.tokens != merged.get(limit):
            params = {**params, limit: grant.tokens}
        return grant, params

    def _address(self, sampler: Sampler, prompt: Prompt, params: Mapping[str, Any]) -> bytes:
        options = {**sampler.endpoint.params, **params}
        content = [sampler.endpoint.filed_as, sampler.endpoint.model, prompt, options, self.seed]
        text = json.dumps(content, sort_keys=True, separators=(",", ":"), default=str)
        return hashlib.blake2b(text.encode(), digest_size=16).digest()

    async def score(self, prompt: Prompt, continuation: str | Sequence[int], *, role: str = "target") -> TokenScores:
        """Log-probability of every token of `continuation` after `prompt` under the role's model."""
        if self._capped:
            self._allowance.check()
        scores = await score(self.sampler(role), prompt, continuation, role=role, ledger=self.ledger)
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

    async def propose(
        self, prompt: Prompt | None = None, *, n: int = 1, role: str = "policy", **params: Any
    ) -> AsyncGenerator[Candidate, None]:
        """`sample`, each as a candidate."""
        async with aclosing(self.sample(prompt, n=n, role=role, **params)) as samples:
            async for sample in samples:
                yield self.candidate(sample)

    async def verify(self, candidate: Candidate, verifier: Verifier | None = None) -> Verdict:
        """The verdict of `verifier` (the session's by default), with what it cost.

        A verifier that fails gives a verdict without a score, and the failure is noted; the candidate is not lost.
        """
        verifier = verifier or self.verifier
        if verifier is None:
            raise ConfigError("this run has no verifier; name one (--verifier, or `verifier` of the strategy)")
        if self._capped:
            self._allowance.check()
        inner = copy(self)  # the same ledger and budget, but a record of its own
        inner._recorded, inner._spawned = set(), 0
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
        """`candidates` with their verdicts, each verified as it arrives, in the order the verdicts are ready."""

        async def one(candidate: Candidate) -> Candidate:
            verdict = await self.verify(candidate, verifier)
            return replace(candidate, verdict=verdict, charges=candidate.charges | verdict.charges)

        async with aclosing(concurrent_map(one, candidates)) as results:
            async for candidate in results:
                yield candidate

    async def consult_truth(self, candidate: Candidate) -> Verdict:
        """The hidden truth's verdict, for the `oracle` verifier only: the result is labelled by it for good."""
        if self._truth is None:
            raise ConfigError("the oracle needs a task that has a truth; this problem has none")
        self.ledger.oracle_used = True
        return await self._truth.verify(self.problem, candidate, self)

    def _price(self, role: str, usage: Usage) -> float:
        return self._models[role].endpoint.money(usage) if role in self._models else 0.0
