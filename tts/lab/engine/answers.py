"""Answers in the form of the OpenAI protocol and vLLM's extensions: whole, or event by event."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any
from uuid import uuid4

from tts.lab.engine.choice import Delta, Request
from tts.lab.engine.protocol import ChatRequest, Sampled
from tts.lab.engine.sampling import Scored
from tts.lab.engine.tokenizer import Tokenizer

Json = dict[str, Any]


class Answer:
    """Writes down what becomes of one request."""

    def __init__(self, asked: Sampled, request: Request, tokenizer: Tokenizer, model: str) -> None:
        self.asked, self.request, self.tokenizer, self.model = asked, request, tokenizer, model
        self.chat = isinstance(asked, ChatRequest)
        self._id = f"{'chatcmpl' if self.chat else 'cmpl'}-{uuid4().hex[:16]}"
        self._created = int(time.time())
        self._counts = [0] * request.n
        self._shown = [0] * request.n
        self._begun = False

    # -- whole -----------------------------------------------------------------------------------------------------

    def body(self, choices: list[Delta]) -> Json:
        """The answer in one piece."""
        self._counts = [len(choice.tokens) for choice in choices]
        body = self._head("chat.completion" if self.chat else "text_completion")
        body |= {"choices": [self._whole(choice) for choice in choices], "usage": self.usage(sum(self._counts))}
        return body | (self._of_prompt() if self.chat else {})

    def _whole(self, choice: Delta) -> Json:
        said: Json = {"message": {"role": "assistant", "content": choice.text}} if self.chat else {"text": choice.text}
        ended = {"finish_reason": choice.finish_reason, "stop_reason": choice.stop_reason}
        fields = {"index": choice.index, **said, "logprobs": self._logprobs(choice), **ended, **self._ids(choice)}
        return fields | ({} if self.chat else self._of_prompt())

    # -- streamed --------------------------------------------------------------------------------------------------

    def events(self, delta: Delta) -> Iterable[Json]:
        """The events that tell of `delta`."""
        index = delta.index
        if self.chat and not self._counts[index]:
            opening = {"index": index, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}
            yield self._event(opening, 0) | self._prompt_ids_once()
        self._counts[index] += len(delta.tokens)
        said: Json = {"delta": {"content": delta.text}} if self.chat else {"text": delta.text}
        choice = {"index": index, **said, "logprobs": self._logprobs(delta), **self._ids(delta)}
        choice |= {"finish_reason": delta.finish_reason, "stop_reason": delta.stop_reason}
        choice |= {} if self.chat else self._prompt_ids_once()
        yield self._event(choice, self._counts[index])

    def closing(self) -> Iterable[Json]:
        """The event behind the last delta, with the usage of all choices where it is asked for."""
        options = self.asked.stream_options
        if options and options.include_usage:
            yield self._head(self._kind) | {"choices": [], "usage": self.usage(sum(self._counts))}

    def _event(self, choice: Json, tokens: int) -> Json:
        options = self.asked.stream_options
        running = {"usage": self.usage(tokens)} if options and options.continuous_usage_stats else {}
        return self._head(self._kind) | {"choices": [choice]} | running

    @property
    def _kind(self) -> str:
        return "chat.completion.chunk" if self.chat else "text_completion"

    def _prompt_ids_once(self) -> Json:
        begun, self._begun = self._begun, True
        wanted = self.asked.return_token_ids and not begun
        return {"prompt_token_ids": self.request.prompt.tolist()} if wanted else {}

    # -- parts -----------------------------------------------------------------------------------------------------

    def usage(self, completion_tokens: int) -> Json:
        """Tokens of the prompt, once, and of what was generated."""
        prompt = len(self.request.prompt)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion_tokens,
            "total_tokens": prompt + completion_tokens,
            "prompt_tokens_details": {"cached_tokens": self.request.cached_tokens},
        }

    def _head(self, kind: str) -> Json:
        return {"id": self._id, "object": kind, "created": self._created, "model": self.model}

    def _ids(self, delta: Delta) -> Json:
        return {"token_ids": delta.tokens if self.asked.return_token_ids else None}

    def _of_prompt(self) -> Json:
        ids = self.request.prompt.tolist() if self.asked.return_token_ids else None
        scores: list[Json | None] | None = None
        if self.asked.prompt_logprobs is not None:
            scores = [None, *map(self._ranked, self.request.prompt_scores)]
        return {"prompt_token_ids": ids, "prompt_logprobs": scores}

    def _ranked(self, scored: Scored) -> Json:
        """A token of the prompt and the likeliest ones there, by id."""
        places = [
            *((i, p, rank) for rank, (i, p) in enumerate(scored.tops, 1)),
            (scored.token, scored.logprob, scored.rank),
        ]
        return {str(i): {"logprob": p, "rank": rank, "decoded_token": self._text(i)} for i, p, rank in places}

    def _logprobs(self, delta: Delta) -> Json | None:
        if self.asked.tops() is None:
            return None
        return self._of_chat(delta) if self.chat else self._of_text(delta)

    def _of_chat(self, delta: Delta) -> Json:
        def entry(token: int, logprob: float) -> Json:
            piece = self.tokenizer.pieces.get(token, b"")
            return {"token": piece.decode("utf-8", "replace"), "logprob": logprob, "bytes": list(piece)}

        return {
            "content": [
                entry(one.token, one.logprob) | {"top_logprobs": [entry(*top) for top in one.tops]}
                for one in delta.scores
            ]
        }

    def _of_text(self, delta: Delta) -> Json:
        texts, offsets = [self._text(one.token) for one in delta.scores], []
        for text in texts:
            offsets.append(self._shown[delta.index])
            self._shown[delta.index] += len(text)
        return {
            "tokens": texts,
            "token_logprobs": [one.logprob for one in delta.scores],
            "top_logprobs": [
                {self._text(i): p for i, p in [(one.token, one.logprob), *one.tops]} for one in delta.scores
            ],
            "text_offset": offsets,
        }

    def _text(self, token: int) -> str:
        return self.tokenizer.pieces.get(token, b"").decode("utf-8", "replace")
