"""Samples from one endpoint: split into requests, topped up, accounted; cancellation reaches the server."""

from __future__ import annotations

import asyncio
import logging
from base64 import b64decode
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from itertools import count, takewhile
from pathlib import Path
from typing import Any, Protocol, Self, cast

from tts.accounts import Ledger
from tts.concurrency import Flow, Work, flow, now
from tts.errors import EndpointError, EndpointRefused, RequestRejected, SamplingFailed, TimedOut, TransientError
from tts.files import ImageFolder
from tts.sampler import protocol
from tts.sampler.connection import ONE_REQUEST, Connection, Exchange, Retry, hedged
from tts.sampler.endpoint import Endpoint
from tts.sampler.protocol import Generation, ModelResponse
from tts.types import Charge, Drawing, Prompt, Sample, Usage, sum_usage

log = logging.getLogger("tts")

VLLM_SPEAKERS = {"vllm": "vLLM", "ttscale": "tts"}
"""Servers with vLLM's extensions: how they sign the list of models, and their names."""

DISPENSABLE = {
    "n": "samples are requested one by one",
    "response_format": "requests go without it",
    "seed": "every image is a new one",
}
"""Parameters that a server may refuse, and what is done without them. A seed matters too much except for images."""

DOWNLOADS = 3
"""Attempts to download an image that has been paid for."""


class StopRule(Protocol):
    """When to end an answer that is still being written.

    Its `repr` must be complete: it is part of the address under which the answer is stored.
    """

    def watch(self) -> Callable[[Generation], bool]:
        """A function for one answer, called whenever the answer has grown, that says whether to end it."""
        ...


