"""Samples from one endpoint: split into requests, topped up, accounted; cancellation reaches the server."""

from __future__ import annotations

import asyncio
import json
from base64 import b64decode
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from hashlib import blake2b
from itertools import count, takewhile
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar, cast
from urllib.parse import urlsplit

from tts.accounts import Ledger
from tts.concurrency import LARGE, Flow, Once, aside, flow, now, together
from tts.errors import EndpointError, EndpointRefused, RequestRejected, SamplingFailed, TimedOut, TransientError, log
from tts.files import ImageFolder
from tts.sampler import llama_cpp, protocol, refusals
from tts.sampler.connection import ONE_REQUEST, Connection, Exchange, Retry
from tts.sampler.endpoint import Endpoint
from tts.sampler.hedging import hedged
from tts.sampler.parameters import FALLBACKS, NOT_SAMPLING, Dispensable, ignored_by, merged, without
from tts.sampler.protocol import Generation, ModelResponse
from tts.sampler.trials import lack_of
from tts.types import Charge, Drawing, Prompt, Sample, Usage, sum_usage

T = TypeVar("T")

VLLM_SPEAKERS = {"vllm": "vLLM", "ttscale": "tts"}
"""Servers with vLLM's extensions: how they sign the list of models, and their names."""

SUSPICIOUS = 3
"""Requests for several choices that brought a single one before the server is suspected of ignoring `n`."""

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
        self.connection: Connection = Connection(endpoint)
        self.vllm: bool = False
        """Whether it is vLLM or speaks its extensions: it counts each choice's tokens and knows token ids."""
        self.llama_cpp: bool = False
        """Whether it is llama.cpp's server, which gives token ids by a route of its own."""
        self.context_length: int | None = None
        """Most tokens of a prompt and its completion together, if the server tells."""
        self.takes_n: bool | None = None
        """Whether the server answers one request with `n` choices; None until known."""
        self.single_choices = 0
        """Requests for several choices that brought a single one, as long as none brought more."""
        self.refused: set[str] = set()
        """Parameters that the server refuses whatever the request, and that are left out; see `FALLBACKS`."""
        self.notices: list[str] = []
        """What the server cannot do, and what is done instead."""
        self._tried: Once[str | None] = Once(len(FALLBACKS))
        self._ignored = frozenset[str]()
        self.keep_raw = False
        """Whether each sample keeps its choice as the server sent it, for callers that pass it on unchanged."""
        self.scoring: asyncio.Semaphore = asyncio.Semaphore(endpoint.max_scoring)
        """Room for requests that score given text."""
        self._identified: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"Sampler({self.endpoint!r})"

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
        try:  # a model in this process is loaded first
            async with asyncio.timeout(None if self.endpoint.embedded else self.endpoint.connect_timeout):
                return await self.connection.http.json(url, "/models")
        except TimeoutError:
            raise TransientError(f"no answer from {url}; is the server running there?") from None

    async def check(self) -> None:
        """Raise `EndpointRefused` if the server cannot be reached or rejects the key. Costs no tokens."""
        failure: EndpointError | None = None
        words = "%s has not answered yet: waiting for its list of models"
        waiting = asyncio.get_running_loop().call_later(1.0, log.warning, words, self.endpoint.urls[0])
        try:
            for attempt in range(3):
                await asyncio.sleep(attempt * 0.5)
                try:
                    await self.models()
                    return
                except EndpointError as error:
                    if isinstance(error, EndpointRefused) and error.status != 404:  # 404: it is there, its list not
                        raise
                    if error.status is not None:
                        return
                    failure = error
        finally:
            waiting.cancel()
        raise EndpointRefused(str(failure)) from failure

    async def identify(self) -> None:
        """Learn what the server is, once; costs no tokens. One that does not tell is assumed to have no extensions."""
        if self._identified is None:
            self._identified = asyncio.create_task(self._identify())
        if not self._identified.done():
            await asyncio.shield(self._identified)

    async def _identify(self) -> None:
        await self.connection.http.ready()
        place = urlsplit(self.endpoint.urls[0]).hostname or ""
        self._ignored = ignored_by(place)
        try:
            models = (await self.models())["data"]
            owners = {owner for model in models if isinstance(owner := model.get("owned_by"), str)}
            self._ignored = ignored_by(place, *owners)
            self.vllm = not owners.isdisjoint(VLLM_SPEAKERS)
            self.llama_cpp = llama_cpp.OWNER in owners
            if self.llama_cpp:
                self.takes_n = False  # of several choices its usage counts one
            lengths = [
                model.get("max_model_len") or (model.get("meta") or {}).get("n_ctx")
                for model in models
                if model.get("id") == self.endpoint.model
            ]
            if type(length := next(iter(lengths), None)) is int and 0 < length < protocol.LARGEST_COUNT:
                self.context_length = length
        except (EndpointError, KeyError, TypeError, AttributeError) as error:
            log.debug("no list of models from %s: %s", self.endpoint.urls[0], error)

    # -- what it refuses -------------------------------------------------------------------------------------------

    async def lacks(self, parameter: str, path: str, prompt: Prompt, *, role: str, ledger: Ledger) -> bool:
        """Whether the server refuses `parameter` whatever the request, as far as a request of our own shows.

        A refusal may be about the one request that met it. So the first one leads to a small request with a value that
        every server takes which takes the parameter at all; only its refusal is learnt, and said once. It is paid for
        by the search that met the refusal. A server that gives one choice whatever `n` is lacks it too.
        """

        async def tried() -> str | None:
            return await lack_of(parameter, path, prompt, self.connection, self.refused, role=role, ledger=ledger)

        why, known = await self._tried.get(parameter, tried, keep=lambda why: why is not None)
        if why and not known:
            self.do_without(parameter, why)
        return bool(why)

    def do_without(self, parameter: str, why: str) -> None:
        """Leave out `parameter` from now on, and say so once."""
        if parameter not in self.refused:
            self.refused.add(parameter)
            self.say(f"{why}; {FALLBACKS[parameter].words}")
        if parameter == "n":
            self.takes_n = False

    def say(self, notice: str) -> None:
        """Note, and log once, what the server cannot do and what is done instead."""
        notice = f"{self.endpoint.model}: {notice}"
        if notice not in self.notices:
            self.notices.append(notice)
            log.warning(notice)

    # -- requests --------------------------------------------------------------------------------------------------

    async def sample(
        self,
        prompt: Prompt,
        n: int | Sequence[int] | Sequence[Sequence[int]] = 1,
        params: Mapping[str, Any] | None = None,
        *,
        role: str = "policy",
        ledger: Ledger | None = None,
        on_sample: Callable[[Sample], None] | None = None,
        stop_when: StopRule | None = None,
        images: ImageFolder | None = None,
        left: list[int] | None = None,
        address: bytes = b"",
        **more: Any,
    ) -> AsyncGenerator[Sample, None]:
        """`n` samples of `prompt` as they complete; `params` are added to the endpoint's own, whatever their names.

        `more` are further parameters by name, for a caller who writes them down. Those that somebody else chose belong
        into `params`.
        `n` may also be the occurrence numbers to draw, or groups of them for one request each. They become
        `Sample.index` and are added to the `seed`, if one is given, so that occurrence i of a seeded prompt is the same
        however the work is split.
        `on_sample` is called with each sample as soon as it arrives, even if nobody waits for it any more.
        With `stop_when`, each sample is a request of its own; one that the rule ends is delivered as far as it got,
        with the finish reason "abandoned".
        Where the server turns out to answer one choice to a request, those that it did not answer are asked for one by
        one; with a list `left` they are put there instead, for a caller who has to make room for more requests.
        `address` is what the samples are stored under; a batch that outlives the program finds its requests by it.
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
        groups = [list(group) for group in cast("list[Sequence[int]]", asked) if group]
        options = merged(self.endpoint.params, params or {}, more)
        options = {key: value for key, value in options.items() if key not in NOT_SAMPLING}
        path, body = protocol.request(prompt, self.endpoint.model, options)
        for key in sorted(self._ignored & body.keys()):
            self.say(f"it is known to ignore {key}")
        ready: list[Sample] = []
        draw = _Draw(
            sampler=self,
            prompt=prompt,
            path=path,
            body=body,
            role=role,
            ledger=Ledger() if ledger is None else ledger,
            affinity=self.connection.affinity(prompt),
            size=protocol.prompt_size(prompt),
            on_sample=on_sample,
            stop_when=stop_when,
            left=left,
            address=address,
            images=(images or ImageFolder(Path())) if isinstance(prompt, Drawing) else None,
            emit=ready.append,
        )

        async def work(out: Flow[Sample]) -> None:
            draw.emit = out.emit
            for group in groups:
                out.start(draw.fill(group))

        try:
            if len(groups) == 1 and (len(groups[0]) == 1 or (self.takes_n and not draw.streamed)):  # all come at once
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
    size: int
    """Of the prompt, as far as it matters."""
    on_sample: Callable[[Sample], None] | None
    stop_when: StopRule | None
    left: list[int] | None
    """Where occurrences go that take more requests than there are groups; None: those requests are made."""
    address: bytes
    """What the samples are stored under, if anything."""
    images: ImageFolder | None
    """Where images are kept, if the prompt is a `Drawing`."""
    emit: Callable[[Sample], None]
    errors: list[EndpointError] = field(default_factory=list)
    """One for each sample that failed."""
    answered: bool = False
    """Whether any sample was delivered."""
    left_out: set[str] = field(default_factory=set)
    """Parameters that the server refused with this prompt and these parameters, and this call goes without."""
    prompt_tokens: float | None = None
    """As the server has counted them; None until it has."""
    asked: dict[str, frozenset[int]] = field(default_factory=dict)
    """What each request that brought anything had asked for, by the id of its exchange."""

    async def fill(self, missing: list[int]) -> bool:
        """Have `missing` answered; returns whether all were."""
        whole, sampler, several = True, self.sampler, len(missing) > 1
        while missing:
            one_by_one = sampler.takes_n is False or "n" in self.left_out
            if one_by_one and several and self.left is not None:
                self.left += missing
                return whole
            if one_by_one and len(missing) > 1:
                return all([whole, *await together(self.fill([index]) for index in missing)])
            refused = self._refused
            try:
                await self._answer(missing)
            except EndpointRefused:
                raise
            except EndpointError as error:
                if isinstance(error, RequestRejected) and await self._do_without(error, missing, refused):
                    continue
                # Perhaps only this very request was at fault: one alone shows whether to ask for the others.
                alone, missing = missing[:1], missing[1:]
                hopeless = not missing or not isinstance(error, RequestRejected)
                if hopeless or not (await self.fill(alone) or self.answered):
                    self.errors.extend([error] * (len(missing) + hopeless))
                    return False
                whole = False
        return whole

    async def _do_without(self, error: EndpointError, missing: Sequence[int], refused: set[str]) -> bool:
        """Leave out, here or for good, the parameter that `error` is about; False if all such were `refused` before."""
        sent = self._request(missing, refused)
        if (self.stop_when is not None or self.sampler.endpoint.stream) and "stream_options" not in refused:
            sent["stream_options"] = {}
        parameter = refusals.blamed(error, FALLBACKS.keys() & sent.keys())
        if parameter is None:
            return False
        optional = parameter == "n" or isinstance(self.body.get(parameter), Dispensable) or self.images is not None
        if parameter == "response_format" and not optional:  # the form of the answer is what was asked for
            return False
        if parameter in self._refused or await self._lacks(parameter):  # or others have found out meanwhile
            return True
        if optional:  # it is this request's own, whose reason may be another parameter
            self.left_out.add(parameter)
        return optional

    async def _lacks(self, parameter: str) -> bool:
        return await self.sampler.lacks(parameter, self.path, self.prompt, role=self.role, ledger=self.ledger)

    async def _observe_n(self, asked: int, received: int) -> None:
        """Learn from a request for `asked` choices whether the server takes `n`."""
        if asked > 1 and received > 1 and self.sampler.takes_n is None:
            self.sampler.takes_n = True
        elif asked > 1 and received == 1 and self.sampler.takes_n is not True:
            self.left_out.add("n")
            self.sampler.single_choices += 1
            suspect = self.sampler.single_choices >= SUSPICIOUS
            if suspect and not self.ledger.watchers:  # a search with a budget does not pay for what others gain by
                await self._lacks("n")

    async def _answer(self, missing: list[int]) -> None:
        """One request for the first of `missing`, retried where that may help."""
        attempt = self._stream if self.streamed else self._ask
        retry, late = Retry(self.sampler.connection), 0
        try:
            while True:
                try:
                    return await attempt(missing, retry.avoid)
                except EndpointError as error:
                    late += isinstance(error, TimedOut) and not self.streamed  # a stream tells as it goes
                    await retry.wait(error)
        finally:
            if late:  # they were read; by now the server may have told how much that is
                self.ledger.waste(self.role, sum_usage([self._prompt_usage()] * late))

    @property
    def streamed(self) -> bool:
        """Whether answers are read token by token."""
        wanted = self.sampler.endpoint.stream or self.stop_when is not None
        return wanted and self.images is None and not self._own_route

    @property
    def _own_route(self) -> bool:
        """Whether llama.cpp's own route is used, which gives token ids."""
        return self.sampler.llama_cpp and self.path == "/completions" and bool(self.body.get("return_token_ids"))

    def _prompt_usage(self) -> Usage:
        """The tokens of the prompt: known from an answer or as token ids, else an estimate."""
        if self.prompt_tokens is not None:
            return Usage(prompt_tokens=self.prompt_tokens)
        return protocol.prompt_usage(self.prompt)

    def _consecutive(self, missing: Sequence[int]) -> list[int]:
        """Those of `missing` that one request can ask for: with a seed, consecutive numbers."""
        if not isinstance(self.body.get("seed"), int | float):
            return list(missing)
        expected = count(missing[0])
        return list(takewhile(lambda index: index == next(expected), missing))

    @property
    def _refused(self) -> set[str]:
        """The parameters that are left out from now on."""
        return self.sampler.refused | self.left_out

    def _request(self, run: Sequence[int], refused: set[str]) -> dict[str, Any]:
        """The body that asks for the occurrences `run`, without the parameters that are `refused`."""
        body = without(self.body, refused) if refused else dict(self.body)
        if isinstance(seed := body.get("seed"), int | float):
            body["seed"] = int(seed) + run[0]
        if len(run) > 1:
            body["n"] = len(run)
            if self.sampler.vllm:
                body["return_token_ids"] = True  # they count each choice's tokens
        return body

    async def _ask(self, missing: list[int], avoid: Sequence[str]) -> None:
        """One attempt, whose answer comes in one piece."""
        run = self._consecutive(missing)
        body, connection = self._request(run, self._refused), self.sampler.connection

        path, asked, read = self.path, body, protocol.parse if self.images is None else protocol.parse_images
        if self._own_route:
            path, asked, read = llama_cpp.PATH, llama_cpp.own_request(body), partial(llama_cpp.parse, body)
        written = await aside(self.size, protocol.bytes_of, asked)
        name = ""
        if self.address and connection.endpoint.batch:
            name = blake2b(self.address + json.dumps(run).encode(), digest_size=16).hexdigest()

        fetch, after = partial(self._fetch, path, written, read, name), connection.endpoint.hedge_after
        answer = await (fetch(avoid) if after is None else hedged(fetch, avoid, after, self._lose))
        response, exchange = answer
        if not response.choices:
            self._lose(answer)
            raise TransientError("the answer has no choices")
        delivered = self._deliver(missing, run, response, exchange)
        self._check(response.choices, delivered)
        await self._observe_n(len(run), len(response.choices))

    async def _fetch(
        self,
        path: str,
        written: bytes,
        read: Callable[[Any], ModelResponse],
        name: str,
        avoid: Sequence[str],
        sent: asyncio.Future[str] | None = None,
    ) -> tuple[ModelResponse, Exchange]:
        """The answer of a server that is told through `sent`."""
        connection = self.sampler.connection
        async with connection.exchange(
            self.role, self.ledger, self.affinity, avoid, prompt=self._prompt_usage
        ) as exchange:
            if sent is not None:
                sent.set_result(exchange.url)
            response: ModelResponse = await connection.http.json(exchange.url, path, written, read, name)
            if self.images is None:
                await self._clean(response.choices)
                if response.usage is not None:
                    self.prompt_tokens = response.usage.prompt_tokens
                return response, exchange
            for choice in response.choices:
                choice.text = await self._keep_image(choice.text, self.images)
            return response, exchange

    def _lose(self, answer: tuple[ModelResponse, Exchange]) -> None:
        """Book an answer that nobody uses."""
        self.ledger.waste(self.role, ONE_REQUEST + (answer[0].usage or Usage()))

    async def _stream(self, missing: list[int], avoid: Sequence[str]) -> None:
        """`_ask`, read token by token: a choice is delivered as soon as it is complete, if its tokens are counted.

        Under a stop rule there is one choice; leaving the stream is what makes the server end it.
        """
        if not missing:  # the stream before broke after its last choice
            return
        run, connection = self._consecutive(missing), self.sampler.connection
        options = {"include_usage": True, **({"continuous_usage_stats": True} if self.sampler.vllm else {})}
        body = {**self._request(run, self._refused), "stream": True, "stream_options": options}
        body = await aside(self.size, protocol.bytes_of, without(body, self.sampler.refused))
        assembly = protocol.Assembly(self.sampler.endpoint.max_answer_bytes)
        to_abandon = self.stop_when.watch() if self.stop_when is not None else lambda choice: False
        delivered, seen = False, list[Generation]()

        def deliver(response: ModelResponse) -> None:
            nonlocal delivered
            seen.extend(response.choices)
            delivered |= self._deliver(missing, run, response, exchange)

        async with (
            connection.exchange(
                self.role, self.ledger, self.affinity, avoid, assembly.lost, prompt=self._prompt_usage
            ) as exchange,
            connection.http.stream(exchange.url, self.path, body, assembly.add) as events,
        ):
            if isinstance(events, Mapping):  # the server does not stream
                response = await aside(LARGE + 1, protocol.parse, events)  # it may be large
            else:
                response = None
                async for finished in _until_complete(events, assembly):
                    exchange.flows()
                    if assembly.usage is not None:
                        self.prompt_tokens = assembly.usage.prompt_tokens
                    abandoned = [] if finished else list(filter(to_abandon, assembly.choices.values()))
                    for choice in abandoned:
                        choice.finish_reason = "abandoned"
                    finished += abandoned
                    if finished and (part := assembly.take(finished)):
                        exchange.seconds = now() - exchange.started
                        await self._clean(finished)
                        deliver(part)
                    if abandoned:
                        break
        rest = assembly.take_rest() if response is None else response
        if rest.choices:
            await self._clean(rest.choices)
            deliver(rest)
        if not seen:
            self.ledger.waste(self.role, ONE_REQUEST + (rest.usage or Usage()))
            raise TransientError("the stream has no choices")
        self._check(seen, delivered)
        await self._observe_n(len(run), len(seen))

    async def _clean(self, choices: Sequence[Generation]) -> None:
        """Refuse texts that are too long, mend them, and hide secrets that came in pieces."""
        http, longest = self.sampler.connection.http, self.sampler.endpoint.max_answer_bytes // 4
        size = sum(choice.size for choice in choices)
        await aside(size, lambda: [choice.clean(http.hide, longest) for choice in choices])

    def _check(self, choices: Sequence[Generation], delivered: bool) -> None:
        """Raise `TransientError` if an answer with `choices` brought nothing that was asked for."""
        if not delivered:
            failure = next((choice.failure for choice in choices if choice.failure), None)
            raise TransientError(failure or "the answer has none of the choices that were asked for")

    def _deliver(self, missing: list[int], run: Sequence[int], response: ModelResponse, exchange: Exchange) -> bool:
        """Turn choices into samples: the prompt is one charge that they share, each completion another.

        Choices that nobody asked for are waste. Returns whether there was any other.
        """
        shared = response.usage or protocol.prompt_usage(self.prompt)
        keep_ids = bool(self.body.get("return_token_ids"))  # `_request` may add it, only to count
        asked = Usage(1, shared.prompt_tokens, shared.cached_tokens, estimated_tokens=shared.estimated_tokens)
        prompt = Charge(exchange.id, self.role, asked, exchange.started)
        self.ledger.paid.add(prompt)
        delivered = False
        for choice, (size, guessed) in zip(response.choices, response.shares, strict=True):
            reasoning = shared.reasoning_tokens / len(response.choices)
            own = Usage(0, 0, 0, size, reasoning, 0, exchange.seconds, estimated_tokens=size if guessed else 0)
            # some servers count from one: a number beyond those asked for stands for one that is still missing
            index = run[choice.index] if choice.index < len(run) else next((i for i in run if i in missing), None)
            if index is None or index not in missing or choice.failure:
                self.ledger.waste(self.role, own)
                continue
            completion = Charge(f"{exchange.id}.{choice.index}", self.role, own, exchange.started)
            self.ledger.paid.add(completion)
            missing.remove(index)
            self.asked[exchange.id] = frozenset(run)
            sample = choice.sample(
                keep_ids=keep_ids,
                keep_raw=self.sampler.keep_raw,
                charges=(prompt, completion),
                index=index,
                role=self.role,
                model=response.model or self.body["model"],
                again=sum(index in asked for asked in self.asked.values()) - 1,
                batched=self._batched(len(run), len(response.choices)),
            )
            if self.on_sample is not None:
                self.on_sample(sample)
            self.emit(sample)
            self.answered = delivered = True
        return delivered

    def _batched(self, asked: int, received: int) -> bool | None:
        """See `Sample.batched`."""
        if received > 1:
            return True
        if asked > 1:
            return None
        return False if "n" in self.left_out else self.sampler.takes_n

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


async def _until_complete(events: AsyncIterator[T], assembly: protocol.Assembly) -> AsyncIterator[T]:
    """`events`, whose end is as good as `[DONE]`, however it comes, if all choices that were begun are finished."""
    try:
        async for event in events:
            yield event
    except EndpointError:
        if not assembly.complete:
            raise
