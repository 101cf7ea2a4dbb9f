"""The OpenAI protocol: what requests say, and what responses and streams mean.

Everything that a server says comes in by `parse`, `parse_images`, `usage_of` and `Assembly`: what they let pass is of
the right type and within the limits. What is missing or null is as if the server had not said it; anything else that is
not as it should be raises `TransientError`, which is the failure of the samples asked for.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import chain, pairwise, repeat
from typing import Any, NamedTuple, TypeVar

from tts.concurrency import LARGE
from tts.errors import RequestRejected, TransientError
from tts.sampler.redaction import Redactor
from tts.sampler.refusals import error_inside
from tts.sampler.sse import ServerEvent
from tts.text import size_of, well_formed
from tts.types import Drawing, Prompt, Sample, Usage

T = TypeVar("T")

LARGEST_COUNT = 2**53
"""Tokens that no answer has: from here on, floats skip whole numbers."""

MOST_CALLS = 1024
"""Tool calls in one answer."""

MOST_CHOICES = 4096
"""Choices in one answer."""

OBJECT = 50
"""Bytes that a short text or a number in a list takes beside what it says, about."""

DEEPEST = 100
"""Levels of nesting in an answer, or in a request to a gateway."""

FAILED = frozenset(
    {
        *("error", "abort", "aborted", "cancelled", "engine_error", "failed", "internal_error"),
        *("network_error", "server_error"),
    }
)
"""Finish reasons that mean that the answer was not finished, by no fault of the model."""

REASONS: dict[str, str | None] = {
    "": None,
    "null": None,
    "none": None,
    **dict.fromkeys(("complete", "completed", "end_turn", "eos", "eos_token", "stop_sequence"), "stop"),
    **dict.fromkeys(("max_length", "max_output_tokens", "max_tokens", "model_length"), "length"),
    **dict.fromkeys(("blocklist", "prohibited_content", "recitation", "safety", "sensitive"), "content_filter"),
    "tool_use": "tool_calls",
    **{reason: reason for reason in ("stop", "length", "content_filter", "tool_calls", "refusal", *FAILED)},
}
"""OpenAI's words for the finish reasons of other servers."""


