"""The OpenAI protocol: request bodies out, choices and usage in."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from itertools import pairwise
from time import time
from typing import Any, TypeVar

import httpx

from tts.errors import EndpointError, EndpointRefused, RequestRejected, Throttled, TransientError
from tts.types import Drawing, Prompt, Usage

T = TypeVar("T")


@dataclass(slots=True)
class Choice:
    """One answer as it stands on the wire."""

    index: int
    text: str = ""
    finish_reason: str | None = None
    reasoning: str = ""
    tool_calls: list[dict[str, Any]] = field(default_factory=list)
    token_ids: list[int] | None = None
    logprobs: list[float] | None = None
    confidences: list[float] | None = None
    top_logprobs: dict[str, float] | None = None
    tokens: float | None = None
    """Completion tokens of this choice alone, where the server tells."""
    raw: Mapping[str, Any] | None = None
    """The choice as it came, where it came in one piece."""


@dataclass(slots=True)
class Reply:
    """All choices of a request and its usage; `usage` is None where the server sent none."""

    choices: list[Choice]
    usage: Usage | None
    model: str = ""


def request(prompt: Prompt, model: str, params: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Path and body of a request for `prompt`; `params` go in as they are, None values left out."""
    options = {key: value for key, value in params.items() if value is not None}
    if isinstance(prompt, Drawing):
        return "/images/generations", {"model": model, "prompt": prompt, "response_format": "b64_json", **options}
    if isinstance(prompt, str) or (prompt and isinstance(prompt[0], int)):
        if options.get("logprobs") is True:  # chat's flag; text completions want a number
            options["logprobs"] = options.pop("top_logprobs", 0)
        return "/completions", {"model": model, "prompt": prompt, **options}
    return "/chat/completions", {"model": model, "messages": list(prompt), **options}


def parse(data: Mapping[str, Any]) -> Reply:
    """A complete answer. Raises `TransientError` when it is not one."""
    try:
        choices = [_choice(item) for item in data["choices"]]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise TransientError(f"the answer has no readable choices: {str(data)[:200]}") from error
    return Reply(choices, usage_of(data.get("usage")), str(data.get("model") or ""))


def _choice(item: Mapping[str, Any]) -> Choice:
    message = item.get("message") or {}
    content = message.get("content") if "message" in item else item.get("text")
    return Choice(
        index=int(item.get("index") or 0),
        text=text_of(content),
        finish_reason=item.get("finish_reason"),
        reasoning=message.get("reasoning_content") or message.get("reasoning") or "",
        tool_calls=list(message.get("tool_calls") or ()),
        token_ids=item.get("token_ids"),
        logprobs=_logprobs(item.get("logprobs")),
        confidences=_confidences(item.get("logprobs")),
        top_logprobs=_first_tops(item.get("logprobs")),
        tokens=len(ids) if (ids := item.get("token_ids")) is not None else None,
        raw=item,
    )


def text_of(content: Any) -> str:
    """The text of a message's content, which may be absent or a list of typed parts."""
    if isinstance(content, list):  # content parts
        return "".join(part.get("text", "") for part in content if isinstance(part, Mapping))
    return content or ""


def _logprobs(data: Any) -> list[float] | None:
    if not isinstance(data, Mapping):
        return None
    if data.get("content") is not None:  # chat form
        return [float(token["logprob"]) for token in data["content"]]
    if data.get("token_logprobs") is not None:  # text completion form; the first may be null with echo
        return [float(value) if value is not None else float("nan") for value in data["token_logprobs"]]
    return None


def _confidences(data: Any) -> list[float] | None:
    """See `Sample.confidences`; None where no alternatives were given."""
    if not isinstance(data, Mapping):
        return None
    if data.get("content") is not None:
        tops = [[token["logprob"] for token in place.get("top_logprobs") or ()] for place in data["content"]]
    else:
        tops = [list((place or {}).values()) for place in data.get("top_logprobs") or ()]
    return [-sum(top) / len(top) for top in tops] if tops and all(tops) else None


