"""Samples from one endpoint: split, spread, topped up, accounted; cancelling reaches the server."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any
from zlib import crc32

from tts.aio import Flow, flow
from tts.errors import EndpointError, EndpointRefused, RequestRejected, SamplingFailed
from tts.ledger import Ledger
from tts.sampler import wire
from tts.sampler.asking import Order, ask, stream
from tts.sampler.client import Client, log
from tts.sampler.endpoint import Endpoint
from tts.types import Prompt, Sample


class Sampler(Client):
    """Draws samples from one `Endpoint`. An async context manager; it belongs to one event loop."""

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__(endpoint)
        self.takes_n: bool | None = None
        """Whether the server answers `n` choices to one request; None until known."""
        self.notices: list[str] = []
        """What the server cannot do and what is done instead."""

    async def sample(
        self,
        prompt: Prompt,
        n: int | Sequence[int] = 1,
        *,
        role: str = "policy",
        ledger: Ledger | None = None,
        on_sample: Callable[[Sample], None] | None = None,
        **params: Any,
    ) -> AsyncGenerator[Sample, None]:
        """`n` samples of `prompt` as they complete; `params` are added to the endpoint's own.

        `n` may be the occurrence numbers to draw: they become `Sample.index` and, where `seed` is given, are added
        to it, so that occurrence i of a seeded prompt is the same however the work is split.
        `on_sample` is called with each sample as soon as it is there, also if nobody waits for it any more.
        A sample that cannot be had is noted in `ledger.failures`. Raises `SamplingFailed` when none can, and
        `EndpointRefused` at once when no request can succeed.
        """
        await self.identify()
        indices = list(range(n)) if isinstance(n, int) else list(n)
        ledger = Ledger() if ledger is None else ledger
        path, body = wire.request(prompt, self.endpoint.model, {**self.endpoint.params, **params})
        body.pop("n", None)
        keep_ids = bool(body.get("return_token_ids"))
        affinity = crc32(json.dumps(prompt)[:2048].encode()) if len(self.pool.replicas) > 1 else 0
        errors: list[EndpointError] = []

        def begin(out: Flow[Sample]) -> None:
            order = Order(prompt, path, body, role, ledger, out, errors, keep_ids, affinity, on_sample)
            size = 1 if self.takes_n is False else self.endpoint.max_n
            for i in range(0, len(indices), size):
                out.start(self._fill(order, indices[i : i + size]))

        any_had = False
        try:
            async with aclosing(flow(begin)) as samples:
                async for sample in samples:
                    any_had = True
                    yield sample
        finally:
            ledger.failures.extend(f"{role}: {error}" for error in errors)
        if errors and not any_had:
            raise SamplingFailed(f"no sample could be had: {errors[-1]}", status=errors[-1].status) from errors[-1]

    async def _fill(self, order: Order, missing: list[int]) -> bool:
        """Have the occurrences `missing` answered; those that cannot be go to `order.errors`. Whether all were had."""
        whole = True
        while missing:
            if self.takes_n is False and len(missing) > 1:
                for index in missing:
                    order.out.start(self._fill(order, [index]))
                return whole
            asked, attempt = len(order.run(missing)), stream if self.endpoint.stream else ask
            try:
                seen = await self.retrying(partial(attempt, self, order, missing))
                if asked > 1 and self.takes_n is None:
                    self._learn_n(seen > 1, "it answers a single choice whatever n is")
            except EndpointRefused:
                raise
            except EndpointError as error:
                if len(missing) > 1 and wire.refuses_n(error):
                    self._learn_n(False, f"it refuses n ({wire.server_message(error.body)})")
                    continue
                # Perhaps only this very request was at fault: one alone tells whether the others are worth asking.
                alone, missing = missing[:1], missing[1:]
                hopeless = not missing or not isinstance(error, RequestRejected)
                if hopeless or not (await self._fill(order, alone) or order.answered):
                    order.errors.extend([error] * (len(missing) + hopeless))
                    return False
                whole = False
        return whole

    def _learn_n(self, takes_n: bool, why: str = "") -> None:
        if not takes_n and self.takes_n is None:
            self.notices.append(f"{self.endpoint.model}: {why}; samples are asked for one by one")
            log.warning(self.notices[-1])
        self.takes_n = takes_n
