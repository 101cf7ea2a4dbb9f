"""Finds out what an endpoint can do by asking it: about twenty small requests."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields
from typing import Any

from tts.errors import ConfigError, EndpointError, EndpointRefused, RequestRejected, TransientError
from tts.sampler import llama_cpp, protocol
from tts.sampler.refusals import server_message
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
    own_distribution: Capability = NOT_TRIED
    """What a request does not ask for is not applied: no top_k, top_p or min_p cuts the samples unseen."""
    seed: Capability = NOT_TRIED
    """The same seed gives the same sample, another seed a different one."""
    token_ids: Capability = NOT_TRIED
    stream_usage: Capability = NOT_TRIED
    """Streamed answers, with the token count at the end."""
    continuation: Capability = NOT_TRIED
    """An answer goes on as token ids, exactly: what `tts.Continuation` and step-wise strategies stand on."""
    prefill: Capability = NOT_TRIED
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
        return [dict(card) for card in (await sampler.models())["data"]]
    except (KeyError, TypeError, ValueError) as error:
        url = sampler.endpoint.urls[0]
        raise TransientError(f"{url}/models is not a list of models; does the base URL end in /v1?") from error


# -- the probes ----------------------------------------------------------------------------------------------------

QUESTION = [{"role": "user", "content": "Write a few random words."}]
TEXT = "Some random words:"
LETTER = "a"
MOST_OF_A_LETTER = 4
"""Tokens, a begin-of-text token included."""
OBJECT: dict[str, Any] = {"type": "object", "additionalProperties": False}
SKY: dict[str, Any] = {
    "name": "sky",
    "schema": OBJECT | {"properties": {"blue": {"type": "boolean"}}, "required": ["blue"]},
}
CLOCK: dict[str, Any] = {"name": "get_time", "description": "The time now.", "parameters": OBJECT | {"properties": {}}}

OTHERS = {llama_cpp.OWNER: "llama.cpp", "library": "Ollama", "sglang": "SGLang"}
"""Servers, by who owns their models."""
FEATURES = ("n", "logprobs", "prompt_logprobs", "own_distribution", "seed", "token_ids", "stream_usage", "tokenize")
CHAT_FEATURES = ("continuation", "prefill", "tools", "structured_output")
"""Fields of `Capabilities`, each found by the method of `_Probe` of that name."""


class _Probe:
    def __init__(self, sampler: Sampler) -> None:
        self._sampler, self._http = sampler, sampler.connection.http
        self._model, self._url = sampler.endpoint.model, sampler.endpoint.urls[0]
        self._prompt: Prompt = QUESTION
        self._chat_limit = "max_tokens"
        self._cost = Usage()

    async def run(self) -> Capabilities:
        cards: list[dict[str, Any]] = []
        await self._sampler.identify()
        try:
            cards = await _model_cards(self._sampler)
        except EndpointError as error:
            if error.status is None:
                return Capabilities(reachable=Capability(False, str(error)))
            if error.status in (401, 403):
                return Capabilities(reachable=YES, key_accepted=Capability(False, str(error)))
        models = tuple(str(card.get("id")) for card in cards)
        known: dict[str, Any] = {"reachable": YES, "models": models, "server": await self._server(cards)}
        known["chat"] = chat = await self._find("chat")
        known["completions"] = completions = await self._find("completions")
        if chat or completions:
            known |= {"key_accepted": YES, "model_served": YES}
            if not chat:
                self._prompt = TEXT
                known |= dict.fromkeys(CHAT_FEATURES, Capability(False, "needs chat"))
            tried = FEATURES + CHAT_FEATURES if chat else FEATURES
            known |= zip(tried, await asyncio.gather(*map(self._find, tried)), strict=True)
        elif models:
            why = f"'{self._model}' is not among the models listed: {', '.join(models)}"
            known |= {"key_accepted": YES, "model_served": Capability(self._model in models, why)}
        return Capabilities(**known, cost=self._cost)

    async def _server(self, cards: list[dict[str, Any]]) -> str:
        owner = next((str(card["owned_by"]) for card in cards if card.get("owned_by")), "")
        if owner in OTHERS:
            return OTHERS[owner]
        if owner not in VLLM_SPEAKERS:
            return f"not vLLM (models owned by: {owner})" if owner else "unknown"
        with suppress(EndpointError, KeyError, TypeError, TimeoutError):
            async with asyncio.timeout(self._sampler.endpoint.connect_timeout):
                answer = await self._http.json(self._url, "/../version")
                return f"{VLLM_SPEAKERS[owner]} {answer['version']}"
        return VLLM_SPEAKERS[owner]

    async def chat(self) -> Capability:
        try:
            await self._ask(1)
        except RequestRejected as error:
            if "max_completion_tokens" not in str(error):
                raise
            self._chat_limit = "max_completion_tokens"
            await self._ask(1)
        return YES

    async def completions(self) -> Capability:
        """One letter is few tokens, unless the server puts it into its chat template."""
        usage = (await self._ask(1, LETTER)).usage
        if usage is not None and usage.prompt_tokens > MOST_OF_A_LETTER:
            return Capability(False, f"it wraps the text: {LETTER!r} became {usage.prompt_tokens:g} prompt tokens")
        return YES

    async def n(self) -> Capability:
        if self._sampler.llama_cpp:
            return Capability(False, "its usage counts one of several choices; samples are requested one by one")
        count = len((await self._ask(1, n=2)).choices)
        return YES if count == 2 else Capability(False, f"{count} choice for n=2; samples are requested one by one")

    async def logprobs(self) -> Capability:
        choice, *_ = (await self._ask(1, logprobs=True)).choices
        return YES if choice.logprobs else Capability(False, "the answer has none")

    async def prompt_logprobs(self) -> Capability:
        body = {"prompt": "The sky is blue", "max_tokens": 1, "temperature": 0, "prompt_logprobs": 0}
        choice = (await self._post("/completions", {"model": self._model, **body}))["choices"][0]
        return YES if choice.get("prompt_logprobs") else Capability(False, "the answer has none; vLLM gives them")

    async def own_distribution(self) -> Capability:
        untold = Capability(None, "the server does not tell; vLLM, for one, applies the model's generation_config.json")
        if not self._sampler.llama_cpp:
            return untold
        try:
            cut = llama_cpp.cuts(await self._http.json(self._url, "/../props"))
        except (EndpointError, KeyError, TypeError):
            return untold
        words = ", ".join(f"{name}={value:g}" for name, value in cut.items())
        plain = ", ".join(f"{name}={llama_cpp.UNCUT[name]}" for name in cut)
        return Capability(False, f"by itself it applies {words}; send {plain} for the model's own") if cut else YES

    async def seed(self) -> Capability:
        answers = await asyncio.gather(*(self._ask(24, seed=seed, temperature=1) for seed in (1, 1, 2)))
        one, same, other = (answer.choices[0].text for answer in answers)
        if one != same:
            return Capability(False, "two samples with the same seed differ")
        return YES if one != other else Capability(None, "samples with different seeds were the same too")

    async def token_ids(self) -> Capability:
        return await self._gives_ids(self._prompt)

    async def _gives_ids(self, prompt: Prompt) -> Capability:
        if self._sampler.llama_cpp:
            body = {"prompt": TEXT if prompt is self._prompt else prompt, "max_tokens": 1}
            answer = await self._post(llama_cpp.PATH, llama_cpp.own_request(body))
            response = llama_cpp.parse(body, answer)
            self._cost += response.usage or Usage()
        else:
            response = await self._ask(1, prompt, return_token_ids=True)
        choice, *_ = response.choices
        return YES if choice.token_ids else Capability(False, "the answer has none; vLLM and llama.cpp give them")

    async def stream_usage(self) -> Capability:
        path, body = self._request(self._prompt, 1, {"stream": True, "stream_options": {"include_usage": True}})
        assembly = protocol.Assembly()
        self._cost += Usage(requests=1)
        async with asyncio.timeout(PATIENCE), self._http.stream(self._url, path, body) as events:
            if isinstance(events, Mapping):
                return Capability(False, "it answers in one piece")
            async for event in events:
                assembly.add(event)
        self._cost += assembly.usage or Usage()
        if not assembly.seen:
            return Capability(False, "the stream has no choices")
        return YES if assembly.usage else Capability(False, "it streams, but does not count the tokens")

    async def continuation(self) -> Capability:
        try:
            return await self._gives_ids(await tokenize(self._sampler, QUESTION))
        except ConfigError as error:
            raise error.__cause__ or error from None

    async def prefill(self) -> Capability:
        """A message that is continued is neither closed nor followed by a new turn: its prompt is shorter."""
        begun = [*QUESTION, {"role": "assistant", "content": "Sure: apple,"}]
        plain = await self._ask(1, begun)
        continued = await self._ask(1, begun, continue_final_message=True, add_generation_prompt=False)
        if plain.usage is None or continued.usage is None:
            return Capability(None, "the server does not count prompt tokens, which would tell")
        shorter = continued.usage.prompt_tokens < plain.usage.prompt_tokens
        return YES if shorter else Capability(False, "continue_final_message is ignored")

    async def tools(self) -> Capability:
        ask = [{"role": "user", "content": "Call the tool get_time. Say nothing else."}]
        tools = [{"type": "function", "function": CLOCK}]
        choice, *_ = (await self._ask(48, ask, tools=tools, tool_choice="auto")).choices
        return YES if choice.tool_calls else Capability(None, "tools are accepted, but the model called none of them")

    async def structured_output(self) -> Capability:
        ask = [{"role": "user", "content": "Is the sky blue?"}]
        form = {"type": "json_schema", "json_schema": {**SKY, "strict": True}}
        choice, *_ = (await self._ask(48, ask, response_format=form)).choices
        with suppress(ValueError, TypeError, KeyError):
            if isinstance(json.loads(choice.text)["blue"], bool):
                return YES
        if choice.finish_reason == "length" and (choice.reasoning or choice.text.lstrip().startswith("{")):
            return Capability(None, "the few tokens of this probe were used up before the answer was complete")
        return Capability(False, f"the answer does not follow the schema: {choice.text[:60]!r}")

    async def tokenize(self) -> Capability:
        try:
            return Capability(bool(await tokenize(self._sampler, "The sky is blue")))
        except ConfigError as error:
            raise error.__cause__ or error from None

    # -- asking ----------------------------------------------------------------------------------------------------

    async def _find(self, feature: str) -> Capability:
        """What the probe of `feature` finds, a failure of any kind included."""
        try:
            return await getattr(self, feature)()
        except (RequestRejected, EndpointRefused) as error:
            return Capability(False, server_message(error.body) if error.body else str(error))
        except EndpointError as error:
            return Capability(False if (error.status or 0) >= 500 else None, str(error))
        except TimeoutError:
            return Capability(None, f"no answer within {PATIENCE:g} s")
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            return Capability(False, f"the answer is not of the expected form ({type(error).__name__}: {error})")

    def _request(self, prompt: Prompt, tokens: int, params: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        chat = not isinstance(prompt, str) and not (prompt and isinstance(prompt[0], int))
        limit = self._chat_limit if chat else "max_tokens"
        return protocol.request(prompt, self._model, {limit: tokens, **params})

    async def _ask(self, tokens: int, prompt: Prompt | None = None, **params: Any) -> protocol.ModelResponse:
        path, body = self._request(self._prompt if prompt is None else prompt, tokens, params)
        response = protocol.parse(await self._post(path, body))
        if not response.choices:
            raise TransientError("the answer has no choices")
        return response

    async def _post(self, path: str, body: dict[str, Any], last: bool = False) -> Any:
        """One answer; a failure that may pass gets a second chance."""
        self._cost += Usage(requests=1)
        try:
            async with asyncio.timeout(PATIENCE):
                data = await self._http.json(self._url, path, body)
        except TransientError:
            if last:
                raise
            await asyncio.sleep(0.5)
            return await self._post(path, body, last=True)
        self._cost += (protocol.usage_of(data.get("usage")) if isinstance(data, Mapping) else None) or Usage()
        return data
