"""The OpenAI protocol: what requests say, and what responses, streams and errors mean."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from email.utils import parsedate_to_datetime
from itertools import chain, pairwise, repeat
from time import time
from typing import Any, NamedTuple, TypeVar

import httpx

from tts.errors import EndpointError, EndpointRefused, RequestRejected, Throttled, TransientError
from tts.types import Drawing, Prompt, Usage

T = TypeVar("T")


@dataclass(slots=True)
class Generation:
    """One choice of a response."""

    index: int
    text: str = ""
    finish_reason: str | None = None
    reasoning: str = ""
    tool_calls: list[dict[str, Any]] = field(default_factory=list)
    token_ids: list[int] | None = None
    logprobs: list[float] | None = None
    confidences: list[float] | None = None
    """See `Sample.confidences`."""
    top_logprobs: dict[str, float] | None = None
    """See `Sample.top_logprobs`."""
    tokens: float | None = None
    """Completion tokens of this choice alone, if the server counts them."""
    raw: Mapping[str, Any] | None = None
    """The choice as received, if it came in one piece."""

    def extend(self, item: Mapping[str, Any]) -> None:
        """Append a choice as it stands in a response, or a piece of it as it stands in an event."""
        message = item.get("message") or item.get("delta") or {}
        self.text += text_of(message.get("content") if "message" in item or "delta" in item else item.get("text"))
        self.reasoning += message.get("reasoning_content") or message.get("reasoning") or ""
        if "message" in item:
            self.tool_calls += message.get("tool_calls") or ()
        else:
            for call in message.get("tool_calls") or ():
                _extend_call(self.tool_calls, call)
        if (ids := item.get("token_ids")) is not None:
            self.token_ids = _extended(self.token_ids, ids)
        if (tokens := read_logprobs(item.get("logprobs"))) is not None:
            self.logprobs = _extended(self.logprobs, [token.logprob for token in tokens])
            confidences = [token.confidence for token in tokens if token.confidence is not None]
            if tokens and len(confidences) == len(tokens):
                self.confidences = _extended(self.confidences, confidences)
            self.top_logprobs = self.top_logprobs or _first_top_logprobs(item["logprobs"])
        self.finish_reason = item.get("finish_reason") or self.finish_reason


@dataclass(slots=True)
class ModelResponse:
    """All choices of a request and its usage, which is None if the server sent none."""

    choices: list[Generation]
    usage: Usage | None
    model: str = ""
    shares: list[tuple[float, bool]] = field(init=False)
    """See `share_tokens`."""

    def __post_init__(self) -> None:
        self.shares = share_tokens(self.choices, self.usage)


class TokenLogprob(NamedTuple):
    """One token as a response tells of it."""

    token: str
    logprob: float
    """NaN if the server gave none."""
    confidence: float | None = None
    """See `Sample.confidences`."""
    id: int | None = None
    """In the model's vocabulary, where it is known."""


# -- requests ------------------------------------------------------------------------------------------------------