def _first_tops(data: Any) -> dict[str, float] | None:
    """See `Sample.top_logprobs`."""
    if not isinstance(data, Mapping):
        return None
    if content := data.get("content"):  # chat form
        return {top["token"]: float(top["logprob"]) for top in content[0].get("top_logprobs") or ()}
    places = data.get("top_logprobs") or [None]  # text completion form
    return {token: float(value) for token, value in (places[0] or {}).items()}


def usage_of(data: Any) -> Usage | None:
    """Usage as the server counted it; None where it did not, or not in numbers."""
    if not isinstance(data, Mapping) or not isinstance(data.get("prompt_tokens"), int | float):
        return None

    def number(table: Any, key: str) -> float:
        value = table.get(key) if isinstance(table, Mapping) else None
        return value if isinstance(value, int | float) else 0

    return Usage(
        prompt_tokens=data["prompt_tokens"],
        cached_tokens=number(data.get("prompt_tokens_details"), "cached_tokens"),
        completion_tokens=number(data, "completion_tokens"),
        reasoning_tokens=number(data.get("completion_tokens_details"), "reasoning_tokens"),
    )


def estimate_tokens(text: str) -> int:
    """Tokens of `text` where no one counts them: four bytes each, the usual rule for English."""
    return -(-len(text.encode()) // 4)


def estimate_prompt(prompt: Prompt) -> int:
    """Tokens of `prompt` where no one counts them."""
    if isinstance(prompt, str):
        return estimate_tokens(prompt)
    if prompt and isinstance(prompt[0], int):
        return len(prompt)
    return sum(
        4 + estimate_tokens(text_of(message.get("content"))) for message in prompt if isinstance(message, Mapping)
    )


def error_of(response: httpx.Response, body: bytes) -> EndpointError:
    """The typed error of an HTTP error status."""
    status, text = response.status_code, body.decode(errors="replace")
    message = f"HTTP {status} from {response.request.url}: {server_message(text)}"
    details = {"status": status, "body": text, "retry_after": retry_after(response.headers)}
    if status == 429 or (status == 503):
        return Throttled(message, **details)
    if status in (401, 403):
        return EndpointRefused(f"{message}. Check the API key (OPENAI_API_KEY, or api_key_file)", **details)
    if status == 404:
        return EndpointRefused(f"{message}. Check the model's name and that the base URL ends in /v1", **details)
    if status in (301, 302, 303, 307, 308):
        target = response.headers.get("location", "elsewhere")
        return EndpointRefused(f"{message}. It redirects to {target}; set base_url to where that leads", **details)
    if status in (408, 409, 425) or (status >= 500 and status != 501):
        return TransientError(message, **details)
    return RequestRejected(message, **details)


def server_message(text: str) -> str:
    """The words of an error body, shortened."""
    try:
        data = json.loads(text)
        error = data.get("error", data)
        text = error.get("message", text) if isinstance(error, Mapping) else str(error)
    except (ValueError, AttributeError):
        pass
    return text.strip()[:300] or "(no message)"


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait as the server asks, from either form of Retry-After."""
    value = headers.get("retry-after")
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        try:
            return max(0.0, parsedate_to_datetime(value).timestamp() - time())
        except ValueError:
            return None


def refuses(error: EndpointError, *names: str) -> bool:
    """Whether a rejection is about one of the parameters `names`."""
    if error.status not in (400, 422, 501):
        return False
    try:
        param = json.loads(error.body)["error"]["param"]
    except (ValueError, KeyError, TypeError):
        param = None
    words = server_message(error.body).lower()
    return param in names or any(re.search(rf"(?<![\w.])[`'\"]?{name}[`'\"]?(?![\w.])", words) for name in names)


async def events(response: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    """The JSON events of a server-sent stream; raises `TransientError` if it ends before [DONE]."""
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
        self.choices: dict[int, Choice] = {}
        self.usage: Usage | None = None
        self.model = ""
        self.seen = 0
        """Choices begun, handed over or not."""

    def add(self, event: Mapping[str, Any]) -> list[Choice]:
        """Take one event in; returns the choices that it completes."""
        self.model = event.get("model") or self.model
        usage = usage_of(event.get("usage"))
        finished = []
        for item in event.get("choices") or ():
            index = int(item.get("index") or 0)
            if index not in self.choices:
                self.choices[index] = Choice(index)
                self.seen += 1
            choice = self.choices[index]
            self._extend(choice, item)
            if usage is not None:
                choice.tokens = usage.completion_tokens  # running usage counts one choice (vLLM)
            if item.get("finish_reason"):
                choice.finish_reason = item["finish_reason"]
                finished.append(choice)
        if usage is not None:
            self.usage = usage
        return finished

    def known(self) -> Usage:
        """Tokens known to have been generated and not handed over."""
        tokens = sum(choice.tokens or 0 for choice in self.choices.values())
        return Usage(prompt_tokens=self.usage.prompt_tokens if self.usage else 0, completion_tokens=tokens)

    def _extend(self, choice: Choice, item: Mapping[str, Any]) -> None:
        delta = item.get("delta") or {}
        choice.text += text_of(delta.get("content") if "delta" in item else item.get("text"))
        choice.reasoning += delta.get("reasoning_content") or delta.get("reasoning") or ""
        for call in delta.get("tool_calls") or ():
            _extend_call(choice.tool_calls, call)
        if (ids := item.get("token_ids")) is not None:
            choice.token_ids = _grown(choice.token_ids, ids)
        if (logprobs := _logprobs(item.get("logprobs"))) is not None:
            choice.logprobs = _grown(choice.logprobs, logprobs)
        if (confidences := _confidences(item.get("logprobs"))) is not None:
            choice.confidences = _grown(choice.confidences, confidences)
        choice.top_logprobs = choice.top_logprobs or _first_tops(item.get("logprobs"))


def _grown(known: list[T] | None, more: list[T]) -> list[T]:
    known = [] if known is None else known  # in place: a long answer comes in many pieces
    known += more
    return known


def _extend_call(calls: list[dict[str, Any]], delta: Mapping[str, Any]) -> None:
    """Tool calls come in pieces: name first, then the arguments' text bit by bit."""
    index = delta.get("index", len(calls))
    while len(calls) <= index:
        calls.append({"id": "", "type": "function", "function": {"name": "", "arguments": ""}})
    call, piece = calls[index], delta.get("function") or {}
    call["id"] = delta.get("id") or call["id"]
    call["function"]["name"] += piece.get("name") or ""
    call["function"]["arguments"] += piece.get("arguments") or ""


def share_tokens(choices: Sequence[Choice], usage: Usage | None) -> list[tuple[float, bool]]:
    """Completion tokens of each choice and whether they are an estimate.

    The server's own count per choice where it gives one; else its sum, shared by length of text (the sum stays
    exact); else estimated from the text.
    """
    if usage is None:
        return [(c.tokens, False) if c.tokens is not None else (_estimate(c), True) for c in choices]
    if len(choices) == 1:
        return [(usage.completion_tokens, False)]
    if all(choice.tokens is not None for choice in choices) and (
        sum(choice.tokens or 0 for choice in choices) == usage.completion_tokens
    ):
        return [(choice.tokens or 0, False) for choice in choices]
    lengths = [max(1, len(choice.text) + len(choice.reasoning)) for choice in choices]
    cuts = [round(usage.completion_tokens * sum(lengths[:i]) / sum(lengths)) for i in range(len(lengths) + 1)]
    return [(high - low, False) for low, high in pairwise(cuts)]


def _estimate(choice: Choice) -> int:
    called = "".join(json.dumps(call) for call in choice.tool_calls)
    return estimate_tokens(choice.text + choice.reasoning + called)
