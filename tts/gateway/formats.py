"""Answers in the formats of the APIs, whole or streamed: those of chat, and what other APIs make of a chat answer."""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from tts.errors import TransientError
from tts.gateway.exchange import APIError, bad_request
from tts.sampler.protocol import bytes_of, text_of
from tts.types import Candidate, Usage

Json = dict[str, Any]
ALIVE = b": at work\n\n"
"""What keeps a stream open."""


def usage_body(usage: Usage) -> Json:
    """Usage in OpenAI's form."""
    return {
        "prompt_tokens": round(usage.prompt_tokens),
        "completion_tokens": round(usage.completion_tokens),
        "total_tokens": round(usage.prompt_tokens) + round(usage.completion_tokens),
        "prompt_tokens_details": {"cached_tokens": round(usage.cached_tokens)},
        "completion_tokens_details": {"reasoning_tokens": round(usage.reasoning_tokens)},
    }


REASONS: dict[str | None, str] = {"abandoned": "length", "budget": "length", "refusal": "stop", None: "stop"}
"""What clients are told of finish reasons that OpenAI does not have."""


class ChatFormat:
    """The format of the answers to one request; a text completion unless `chat`."""

    def __init__(self, body: Mapping[str, Any], run: str, *, chat: bool) -> None:
        self.chat: bool = chat
        self._body = body
        self.large = False
        """Whether the answer is written in a thread."""
        self._id = f"{'chatcmpl' if chat else 'cmpl'}-{run}"
        self._created = int(time.time())

    alive = ALIVE

    def start(self, usage: Usage | None = None) -> bytes:
        """What a stream starts with: nothing."""
        return b""

    def progress(self, report: Json) -> bytes:
        """A progress report inside a stream: an event without choices."""
        return self._event(choices=[], tts=report)

    def whole(self, candidates: Sequence[Candidate], usage: Usage, extra: Json) -> bytes:
        choices = [self.choice(candidate, i) for i, candidate in enumerate(candidates)]
        kind = "chat.completion" if self.chat else "text_completion"
        body = {**self._head(kind), "choices": choices, "usage": usage_body(usage), **extra}
        return bytes_of(body, large=self.large)

    def choice(self, candidate: Candidate, index: int) -> Json:
        """The choice as the model server sent it, if it sent exactly this answer; else built from what is known."""
        sample = candidate.samples[-1] if candidate.samples else None
        field = "message" if self.chat else "text"
        reason = sample.finish_reason if sample else None
        reason = REASONS.get(reason, reason)
        if sample and sample.raw and field in sample.raw and candidate.content == sample.text:
            unasked = {"token_ids": "return_token_ids", "logprobs": "logprobs"}  # asked for by the strategy alone
            drop = {name for name, parameter in unasked.items() if not self._asked(parameter)}
            kept = {name: value for name, value in sample.raw.items() if name not in drop}
            empty = {"logprobs": None} if "logprobs" in drop else {}
            return {**empty, **kept, "index": index, "finish_reason": reason}
        choice: Json = {"index": index, "logprobs": None, "finish_reason": reason}
        if not self.chat:
            return {**choice, "text": candidate.content}
        message: Json = {"role": "assistant", "content": candidate.content}
        if sample and sample.reasoning:
            message["reasoning_content"] = sample.reasoning
        if candidate.tool_calls:
            message["tool_calls"] = [dict(call) for call in candidate.tool_calls]
            message["content"] = candidate.content or None
        return {**choice, "message": message}

    def chunks(self, candidates: Sequence[Candidate], usage: Usage, extra: Json) -> Iterator[bytes]:
        for index, candidate in enumerate(candidates):
            choice = self.choice(candidate, index)
            last = {"index": index, "finish_reason": choice.get("finish_reason"), "logprobs": None}
            if self.chat:
                message = {"role": "assistant", **choice.pop("message")}
                if calls := message.pop("tool_calls", None):
                    message["tool_calls"] = [{"index": i, **call} for i, call in enumerate(calls)]
                # log-probabilities do not ride on the first event: clients add up what follows to a copy of it
                first: Json = {"index": index, "delta": {"role": message.pop("role"), "content": ""}}
                yield self._event(choices=[{**first, "logprobs": None, "finish_reason": None}])
                choice["delta"], last["delta"] = message, {}
            else:
                last["text"] = ""
            yield self._event(choices=[{**choice, "finish_reason": None}])
            yield self._event(choices=[last])
        if extra:
            yield self._event(choices=[], **extra)
        if (self._body.get("stream_options") or {}).get("include_usage"):
            yield self._event(choices=[], usage=usage_body(usage))
        yield b"data: [DONE]\n\n"

    def _event(self, **fields: Any) -> bytes:
        kind = "chat.completion.chunk" if self.chat else "text_completion"
        return b"data: " + bytes_of({**self._head(kind), **fields}, large=self.large) + b"\n\n"

    def _head(self, kind: str) -> Json:
        return {"id": self._id, "object": kind, "created": self._created, "model": self._body["model"]}

    def _asked(self, parameter: str) -> bool:
        value = self._body.get(parameter)
        return value is not None and value is not False