class Generation:
    """One choice of a response."""

    __slots__ = (
        "_reasoning",
        "_text",
        "confidences",
        "failure",
        "finish_reason",
        "in_parts",
        "index",
        "logprobs",
        "raw",
        "refused",
        "token_ids",
        "tokens",
        "tool_calls",
        "top_logprobs",
    )

    def __init__(
        self,
        index: int,
        text: str = "",
        finish_reason: str | None = None,
        *,
        tokens: float | None = None,
        raw: Mapping[str, Any] | None = None,
    ) -> None:
        self.index: int = index
        self.finish_reason = finish_reason
        self.tool_calls: list[dict[str, Any]] = []
        self.token_ids: list[int] | None = None
        self.logprobs: list[float] | None = None
        self.confidences: list[float] | None = None
        """See `Sample.confidences`."""
        self.top_logprobs: dict[str, float] | None = None
        """See `Sample.top_logprobs`."""
        self.tokens: float | None = tokens
        """Completion tokens of this choice alone, if the server counts them."""
        self.failure: str | None = None
        """Why the server did not finish it, if it says so."""
        self.raw: Mapping[str, Any] | None = raw
        """The choice as received, if it came in one piece."""
        self.in_parts: bool = raw is None
        """Whether its texts came in parts, across which a secret may reach."""
        self.refused: bool = False
        """Whether the model refused, in words that are kept apart from the content."""
        self._text = [text] if text else []
        self._reasoning: list[str] = []

    def sample(self, *, keep_ids: bool, keep_raw: bool, **known: Any) -> Sample:
        """The sample that it is, with what is `known` of it besides what it says."""
        return Sample(
            text=self.text,
            finish_reason=self.finish_reason,
            reasoning=self.reasoning,
            tool_calls=tuple(self.tool_calls),
            token_ids=tuple(self.token_ids) if keep_ids and self.token_ids is not None else None,
            logprobs=tuple(self.logprobs) if self.logprobs is not None else None,
            confidences=tuple(self.confidences) if self.confidences is not None else None,
            top_logprobs=self.top_logprobs or None,
            raw=self.raw if keep_raw else None,
            **known,
        )

    @property
    def text(self) -> str:
        """What it says, as far as it has come."""
        return _joined(self._text)

    @text.setter
    def text(self, text: str) -> None:
        self._text = [text]

    @property
    def size(self) -> int:
        """Characters of what it says and thinks, as far as it has come."""
        return sum(map(len, self._text)) + sum(map(len, self._reasoning))

    @property
    def reasoning(self) -> str:
        """The thoughts before it, where the server gives them apart."""
        return _joined(self._reasoning)

    def clean(self, secrets: Redactor, longest: int) -> None:
        """Mend what it says (see `well_formed`), and hide `secrets` that came in parts.

        Raises `RequestRejected` for a text of more than `longest` characters, which nothing could work with in passing.
        """
        text, reasoning = self.text, self.reasoning
        if max(len(text), len(reasoning)) > longest:
            words = "a text of the answer has more than"
            raise RequestRejected(f"{words} {longest:,} characters (a quarter of max_answer_bytes)")
        text, reasoning = well_formed(text), well_formed(reasoning)
        if self.in_parts:
            text, reasoning = secrets(text), secrets(reasoning)
            self.tool_calls = [secrets.call(call) for call in self.tool_calls]
        self._text, self._reasoning = [text], [reasoning]

    def _forget(self, text: str, thought: str, message: Mapping[str, Any]) -> None:
        """Drop what the whole `message` repeats of the pieces before it."""
        for pieces, repeated in ((self._text, text), (self._reasoning, thought)):
            if repeated.startswith("".join(pieces)):
                pieces.clear()
        if message.get("tool_calls"):
            self.tool_calls.clear()

    def extend(self, item: Mapping[str, Any]) -> int:
        """Append a choice as it stands in a response, or a piece of it as it stands in an event; returns its size."""
        whole = bool(item.get("message"))
        size = 0
        if not (message := item.get("message") or item.get("delta")):
            text = text_of(item.get("text"))
            self.in_parts = self.in_parts or isinstance(item.get("text"), list)
        else:
            message = _table(message, "message")
            text = text_of(message.get("content"))
            self.refused = self.refused or bool(message.get("refusal"))
            thought = text_of(message.get("reasoning_content")) or text_of(message.get("reasoning"))
            self.in_parts = self.in_parts or list in map(type, message.values())
            if whole and item.get("finish_reason") and (self._text or self._reasoning or self.tool_calls):
                # some streams end with all that was said
                self._forget(text, thought, message)
            if thought:
                self._reasoning.append(thought)
                size += OBJECT + len(thought)
            for call in filter(None, _list(message.get("tool_calls"), "tool_calls")):
                size += _extend_call(self.tool_calls, _table(call, "a tool call"), whole=whole)
        if text:
            self._text.append(text)
            size += OBJECT + len(text)
        if (ids := item.get("token_ids")) is not None:
            self.token_ids = _extended(self.token_ids, _token_ids(ids))
            size += OBJECT * len(ids)
        if (tokens := read_logprobs(item.get("logprobs"))) is not None:
            self.logprobs = _extended(self.logprobs, [token.logprob for token in tokens])
            confidences = [token.confidence for token in tokens if token.confidence is not None]
            if tokens and len(confidences) == len(tokens):
                self.confidences = _extended(self.confidences, confidences)
            self.top_logprobs = self.top_logprobs or _first_top_logprobs(item["logprobs"])
            size += OBJECT * len(tokens)
        reason, error = item.get("finish_reason"), item.get("error")
        if reason is not None:
            if not isinstance(reason, str):
                raise TransientError(f"unreadable answer: its finish reason is {_shown(reason)}")
            reason = REASONS.get(reason.lower(), reason)
        if reason == "stop" and self.refused and not self.text:  # the words of a refusal are no answer
            reason = "refusal"
        self.finish_reason = reason or self.finish_reason
        if error or self.finish_reason in FAILED:
            self.failure = f"the server did not finish the answer ({self.finish_reason}): {_shown(error)}"
            self.finish_reason = self.finish_reason or "error"
        return size


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
    """Path and body of a request for `prompt` with the `merged` parameters `params`; those that are None are left
    out."""
    options = {key: value for key, value in params.items() if value is not None}
    if isinstance(prompt, Drawing):
        own = {"model": model, "prompt": prompt}
        return "/images/generations", {"response_format": "b64_json", **options, **own}
    if isinstance(prompt, str) or (prompt and isinstance(prompt[0], int)):
        if options.get("logprobs") is True:  # chat's flag; text completions want a number
            options["logprobs"] = options.pop("top_logprobs", 0)
        return "/completions", {**options, "model": model, "prompt": prompt}
    return "/chat/completions", {**options, "model": model, "messages": list(prompt)}


