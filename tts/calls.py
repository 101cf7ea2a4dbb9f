"""Calls to models: answered from the store where it has the answer, else by the server as far as the budget goes."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

from tts.accounts import Allowance, Grant, Ledger, Quota, Tariff
from tts.concurrency import LARGE, Flow, aside, flow, in_turn
from tts.errors import ConfigError, RequestRejected, SamplingFailed
from tts.files import ImageFolder
from tts.policies import under
from tts.resources import SampleStore
from tts.sampler.parameters import merged, token_limit
from tts.sampler.protocol import estimate_prompt, estimate_texts, prompt_size, prompt_usage
from tts.sampler.sampler import Sampler, StopRule
from tts.sampler.scoring import TokenScores, call, score
from tts.text import size_of
from tts.types import Budget, Charge, Drawing, Prompt, Sample, Usage

SEED_STRIDE = 1_000_003
"""Between the sampling seeds of successive seeds of a run; larger than any number of samples of a prompt."""


@dataclass(slots=True, kw_only=True)
class Order:
    """Samples of one prompt that a search asks for at once."""

    sampler: Sampler
    prompt: Prompt
    role: str
    params: dict[str, Any]
    stop_when: StopRule | None
    key: bytes
    """The address of the prompt with these parameters."""
    spawn_of: dict[int, int]
    """By occurrence of the prompt in the search: the number under which its sample is spawned."""
    apart: int | None
    place: tuple[int, ...] | None
    """Where on the axis of compute charges stand; by default each at its sample's number."""
    alone: bool = False
    """Whether each sample needs a request of its own: the server does not answer this prompt several times in one."""

    @property
    def size(self) -> int:
        """How many samples a request asks for at most, as far as the server answers several."""
        return 1 if self.alone or self.stop_when is not None else self.sampler.endpoint.max_n


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
        quota: Quota | None = None,
    ) -> None:
        """`seed` is part of the address of everything that is stored; `quota` is shared with other searches."""
        self.store = store
        self.models = models
        self._ledger = ledger
        self._images = images
        self._seed = seed
        self._budget, self._quota = budget, quota
        self._capped = quota is not None or budget.capped
        self._occurrences: dict[bytes, int] = {}
        self._taken: dict[str, tuple[Any, ...]] = {}
        self._posted: dict[bytes, asyncio.Future[tuple[Any, tuple[Charge, ...]] | None] | None] = {}
        self._one_at_a_time: set[str] = set()
        """Paths whose server refuses lists."""
        if self._capped:
            ledger.watchers.append(self.allowance.book)

    @cached_property
    def allowance(self) -> Allowance:
        """What the budget and the quota still allow."""
        return Allowance(self._budget, partial(_price, self.models), self._quota)  # not a method: a cycle lives long

    def calls_with_room(self, roles: Iterable[str]) -> float:
        """How many further samples by `roles` the budget has room for whatever they say; infinite without caps."""
        if not self._capped:
            return float("inf")
        most = {role: _limit(self.sampler(role), {})[1] for role in roles}
        return min(self.allowance.calls_with_room(role, tokens or float("inf")) for role, tokens in most.items())

    def sampler(self, role: str) -> Sampler:
        """The sampler of `role`. Raises `ConfigError` naming the roles that exist."""
        try:
            return self.models[role]
        except KeyError:
            raise ConfigError(f"no model for the role '{role}'; there are: {', '.join(self.models)}") from None

    # -- samples ---------------------------------------------------------------------------------------------------

    def samples(
        self,
        prompt: Prompt,
        spawns: Sequence[int],
        role: str,
        params: Mapping[str, Any],
        place: tuple[int, ...] | None,
        stop_when: StopRule | None = None,
        apart: int | None = None,
    ) -> AsyncGenerator[Sample, None]:
        """The next samples of `prompt` with these parameters, numbered by `spawns`, as they complete.

        Their charges stand at `place` on the axis of compute, by default each at its number. Who asks `apart` has
        answers of its own, whatever others ask before it.
        """

        async def ordered() -> Order:
            """What is asked for, addressed when its turn comes."""
            sampler, options = self.sampler(role), merged(params)
            base = options.get("seed", sampler.endpoint.params.get("seed"))
            if isinstance(base, int | float) and self._seed:  # another seed of the run is another stream of samples
                options["seed"] = int(base) + SEED_STRIDE * self._seed
            await in_turn(size := prompt_size(prompt))
            key = await aside(size, self._address, sampler, prompt, options, stop_when, apart)
            first = self._occurrences.get(key, 0)
            self._occurrences[key] = first + len(spawns)
            return Order(
                sampler=sampler,
                prompt=prompt,
                role=role,
                params=options,
                stop_when=stop_when,
                apart=apart,
                key=key,
                spawn_of={first + i: spawn for i, spawn in enumerate(spawns)},
                place=place,
            )

        return (self._draw_within_budget if self._capped else self._draw)(ordered)

    async def _draw(
        self, ordered: Callable[[], Awaitable[Order]], left: list[int] | None = None
    ) -> AsyncGenerator[Sample, None]:
        """One sample for each occurrence of `order`, under its spawn number, from the store or the server.

        Samples that one request would have brought come together, whoever paid for them: what a search sees of the
        store is what it would have seen of the server. For `left` see `Sampler.sample`.
        """
        order = await ordered()
        sampler, spawn_of = order.sampler, order.spawn_of
        tariff = Tariff(order.key, list(spawn_of), order.size, self._taken)
        kept = {} if self.store is None else await self.store.get(order.key, list(spawn_of))
        stored = {occurrence: under(order.role, sample) for occurrence, sample in kept.items()}
        charges: dict[int, tuple[Charge, Charge]] = {}
        saved: dict[int, Awaitable[None]] = {}
        held: dict[int, list[Sample]] = {}
        arrived: dict[int, list[Sample]] = {}

        def given(sample: Sample, *, whole: bool = False) -> Sample:
            """`sample` as the search gets it, which is charged for it; a `whole` group needs no request."""
            spawn, occurrence = spawn_of[sample.index], sample.index
            for charge, reused in zip(charges[occurrence], (whole, occurrence in stored), strict=True):
                self._ledger.need(charge, order.place or (spawn,), reused=reused)
            if sample.index == spawn and sample.charges == charges[occurrence]:  # as it is for most
                return sample
            return replace(sample, index=spawn, charges=charges[occurrence])

        def arrive(sample: Sample) -> None:
            if self.store is not None:
                saved[sample.index] = self.store.put(order.key, sample)
            charges[sample.index] = tariff.charges(sample)
            beside = held.pop(tariff.group(sample), ())
            arrived[sample.index] = list(map(given, (*beside, sample)))

        for group in tariff.groups if stored else ():
            known = [stored[occurrence] for occurrence in group if occurrence in stored]
            charges |= {sample.index: tariff.charges(sample) for sample in known}
            if sampler.takes_n is None and any(sample.batched for sample in known):
                sampler.takes_n = True
            alone = [sample for sample in known if sample.batched is False]
            if len(known) < len(group):
                held[group[0]] = [sample for sample in known if sample not in alone]
                known = alone
            for sample in [given(one, whole=True) for one in known]:
                yield sample
        missing = [[occurrence for occurrence in group if occurrence not in stored] for group in tariff.groups]
        if not any(missing):
            return
        drawn = sampler.sample(
            order.prompt,
            missing,
            order.params,
            role=order.role,
            ledger=self._ledger,
            on_sample=arrive,
            stop_when=order.stop_when,
            images=self._images,
            left=left,
            address=order.key,
        )
        error: SamplingFailed | None = None
        try:
            async with aclosing(drawn) as samples:
                async for came in samples:
                    if came.index in saved:
                        await saved.pop(came.index)
                    for sample in arrived.pop(came.index):
                        yield sample
        except SamplingFailed as raised:
            error = raised
        for sample in (one for group in held.values() for one in group):  # those beside them could not be had
            yield given(sample, whole=True)
        # a rejected request loses its samples, not the search
        if error is not None and not stored and (error.status is None or error.status == 429 or error.status >= 500):
            raise error

    async def _draw_within_budget(self, ordered: Callable[[], Awaitable[Order]]) -> AsyncGenerator[Sample, None]:
        """`_draw` in as many batches as the budget grants room for, side by side."""
        order = await ordered()
        failures: list[SamplingFailed] = []
        trimmed: set[int] = set()

        async def draw(out: Flow[Sample], batch: Order, requests: int) -> None:
            async def granted() -> Order:
                return batch

            left: list[int] | None = [] if requests < len(batch.spawn_of) else None
            try:
                async with aclosing(self._draw(granted, left)) as samples:
                    async for sample in samples:
                        out.emit(sample)
            except SamplingFailed as error:  # loses its own samples, not those of the other batches
                failures.append(error)
            if left:  # the server answers one at a time: they take more requests than were granted
                out.start(draw_all(out, replace(order, alone=True), sorted(left)))

        async def draw_all(out: Flow[Sample], order: Order, missing: Sequence[int]) -> None:
            while missing:
                grant, params = await self._reserve(order, len(missing))
                batch = {occurrence: order.spawn_of[occurrence] for occurrence in missing[: grant.samples]}
                missing = missing[grant.samples :]
                part = replace(order, spawn_of=batch)
                if params is not order.params:
                    address = self._address(order.sampler, order.prompt, params, order.stop_when, order.apart)
                    part = replace(part, params=params, key=address)
                    trimmed.update(batch.values())
                task = out.start(draw(out, part, grant.requests))
                task.add_done_callback(lambda _, grant=grant: self.allowance.release(grant))

        async def begin(out: Flow[Sample]) -> None:
            await draw_all(out, order, list(order.spawn_of))

        any_came = False
        async with aclosing(flow(begin)) as samples:
            async for sample in samples:
                any_came = True
                cut = sample.finish_reason == "length" and sample.index in trimmed
                yield replace(sample, finish_reason="budget") if cut else sample
        if failures and not any_came:
            raise failures[-1]

    async def _reserve(self, order: Order, wanted: int) -> tuple[Grant, dict[str, Any]]:
        """Room for some of the `wanted` samples, and the parameters that keep them within it.

        A server is taken to answer several choices to a request until it is known not to: what was granted and it
        left is granted again, one by one. So the first search that meets it gets what the next one gets.
        """
        sampler, params = order.sampler, order.params
        await sampler.identify()
        limit, most = _limit(sampler, params)
        if isinstance(order.prompt, Drawing):
            most = 0
        per_request = 1 if sampler.takes_n is False else order.size
        prompt = estimate_prompt(order.prompt) + estimate_texts(params.get("tools"))
        grant = await self.allowance.reserve(order.role, wanted, per_request, prompt, most)
        if grant.tokens != most:
            params = {**params, limit: grant.tokens}
        return grant, params

    def _address(
        self,
        sampler: Sampler,
        prompt: Prompt,
        params: Mapping[str, Any],
        stop_when: StopRule | None = None,
        apart: int | None = None,
    ) -> bytes:
        options: dict[Any, Any] = merged(sampler.endpoint.params, params)
        if stop_when is not None:
            options = {"params": options, "stop_when": stop_when}
        asked = {"draw": prompt} if isinstance(prompt, Drawing) else prompt
        whose = [] if apart is None else [apart]
        return digest([sampler.endpoint.filed_as, sampler.endpoint.model, asked, options, self._seed, *whose])

    # -- scores and other answers ------------------------------------------------------------------------------------

    async def scores(self, prompt: Prompt, continuation: str | Sequence[int], role: str, special: bool) -> TokenScores:
        """See `Session.score`."""
        sampler = self.sampler(role)
        key = digest(["score", sampler.endpoint.filed_as, sampler.endpoint.model, prompt, continuation, special])
        if stored := await self._stored(key, role):
            return TokenScores(stored.token_ids or (), stored.logprobs or (), stored.charges)
        size = estimate_prompt(prompt) + estimate_prompt(continuation)
        async with self._one_call(role, size, 1):  # a server scores while it generates one token
            scores = await score(sampler, prompt, continuation, role=role, ledger=self._ledger, special=special)
        if self.store is not None:
            await self.store.put(
                key, Sample("", "score", scores.charges, 0, role, token_ids=scores.token_ids, logprobs=scores.logprobs)
            )
        return scores

    async def post(self, path: str, body: Mapping[str, Any], role: str) -> tuple[Any, tuple[Charge, ...]]:
        """The JSON answer to `body`, with the model filled in, and what it cost. See `Session.post`."""
        sampler = self.sampler(role)
        body = {**body, "model": sampler.endpoint.model}
        await in_turn(size := size_of(body, LARGE, 16))
        key = await aside(size, self._address, sampler, path, body)
        if (joined := self._posted.setdefault(key, None)) and (found := await joined):
            return found
        if stored := await self._stored(key, role):
            return json.loads(stored.text), stored.charges
        prompt = await aside(size, lambda: prompt_usage(json.dumps(body)))
        async with self._one_call(role, int(prompt.prompt_tokens), body.get("max_tokens", 1)):
            data, charge = await call(sampler, path, body, role=role, ledger=self._ledger, prompt=prompt)
        if self.store is not None:
            await self.store.put(key, Sample(json.dumps(data), charges=(charge,), role=role))
        return data, (charge,)

    async def post_joined(self, path: str, bodies: Sequence[Mapping[str, Any]], field: str, role: str) -> None:
        """See `Session.post_joined`."""
        sampler = self.sampler(role)
        known = [{**body, "model": sampler.endpoint.model} for body in bodies]
        new = {key: body for body in known if (key := self._address(sampler, path, body)) not in self._posted}
        answers = {key: asyncio.get_running_loop().create_future() for key in new}
        self._posted |= answers
        try:
            if self.store is not None:
                new = {key: body for key, body in new.items() if not await self.store.get(key, [0])}
            if len(new) < 2 or path in self._one_at_a_time:
                return
            joined = {**next(iter(new.values())), field: [body[field] for body in new.values()]}
            prompt = prompt_usage(json.dumps(joined))
            async with self._one_call(role, int(prompt.prompt_tokens), 1):
                data, charge = await call(sampler, path, joined, role=role, ledger=self._ledger, prompt=prompt)
            for key, item in zip(new, _in_order(data, len(new)), strict=False):
                part = {**data, "data": [item]}
                if self.store is not None:
                    await self.store.put(key, Sample(json.dumps(part), charges=(charge,), role=role))
                answers[key].set_result((part, (charge,)))
        except RequestRejected:
            self._one_at_a_time.add(path)
            raise
        finally:
            for answer in answers.values():
                if not answer.done():
                    answer.set_result(None)

    async def _stored(self, key: bytes, role: str) -> Sample | None:
        """What the store has under `key`, booked as re-used."""
        kept = (await self.store.get(key, [0])).get(0) if self.store else None
        found = kept and under(role, kept)
        for charge in found.charges if found else ():
            self._ledger.need(charge, reused=True)
        return found

    @asynccontextmanager
    async def _one_call(self, role: str, prompt: int, tokens: int) -> AsyncIterator[None]:
        """Room for one request that reads `prompt` tokens and generates `tokens`."""
        grant = await self.allowance.reserve(role, 1, 1, prompt, tokens) if self._capped else Grant()
        try:
            yield
        finally:
            self.allowance.release(grant)


def _price(models: Mapping[str, Sampler], role: str, usage: Usage) -> float:
    return models[role].endpoint.money(usage) if role in models else 0.0


def _in_order(data: Any, count: int) -> list[Any]:
    """The parts of an answer to a list of `count`; none where it is not known which part is whose."""
    try:
        parts = {part["index"]: part for part in data["data"]}
        return [parts[i] for i in range(count)] if len(parts) == len(data["data"]) == count else []
    except (KeyError, TypeError):
        return []


def _limit(sampler: Sampler, params: Mapping[str, Any]) -> tuple[str, int | None]:
    """The parameter that limits the tokens of a sample, and how many it has at most; None: nobody knows."""
    options = merged(sampler.endpoint.params, params)
    limit = token_limit(options)  # a server without one stops at the end of its context
    return limit, options.get(limit) or sampler.context_length


def digest(content: Any) -> bytes:
    """The address of what is stored under `content`."""
    return hashlib.blake2b(_CANONICAL.encode(content).encode(), digest_size=16).digest()


_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), default=str)
