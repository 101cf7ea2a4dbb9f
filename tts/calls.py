"""Calls to models: answered from the store where it has the answer, else by the server as far as the budget goes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncGenerator, Awaitable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from tts.accounts import Allowance, Grant, Ledger
from tts.concurrency import Flow, flow
from tts.errors import ConfigError, SamplingFailed
from tts.files import ImageFolder
from tts.resources import SampleStore
from tts.sampler.protocol import estimate_prompt, token_limit
from tts.sampler.sampler import Sampler
from tts.sampler.scoring import TokenScores, call, score
from tts.types import Budget, Charge, Drawing, Prompt, Sample, Usage

SEED_STRIDE = 1_000_003
"""Between the sampling seeds of successive seeds of a run; larger than any number of samples of a prompt."""


class Calls:
    """The models of one search: what is stored costs nothing new, what is new is accounted and stored."""

    def __init__(
        self,
        models: Mapping[str, Sampler],
        ledger: Ledger,
        budget: Budget,
        store: SampleStore | None,
        images: ImageFolder,
        seed: int,
    ) -> None:
        """`seed` is part of the address of everything that is stored."""
        self.allowance = Allowance(budget, self._price)
        self.store = store
        self._models = models
        self._ledger = ledger
        self._images = images
        self._seed = seed
        self._capped = self.allowance.capped
        self._occurrences: dict[bytes, int] = {}
        if self._capped:
            ledger.watchers.append(self.allowance.book)

    @property
    def calls_left(self) -> float:
        """About how many further calls the budget has room for, by what those so far cost; infinite at first."""
        return self.allowance.calls_left() if self._capped else float("inf")

    def sampler(self, role: str) -> Sampler:
        """The sampler of `role`. Raises `ConfigError` naming the roles that exist."""
        try:
            return self._models[role]
        except KeyError:
            raise ConfigError(f"no model for the role '{role}'; there are: {', '.join(self._models)}") from None

    # -- samples ---------------------------------------------------------------------------------------------------

    async def samples(
        self, prompt: Prompt, spawns: range, role: str, params: dict[str, Any]
    ) -> AsyncGenerator[Sample, None]:
        """The next samples of `prompt` with these parameters, numbered by `spawns`, as they complete."""
        sampler = self.sampler(role)
        base = params.get("seed", sampler.endpoint.params.get("seed"))
        if base is not None and self._seed:  # another seed of the run is another stream of samples
            params = {**params, "seed": int(base) + SEED_STRIDE * self._seed}
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
        stored = await self._stored(key, list(spawn_of))
        for occurrence, sample in sorted(stored.items()):
            yield replace(sample, index=spawn_of[occurrence])
        missing = [occurrence for occurrence in spawn_of if occurrence not in stored]
        if not missing:
            return
        saved: dict[int, Awaitable[None]] = {}

        def save(sample: Sample) -> None:
            if self.store is not None:
                saved[sample.index] = self.store.put(key, sample)

        if isinstance(prompt, Drawing):
            params = {**params, "images": self._images}
        drawn = sampler.sample(prompt, missing, role=role, ledger=self._ledger, on_sample=save, **params)
        try:
            async with aclosing(drawn) as samples:
                async for sample in samples:
                    if sample.index in saved:
                        await saved.pop(sample.index)
                    spawn = spawn_of[sample.index]
                    yield sample if spawn == sample.index else replace(sample, index=spawn)
        except SamplingFailed as error:  # a rejected request loses its samples, not the search
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
        trimmed: set[int] = set()

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
                task.add_done_callback(lambda _, grant=grant: self.allowance.release(grant))
                if options is not params:
                    trimmed.update(batch.values())

        any_came = False
        async with aclosing(flow(draw_all)) as samples:
            async for sample in samples:
                any_came = True
                cut = sample.finish_reason == "length" and sample.index in trimmed
                yield replace(sample, finish_reason="budget") if cut else sample
        if failures and not any_came:
            raise failures[-1]

    async def _reserve(
        self, sampler: Sampler, prompt: Prompt, role: str, wanted: int, params: dict[str, Any]
    ) -> tuple[Grant, dict[str, Any]]:
        """Room for some of the `wanted` samples, and the parameters that keep them within it."""
        await sampler.identify()
        merged = {**sampler.endpoint.params, **params}
        limit = token_limit(merged)
        most = merged.get(limit) or sampler.context_length  # a server without a limit stops at the end of its context
        if isinstance(prompt, Drawing):
            most = 0
        per_request = sampler.endpoint.max_n if sampler.takes_n else 1
        grant = await self.allowance.reserve(role, wanted, per_request, estimate_prompt(prompt), most)
        if grant.tokens != most:
            params = {**params, limit: grant.tokens}
        return grant, params

    def _address(self, sampler: Sampler, prompt: Prompt, params: Mapping[str, Any]) -> bytes:
        options = {**sampler.endpoint.params, **params}
        asked = {"draw": prompt} if isinstance(prompt, Drawing) else prompt
        return digest([sampler.endpoint.filed_as, sampler.endpoint.model, asked, options, self._seed])

    async def _stored(self, key: bytes, occurrences: Sequence[int]) -> dict[int, Sample]:
        """What the store has of `occurrences`, booked as re-used."""
        found = await self.store.get(key, occurrences) if self.store else {}
        for sample in found.values():
            for charge in sample.charges:
                self._ledger.reuse(charge)
        return found

    # -- scores and other answers ------------------------------------------------------------------------------------

    async def scores(self, prompt: Prompt, continuation: str | Sequence[int], role: str, special: bool) -> TokenScores:
        """See `Session.score`."""
        sampler = self.sampler(role)
        key = digest(["score", sampler.endpoint.filed_as, sampler.endpoint.model, prompt, continuation, special])
        if stored := (await self._stored(key, [0])).get(0):
            return TokenScores(stored.token_ids or (), stored.logprobs or (), stored.charges)
        grant = await self._one_call(role, estimate_prompt(prompt) + estimate_prompt(continuation), 1)
        try:  # a server scores while it generates one token
            scores = await score(sampler, prompt, continuation, role=role, ledger=self._ledger, special=special)
        finally:
            self.allowance.release(grant)
        if self.store is not None:
            await self.store.put(
                key, Sample("", "score", scores.charges, 0, role, token_ids=scores.token_ids, logprobs=scores.logprobs)
            )
        return scores

    async def post(self, path: str, body: Mapping[str, Any], role: str) -> tuple[Any, tuple[Charge, ...]]:
        """The JSON answer to `body`, with the model filled in, and what it cost. See `Session.post`."""
        sampler = self.sampler(role)
        body = {"model": sampler.endpoint.model, **body}
        key = self._address(sampler, path, body)
        if stored := (await self._stored(key, [0])).get(0):
            return json.loads(stored.text), stored.charges
        size = estimate_prompt(json.dumps(body))
        grant = await self._one_call(role, size, body.get("max_tokens", 1))
        try:
            data, charge = await call(sampler, path, body, role=role, ledger=self._ledger, prompt_tokens=size)
        finally:
            self.allowance.release(grant)
        if self.store is not None:
            await self.store.put(key, Sample(json.dumps(data), charges=(charge,), role=role))
        return data, (charge,)

    async def _one_call(self, role: str, prompt: int, tokens: int) -> Grant:
        """Room for one request that reads `prompt` tokens and generates `tokens`."""
        return await self.allowance.reserve(role, 1, 1, prompt, tokens) if self._capped else Grant()

    def _price(self, role: str, usage: Usage) -> float:
        return self._models[role].endpoint.money(usage) if role in self._models else 0.0


def digest(content: Any) -> bytes:
    """The address of what is stored under `content`."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).digest()