# -- responses -----------------------------------------------------------------------------------------------------


def decoded(data: bytes) -> str:
    """The text of JSON, as leniently as browsers read it: bytes that are no text become U+FFFD."""
    return data.decode(json.detect_encoding(data), "replace")


def json_of(text: str) -> Any:
    """What JSON says, control characters inside strings included.

    Raises `ValueError` for anything else, and for what is nested too deeply to be an answer.
    """
    try:
        value = (_YIELDING if len(text) > LARGE else _LENIENT).decode(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if text.count("[") + text.count("{") > DEEPEST:
        check_depth(value)
    return value


def check_depth(value: Any) -> None:
    """Raise `ValueError` where plain data is nested too deeply for those who go through it."""
    level = [value]
    for _ in range(DEEPEST):
        inner = chain.from_iterable(one.values() if isinstance(one, dict) else one for one in level)
        level = [one for one in inner if isinstance(one, (dict, list))]  # a union would be made anew for each
        if not level:
            return
    raise ValueError(f"it is nested more than {DEEPEST} levels deep")


def bytes_of(value: Any, *, large: bool = False) -> bytes:
    """JSON in UTF-8; what is `large` in ASCII, and in steps between which other threads get their turn."""
    if large:
        return "".join(json.JSONEncoder().iterencode(value)).encode()
    try:
        return _PLAIN.encode(value).encode()
    except UnicodeEncodeError:  # half a character
        return json.dumps(value).encode()


def values_in(data: bytes) -> tuple[int, int]:
    """About how many lists, and how many values and keys, a text in JSON has: brackets, commas and colons outside of
    strings. To be run in a thread where the text is large."""
    lists, others, inside, start = 0, 0, False, 0
    while start < len(data):
        end = start + LARGE
        while data[end - 1 : end] == b"\\":  # what it escapes comes with it
            end += 1
        parts = data[start:end].replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')
        outside = b"".join(parts[inside::2])
        lists += outside.count(b"[")
        others += sum(map(outside.count, (b",", b":", b"{")))
        inside, start = inside ^ (len(parts) % 2 == 0), end
    return lists, lists + others


def check_values(data: bytes, limit: int) -> None:
    """Raise `RequestRejected` where JSON has more values than an answer of up to `limit` bytes needs.

    Each takes memory beyond its bytes, and lists are made without a break for other threads. Log-probabilities with
    their tokens' bytes, which need most, have a list to 65 bytes and a value to seven.
    """
    if len(data) > LARGE:
        for name, found, most in zip(("lists", "values"), values_in(data), (limit // 64, limit // 6), strict=True):
            if found > most:
                raise RequestRejected(f"the answer has more than {most:,} {name} (max_answer_bytes / {limit // most})")


YIELDING: dict[str, Any] = {
    "object_hook": lambda table: table,
    "parse_int": lambda digits: int(digits),
    "parse_float": lambda digits: float(digits),
}
"""Options for JSON that is read in a thread: other threads get their turn only when Python code runs."""

_LENIENT = json.JSONDecoder(strict=False)
_YIELDING = json.JSONDecoder(strict=False, **YIELDING)
_PLAIN = json.JSONEncoder(ensure_ascii=False)


def _shown(value: Any) -> str:
    """The beginning of a value, for messages."""
    return ascii(value)[:200] if isinstance(value, str | int | float | None) else f"{json.dumps(value)[:200]}"


def _table(value: Any, what: str) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise TransientError(f"unreadable answer: {what} is {_shown(value)}")
    return value


def _list(value: Any, what: str) -> Sequence[Any]:
    if not value:
        return ()
    if not isinstance(value, list):
        raise TransientError(f"unreadable answer: {what} is {_shown(value)}")
    return value


def _number(value: Any, what: str) -> float:
    if not _is_number(value):
        raise TransientError(f"unreadable answer: {what} is {_shown(value)}")
    if isinstance(value, int) and abs(value) >= LARGEST_COUNT:
        return math.inf if value > 0 else -math.inf
    return float(value)


def _is_number(value: Any) -> bool:
    return type(value) is int or type(value) is float


def count_of(value: Any, what: str, most: float = LARGEST_COUNT) -> Any:
    """`value` if it can be a count: finite, not negative, at most `most`. Raises `TransientError` for others."""
    if not _is_number(value) or not 0 <= value < most:
        raise TransientError(f"unreadable answer: {what} is {_shown(value)}")
    return value


def _token_ids(value: Any) -> Sequence[int]:
    ids = _list(value, "token_ids")
    if ids and (set(map(type, ids)) != {int} or min(ids) < 0 or max(ids) >= LARGEST_COUNT):  # quick: they are many
        raise TransientError(f"unreadable answer: its token ids are {_shown(ids)}")
    return ids


def parse(data: Any) -> ModelResponse:
    """A complete response. Raises `TransientError` if it is not one, and the error that it tells of."""
    raise_told(data)
    items = _choices(data, "choices")
    indices = [_index(item, place) for place, item in enumerate(items)]
    if len(set(indices)) < len(indices):  # it numbers them all alike
        indices = list(range(len(items)))
    choices = [Generation(index, raw=item) for index, item in zip(indices, items, strict=True)]
    for choice, item in zip(choices, items, strict=True):
        choice.extend(item)
        if choice.token_ids is not None:
            choice.tokens = len(choice.token_ids)
    return ModelResponse(choices, usage_of(data.get("usage")), _name(data.get("model")))


def _choices(data: Any, key: str) -> Sequence[Mapping[str, Any]]:
    items = data.get(key) if isinstance(data, dict) else None
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise TransientError(f"the answer has no readable {key}: {_shown(data)}")
    if len(items) > MOST_CHOICES:
        raise TransientError(f"the answer has {len(items):,} {key}, more than {MOST_CHOICES:,}")
    return items


def raise_told(data: Any) -> None:
    """Raise the error that an answer or an event tells of, if it does."""
    if isinstance(data, dict):
        if error := data.get("error"):
            raise error_inside(error)
        if data.get("object") == "error":  # as vLLM once put it
            raise error_inside(data)


def _index(item: Mapping[str, Any], place: int) -> int:
    """The number of a choice; those without one are numbered in their order."""
    index = item.get("index")
    return place if index is None else int(count_of(index, "a choice's index", MOST_CHOICES))


def _name(model: Any) -> str:
    return model if isinstance(model, str) else ""


def text_of(content: Any) -> str:
    """The text of a message's content, which may be absent or a list of typed parts.

    Raises `TransientError` if it is anything else.
    """
    if content is None or isinstance(content, str):
        return content or ""
    if isinstance(content, list):
        return "".join(
            part if isinstance(part, str) else text_of(_table(part, "a part").get("text")) for part in content
        )
    raise TransientError(f"unreadable answer: its text is {_shown(content)}")


def read_logprobs(data: Any) -> list[TokenLogprob] | None:
    """A choice's log-probabilities, in the form of either API; None if there are none. Each that is null is NaN."""
    if data is None:
        return None
    data = _table(data, "logprobs")
    if (content := data.get("content")) is not None:  # chat
        read = []
        for token in _list(content, "logprobs"):
            token = _table(token, "logprobs")
            tops = [_logprob(_table(top, "top_logprobs").get("logprob")) for top in _tops(token)]
            read.append(TokenLogprob(text_of(token.get("token")), _logprob(token.get("logprob")), _confidence(tops)))
        return read
    if (logprobs := data.get("token_logprobs")) is None:
        return None
    values = map(_logprob, _list(logprobs, "logprobs"))  # the first of an echo has none
    tokens = chain(map(text_of, _list(data.get("tokens"), "tokens")), repeat(""))
    tops = chain((_confidence([*map(_logprob, top.values())]) for top in _text_tops(data)), repeat(None))
    return [TokenLogprob(*token) for token in zip(tokens, values, tops, strict=False)]


def _logprob(value: Any) -> float:
    return math.nan if value is None else _number(value, "a log-probability")


def _tops(token: Mapping[str, Any]) -> Sequence[Any]:
    return _list(token.get("top_logprobs"), "top_logprobs")


def _text_tops(data: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    return (_table(top or {}, "top_logprobs") for top in _list(data.get("top_logprobs"), "top_logprobs"))


def _confidence(top: Collection[float]) -> float | None:
    known = [logprob for logprob in top if not math.isnan(logprob)]
    return -sum(known) / len(known) if known else None


def _first_top_logprobs(data: Mapping[str, Any]) -> dict[str, float]:
    if content := data.get("content"):
        tops = [_table(top, "top_logprobs") for top in _tops(_table(content[0], "logprobs"))]
        found = {text_of(top.get("token")): top.get("logprob") for top in tops}
    else:
        found = next(iter(_text_tops(data)), {})
    return {token: _logprob(value) for token, value in found.items() if value is not None}


def parse_images(data: Any) -> ModelResponse:
    """A response of the images API (`/v1/images/generations`); the text of each choice is the URL of its image.

    Raises `RequestRejected` if a filter held back every image, `TransientError` if the response is unreadable.
    """
    raise_told(data)
    items = _choices(data, "data")
    coded = [(text_of(item.get("b64_json")), text_of(item.get("url"))) for item in items]
    urls = [f"data:;base64,{image}" if image else url for image, url in coded]
    choices = [Generation(i, url, "stop", tokens=0) for i, url in enumerate(urls) if url]
    if items and not choices:
        raise RequestRejected(f"the server held its images back: {_shown(items[0])}", status=400)
    return ModelResponse(choices, usage_of(data.get("usage")), _name(data.get("model")))


def usage_of(data: Any) -> Usage | None:
    """Usage as the server counted it, under the names of any of its APIs; None if it did not, or not in numbers.

    Raises `TransientError` for counts that cannot be: negative, infinite, or of 2**53 and more.
    """
    if not isinstance(data, dict):
        return None
    prompt, completion = ("prompt", "completion") if "prompt_tokens" in data else ("input", "output")
    if not _is_number(data.get(f"{prompt}_tokens")):
        return None
    read = _counted(data, f"{prompt}_tokens"), _counted(data.get(f"{prompt}_tokens_details"), "cached_tokens")
    written = _counted(data, f"{completion}_tokens")
    return Usage(0, *read, written, _counted(data.get(f"{completion}_tokens_details"), "reasoning_tokens"))


def _counted(table: Any, key: str) -> float:
    value = table.get(key) if isinstance(table, dict) else None
    return count_of(value, key) if _is_number(value) else 0


def estimate_tokens(text: str) -> int:
    """Tokens of `text` where nobody counts them: four bytes each, the usual rule for English."""
    return -(-(len(text) if text.isascii() else len(text.encode(errors="surrogatepass"))) // 4)


def estimate_prompt(prompt: Prompt) -> int:
    """Tokens of `prompt` where nobody counts them."""
    if isinstance(prompt, str):
        return estimate_tokens(prompt)
    if prompt and isinstance(prompt[0], int):
        return len(prompt)
    total = 0
    for one in prompt:
        if isinstance(one, Mapping):
            with suppress(TransientError):  # what is no message is for the server to refuse
                total += 4 + estimate_tokens(text_of(one.get("content")))
            total += estimate_texts([value for name, value in one.items() if name not in ("role", "content")])
        else:
            total += estimate_texts(one)
    return total


def estimate_texts(data: Any) -> int:
    """Tokens of all texts, names and numbers in plain data, but not of pictures and sounds (`data:` URLs)."""
    total, left = 0, [data]
    while left:
        one = left.pop()
        if isinstance(one, str):
            total += 0 if one.startswith("data:") else estimate_tokens(one)
        elif isinstance(one, Mapping):
            left += [*one, *one.values()]
        elif isinstance(one, list | tuple):
            left += one
        else:
            total += one is not None
    return total


def prompt_size(prompt: Prompt) -> int:
    """About the characters of `prompt`, as far as they matter to `aside`."""
    if not isinstance(prompt, str) and prompt and isinstance(prompt[0], int):
        return 4 * len(prompt)
    if len(prompt) == 1 and type(one := prompt[0]) is dict and len(one) == 2 and type(one.get("content")) is str:
        return 64 + len(one["content"])  # a role and a text, as most are
    return size_of(prompt, LARGE, 16)


def prompt_usage(prompt: Prompt) -> Usage:
    """The tokens of `prompt` where nobody counts them: exact for token ids, else an estimate that says so."""
    tokens, counted = estimate_prompt(prompt), not isinstance(prompt, str) and prompt and isinstance(prompt[0], int)
    return Usage(prompt_tokens=tokens, estimated_tokens=0 if counted else tokens)


def share_tokens(choices: Sequence[Generation], usage: Usage | None) -> list[tuple[float, bool]]:
    """Completion tokens of each choice, and whether that is an estimate.

    The server's own count per choice if it gives one; else its sum, shared in proportion to the length of the text
    (the sum stays exact); else an estimate from the text, also where it counts nothing for some text.
    """
    if usage is None or not usage.completion_tokens or not choices:
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


# -- streams -------------------------------------------------------------------------------------------------------


KEEP_ALIVE = re.compile(
    rb"\s*(?::.*|\[?(?:ping|keep[-_ ]?alive|heartbeat|processing)\]?)?\s*", re.IGNORECASE | re.DOTALL
)
"""Data that is none: some servers write a comment behind `data:`."""


def event_of(event: ServerEvent) -> Mapping[str, Any] | None:
    """What an event of a stream says; None if it only keeps the stream open.

    Raises the error that an event of that kind tells of, `TransientError` if it is unreadable.
    """
    if event.data is None or event.kind in ("ping", "heartbeat") or KEEP_ALIVE.fullmatch(event.data):
        return None
    try:
        data = json_of(decoded(event.data))
    except ValueError as error:
        if event.kind == "error":
            raise error_inside(event.data.decode(errors="replace")) from None
        raise TransientError(f"unreadable event in the stream: {event.data[:100]!r} ({error})") from error
    if not data:
        return None
    if not isinstance(data, Mapping):
        raise TransientError(f"unreadable event in the stream: {event.data[:100]!r}")
    if event.kind == "error" and not data.get("error"):
        raise error_inside(data)
    return data


class Assembly:
    """Choices and usage put together from the events of a stream."""

    def __init__(self, limit: float = math.inf) -> None:
        """Raises `RequestRejected` when the choices together grow beyond about `limit` bytes."""
        self.choices: dict[int, Generation] = {}
        """Those begun and not yet taken."""
        self.usage: Usage | None = None
        self.model: str = ""
        self.seen: int = 0
        """Choices begun, taken or not."""
        self._taken: set[int] = set()
        self._taken_tokens = 0.0
        self._size, self._limit = 0, limit

    @property
    def complete(self) -> bool:
        """Whether every choice that was begun has its finish reason, so that the stream may end here."""
        return self.seen > 0 and all(choice.finish_reason for choice in self.choices.values())

    def add(self, event: Mapping[str, Any]) -> list[Generation]:
        """Take in one event; returns the choices that it completes. Raises the error that it tells of."""
        raise_told(event)
        self.model = _name(event.get("model")) or self.model
        usage = usage_of(event.get("usage"))
        finished = []
        for place, item in enumerate(_list(event.get("choices"), "choices")):
            if item is None:
                continue
            item = _table(item, "a choice")
            index = _index(item, place)
            if index in self._taken:  # what follows a finish reason adds nothing
                continue
            if index not in self.choices:
                self.choices[index] = Generation(index)
                self.seen += 1
            choice = self.choices[index]
            self._size += choice.extend(item)
            if usage is not None and usage.completion_tokens:
                choice.tokens = usage.completion_tokens  # running usage counts one choice (vLLM)
            if choice.finish_reason:
                finished.append(choice)
        if self._size > self._limit or self.seen > MOST_CHOICES:
            raise RequestRejected(f"the streamed answer has more than {self._limit:,} bytes (max_answer_bytes)")
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
            self._taken.add(choice.index)
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


def _joined(pieces: list[str]) -> str:
    """The pieces put together, once: a long answer comes in many."""
    if len(pieces) > 1:
        pieces[:] = ["".join(pieces)]
    return pieces[0] if pieces else ""


def _extended(known: list[T] | None, more: Sequence[T]) -> list[T]:
    if known is None:
        return list(more)
    known += more  # in place: a long answer comes in many pieces
    return known


def _extend_call(calls: list[dict[str, Any]], piece: Mapping[str, Any], *, whole: bool) -> int:
    """Tool calls come whole, or in pieces: first the name, then the arguments' text bit by bit. Returns the size."""
    place = len(calls) if whole or piece.get("index") is None else piece["index"]
    place = int(count_of(place, "a tool call's index", MOST_CALLS))
    if not whole and piece.get("index") is None and calls and piece.get("id") in (None, "", calls[-1]["id"]):
        place = len(calls) - 1  # it goes on with the last one
    while len(calls) <= place:
        calls.append({"id": "", "type": "function", "function": {"name": "", "arguments": ""}})
    call, said = calls[place], _table(piece.get("function") or {}, "a function")
    if whole:  # servers add fields of their own, which must come back to them
        call.update({key: value for key, value in piece.items() if value is not None and key != "function"})
    arguments = said.get("arguments")
    words = json.dumps(arguments) if isinstance(arguments, Mapping) else text_of(arguments)
    call["id"] = text_of(piece.get("id")) or call["id"]
    call["type"] = text_of(piece.get("type")) or call["type"]
    if (name := text_of(said.get("name"))) != call["function"]["name"]:  # some repeat it with every piece
        call["function"]["name"] += name
    call["function"]["arguments"] += words
    if whole:
        return size_of(piece, math.inf, OBJECT)
    return len(call["id"]) + len(call["type"]) + len(name) + len(words)
