"""Finds out what an endpoint can do by asking it: about twenty small requests."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field, fields
from typing import Any

from tts.errors import ConfigError, EndpointError, EndpointRefused, RequestRejected, TransientError
from tts.sampler import protocol
from tts.sampler.sampler import VLLM_SPEAKERS, Sampler
from tts.sampler.scoring import tokenize
from tts.types import Prompt, Usage

PATIENCE = 60.0
"""Most seconds for one answer."""


@dataclass(frozen=True, slots=True)
class Capability:
    """Whether something works: yes, no, or None if the probe could not tell. True only for yes."""

    ok: bool | None
    why: str = ""
    """The reason for anything but yes: the server's words if it gave any, else what was seen."""

    def __bool__(self) -> bool:
        return self.ok is True


YES = Capability(True)
NOT_TRIED = Capability(None, "not tried: the endpoint does not get that far")


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What one endpoint can do, with the reason for whatever it cannot."""

    reachable: Capability
    key_accepted: Capability = NOT_TRIED
    model_served: Capability = NOT_TRIED
    chat: Capability = NOT_TRIED
    completions: Capability = NOT_TRIED
    """Raw text in, text out: what step-wise strategies continue with."""
    n: Capability = NOT_TRIED
    """Several samples from one request."""
    logprobs: Capability = NOT_TRIED
    """Log-probabilities of generated tokens."""
    prompt_logprobs: Capability = NOT_TRIED
    """Log-probabilities of given text, to score with."""
    seed: Capability = NOT_TRIED
    """The same seed gives the same sample, another seed a different one."""
    token_ids: Capability = NOT_TRIED
    stream_usage: Capability = NOT_TRIED
    """Streamed answers, with the token count at the end."""
    continuation: Capability = NOT_TRIED
    """A partial assistant message is continued (`continue_final_message`)."""
    tools: Capability = NOT_TRIED
    structured_output: Capability = NOT_TRIED
    """`response_format` with a JSON schema is obeyed."""
    tokenize: Capability = NOT_TRIED
    models: tuple[str, ...] = ()
    """Those that the endpoint lists."""
    server: str = "unknown"
    """vLLM, with its version if it tells, or whoever claims to own the model."""
    cost: Usage = field(default_factory=Usage)
    """What the probe itself took: all requests that may generate, and the tokens that the server counted."""

    def as_dict(self) -> dict[str, Capability]:
        """All capabilities by name, in the order above."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Capability)}


async def probe(sampler: Sampler) -> Capabilities:
    """Find out what the first replica of `sampler` can do.

    Whatever the server does is a finding, never an error:

        async with Sampler(endpoint) as sampler:
            capabilities = await probe(sampler)
        if not capabilities.prompt_logprobs:
            print(capabilities.prompt_logprobs.why)
    """
    return await _Probe(sampler).run()


async def list_models(sampler: Sampler) -> list[str]:
    """The models that the first replica lists. Costs no tokens.

    Raises `EndpointRefused` for a rejected key or if there is no list, `EndpointError` for any other failure.
    """
    return [str(card.get("id")) for card in await _model_cards(sampler)]


async def _model_cards(sampler: Sampler) -> list[dict[str, Any]]:
    try:
        return list((await sampler.models())["data"])
    except (KeyError, TypeError) as error:
        url = sampler.endpoint.urls[0]
        raise TransientError(f"{url}/models is not a list of models; does the base URL end in /v1?") from error


# -- the probes ----------------------------------------------------------------------------------------------------

QUESTION = [{"role": "user", "content": "Write a few random words."}]
TEXT = "Some random words:"
SCHEMA = {
    "type": "object",
    "properties": {"blue": {"type": "boolean"}},
    "required": ["blue"],
    "additionalProperties": False,
}
TOOL = {
    "type": "function",
    "function": {
        "name": "get_time",
        "description": "The time now.",
        "parameters": {"type": "object", "properties": {}, "additionalProperties": False},
    },
}


