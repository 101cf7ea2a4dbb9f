"""A strategy's answers as chat completions and text completions: whole, or in chunks."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tts.types import Candidate, Usage

Json = dict[str, Any]


def usage_body(usage: Usage) -> Json:
    """Usage in OpenAI's form."""
    return {
        "prompt_tokens": round(usage.prompt_tokens),
        "completion_tokens": round(usage.completion_tokens),
        "total_tokens": round(usage.prompt_tokens) + round(usage.completion_tokens),
        "prompt_tokens_details": {"cached_tokens": round(usage.cached_tokens)},
        "completion_tokens_details": {"reasoning_tokens": round(usage.reasoning_tokens)},
    }


class ChatFormat:
    """The format of the answers to one request; a text completion unless `chat`."""

    def __init__(self, body: Mapping[str, Any], run: str, *, chat: bool) -> None:
        self.chat, self._body = chat, body
        self._id = f"{'chatcmpl' if chat else 'cmpl'}-{run}"
        self._created = int(time.time())

    def start(self) -> bytes:
        """How a stream starts: with a comment."""
        return b": at work\n\n"

    def progress(self, report: Json) -> bytes:
        """A progress report inside a stream: an event without choices."""
        return self._event(choices=[], tts=report)

    def whole(self, candidates: Sequence[Candidate], usage: Usage, extra: Json) -> bytes:
        """The answer in one piece."""
        choices = [self.choice(candidate, i) for i, candidate in enumerate(candidates)]
        kind = "chat.completion" if self.chat else "text_completion"
        return json.dumps({**self._head(kind), "choices": choices, "usage": usage_body(usage), **extra}).encode()

    def choice(self, candidate: Candidate, index: int) -> Json:
        """The choice as the model server sent it, if it sent exactly this answer; else built from what is known."""
        sample = candidate.samples[-1] if candidate.samples else None
        field = "message" if self.chat else "text"
        if sample and sample.raw and field in sample.raw and candidate.content == sample.text:
            unasked = {"token_ids": "return_token_ids", "logprobs": "logprobs"}  # asked for by the strategy alone
            drop = {name for name, parameter in unasked.items() if not self._asked(parameter)}
            kept = {name: value for name, value in sample.raw.items() if name not in drop}
            return {**({"logprobs": None} if "logprobs" in drop else {}), **kept, "index": index}
        reason = sample.finish_reason if sample else None
        choice: Json = {"index": index, "logprobs": None}
        choice["finish_reason"] = {"abandoned": "length", None: "stop"}.get(reason, reason)
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
        """The answer as the events of a stream, to its end."""
        for index, candidate in enumerate(candidates):
            choice = self.choice(candidate, index)
            last = {"index": index, "finish_reason": choice.get("finish_reason"), "logprobs": None}
            if not self.chat:
                yield self._event(choices=[{**choice, "finish_reason": None}])
                yield self._event(choices=[{**last, "text": ""}])
                continue
            message = dict(choice.pop("message"))
            role = message.pop("role", "assistant")
            calls = message.pop("tool_calls", None) or []
            first = {"role": role, **message}
            if calls:
                first["tool_calls"] = [{"index": i, **call} for i, call in enumerate(calls)]
            yield self._event(choices=[{**choice, "finish_reason": None, "delta": first}])
            yield self._event(choices=[{**last, "delta": {}}])
        if extra:
            yield self._event(choices=[], **extra)
        if (self._body.get("stream_options") or {}).get("include_usage"):
            yield self._event(choices=[], usage=usage_body(usage))
        yield b"data: [DONE]\n\n"

    def _event(self, **fields: Any) -> bytes:
        kind = "chat.completion.chunk" if self.chat else "text_completion"
        return b"data: " + json.dumps({**self._head(kind), **fields}).encode() + b"\n\n"

    def _head(self, kind: str) -> Json:
        return {"id": self._id, "object": kind, "created": self._created, "model": self._body["model"]}

    def _asked(self, parameter: str) -> bool:
        value = self._body.get(parameter)
        return value is not None and value is not False
