"""The bodies of the OpenAI protocol, with vLLM's extensions, over a tokenizer of one token a byte.

Log-probabilities come from a fixed bigram table over bytes for each model: rows sum to one, so that a text
gets the same log-probability whether it was generated or scored as a prompt, and ranks and tops agree.
"""

import codecs
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from typing import Any
from zlib import crc32

import numpy as np

from tests.support.answers import text_of

Json = dict[str, Any]
Event = tuple[float, Json]
"""(seconds after the start, chunk) of a stream."""


def prompt_tokens(request: Json) -> bytes:
    """The prompt as tokens: messages in a plain chat template, or a prompt given as text or token ids.

    Raises ValueError for token ids outside of 0..255, KeyError or TypeError for a malformed request.
    """
    if "messages" not in request:
        prompt = request["prompt"]
        return prompt.encode() if isinstance(prompt, str) else bytes(prompt)
    turns = "\n".join(f"<|{m['role']}|>\n{text_of(m.get('content'))}" for m in request["messages"])
    opens_turn = request.get("add_generation_prompt", True) and not request.get("continue_final_message")
    return (f"{turns}\n<|assistant|>\n" if opens_turn else turns).encode()


@dataclass(slots=True)
class Choice:
    """One generated choice: what is said, how it ended, and how long it takes to generate."""

    index: int
    tokens: bytes
    finish_reason: str
    stop_reason: str | None
    seconds: float

    @property
    def text(self) -> str:
        """The text of the tokens; a character cut in two at the end is left out."""
        return self.tokens.decode("utf-8", "ignore")

    def tokens_after(self, elapsed: float) -> int:
        """How many tokens exist `elapsed` seconds after the start, at an even pace."""
        share = 1.0 if elapsed >= self.seconds else elapsed / self.seconds
        return int(share * len(self.tokens))


def end_choice(index: int, text: str, request: Json, limit: int, seconds: float) -> Choice:
    """End `text` where the request's stop strings and the limit in tokens end it."""
    stops = request.get("stop") or []
    found = [(text.find(s), s) for s in ([stops] if isinstance(stops, str) else stops) if s in text]
    position, stop = min(found, default=(len(text), None))
    kept = text[: position + len(stop)] if stop and request.get("include_stop_str_in_output") else text[:position]
    tokens = kept.encode()
    if len(tokens) > limit:
        return Choice(index, tokens[:limit], "length", None, seconds)
    return Choice(index, tokens, "stop", stop, seconds)