PieceKind = Literal["thought", "text", "refusal", "call"]


@dataclass(eq=False)
class AnswerPiece:
    """A part of an answer that an API tells as one thing."""

    kind: PieceKind
    place: int
    """Its number among the pieces of the answer."""
    id: str = ""
    name: str = ""
    """A call's id and function."""
    texts: list[str] = field(default_factory=list)
    logprobs: list[Json] = field(default_factory=list)

    @property
    def text(self) -> str:
        """What it says as far as it has come; of a call, its arguments."""
        return "".join(self.texts)

    @property
    def arguments(self) -> Json | None:
        """A call's arguments; None where they are no JSON object."""
        try:
            made = json.loads(self.text or "{}")
        except (ValueError, RecursionError):
            return None
        return made if isinstance(made, dict) else None


class Translation(ABC):
    """A chat answer in the format of another API, whole or piece by piece: what a server sent, or a strategy found.

    Pieces are told one after the other, as other APIs want them: where a server mixes its tool calls, those that come
    second wait. `TransientError` where it is no chat answer.
    """

    alive = ALIVE

    def __init__(self, body: Mapping[str, Any], chat: Mapping[str, Any], run: str, *, thoughts: bool = False) -> None:
        """`thoughts` says whether the client is told what the model thought."""
        self._body, self._run, self._thoughts = body, run, thoughts
        self._chat = ChatFormat(chat, run, chat=True)
        self.large = False
        """Whether the answer is written in a thread."""
        self.made: Json = {}
        """The answer as a whole, once it is complete."""
        self.pieces: list[AnswerPiece] = []
        self._open: list[AnswerPiece] = []
        """What is being told, and what waits for that."""
        self._calls: dict[int, AnswerPiece] = {}
        self._reason: str | None = None
        self._stop: str | None = None
        """Which of the client's stop sequences ended the answer, where the server tells."""

    @abstractmethod
    def start(self, usage: Usage | None = None) -> bytes:
        """The first events of a stream, where `usage` may be known already."""

    @abstractmethod
    def begun(self, piece: AnswerPiece) -> bytes:
        """The events with which a piece begins."""

    @abstractmethod
    def told(self, piece: AnswerPiece, text: str, logprobs: Sequence[Json]) -> bytes:
        """The event with the next `text` of a piece."""

    @abstractmethod
    def done(self, piece: AnswerPiece) -> bytes:
        """The events with which a piece ends."""

    @abstractmethod
    def complete(self, usage: Usage, extra: Json) -> Json:
        """The answer as a whole."""

    @abstractmethod
    def end(self, usage: Usage, extra: Json) -> bytes:
        """The last events of a stream."""

    @abstractmethod
    def failed(self, error: APIError) -> bytes:
        """How a stream that has begun ends without an answer."""

    def progress(self, report: Json) -> bytes:
        """A progress report inside a stream: a comment, since other APIs have no event for it."""
        return b": " + json.dumps(report).encode() + b"\n\n"

    def feed(self, answer: Mapping[str, Any]) -> bytes:
        """The events for an event of a chat stream, or for a whole chat answer."""
        try:
            choices = [one for one in answer.get("choices") or () if not one.get("index")]
            return b"".join(told for choice in choices for told in self._take(choice))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise TransientError(f"unreadable answer: {error}") from error

    def finish(self, usage: Usage, extra: Json) -> bytes:
        """The events that end a stream."""
        told = list[bytes]()
        while self._open:
            told += [self.done(self._open.pop(0)), *self._next()]
        return b"".join([*told, self.end(usage, extra)])

    def whole(self, candidates: Sequence[Candidate], usage: Usage, extra: Json) -> bytes:
        """A strategy's answer in one piece."""
        self.feed({"choices": [self._chat.choice(candidates[0], 0)]})
        return self.written(usage, extra)

    def written(self, usage: Usage, extra: Json) -> bytes:
        """What was fed, as an answer in one piece."""
        return bytes_of(self.complete(usage, extra), large=self.large)

    def chunks(self, candidates: Sequence[Candidate], usage: Usage, extra: Json) -> Iterator[bytes]:
        """The same as a stream, after its start."""
        yield self.feed({"choices": [self._chat.choice(candidates[0], 0)]})
        yield self.finish(usage, extra)

    def _take(self, choice: Json) -> Iterator[bytes]:
        said = choice.get("delta") or choice.get("message") or {}
        thought = text_of(said.get("reasoning_content")) or text_of(said.get("reasoning"))
        if thought and self._thoughts:
            yield from self._say("thought", thought)
        logprobs = (choice.get("logprobs") or {}).get("content") or ()
        if text := text_of(said.get("content")):
            yield from self._say("text", text, logprobs)
        if refusal := text_of(said.get("refusal")):
            yield from self._say("refusal", refusal)
        for place, call in enumerate(said.get("tool_calls") or ()):
            yield from self._call(call.get("index", place), call)
        reason = choice.get("finish_reason")
        self._reason = reason if reason and isinstance(reason, str) else self._reason
        stop = choice.get("stop_reason", choice.get("matched_stop"))  # vLLM's name, and SGLang's
        self._stop = stop if isinstance(stop, str) else self._stop

    def _say(self, kind: PieceKind, text: str, logprobs: Sequence[Json] = ()) -> Iterator[bytes]:
        last = self._open[-1] if self._open else None
        if last is None or last.kind != kind:
            last = AnswerPiece(kind, len(self.pieces))
            yield from self._add(last)
        yield from self._more(last, text, logprobs)

    def _call(self, index: int, call: Json) -> Iterator[bytes]:
        function = call.get("function") or {}
        piece, arguments = self._calls.get(index), function.get("arguments")
        if piece is None:
            place = len(self.pieces)
            piece = AnswerPiece(
                "call", place, call.get("id") or f"call_{place}_{self._run}", str(function.get("name") or "")
            )
            self._calls[index] = piece
            yield from self._add(piece)
        if arguments:
            yield from self._more(piece, arguments if isinstance(arguments, str) else json.dumps(arguments))

    def _add(self, piece: AnswerPiece) -> Iterator[bytes]:
        self.pieces.append(piece)
        self._open.append(piece)
        if len(self._open) == 1:
            yield self.begun(piece)
        yield from self._settle()

    def _more(self, piece: AnswerPiece, text: str, logprobs: Sequence[Json] = ()) -> Iterator[bytes]:
        piece.texts.append(text)
        piece.logprobs += logprobs
        if piece is self._open[0]:
            yield self.told(piece, text, logprobs)
            yield from self._settle()

    def _settle(self) -> Iterator[bytes]:
        """End what is told while others wait for it, unless it is a call whose arguments have not all come."""
        while len(self._open) > 1:
            first = self._open[0]
            if first.kind == "call" and not (
                first.texts and first.texts[-1].rstrip().endswith("}") and first.arguments is not None
            ):
                return
            yield self.done(self._open.pop(0))
            yield from self._next()

    def _next(self) -> Iterator[bytes]:
        """Begin what waited."""
        if self._open:
            piece = self._open[0]
            yield self.begun(piece)
            if piece.texts:
                yield self.told(piece, piece.text, piece.logprobs)


def event(kind: str, data: Json, *, large: bool = False) -> bytes:
    """An event that has its kind beside its data, as APIs other than chat want it."""
    return b"event: " + kind.encode() + b"\ndata: " + bytes_of(data, large=large) + b"\n\n"


# -- what requests of other APIs have in common ------------------------------------------------------------------------


def unsupported(message: str, param: str) -> APIError:
    """The error for what exists in the API, but not here."""
    return bad_request(message, param, "not_supported")


def table_of(given: Mapping[str, Any], name: str, known: set[str]) -> Json:
    """The table `name` of a body. Raises `APIError` where it has a field that is not `known`."""
    table = given.get(name) or {}
    for key, value in table.items():
        if key not in known and value is not None:
            words = f"{name}.{key} is not supported; {name} has: {', '.join(sorted(known))}"
            raise unsupported(words, f"{name}.{key}")
    return table
