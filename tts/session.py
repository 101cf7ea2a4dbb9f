"""What a strategy sees of the world: one session for each problem, the only door to models and verifiers."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Hashable, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing
from copy import copy
from dataclasses import replace
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast
from uuid import uuid4

import numpy as np

from tts.aio import Flow, concurrent_map, flow
from tts.base import AnswerVerifier, Verifier
from tts.clock import now
from tts.errors import BudgetSpent, ConfigError, EndpointRefused, SamplingFailed, cause_of
from tts.ledger import Allowance, Grant, Ledger
from tts.once import Once
from tts.pictures import Pictures
from tts.sampler.sampler import Sampler
from tts.sampler.scoring import TokenScores, call, score
from tts.sampler.wire import estimate_prompt
from tts.types import Budget, Candidate, Charge, Drawing, Problem, Prompt, Sample, Usage, Verdict, total

T = TypeVar("T")

IN_PIECES = frozenset({"draft", "target"})
"""Roles that write an answer together, piece by piece."""

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
        self.shared = shared if shared is not None else Shared()
        self.ledger = Ledger()
        self.pictures = Pictures(folder or Path())
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
        self._made: Once[tuple[Any, BaseException | None, set[Charge]]] = Once(sys.maxsize)
        self._given = sampling or {}
        self._sampling = {**self._given, **(verifier.sampling if verifier is not None else {})}
        self._began = now()
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
        return now() - self._began

    @property
    def spent(self) -> Usage:
        """All charges so far, new and re-used."""
        return total(self.ledger.paid | self.ledger.reused)

    @property
    def calls_left(self) -> float:
        """About how many further calls the budget has room for, by what those so far cost; infinite at first."""
        return self._allowance.calls_left() if self._capped else float("inf")

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
        if role == "policy" and self._sampling:
            params = {**self._sampling, **params}
        elif role in IN_PIECES and self._given:
            params = {**self._given, **params}
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

        if isinstance(prompt, Drawing):
            params = {**params, "pictures": self.pictures}
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
        if isinstance(prompt, Drawing):
            most = 0
        per_request = sampler.endpoint.max_n if sampler.takes_n else 1
        grant = await self._allowance.reserve(role, wanted, per_request, estimate_prompt(prompt), most)
        if grant.tokens != most:
            params = {**params, limit: grant.tokens}
        return grant, params

    def _address(self, sampler: Sampler, prompt: Prompt, params: Mapping[str, Any]) -> bytes:
        options = {**sampler.endpoint.params, **params}
        asked = {"draw": prompt} if isinstance(prompt, Drawing) else prompt
        return _digest([sampler.endpoint.filed_as, sampler.endpoint.model, asked, options, self.seed])

    async def score(
        self, prompt: Prompt, continuation: str | Sequence[int], *, role: str = "target", special: bool = True
    ) -> TokenScores:
        """Log-probability of every token of `continuation` after `prompt` under the role's model, stored like samples.

        See `tts.sampler.scoring.score` for where tokens begin and what `special` is. Raises `ConfigError` where the
        server cannot score, `BudgetSpent` once nothing more is allowed, and `EndpointError` when this very score could
        not be had.
        """
        sampler = self.sampler(role)
        key = _digest(["score", sampler.endpoint.filed_as, sampler.endpoint.model, prompt, continuation, special])
        if self._store is not None and (stored := (await self._store.get(key, [0])).get(0)):
            for charge in stored.charges:
                self.ledger.reuse(charge)
            self._recorded.update(stored.charges)
            return TokenScores(stored.token_ids or (), stored.logprobs or (), stored.charges)
        grant = Grant()
        if self._capped:  # a server scores while it generates one token
            size = estimate_prompt(prompt) + estimate_prompt(continuation)
            grant = await self._allowance.reserve(role, 1, 1, size, 1)
        try:
            scores = await score(sampler, prompt, continuation, role=role, ledger=self.ledger, special=special)
        finally:
            self._allowance.release(grant)
        self._recorded.update(scores.charges)
        if self._store is not None:
            await self._store.put(
                key, Sample("", "score", scores.charges, 0, role, token_ids=scores.token_ids, logprobs=scores.logprobs)
            )
        return scores

    async def post(self, path: str, body: Mapping[str, Any], *, role: str) -> Any:
        """The JSON answer of the role's server to `body`, for what is no sample: a reward, an embedding.

        The model is filled in; `path` is one of `Client.post`. The same request is asked once, and stored.
        """
        sampler = self.sampler(role)
        body = {"model": sampler.endpoint.model, **body}
        key = self._address(sampler, path, body)

        async def ask(session: Session) -> Any:
            stored = await self._store.get(key, [0]) if self._store else {}
            if stored:
                for charge in stored[0].charges:
                    self.ledger.reuse(charge)
                session._recorded.update(stored[0].charges)
                return json.loads(stored[0].text)
            grant, size = Grant(), estimate_prompt(json.dumps(body))
            if self._capped:
                grant = await self._allowance.reserve(role, 1, 1, size, body.get("max_tokens", 1))
            try:
                data, charge = await call(sampler, path, body, role=role, ledger=self.ledger, prompt_tokens=size)
            finally:
                self._allowance.release(grant)
            session._recorded.add(charge)
            if self._store is not None:
                await self._store.put(key, Sample(json.dumps(data), charges=(charge,), role=role))
            return data

        return await self.once(key, ask)

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
        if self._store is None:
            return value
        key = _digest(["remember", self._stream, self.problem.id, self.seed, about])
        if stored := (await self._store.get(key, [0])).get(0):
            return stored.text
        await self._store.put(key, Sample(value))
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
        self._allowance.check_verifier()
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
        inner._recorded, inner._spawned, inner._sampling = set(), 0, {}
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


def _own_failure(raised: Exception) -> BaseException:
    """What went wrong, if it concerns this verdict alone; what ends the search is raised again."""
    error = cause_of(raised)
    if isinstance(error, BudgetSpent | EndpointRefused | ConfigError):
        raise error from raised.__cause__
    return error


def _digest(content: Any) -> bytes:
    """The address of what is stored under `content`."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).digest()
