"""One attempt to have occurrences of a prompt answered: the request, whole or streamed, and what comes of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol
from uuid import uuid4

from tts.accounts import Ledger
from tts.concurrency import Flow, now
from tts.errors import EndpointError, TransientError
from tts.images import Pictures
from tts.sampler import protocol
from tts.sampler.client import ONE_REQUEST, Client
from tts.sampler.hedge import hedged
from tts.sampler.images import read_pictures
from tts.types import Charge, Prompt, Sample, Usage


class StopRule(Protocol):
    """When to end an answer that is still being written.

    Its `repr` must tell all of it: it is part of the address under which the answer is stored.
    """

    def watch(self) -> Callable[[protocol.Choice], bool]:
        """For one answer: a function that is shown it whenever it has grown, and says whether to end it."""
        ...


@dataclass(slots=True)
class Order:
    """What the requests for one prompt have in common, and where their samples go."""

    prompt: Prompt
    path: str
    body: dict[str, Any]
    role: str
    ledger: Ledger
    out: Flow[Sample]
    errors: list[EndpointError]
    keep_ids: bool
    affinity: int
    on_sample: Callable[[Sample], None] | None
    stop_when: StopRule | None = None
    pictures: Pictures | None = None
    """Where pictures are kept, if the prompt is a `Drawing`."""
    keep_raw: bool = False
    answered: bool = False

    def run(self, missing: Sequence[int]) -> list[int]:
        """Those of the occurrences `missing` that one request can ask for: with a seed, consecutive ones."""
        return list(missing) if self.body.get("seed") is None else _leading_run(missing)

    def request(self, run: Sequence[int], vllm: bool) -> dict[str, Any]:
        """The body that asks for the occurrences `run`."""
        body = dict(self.body)
        if body.get("seed") is not None:
            body["seed"] = int(body["seed"]) + run[0]
        if len(run) > 1:
            body["n"] = len(run)
            if vllm:
                body["return_token_ids"] = True
        return body

    def deliver(
        self,
        missing: list[int],
        run: Sequence[int],
        reply: protocol.Reply,
        begin: float,
        request: str | None = None,
    ) -> bool:
        """Turn choices into samples: the prompt is one charge that they share, each completion another.

        Choices that nobody asked for are wasted. Returns whether there was any other.
        """
        request = request or uuid4().hex
        seconds = now() - begin
        estimated = 0 if reply.usage else protocol.estimate_prompt(self.prompt)
        shared = reply.usage or Usage(prompt_tokens=estimated)
        prompt = Charge(
            request,
            self.role,
            Usage(1, shared.prompt_tokens, shared.cached_tokens, estimated_tokens=estimated),
            begin,
        )
        self.ledger.pay(prompt)
        tokens = protocol.share_tokens(reply.choices, reply.usage)
        delivered = False
        for choice, (count, guessed) in zip(reply.choices, tokens, strict=True):
            reasoning = shared.reasoning_tokens / len(reply.choices)
            own = Usage(0, 0, 0, count, reasoning, seconds=seconds, estimated_tokens=count if guessed else 0)
            index = run[choice.index] if choice.index < len(run) else None
            if index is None or index not in missing:
                self.ledger.waste(self.role, own)
                continue
            charge = Charge(f"{request}.{choice.index}", self.role, own, begin)
            self.ledger.pay(charge)
            missing.remove(index)
            sample = self._sample(choice, (prompt, charge), index, reply.model)
            if self.on_sample is not None:
                self.on_sample(sample)
            self.out.emit(sample)
            self.answered = delivered = True
        return delivered

    def _sample(self, choice: protocol.Choice, charges: tuple[Charge, ...], index: int, model: str) -> Sample:
        return Sample(
            choice.text,
            choice.finish_reason,
            charges,
            index,
            self.role,
            model or self.body["model"],
            choice.reasoning,
            tuple(choice.tool_calls),
            tuple(choice.token_ids) if self.keep_ids and choice.token_ids is not None else None,
            tuple(choice.logprobs) if choice.logprobs is not None else None,
            tuple(choice.confidences) if choice.confidences is not None else None,
            choice.top_logprobs or None,
            choice.raw if self.keep_raw else None,
        )


async def ask(client: Client, order: Order, missing: list[int], avoid: str | None) -> int:
    """One request for the first of `missing`; those that are answered leave the list. Returns how many choices came."""
    run = order.run(missing)
    body = order.request(run, client.vllm)

    async def fetch(avoid: str | None, sent: asyncio.Future[str] | None = None) -> tuple[protocol.Reply, float]:
        begin = 0.0

        async def talk(url: str) -> protocol.Reply:
            nonlocal begin
            begin = now()
            if sent is not None:
                sent.set_result(url)
            data = await client.connection.post(url + order.path, body)
            if order.pictures is not None:
                return await read_pictures(data, client.connection, order.pictures)
            return protocol.parse(data)

        return await client.exchange(order.role, order.ledger, order.affinity, avoid, talk), begin

    def lose(answer: tuple[protocol.Reply, float]) -> None:
        order.ledger.waste(order.role, ONE_REQUEST + (answer[0].usage or Usage()))

    after = client.endpoint.hedge_after
    answer = await (fetch(avoid) if after is None else hedged(fetch, avoid, after, lose))
    reply, begin = answer
    if not reply.choices:
        lose(answer)
        raise TransientError("the answer has no choices")
    if not order.deliver(missing, run, reply, begin):
        raise TransientError("the answer has none of the choices that were asked for")
    return len(reply.choices)


async def stream(client: Client, order: Order, missing: list[int], avoid: str | None) -> int:
    """`ask`, read token by token: a choice is delivered as soon as it is complete, if its tokens are counted.

    Under a stop rule there is one choice, and leaving the stream is what makes the server end it.
    """
    if not missing:  # the stream before broke after its last choice
        return 0
    run = order.run(missing)
    options = {"include_usage": True, **({"continuous_usage_stats": True} if client.vllm else {})}
    body = {**order.request(run, client.vllm), "stream": True, "stream_options": options}
    begin, request = 0.0, uuid4().hex
    assembly, given = protocol.Assembly(), 0.0
    paid = delivered = False

    def hand_over(choices: list[protocol.Choice], usage: Usage | None) -> None:
        nonlocal given, paid, delivered
        for choice in choices:
            given += choice.tokens or 0
            del assembly.choices[choice.index]
        reply = protocol.Reply(choices, usage, assembly.model)
        delivered |= order.deliver(missing, run, reply, begin, request)
        paid = True

    def lost() -> Usage:
        known = assembly.known()  # the request itself is paid for as soon as one of its choices was handed over
        return Usage(completion_tokens=known.completion_tokens) if paid else ONE_REQUEST + known

    async def read(url: str) -> None:
        nonlocal begin
        begin = now()
        to_abandon = order.stop_when.watch() if order.stop_when is not None else lambda choice: False
        async with client.connection.stream(url + order.path, body) as events:
            async for event in events:
                finished = assembly.add(event)
                abandoned = [] if finished else list(filter(to_abandon, assembly.choices.values()))
                for choice in abandoned:
                    choice.finish_reason = "abandoned"
                finished += abandoned
                if finished and assembly.usage is not None and all(c.tokens is not None for c in finished):
                    tokens = sum(choice.tokens or 0 for choice in finished)
                    hand_over(finished, replace(assembly.usage, completion_tokens=tokens))
                if abandoned:
                    return

    await client.exchange(order.role, order.ledger, order.affinity, avoid, read, lost)
    if not assembly.seen:
        order.ledger.waste(order.role, ONE_REQUEST + (assembly.usage or Usage()))
        raise TransientError("the stream has no choices")
    if left := list(assembly.choices.values()):
        usage = assembly.usage
        if usage is not None and given:
            usage = replace(usage, completion_tokens=max(0, usage.completion_tokens - given))
        hand_over(left, usage)
    if not delivered:
        raise TransientError("the stream has none of the choices that were asked for")
    return assembly.seen


def _leading_run(indices: Sequence[int]) -> list[int]:
    """The consecutive numbers at the begin of `indices`."""
    length = next((i for i in range(1, len(indices)) if indices[i] != indices[0] + i), len(indices))
    return list(indices[:length])