class Sampler:
    """Draws samples from one `Endpoint`. Use it as an async context manager; it belongs to one event loop."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.connection = Connection(endpoint)
        self.vllm = False
        """Whether it is vLLM or speaks its extensions: it counts each choice's tokens and knows token ids."""
        self.context_length: int | None = None
        """Most tokens of a prompt and its completion together, if the server tells."""
        self.takes_n: bool | None = None
        """Whether the server answers one request with `n` choices; None until known."""
        self.refused: set[str] = set()
        """Parameters that the server has refused and that are left out since; see `DISPENSABLE`."""
        self.notices: list[str] = []
        """What the server cannot do, and what is done instead."""
        self.keep_raw = False
        """Whether each sample keeps its choice as the server sent it, for callers that pass it on unchanged."""
        self.scoring = asyncio.Semaphore(endpoint.max_scoring)
        """Room for requests that score given text."""
        self._identified: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        if self._identified is not None:
            self._identified.cancel()
            await asyncio.gather(self._identified, return_exceptions=True)
        await self.connection.aclose()

    # -- the server ------------------------------------------------------------------------------------------------

    async def models(self) -> Any:
        """The first replica's answer when asked for its models. Costs no tokens; raises `EndpointError`."""
        url = self.endpoint.urls[0]
        try:
            async with asyncio.timeout(self.endpoint.connect_timeout):
                return await self.connection.http.json(f"{url}/models")
        except TimeoutError:
            raise TransientError(f"no answer from {url}; is the server running there?") from None

    async def check(self) -> None:
        """Raise `EndpointRefused` if the server cannot be reached or rejects the key. Costs no tokens."""
        failure: EndpointError | None = None
        for attempt in range(3):
            await asyncio.sleep(attempt * 0.5)
            try:
                await self.models()
                return
            except EndpointError as error:
                if isinstance(error, EndpointRefused) and error.status != 404:  # 404: the server is there, its list not
                    raise
                if error.status is not None:
                    return
                failure = error
        raise EndpointRefused(str(failure)) from failure

    async def identify(self) -> None:
        """Learn what the server is, once; costs no tokens. One that does not tell is assumed to have no extensions."""
        if self._identified is None:
            self._identified = asyncio.create_task(self._identify())
        if not self._identified.done():
            await asyncio.shield(self._identified)

    async def _identify(self) -> None:
        try:
            models = (await self.models())["data"]
            self.vllm = any(model.get("owned_by") in VLLM_SPEAKERS for model in models)
            lengths = [model.get("max_model_len") for model in models if model.get("id") == self.endpoint.model]
            self.context_length = next(iter(lengths), None)
        except (EndpointError, KeyError, TypeError, AttributeError) as error:
            log.debug("no list of models from %s: %s", self.endpoint.urls[0], error)

    def do_without(self, parameter: str, why: str) -> None:
        """Leave out `parameter` from now on, and say so once."""
        if parameter not in self.refused:
            self.refused.add(parameter)
            self.notices.append(f"{self.endpoint.model}: {why}; {DISPENSABLE[parameter]}")
            log.warning(self.notices[-1])
        if parameter == "n":
            self.takes_n = False

    def observe_n(self, asked: int, received: int) -> None:
        """Learn from a request for `asked` choices whether the server takes `n`."""
        if asked > 1 and self.takes_n is None:
            if received > 1:
                self.takes_n = True
            else:
                self.do_without("n", "it returns a single choice whatever n is")

    # -- requests --------------------------------------------------------------------------------------------------

    async def post(self, path: str, body: dict[str, Any], *, role: str, ledger: Ledger | None = None) -> Any:
        """The JSON answer to a POST to `path`; see `Connection.post`. The caller books its usage."""
        return (await self.connection.post(path, body, role=role, ledger=ledger))[0]

    async def sample(
        self,
        prompt: Prompt,
        n: int | Sequence[int] | Sequence[Sequence[int]] = 1,
        *,
        role: str = "policy",
        ledger: Ledger | None = None,
        on_sample: Callable[[Sample], None] | None = None,
        stop_when: StopRule | None = None,
        images: ImageFolder | None = None,
        left: list[int] | None = None,
        **params: Any,
    ) -> AsyncGenerator[Sample, None]:
        """`n` samples of `prompt` as they complete; `params` are added to the endpoint's own.

        `n` may also be the occurrence numbers to draw, or groups of them for one request each. They become
        `Sample.index` and are added to the `seed`, if one is given, so that occurrence i of a seeded prompt is the same
        however the work is split.
        `on_sample` is called with each sample as soon as it arrives, even if nobody waits for it any more.
        With `stop_when`, each sample is a request of its own; one that the rule ends is delivered as far as it got,
        with the finish reason "abandoned".
        Where the server turns out to answer one choice to a request, those that it did not answer are asked for one by
        one; with a list `left` they are put there instead, for a caller who has to make room for more requests.
        A `Drawing` goes to the images API; the sample's text is the name of its file in `images`, by default below
        the working directory.

        A sample that fails is noted in `ledger.failures`. Raises `SamplingFailed` if all fail, and `EndpointRefused`
        at once if no request can succeed.
        """
        await self.identify()
        size = 1 if stop_when is not None else self.endpoint.max_n
        asked = list(range(n)) if isinstance(n, int) else list(n)
        if asked and isinstance(asked[0], int):
            asked = [asked[i : i + size] for i in range(0, len(asked), size)]
        groups = [list(cast(Sequence[int], group)) for group in asked if group]
        path, body = protocol.request(prompt, self.endpoint.model, {**self.endpoint.params, **params})
        body.pop("n", None)
        ready: list[Sample] = []
        draw = _Draw(
            sampler=self,
            prompt=prompt,
            path=path,
            body=body,
            role=role,
            ledger=Ledger() if ledger is None else ledger,
            affinity=self.connection.affinity(prompt),
            on_sample=on_sample,
            stop_when=stop_when,
            left=left,
            images=(images or ImageFolder(Path())) if isinstance(prompt, Drawing) else None,
            emit=ready.append,
        )

        async def work(out: Flow[Sample]) -> None:
            draw.emit, draw.start = out.emit, out.start
            for group in groups:
                out.start(draw.fill(group))

        try:
            if [len(group) for group in groups] == [1]:  # nothing runs beside it
                await draw.fill(groups[0])
                for sample in ready:
                    yield sample
            else:
                async with aclosing(flow(work)) as samples:
                    async for sample in samples:
                        yield sample
        finally:
            draw.ledger.failures.extend(f"{role}: {error}" for error in draw.errors)
            draw.ledger.error = draw.errors[-1] if draw.errors else draw.ledger.error
        if draw.errors and not draw.answered:
            last = draw.errors[-1]
            raise SamplingFailed(f"no sample was obtained: {last}", status=last.status) from last