def request(prompt: Prompt, model: str, params: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Path and body of a request for `prompt`; `params` go in unchanged, except that None values are left out."""
    options = {key: value for key, value in params.items() if value is not None}
    if isinstance(prompt, Drawing):
        return "/images/generations", {"model": model, "prompt": prompt, "response_format": "b64_json", **options}
    if isinstance(prompt, str) or (prompt and isinstance(prompt[0], int)):
        if options.get("logprobs") is True:  # chat's flag; text completions want a number
            options["logprobs"] = options.pop("top_logprobs", 0)
        return "/completions", {"model": model, "prompt": prompt, **options}
    return "/chat/completions", {"model": model, "messages": list(prompt), **options}


def token_limit(params: Mapping[str, Any]) -> str:
    """The parameter that limits the completion tokens of a request with `params`."""
    return "max_completion_tokens" if params.get("max_completion_tokens") else "max_tokens"


# -- responses -----------------------------------------------------------------------------------------------------


def parse(data: Mapping[str, Any]) -> ModelResponse:
    """A complete response. Raises `TransientError` if it is not one."""
    try:
        choices = [_generation(item) for item in data["choices"]]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise TransientError(f"the answer has no readable choices: {str(data)[:200]}") from error
    return ModelResponse(choices, usage_of(data.get("usage")), str(data.get("model") or ""))


def _generation(item: Mapping[str, Any]) -> Generation:
    generation = Generation(int(item.get("index") or 0), raw=item)
    generation.extend(item)
    if generation.token_ids is not None:
        generation.tokens = len(generation.token_ids)
    return generation


def text_of(content: Any) -> str:
    """The text of a message's content, which may be absent or a list of typed parts."""
    if isinstance(content, list):
        return "".join(part.get("text", "") for part in content if isinstance(part, Mapping))
    return content or ""


def read_logprobs(data: Any) -> list[TokenLogprob] | None:
    """A choice's log-probabilities, in the form of either API; None if there are none."""
    if not isinstance(data, Mapping):
        return None
    if (content := data.get("content")) is not None:  # chat
        return [
            TokenLogprob(
                token.get("token") or "",
                float(token["logprob"]),
                _confidence([top["logprob"] for top in token.get("top_logprobs") or ()]),
            )
            for token in content
        ]
    if (logprobs := data.get("token_logprobs")) is None:
        return None
    values = (float("nan") if value is None else float(value) for value in logprobs)  # the first of an echo has none
    tokens = chain(data.get("tokens") or (), repeat(""))
    tops = chain((_confidence((top or {}).values()) for top in data.get("top_logprobs") or ()), repeat(None))
    return [TokenLogprob(*token) for token in zip(tokens, values, tops, strict=False)]


def _confidence(top: Collection[float]) -> float | None:
    return -sum(top) / len(top) if top else None


def _first_top_logprobs(data: Mapping[str, Any]) -> dict[str, float]:
    if content := data.get("content"):
        return {top["token"]: float(top["logprob"]) for top in content[0].get("top_logprobs") or ()}
    first = next(iter(data.get("top_logprobs") or ()), None) or {}
    return {token: float(value) for token, value in first.items()}


def parse_images(data: Any) -> ModelResponse:
    """A response of the images API (`/v1/images/generations`); the text of each choice is the URL of its image.

    Raises `RequestRejected` if a filter held back every image, `TransientError` if the response is unreadable.
    """
    items = data.get("data") if isinstance(data, Mapping) else None
    if not isinstance(items, list) or not all(isinstance(item, Mapping) for item in items):
        raise TransientError(f"the answer has no readable images: {str(data)[:200]}")
    urls = [f"data:;base64,{item['b64_json']}" if item.get("b64_json") else item.get("url") for item in items]
    choices = [Generation(i, url, "stop", tokens=0) for i, url in enumerate(urls) if url]
    if items and not choices:
        raise RequestRejected(f"the server held its images back: {str(items[0])[:200]}", status=400)
    return ModelResponse(choices, usage_of(data.get("usage")), str(data.get("model") or ""))


def usage_of(data: Any) -> Usage | None:
    """Usage as the server counted it, under the names of any of its APIs; None if it did not, or not in numbers."""
    if not isinstance(data, Mapping):
        return None
    prompt, completion = ("prompt", "completion") if "prompt_tokens" in data else ("input", "output")
    if not isinstance(data.get(f"{prompt}_tokens"), int | float):
        return None

    def number(table: Any, key: str) -> float:
        value = table.get(key) if isinstance(table, Mapping) else None
        return value if isinstance(value, int | float) else 0

    return Usage(
        prompt_tokens=data[f"{prompt}_tokens"],
        cached_tokens=number(data.get(f"{prompt}_tokens_details"), "cached_tokens"),
        completion_tokens=number(data, f"{completion}_tokens"),
        reasoning_tokens=number(data.get(f"{completion}_tokens_details"), "reasoning_tokens"),
    )


def estimate_tokens(text: str) -> int:
    """Tokens of `text` where nobody counts them: four bytes each, the usual rule for English."""
    return -(-len(text.encode()) // 4)


def estimate_prompt(prompt: Prompt) -> int:
    """Tokens of `prompt` where nobody counts them."""
    if isinstance(prompt, str):
        return estimate_tokens(prompt)
    if prompt and isinstance(prompt[0], int):
        return len(prompt)
    messages = [message for message in prompt if isinstance(message, Mapping)]
    return sum(4 + estimate_tokens(text_of(message.get("content"))) for message in messages)


def prompt_usage(prompt: Prompt) -> Usage:
    """The tokens of `prompt` where nobody counts them: exact for token ids, else an estimate that says so."""
    tokens, counted = estimate_prompt(prompt), not isinstance(prompt, str) and prompt and isinstance(prompt[0], int)
    return Usage(prompt_tokens=tokens, estimated_tokens=0 if counted else tokens)


def share_tokens(choices: Sequence[Generation], usage: Usage | None) -> list[tuple[float, bool]]:
    """Completion tokens of each choice, and whether that is an estimate.

    The server's own count per choice if it gives one; else its sum, shared in proportion to the length of the text
    (the sum stays exact); else an estimate from the text.
    """
    if usage is None:
        return [(_estimate(c), True) if c.tokens is None else (c.tokens, False) for c in choices]
    if len(choices) == 1:
        return [(usage.completion_tokens, False)]
    counted = [choice.tokens for choice in choices if choice.tokens is not None]
    if len(counted) == len(choices) and sum(counted) == usage.completion_tokens:
        return [(tokens, False) for tokens in counted]
    lengths = [max(1, len(choice.text) + len(choice.reasoning)) for choice in choices]
    cuts = [round(usage.completion_tokens * sum(lengths[:i]) / sum(lengths)) for i in range(len(lengths) + 1)]
    return [(high - low, False) for low, high in pairwise(cuts)]


def _estimate(choice: Generation) -> int:
    called = "".join(json.dumps(call) for call in choice.tool_calls)
    return estimate_tokens(choice.text + choice.reasoning + called)


# -- errors --------------------------------------------------------------------------------------------------------


def error_of(response: httpx.Response, body: bytes) -> EndpointError:
    """The library's error for a response whose status is not good."""
    status, text = response.status_code, body.decode(errors="replace")
    message = f"HTTP {status} from {response.request.url}: {server_message(text)}"
    details = {"status": status, "body": text, "retry_after": retry_after(response.headers)}
    if status in (429, 503):
        return Throttled(message, **details)
    if status in (401, 403):
        return EndpointRefused(f"{message}. Check the API key (OPENAI_API_KEY, or api_key_file)", **details)
    if status == 404:
        return EndpointRefused(f"{message}. Check the model's name, and that the base URL ends in /v1", **details)
    if status in (301, 302, 303, 307, 308):
        target = response.headers.get("location", "elsewhere")
        return EndpointRefused(f"{message}. It redirects to {target}; set base_url to where that leads", **details)
    if status in (408, 409, 425) or (status >= 500 and status != 501):
        return TransientError(message, **details)
    return RequestRejected(message, **details)


def server_message(text: str) -> str:
    """The message in an error body, shortened."""
    with suppress(ValueError, AttributeError):
        data = json.loads(text)
        error = data.get("error", data)
        text = error.get("message", text) if isinstance(error, Mapping) else str(error)
    return text.strip()[:300] or "(no message)"


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that the server asks to wait, from either form of Retry-After."""
    value = headers.get("retry-after", "")
    with suppress(ValueError):
        return max(0.0, float(value))
    with suppress(ValueError):
        return max(0.0, parsedate_to_datetime(value).timestamp() - time())
    return None


def refuses(error: EndpointError, *names: str) -> bool:
    """Whether `error` rejects one of the parameters `names`."""
    if error.status not in (400, 422, 501):
        return False
    with suppress(ValueError, KeyError, TypeError):
        if json.loads(error.body)["error"]["param"] in names:
            return True
    words = server_message(error.body).lower()
    return any(re.search(rf"(?<![\w.])[`'\"]?{name}[`'\"]?(?![\w.])", words) for name in names)


# -- streams -------------------------------------------------------------------------------------------------------


async def events(response: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    """The JSON events of a server-sent stream; raises `TransientError` if it ends before `[DONE]`."""
    async for line in response.aiter_lines():
        if not line.startswith("data:"):
            continue
        data = line[5:].strip()
        if data == "[DONE]":
            return
        try:
            event = json.loads(data)
        except ValueError as error:
            raise TransientError(f"unreadable event in the stream: {data[:100]}") from error
        if "error" in event:
            raise _stream_error(event["error"])
        yield event
    raise TransientError("the stream ended before it was complete")


def _stream_error(error: Any) -> EndpointError:
    details: Mapping[str, Any] = error if isinstance(error, Mapping) else {"message": str(error)}
    code = details.get("code")
    status = code if isinstance(code, int) else None
    kind = RequestRejected if status is not None and 400 <= status < 500 and status != 429 else TransientError
    return kind(f"error in the stream: {details.get('message', details)}", status=status)


class Assembly:
    """Choices and usage put together from the events of a stream."""

    def __init__(self) -> None:
        self.choices: dict[int, Generation] = {}
        """Those begun and not yet taken."""
        self.usage: Usage | None = None
        self.model = ""
        self.seen = 0
        """Choices begun, taken or not."""
        self._taken_tokens = 0.0

    def add(self, event: Mapping[str, Any]) -> list[Generation]:
        """Take in one event; returns the choices that it completes."""
        self.model = event.get("model") or self.model
        usage = usage_of(event.get("usage"))
        finished = []
        for item in event.get("choices") or ():
            index = int(item.get("index") or 0)
            if index not in self.choices:
                self.choices[index] = Generation(index)
                self.seen += 1
            choice = self.choices[index]
            choice.extend(item)
            if usage is not None:
                choice.tokens = usage.completion_tokens  # running usage counts one choice (vLLM)
            if choice.finish_reason:
                finished.append(choice)
        if usage is not None:
            self.usage = usage
        return finished

    def take(self, finished: list[Generation]) -> ModelResponse | None:
        """Hand over the choices `finished` before the stream ends, if their tokens are known; else None."""
        if self.usage is None or any(choice.tokens is None for choice in finished):
            return None
        tokens = sum(choice.tokens or 0 for choice in finished)
        for choice in finished:
            del self.choices[choice.index]
        self._taken_tokens += tokens
        return ModelResponse(finished, replace(self.usage, completion_tokens=tokens), self.model)

    def take_rest(self) -> ModelResponse:
        """Hand over what is left at the end of the stream."""
        usage, rest = self.usage, list(self.choices.values())
        if usage is not None and self._taken_tokens:
            usage = replace(usage, completion_tokens=max(0, usage.completion_tokens - self._taken_tokens))
        self.choices.clear()
        return ModelResponse(rest, usage, self.model)

    def lost(self) -> Usage:
        """What is lost if the stream breaks now. Once a choice was taken, request and prompt are paid for."""
        tokens = sum(choice.tokens or 0 for choice in self.choices.values())
        if self.seen > len(self.choices):
            return Usage(completion_tokens=tokens)
        prompt = self.usage.prompt_tokens if self.usage else 0
        return Usage(requests=1, prompt_tokens=prompt, completion_tokens=tokens)


def _extended(known: list[T] | None, more: list[T]) -> list[T]:
    if known is None:
        return list(more)
    known += more  # in place: a long answer comes in many pieces
    return known


def _extend_call(calls: list[dict[str, Any]], delta: Mapping[str, Any]) -> None:
    """Tool calls come in pieces: first the name, then the arguments' text bit by bit."""
    index = delta.get("index", len(calls))
    while len(calls) <= index:
        calls.append({"id": "", "type": "function", "function": {"name": "", "arguments": ""}})
    call, piece = calls[index], delta.get("function") or {}
    call["id"] = delta.get("id") or call["id"]
    call["function"]["name"] += piece.get("name") or ""
    call["function"]["arguments"] += piece.get("arguments") or ""
