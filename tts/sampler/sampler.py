"""Samples from one endpoint: split, spread, topped up, accounted; cancelling reaches the server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import Any

from tts.accounts import Ledger
from tts.concurrency import Flow, flow
from tts.errors import EndpointError, EndpointRefused, RequestRejected, SamplingFailed
from tts.images import Pictures
from tts.sampler import protocol
from tts.sampler.asking import Order, StopRule, ask, stream
from tts.sampler.client import Client, log
from tts.sampler.endpoint import Endpoint
from tts.types import Drawing, Prompt, Sample


class Sampler(Client):
    """Draws samples from one `Endpoint`. An async context manager; it belongs to one event loop."""

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__(endpoint)
        self.takes_n: bool | None = None
        """Whether the server answers `n` choices to one request; None until known."""
        self.takes_form = True
        """Whether it has not refused `response_format`; it is left out then, and answers are as the prompt asks."""
        self.scoring = asyncio.Semaphore(endpoint.max_scoring)
        """Room for requests that score given text."""
        self.takes_seed = True
        """Whether it has not refused `seed`; it is left out then, and no picture can be had a second time."""
        self.keep_raw = False
        """Whether each sample keeps its choice as the server sent it, for who must pass it on unchanged."""
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
        stop_when: StopRule | None = None,
        pictures: Pictures | None = None,
        **params: Any,
    ) -> AsyncGenerator[Sample, None]:
        """`n` samples of `prompt` as they complete; `params` are added to the endpoint's own.

        One that `stop_when` ends while it is written is delivered as far as it got, as "abandoned"; each is a request
        of its own then.

        `n` may be the occurrence numbers to draw: they become `Sample.index` and, where `seed` is given, are added
        to it, so that occurrence i of a seeded prompt is the same however the work is split.
        `on_sample` is called with each sample as soon as it is there, also if nobody waits for it any more.
        A `Drawing` is asked of the images API; a sample's text is the name of its file in `pictures`, by default
        below the working directory.
        A sample that cannot be had is noted in `ledger.failures`. Raises `SamplingFailed` when none can, and
        `EndpointRefused` at once when no request can succeed.
        """
        await self.identify()
        indices = list(range(n)) if isinstance(n, int) else list(n)
        ledger = Ledger() if ledger is None else ledger
        path, body = protocol.request(prompt, self.endpoint.model, {**self.endpoint.params, **params})
        body.pop("n", None)
        keep_ids = bool(body.get("return_token_ids"))
        affinity = self.affinity(prompt)
        errors: list[EndpointError] = []
        if isinstance(prompt, Drawing):
            pictures = pictures or Pictures(Path())

        async def begin(out: Flow[Sample]) -> None:
            order = Order(
                prompt,
                path,
                body,
                role,
                ledger,
                out,
                errors,
                keep_ids,
                affinity,
                on_sample,
                stop_when,
                pictures,
                self.keep_raw,
            )
            size = 1 if self.takes_n is False or stop_when is not None else self.endpoint.max_n
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
            ledger.error = errors[-1] if errors else ledger.error
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
            asked = len(order.run(missing))
            streamed = order.pictures is None and (self.endpoint.stream or order.stop_when is not None)
            attempt = stream if streamed else ask
            for taken, parameter in ((self.takes_form, "response_format"), (self.takes_seed, "seed")):
                if not taken:
                    order.body.pop(parameter, None)
            try:
                seen = await self.retrying(partial(attempt, self, order, missing))
                if asked > 1 and self.takes_n is None:
                    self._learn_n(seen > 1, "it answers a single choice whatever n is")
            except EndpointRefused:
                raise
            except EndpointError as error:
                if len(missing) > 1 and protocol.refuses(error, "n"):
                    self._learn_n(False, f"it refuses n ({protocol.server_message(error.body)})")
                    continue
                if "response_format" in order.body and protocol.refuses(error, "response_format", "json_schema"):
                    self._learn_form(protocol.server_message(error.body))
                    continue
                if order.pictures is not None and "seed" in order.body and protocol.refuses(error, "seed"):
                    self._learn_seed(protocol.server_message(error.body))
                    continue
                # Perhaps only this very request was at fault: one alone tells whether the others are worth asking.
                alone, missing = missing[:1], missing[1:]
                hopeless = not missing or not isinstance(error, RequestRejected)
                if hopeless or not (await self._fill(order, alone) or order.answered):
                    order.errors.extend([error] * (len(missing) + hopeless))
                    return False
                whole = False
        return whole

    def _learn_form(self, why: str) -> None:
        if self.takes_form:
            self.notices.append(f"{self.endpoint.model}: it refuses response_format ({why}); answers go without it")
            log.warning(self.notices[-1])
        self.takes_form = False

    def _learn_seed(self, why: str) -> None:
        if self.takes_seed:
            self.notices.append(f"{self.endpoint.model}: it refuses seed ({why}); every picture is a new one")
            log.warning(self.notices[-1])
        self.takes_seed = False

    def _learn_n(self, takes_n: bool, why: str = "") -> None:
        if not takes_n and self.takes_n is None:
            self.notices.append(f"{self.endpoint.model}: {why}; samples are asked for one by one")
            log.warning(self.notices[-1])
        self.takes_n = takes_n