@dataclass(slots=True, kw_only=True)
class _Draw:
    """One call of `Sampler.sample`: what its requests have in common, and what has become of them.

    Occurrences that are still `missing` are passed along in a list, from which each is removed as it is answered.
    """

    sampler: Sampler
    prompt: Prompt
    path: str
    body: dict[str, Any]
    role: str
    ledger: Ledger
    affinity: int
    on_sample: Callable[[Sample], None] | None
    stop_when: StopRule | None
    left: list[int] | None
    """Where occurrences go that take more requests than there are groups; None: those requests are made."""
    images: ImageFolder | None
    """Where images are kept, if the prompt is a `Drawing`."""
    emit: Callable[[Sample], None]
    start: Callable[[Work], object] | None = None
    """Starts work beside this one; None where there is only one sample."""
    errors: list[EndpointError] = field(default_factory=list)
    """One for each sample that failed."""
    answered: bool = False
    """Whether any sample was delivered."""
    prompt_tokens: float | None = None
    """As the server has counted them; None until it has."""
    asked: dict[str, frozenset[int]] = field(default_factory=dict)
    """What each request that brought anything had asked for, by the id of its exchange."""

    async def fill(self, missing: list[int]) -> bool:
        """Have `missing` answered; returns whether all were."""
        whole, sampler, several = True, self.sampler, len(missing) > 1
        while missing:
            if sampler.takes_n is False and several and self.left is not None:
                self.left += missing
                return whole
            if sampler.takes_n is False and len(missing) > 1 and self.start is not None:
                for index in missing:
                    self.start(self.fill([index]))
                return whole
            for parameter in sampler.refused:
                self.body.pop(parameter, None)
            try:
                await self._answer(missing)
            except EndpointRefused:
                raise
            except EndpointError as error:
                if refused := self._refused_parameter(error, missing):
                    sampler.do_without(refused, f"it refuses {refused} ({protocol.server_message(error.body)})")
                    continue
                # Perhaps only this very request was at fault: one alone shows whether to ask for the others.
                alone, missing = missing[:1], missing[1:]
                hopeless = not missing or not isinstance(error, RequestRejected)
                if hopeless or not (await self.fill(alone) or self.answered):
                    self.errors.extend([error] * (len(missing) + hopeless))
                    return False
                whole = False
        return whole

    def _refused_parameter(self, error: EndpointError, missing: Sequence[int]) -> str | None:
        """The dispensable parameter that `error` is about, if any."""
        if len(missing) > 1 and protocol.refuses(error, "n"):
            return "n"
        if "response_format" in self.body and protocol.refuses(error, "response_format", "json_schema"):
            return "response_format"
        if self.images is not None and "seed" in self.body and protocol.refuses(error, "seed"):
            return "seed"
        return None

    async def _answer(self, missing: list[int]) -> None:
        """One request for the first of `missing`, retried where that may help."""
        streamed = self.images is None and (self.sampler.endpoint.stream or self.stop_when is not None)
        attempt = self._stream if streamed else self._ask
        retry, late = Retry(self.sampler.endpoint), 0
        try:
            while True:
                try:
                    return await attempt(missing, retry.avoid)
                except TransientError as error:
                    late += isinstance(error, TimedOut) and not streamed  # a stream tells as it goes
                    await retry.wait(error)
        finally:
            if late:  # they were read; by now the server may have told how much that is
                self.ledger.waste(self.role, sum_usage([self._prompt_usage()] * late))

    def _prompt_usage(self) -> Usage:
        """The tokens of the prompt: known from an answer or as token ids, else an estimate."""
        if self.prompt_tokens is not None:
            return Usage(prompt_tokens=self.prompt_tokens)
        return protocol.prompt_usage(self.prompt)

    def _consecutive(self, missing: Sequence[int]) -> list[int]:
        """Those of `missing` that one request can ask for: with a seed, consecutive numbers."""
        if self.body.get("seed") is None:
            return list(missing)
        expected = count(missing[0])
        return list(takewhile(lambda index: index == next(expected), missing))

    def _request(self, run: Sequence[int]) -> dict[str, Any]:
        """The body that asks for the occurrences `run`."""
        body = dict(self.body)
        if body.get("seed") is not None:
            body["seed"] = int(body["seed"]) + run[0]
        if len(run) > 1:
            body["n"] = len(run)
            if self.sampler.vllm:
                body["return_token_ids"] = True  # they count each choice's tokens
        return body

    async def _ask(self, missing: list[int], avoid: str | None) -> None:
        """One attempt, whose answer comes in one piece."""
        run = self._consecutive(missing)
        body, connection = self._request(run), self.sampler.connection

        async def fetch(avoid: str | None, sent: asyncio.Future[str] | None = None) -> tuple[ModelResponse, Exchange]:
            async with connection.exchange(
                self.role, self.ledger, self.affinity, avoid, prompt=self._prompt_usage
            ) as exchange:
                if sent is not None:
                    sent.set_result(exchange.url)
                data = await connection.http.json(exchange.url + self.path, body)
                if self.images is None:
                    response = protocol.parse(data)
                    if response.usage is not None:
                        self.prompt_tokens = response.usage.prompt_tokens
                    return response, exchange
                response = protocol.parse_images(data)
                for choice in response.choices:
                    choice.text = await self._keep_image(choice.text, self.images)
                return response, exchange

        def lose(answer: tuple[ModelResponse, Exchange]) -> None:
            self.ledger.waste(self.role, ONE_REQUEST + (answer[0].usage or Usage()))

        after = self.sampler.endpoint.hedge_after
        answer = await (fetch(avoid) if after is None else hedged(fetch, avoid, after, lose))
        response, exchange = answer
        if not response.choices:
            lose(answer)
            raise TransientError("the answer has no choices")
        self.sampler.observe_n(len(run), len(response.choices))
        if not self._deliver(missing, run, response, exchange):
            raise TransientError("the answer has none of the choices that were asked for")

    async def _stream(self, missing: list[int], avoid: str | None) -> None:
        """`_ask`, read token by token: a choice is delivered as soon as it is complete, if its tokens are counted.

        Under a stop rule there is one choice; leaving the stream is what makes the server end it.
        """
        if not missing:  # the stream before broke after its last choice
            return
        run, connection = self._consecutive(missing), self.sampler.connection
        options = {"include_usage": True, **({"continuous_usage_stats": True} if self.sampler.vllm else {})}
        body = {**self._request(run), "stream": True, "stream_options": options}
        assembly = protocol.Assembly()
        to_abandon = self.stop_when.watch() if self.stop_when is not None else lambda choice: False
        delivered = False
        async with (
            connection.exchange(
                self.role, self.ledger, self.affinity, avoid, assembly.lost, prompt=self._prompt_usage
            ) as exchange,
            connection.http.stream(exchange.url + self.path, body) as events,
        ):
            async for event in events:
                finished = assembly.add(event)
                if assembly.usage is not None:
                    self.prompt_tokens = assembly.usage.prompt_tokens
                abandoned = [] if finished else list(filter(to_abandon, assembly.choices.values()))
                for choice in abandoned:
                    choice.finish_reason = "abandoned"
                finished += abandoned
                if finished and (response := assembly.take(finished)):
                    exchange.seconds = now() - exchange.started
                    delivered |= self._deliver(missing, run, response, exchange)
                if abandoned:
                    break
        if not assembly.seen:
            self.ledger.waste(self.role, ONE_REQUEST + (assembly.usage or Usage()))
            raise TransientError("the stream has no choices")
        if assembly.choices:
            delivered |= self._deliver(missing, run, assembly.take_rest(), exchange)
        if not delivered:
            raise TransientError("the stream has none of the choices that were asked for")
        self.sampler.observe_n(len(run), assembly.seen)

    def _deliver(self, missing: list[int], run: Sequence[int], response: ModelResponse, exchange: Exchange) -> bool:
        """Turn choices into samples: the prompt is one charge that they share, each completion another.

        Choices that nobody asked for are waste. Returns whether there was any other.
        """
        shared = response.usage or protocol.prompt_usage(self.prompt)
        keep_ids = bool(self.body.get("return_token_ids"))  # `_request` may add it, only to count
        asked = Usage(1, shared.prompt_tokens, shared.cached_tokens, estimated_tokens=shared.estimated_tokens)
        prompt = Charge(exchange.id, self.role, asked, exchange.started)
        self.ledger.pay(prompt)
        delivered = False
        for choice, (size, guessed) in zip(response.choices, response.shares, strict=True):
            reasoning = shared.reasoning_tokens / len(response.choices)
            own = Usage(0, 0, 0, size, reasoning, 0, exchange.seconds, estimated_tokens=size if guessed else 0)
            index = run[choice.index] if choice.index < len(run) else None
            if index is None or index not in missing:
                self.ledger.waste(self.role, own)
                continue
            completion = Charge(f"{exchange.id}.{choice.index}", self.role, own, exchange.started)
            self.ledger.pay(completion)
            missing.remove(index)
            self.asked[exchange.id] = frozenset(run)
            sample = Sample(
                text=choice.text,
                finish_reason=choice.finish_reason,
                charges=(prompt, completion),
                index=index,
                role=self.role,
                model=response.model or self.body["model"],
                again=sum(index in asked for asked in self.asked.values()) - 1,
                batched=True if len(response.choices) > 1 else self.sampler.takes_n if len(run) == 1 else None,
                reasoning=choice.reasoning,
                tool_calls=tuple(choice.tool_calls),
                token_ids=tuple(choice.token_ids) if keep_ids and choice.token_ids is not None else None,
                logprobs=tuple(choice.logprobs) if choice.logprobs is not None else None,
                confidences=tuple(choice.confidences) if choice.confidences is not None else None,
                top_logprobs=choice.top_logprobs or None,
                raw=choice.raw if self.sampler.keep_raw else None,
            )
            if self.on_sample is not None:
                self.on_sample(sample)
            self.emit(sample)
            self.answered = delivered = True
        return delivered

    async def _keep_image(self, url: str, images: ImageFolder) -> str:
        """The name of the file that the image at `url` is written to."""
        for left in reversed(range(DOWNLOADS)):
            try:
                http = self.sampler.connection.http
                data = b64decode(url.partition(",")[2]) if url.startswith("data:") else await http.fetch(url)
                return await images.keep(data)
            except ValueError as error:
                raise TransientError(f"the answer has no readable image: {error}") from error
            except EndpointError as error:
                if not left:  # another attempt of the request would be paid for again
                    raise RequestRejected(f"the image was drawn but cannot be downloaded: {error}") from error
        raise AssertionError("unreachable: the last error is raised")
