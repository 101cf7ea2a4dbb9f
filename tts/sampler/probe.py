"""Finds out what an endpoint can do by asking it: a handful of small requests."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from tts.errors import ConfigError, EndpointError, EndpointRefused, RequestRejected, TransientError
from tts.sampler import protocol
from tts.sampler.capabilities import NOTHING, YES, Capabilities, Finding
from tts.sampler.client import VLLM_SPEAKERS
from tts.sampler.sampler import Sampler
from tts.sampler.scoring import tokenize
from tts.types import Prompt, Usage

PATIENCE = 60.0
"""Seconds for one answer, at most."""


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

    Raises `EndpointError`: `EndpointRefused` for a rejected key or where there is no list, else what went wrong.
    """
    return [str(card.get("id")) for card in await _model_cards(sampler)]


async def _model_cards(sampler: Sampler) -> list[dict[str, Any]]:
    url = sampler.endpoint.urls[0]
    try:
        async with asyncio.timeout(sampler.endpoint.connect_timeout):
            return list((await sampler.connection.get(url + "/models"))["data"])
    except TimeoutError:
        raise TransientError(f"no answer from {url}; is the server running there?") from None
    except (KeyError, TypeError) as error:
        raise TransientError(f"{url}/models is no list of models; does the base URL end in /v1?") from error


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
    cost: Usage = NOTHING

    async def run(self) -> Capabilities:
        known: dict[str, Any] = {}
        cards: list[dict[str, Any]] = []
        try:
            cards = await _model_cards(self.sampler)
        except EndpointError as error:
            if error.status is None:
                return Capabilities(reachable=Finding(False, str(error)))
            if error.status in (401, 403):
                return Capabilities(reachable=YES, key_accepted=Finding(False, str(error)))
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
            known |= {"key_accepted": YES, "model_served": Finding(model in known["models"], there)}
        if works:
            self.prompt = QUESTION if chat else TEXT
            known |= await self._features(chat)
        return Capabilities(**known, cost=self.cost)

    async def _features(self, chat: Finding) -> dict[str, Finding]:
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
        untried = dict.fromkeys(chatting, Finding(False, "needs chat")) if not chat else {}
        return {**dict(zip(tried, findings, strict=True)), **untried}

    async def _server(self, cards: list[dict[str, Any]]) -> str:
        owner = next((str(card["owned_by"]) for card in cards if card.get("owned_by")), "")
        if owner not in VLLM_SPEAKERS:
            return f"not vLLM (models owned by: {owner})" if owner else "unknown"
        with suppress(EndpointError, KeyError, TypeError, TimeoutError):
            async with asyncio.timeout(self.sampler.endpoint.connect_timeout):
                answer = await self.sampler.connection.get(self._url.removesuffix("/v1") + "/version")
                return f"{VLLM_SPEAKERS[owner]} {answer['version']}"
        return VLLM_SPEAKERS[owner]

    async def _chat(self) -> Finding:
        try:
            await self._ask(1)
        except RequestRejected as error:
            if "max_completion_tokens" not in str(error):
                raise
            self.limit = "max_completion_tokens"
            await self._ask(1)
        return YES

    async def _completions(self) -> Finding:
        await self._ask(1, TEXT)
        return YES

    async def _n(self) -> Finding:
        count = len((await self._ask(1, n=2)).choices)
        return Finding(count == 2, "" if count == 2 else f"{count} choice for n=2; samples are asked for one by one")

    async def _logprobs(self) -> Finding:
        found = (await self._ask(1, logprobs=True)).choices[0].logprobs
        return YES if found else Finding(False, "the answer has none")

    async def _prompt_logprobs(self) -> Finding:
        body = {"prompt": "The sky is blue", "max_tokens": 1, "temperature": 0, "prompt_logprobs": 0}
        choice = (await self._post("/completions", body))["choices"][0]
        return YES if choice.get("prompt_logprobs") else Finding(False, "the answer has none; vLLM gives them")

    async def _seed(self) -> Finding:
        async def text(seed: int) -> str:
            return (await self._ask(24, seed=seed, temperature=1)).choices[0].text

        one, same, other = await asyncio.gather(text(1), text(1), text(2))
        if one != same:
            return Finding(False, "two samples with the same seed differ")
        return YES if one != other else Finding(None, "samples with different seeds were the same too")

    async def _token_ids(self) -> Finding:
        found = (await self._ask(1, return_token_ids=True)).choices[0].token_ids
        return YES if found else Finding(False, "the answer has none; vLLM gives them")

    async def _stream_usage(self) -> Finding:
        path, body = self._request(self.prompt, 1, {"stream": True, "stream_options": {"include_usage": True}})
        assembly = protocol.Assembly()
        self.cost += Usage(requests=1)
        async with asyncio.timeout(PATIENCE), self.sampler.connection.stream(self._url + path, body) as events:
            async for event in events:
                assembly.add(event)
        self.cost += assembly.usage or Usage()
        if not assembly.seen:
            return Finding(False, "the stream has no choices")
        return YES if assembly.usage else Finding(False, "it streams, but does not count the tokens")

    async def _continuation(self) -> Finding:
        """A message that is continued is neither closed nor followed by a new turn: its prompt is shorter."""
        begun = [*QUESTION, {"role": "assistant", "content": "Sure: apple,"}]
        plain = await self._ask(1, begun)
        continued = await self._ask(1, begun, continue_final_message=True, add_generation_prompt=False)
        if plain.usage is None or continued.usage is None:
            return Finding(None, "the server does not count prompt tokens, which would tell")
        shorter = continued.usage.prompt_tokens < plain.usage.prompt_tokens
        return YES if shorter else Finding(False, "continue_final_message is ignored")

    async def _tools(self) -> Finding:
        ask = [{"role": "user", "content": "Call the tool get_time. Say nothing else."}]
        choice = (await self._ask(48, ask, tools=[TOOL], tool_choice="auto")).choices[0]
        return YES if choice.tool_calls else Finding(None, "tools are accepted, but the model called none when told to")

    async def _structured_output(self) -> Finding:
        ask = [{"role": "user", "content": "Is the sky blue?"}]
        form = {"type": "json_schema", "json_schema": {"name": "sky", "schema": SCHEMA, "strict": True}}
        choice = (await self._ask(48, ask, response_format=form)).choices[0]
        with suppress(ValueError, TypeError, KeyError):
            if isinstance(json.loads(choice.text)["blue"], bool):
                return YES
        if choice.finish_reason == "length" and (choice.reasoning or choice.text.lstrip().startswith("{")):
            return Finding(None, "the few tokens of this probe were used up before the answer was complete")
        return Finding(False, f"the answer does not follow the schema: {choice.text[:60]!r}")

    async def _tokenize(self) -> Finding:
        try:
            return Finding(bool(await tokenize(self.sampler, "The sky is blue")))
        except ConfigError as error:
            raise error.__cause__ or error from None

    # -- asking ----------------------------------------------------------------------------------------------------

    @property
    def _url(self) -> str:
        return self.sampler.endpoint.urls[0]

    async def _find(self, look: Callable[[], Awaitable[Finding]]) -> Finding:
        """The finding of a probe, a failure of any kind included."""
        try:
            return await look()
        except (RequestRejected, EndpointRefused) as error:
            return Finding(False, protocol.server_message(error.body) if error.body else str(error))
        except EndpointError as error:
            return Finding(False if (error.status or 0) >= 500 else None, str(error))
        except TimeoutError:
            return Finding(None, f"no answer within {PATIENCE:g} s")
        except (KeyError, IndexError, TypeError, ValueError) as error:
            return Finding(False, f"the answer is not of the expected form ({type(error).__name__}: {error})")

    def _request(self, prompt: Prompt, tokens: int, params: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        limit = "max_tokens" if isinstance(prompt, str) else self.limit
        return protocol.request(prompt, self.sampler.endpoint.model, {limit: tokens, **params})

    async def _ask(self, tokens: int, prompt: Prompt | None = None, **params: Any) -> protocol.Reply:
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
                    data = await self.sampler.connection.post(
                        self._url + path, {"model": self.sampler.endpoint.model, **body}
                    )
                self.cost += protocol.usage_of(data.get("usage")) or Usage()
                return data
            except TransientError:
                if last:
                    raise
                await asyncio.sleep(0.5)
        raise AssertionError("unreachable: the second failure is raised")