@dataclass
class _Probe:
    sampler: Sampler
    prompt: Prompt = field(default_factory=lambda: QUESTION)
    limit: str = "max_tokens"
    cost: Usage = field(default_factory=Usage)

    async def run(self) -> Capabilities:
        known: dict[str, Any] = {}
        cards: list[dict[str, Any]] = []
        try:
            cards = await _model_cards(self.sampler)
        except EndpointError as error:
            if error.status is None:
                return Capabilities(reachable=Capability(False, str(error)))
            if error.status in (401, 403):
                return Capabilities(reachable=YES, key_accepted=Capability(False, str(error)))
        known["models"] = tuple(str(card.get("id")) for card in cards)
        known["server"] = await self._server(cards)
        chat = await self._find(self._chat)
        completions = await self._find(self._completions)
        known |= {"reachable": YES, "chat": chat, "completions": completions}
        works = chat or completions
        model = self.sampler.endpoint.model
        if works:
            known |= {"key_accepted": YES, "model_served": YES}
        elif known["models"]:
            there = f"'{model}' is not among the models listed: {', '.join(known['models'])}"
            known |= {"key_accepted": YES, "model_served": Capability(model in known["models"], there)}
        if works:
            self.prompt = QUESTION if chat else TEXT
            known |= await self._features(chat)
        return Capabilities(**known, cost=self.cost)

    async def _features(self, chat: Capability) -> dict[str, Capability]:
        either = {
            "n": self._n,
            "logprobs": self._logprobs,
            "prompt_logprobs": self._prompt_logprobs,
            "seed": self._seed,
            "token_ids": self._token_ids,
            "stream_usage": self._stream_usage,
            "tokenize": self._tokenize,
        }
        chatting = {
            "continuation": self._continuation,
            "tools": self._tools,
            "structured_output": self._structured_output,
        }
        tried = {**either, **chatting} if chat else either
        findings = await asyncio.gather(*map(self._find, tried.values()))
        untried = dict.fromkeys(chatting, Capability(False, "needs chat")) if not chat else {}
        return {**dict(zip(tried, findings, strict=True)), **untried}

    async def _server(self, cards: list[dict[str, Any]]) -> str:
        owner = next((str(card["owned_by"]) for card in cards if card.get("owned_by")), "")
        if owner not in VLLM_SPEAKERS:
            return f"not vLLM (models owned by: {owner})" if owner else "unknown"
        with suppress(EndpointError, KeyError, TypeError, TimeoutError):
            async with asyncio.timeout(self.sampler.endpoint.connect_timeout):
                answer = await self.sampler.connection.http.get(self._url.removesuffix("/v1") + "/version")
                return f"{VLLM_SPEAKERS[owner]} {answer['version']}"
        return VLLM_SPEAKERS[owner]

    async def _chat(self) -> Capability:
        try:
            await self._ask(1)
        except RequestRejected as error:
            if "max_completion_tokens" not in str(error):
                raise
            self.limit = "max_completion_tokens"
            await self._ask(1)
        return YES

    async def _completions(self) -> Capability:
        await self._ask(1, TEXT)
        return YES

    async def _n(self) -> Capability:
        count = len((await self._ask(1, n=2)).choices)
        return Capability(count == 2, "" if count == 2 else f"{count} choice for n=2; samples are asked for one by one")

    async def _logprobs(self) -> Capability:
        found = (await self._ask(1, logprobs=True)).choices[0].logprobs
        return YES if found else Capability(False, "the answer has none")

    async def _prompt_logprobs(self) -> Capability:
        body = {"prompt": "The sky is blue", "max_tokens": 1, "temperature": 0, "prompt_logprobs": 0}
        choice = (await self._post("/completions", body))["choices"][0]
        return YES if choice.get("prompt_logprobs") else Capability(False, "the answer has none; vLLM gives them")

    async def _seed(self) -> Capability:
        async def text(seed: int) -> str:
            return (await self._ask(24, seed=seed, temperature=1)).choices[0].text

        one, same, other = await asyncio.gather(text(1), text(1), text(2))
        if one != same:
            return Capability(False, "two samples with the same seed differ")
        return YES if one != other else Capability(None, "samples with different seeds were the same too")

    async def _token_ids(self) -> Capability:
        found = (await self._ask(1, return_token_ids=True)).choices[0].token_ids
        return YES if found else Capability(False, "the answer has none; vLLM gives them")

    async def _stream_usage(self) -> Capability:
        path, body = self._request(self.prompt, 1, {"stream": True, "stream_options": {"include_usage": True}})
        assembly = protocol.Assembly()
        self.cost += Usage(requests=1)
        async with asyncio.timeout(PATIENCE), self.sampler.connection.http.stream(self._url + path, body) as events:
            async for event in events:
                assembly.add(event)
        self.cost += assembly.usage or Usage()
        if not assembly.seen:
            return Capability(False, "the stream has no choices")
        return YES if assembly.usage else Capability(False, "it streams, but does not count the tokens")

    async def _continuation(self) -> Capability:
        """A message that is continued is neither closed nor followed by a new turn: its prompt is shorter."""
        begun = [*QUESTION, {"role": "assistant", "content": "Sure: apple,"}]
        plain = await self._ask(1, begun)
        continued = await self._ask(1, begun, continue_final_message=True, add_generation_prompt=False)
        if plain.usage is None or continued.usage is None:
            return Capability(None, "the server does not count prompt tokens, which would tell")
        shorter = continued.usage.prompt_tokens < plain.usage.prompt_tokens
        return YES if shorter else Capability(False, "continue_final_message is ignored")

    async def _tools(self) -> Capability:
        ask = [{"role": "user", "content": "Call the tool get_time. Say nothing else."}]
        choice = (await self._ask(48, ask, tools=[TOOL], tool_choice="auto")).choices[0]
        return (
            YES if choice.tool_calls else Capability(None, "tools are accepted, but the model called none when told to")
        )

    async def _structured_output(self) -> Capability:
        ask = [{"role": "user", "content": "Is the sky blue?"}]
        form = {"type": "json_schema", "json_schema": {"name": "sky", "schema": SCHEMA, "strict": True}}
        choice = (await self._ask(48, ask, response_format=form)).choices[0]
        with suppress(ValueError, TypeError, KeyError):
            if isinstance(json.loads(choice.text)["blue"], bool):
                return YES
        if choice.finish_reason == "length" and (choice.reasoning or choice.text.lstrip().startswith("{")):
            return Capability(None, "the few tokens of this probe were used up before the answer was complete")
        return Capability(False, f"the answer does not follow the schema: {choice.text[:60]!r}")

    async def _tokenize(self) -> Capability:
        try:
            return Capability(bool(await tokenize(self.sampler, "The sky is blue")))
        except ConfigError as error:
            raise error.__cause__ or error from None

    # -- asking ----------------------------------------------------------------------------------------------------

    @property
    def _url(self) -> str:
        return self.sampler.endpoint.urls[0]

    async def _find(self, look: Callable[[], Awaitable[Capability]]) -> Capability:
        """The finding of a probe, a failure of any kind included."""
        try:
            return await look()
        except (RequestRejected, EndpointRefused) as error:
            return Capability(False, protocol.server_message(error.body) if error.body else str(error))
        except EndpointError as error:
            return Capability(False if (error.status or 0) >= 500 else None, str(error))
        except TimeoutError:
            return Capability(None, f"no answer within {PATIENCE:g} s")
        except (KeyError, IndexError, TypeError, ValueError) as error:
            return Capability(False, f"the answer is not of the expected form ({type(error).__name__}: {error})")

    def _request(self, prompt: Prompt, tokens: int, params: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        limit = "max_tokens" if isinstance(prompt, str) else self.limit
        return protocol.request(prompt, self.sampler.endpoint.model, {limit: tokens, **params})

    async def _ask(self, tokens: int, prompt: Prompt | None = None, **params: Any) -> protocol.ModelResponse:
        path, body = self._request(self.prompt if prompt is None else prompt, tokens, params)
        reply = protocol.parse(await self._post(path, body))
        if not reply.choices:
            raise TransientError("the answer has no choices")
        return reply

    async def _post(self, path: str, body: dict[str, Any]) -> Any:
        """One answer; a failure that may pass is given a second chance."""
        for last in (False, True):
            self.cost += Usage(requests=1)
            try:
                async with asyncio.timeout(PATIENCE):
                    data = await self.sampler.connection.http.post(
                        self._url + path, {"model": self.sampler.endpoint.model, **body}
                    )
                self.cost += protocol.usage_of(data.get("usage")) or Usage()
                return data
            except TransientError:
                if last:
                    raise
                await asyncio.sleep(0.5)
        raise AssertionError("unreachable: the second failure is raised")