@dataclass(slots=True)
class Generation:
    """All that is generated for one request, and its rendering as a body or as a stream of events."""

    request: Json
    model: str
    prompt: bytes
    choices: list[Choice]
    cached_tokens: int | None = None
    extensions: bool = True
    """Whether vLLM's own fields are honoured."""
    echo: bool = False
    """Whether the prompt is repeated before each choice of a plain completion in one piece."""
    with_usage: bool = True
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def chat(self) -> bool:
        """Whether this answers a chat request."""
        return "messages" in self.request

    @property
    def seconds(self) -> float:
        """How long the slowest choice takes."""
        return max((choice.seconds for choice in self.choices), default=0.0)

    @property
    def completion_tokens(self) -> int:
        """The tokens of all choices."""
        return sum(len(choice.tokens) for choice in self.choices)

    def body(self) -> Json:
        """The answer in one piece."""
        body = self._head("chat.completion") | {"choices": [self._whole(choice) for choice in self.choices]}
        if self.with_usage:
            body["usage"] = self._usage(self.completion_tokens)
        if self.chat:
            body |= self._prompt_fields()
        return body

    def events(self, tokens_per_chunk: int) -> list[Event]:
        """The answer in chunks, in the order of time."""
        options = self.request.get("stream_options") or {}
        continuous = bool(self.extensions and self.with_usage and options.get("continuous_usage_stats"))
        events = sorted(
            (event for choice in self.choices for event in self._chunks(choice, tokens_per_chunk, continuous)),
            key=lambda event: event[0],
        )
        if events:
            first = events[0][1]
            (first if self.chat else first["choices"][0]).update(self._prompt_fields())
        if options.get("include_usage") and self.with_usage:
            usage = {"choices": [], "usage": self._usage(self.completion_tokens)}
            events.append((self.seconds, self._head("chat.completion.chunk") | usage))
        return events

    def _chunks(self, choice: Choice, size: int, continuous: bool) -> Iterator[Event]:
        decoder = codecs.getincrementaldecoder("utf-8")("ignore")
        count = len(choice.tokens)
        bounds = [*range(0, count, size), count] if count else [0, 0]
        if self.chat:
            yield 0.0, self._chunk(choice, {"delta": {"role": "assistant", "content": ""}}, 0, continuous)
        for start, end in pairwise(bounds):
            last = end == count
            text = decoder.decode(choice.tokens[start:end], final=last)
            said: Json = {"delta": {"content": text}} if self.chat else {"text": text}
            said |= self._span(choice, start, end)
            if last:
                said["finish_reason"] = choice.finish_reason
                if self.extensions:
                    said["stop_reason"] = choice.stop_reason
            due = choice.seconds * (end / count if count else 1.0)
            yield due, self._chunk(choice, said, end, continuous)

    def _chunk(self, choice: Choice, said: Json, tokens: int, continuous: bool) -> Json:
        content = {"index": choice.index, "logprobs": None, "finish_reason": None} | said
        chunk = self._head("chat.completion.chunk") | {"choices": [content]}
        return chunk | {"usage": self._usage(tokens)} if continuous else chunk

    def _head(self, kind: str) -> Json:
        prefix, kind = ("chatcmpl", kind) if self.chat else ("cmpl", "text_completion")
        return {"id": f"{prefix}-{self.id}", "object": kind, "created": self.created, "model": self.model}

    def _usage(self, completion_tokens: int) -> Json:
        prompt = len(self.prompt)
        usage: Json = {"prompt_tokens": prompt, "completion_tokens": completion_tokens}
        usage["total_tokens"] = prompt + completion_tokens
        if self.cached_tokens is not None:
            usage["prompt_tokens_details"] = {"cached_tokens": self.cached_tokens}
        return usage

    def _whole(self, choice: Choice) -> Json:
        said: Json = {"index": choice.index, "logprobs": None, "finish_reason": choice.finish_reason}
        if self.chat:
            said["message"] = {"role": "assistant", "content": choice.text}
        else:
            said |= {"text": choice.text} | self._prompt_fields()
        if self.extensions:
            said["stop_reason"] = choice.stop_reason
        said |= self._span(choice, 0, len(choice.tokens))
        if self.echo and not self.chat:
            said["text"] = self.prompt.decode("utf-8", "ignore") + choice.text
            if said["logprobs"] is not None:
                tops = int(self.request["logprobs"])
                known = _scored(self.model, self.prompt + choice.tokens, 0, len(self.prompt + choice.tokens), tops)
                said["logprobs"] = _plain_logprobs(known, 0)
                said["logprobs"]["token_logprobs"][0] = None  # nothing stands before the first token
        return said

    def _span(self, choice: Choice, start: int, end: int) -> Json:
        """What is said of the tokens from `start` to `end` of a choice, besides their text."""
        fields: Json = {}
        if self.extensions and self.request.get("return_token_ids"):
            fields["token_ids"] = list(choice.tokens[start:end])
        asked = self.request.get("logprobs")
        if asked is not None and asked is not False:
            tops = self.request.get("top_logprobs") or 0 if self.chat else int(asked)
            known = _scored(self.model, self.prompt + choice.tokens, len(self.prompt) + start, end - start, tops)
            fields["logprobs"] = _chat_logprobs(known) if self.chat else _plain_logprobs(known, start)
        return fields

    def _prompt_fields(self) -> Json:
        """vLLM's fields about the prompt: at the top of a chat answer, in each choice of a plain one."""
        fields: Json = {}
        if self.extensions and self.request.get("return_token_ids"):
            fields["prompt_token_ids"] = list(self.prompt)
        tops = self.request.get("prompt_logprobs")
        if self.extensions and tops is not None:
            known = _scored(self.model, self.prompt, 1, len(self.prompt) - 1, tops)
            fields["prompt_logprobs"] = [None, *map(_ranked_logprobs, known)]
        return fields


Scores = list[tuple[int, float, int]]
"""(token, log-probability, rank from 1): the token that is there, then the most likely ones."""


@lru_cache
def bigram_logprobs(model: str) -> np.ndarray:
    """The model's log-probabilities of the next byte by the last one, in nats: (256, 256)."""
    logits = np.random.default_rng(crc32(model.encode())).normal(scale=3.0, size=(256, 256))
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


@lru_cache
def _ranking(model: str) -> tuple[np.ndarray, np.ndarray]:
    """After each byte: the next ones from the likeliest on, and the rank of each from 1."""
    order = np.argsort(-bigram_logprobs(model), axis=1)
    return order, np.argsort(order, axis=1) + 1


def _scored(model: str, tokens: bytes, start: int, count: int, tops: int) -> Iterator[Scores]:
    table, (order, ranks) = bigram_logprobs(model), _ranking(model)
    for position in range(start, start + count):
        # An empty prompt has no last byte; the zero byte stands in for the start of the text.
        last, token = tokens[position - 1] if position else 0, tokens[position]
        best = order[last, :tops].tolist()
        yield [(t, float(table[last, t]), int(ranks[last, t])) for t in [token, *best]]


def _shown(token: int) -> str:
    return bytes([token]).decode("utf-8", "replace")


def _chat_logprobs(known: Iterator[Scores]) -> Json:
    def entry(token: int, logprob: float) -> Json:
        return {"token": _shown(token), "logprob": logprob, "bytes": [token]}

    return {
        "content": [
            entry(*scores[0][:2]) | {"top_logprobs": [entry(t, p) for t, p, _ in scores[1:]]} for scores in known
        ]
    }


def _plain_logprobs(known: Iterator[Scores], offset: int) -> Json:
    scored = list(known)
    return {
        "tokens": [_shown(scores[0][0]) for scores in scored],
        "token_logprobs": [scores[0][1] for scores in scored],
        "top_logprobs": [{_shown(t): p for t, p, _ in scores} for scores in scored],
        "text_offset": [offset + i for i in range(len(scored))],
    }


def _ranked_logprobs(scores: Scores) -> Json:
    return {str(t): {"logprob": p, "rank": rank, "decoded_token": _shown(t)} for t, p, rank in scores}
