"""The part of vLLM's OpenAI protocol that the sampler uses: requests, checked and refused as by vLLM, and responses."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from time import time
from typing import Annotated, Any, TypeVar
from uuid import uuid4

from pydantic import AliasChoices, BaseModel, BeforeValidator, Field, ValidationError, model_validator

from tts.lab.engine.engine import Delta, Engine, GenerationRequest
from tts.lab.engine.sampling import GREEDY, SamplingParams, ScoredToken

MOST_LOGPROBS = 20
UNSUPPORTED: dict[str, Any] = {
    **dict.fromkeys(("presence_penalty", "frequency_penalty", "logit_bias", "bad_words", "allowed_token_ids")),
    **dict.fromkeys(("structured_outputs", "tools", "echo", "suffix", "use_beam_search")),
    "repetition_penalty": 1,
    "response_format": {"type": "text"},
}
"""Fields that would change the answer, beside a value that asks for nothing."""
Json = dict[str, Any]
B = TypeVar("B", bound="RequestBody")


class RefusedRequest(Exception):
    """A request that is answered with an error: the status, the message and the parameter at fault."""

    def __init__(self, message: str, param: str | None = None, *, status: int = 400, kind: str = "BadRequestError"):
        super().__init__(message)
        self.status = status
        self.body: dict[str, Any] = {"error": {"message": message, "type": kind, "param": param, "code": status}}


def need(condition: object, message: str, param: str | None = None) -> None:
    """Refuse the request unless `condition`."""
    if not condition:
        raise RefusedRequest(message, param)


def parse(kind: type[B], body: bytes) -> B:
    """The request in `body`; raises `RefusedRequest` that names every field at fault."""
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        problems = [
            {"type": one["type"], "loc": ".".join(map(str, ("body", *one["loc"]))), "msg": one["msg"]}
            for one in error.errors(include_url=False, include_context=False)
        ]
        words = f"{len(problems)} validation error{'s' * (len(problems) > 1)}: {'; '.join(map(str, problems))}"
        at_fault = ".".join(problems[0]["loc"].split(".")[:2])
        raise RefusedRequest(words, at_fault, kind="Bad Request") from None


def check_length(tokens: int, positions: int) -> None:
    """Refuse an empty prompt, and one that is longer than the context."""
    need(tokens, "the prompt is empty: give prompt or messages with at least one token", "prompt")
    words = f"This model's maximum context length is {positions} tokens, and the prompt has {tokens}; shorten it"
    need(tokens <= positions, words, "input_tokens")


# -- requests ----------------------------------------------------------------------------------------------------------


class RequestBody(BaseModel, frozen=True):
    """What all requests have in common: a field that is null has its default."""

    model: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, data: Any) -> Any:
        return {key: value for key, value in data.items() if value is not None} if isinstance(data, dict) else data


class StreamOptions(BaseModel):
    """What a stream tells besides the text."""

    include_usage: bool = False
    continuous_usage_stats: bool = False


class SampledRequest(RequestBody, extra="allow", frozen=True):
    """What requests for chat and for text have in common. Unknown fields are ignored, as in vLLM."""

    n: int = 1
    max_tokens: int | None = None
    min_tokens: int = 0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    stop: Annotated[tuple[str, ...], BeforeValidator(lambda stop: (stop,) if isinstance(stop, str) else stop)] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    include_stop_str_in_output: bool = False
    skip_special_tokens: bool = True
    prompt_logprobs: int | None = None
    return_token_ids: bool = False
    stream: bool = False
    stream_options: StreamOptions | None = None

    def tops(self) -> int | None:
        """How many of the likeliest tokens to report with each; None: no log-probabilities."""
        raise NotImplementedError

    def params(self, prompt_tokens: int, positions: int) -> SamplingParams:
        """How the answer is sampled, within what the context leaves room for. Raises `RefusedRequest`."""
        check_length(prompt_tokens, positions)
        self._check(positions)
        room = positions - prompt_tokens
        need(room, f"the prompt fills the context of {positions} tokens: there is no room to answer", "max_tokens")
        most = min(self.max_tokens or room, room)
        need(0 <= self.min_tokens <= most, f"min_tokens must lie between 0 and max_tokens={most}")
        given: dict[str, Any] = {field.name: getattr(self, field.name, None) for field in fields(SamplingParams)}
        return SamplingParams(**given | {"max_tokens": most, "logprobs": self.tops()})

    def _check(self, positions: int) -> None:
        limit, given, of_prompt = self.max_tokens, self.tops() or 0, self.prompt_logprobs
        need(self.n >= 1, f"n must be 1 or more, not {self.n}")
        need(self.temperature >= 0, f"temperature must not be negative, but is {self.temperature}", "temperature")
        need(self.n == 1 or self.temperature >= GREEDY, f"n must be 1 if temperature is 0, not {self.n}")
        need(0 < self.top_p <= 1, f"top_p must lie in (0, 1], but is {self.top_p}", "top_p")
        need(self.top_k >= -1, f"top_k must be 0 (all) or more, but is {self.top_k}")
        need(0 <= self.min_p <= 1, f"min_p must lie in [0, 1], but is {self.min_p}")
        need(limit is None or limit >= 1, f"max_tokens must be 1 or more, but is {limit}", "max_tokens")
        too_long = f"max_tokens={limit} exceeds the context of {positions}"
        need(limit is None or limit <= positions, too_long, "max_tokens")
        need(all(self.stop), "a stop string must not be empty")
        need(given <= MOST_LOGPROBS, f"at most {MOST_LOGPROBS} logprobs are reported, not {given}", "logprobs")
        need((of_prompt or 0) in range(MOST_LOGPROBS + 1), "prompt_logprobs must lie in 0..20", "prompt_logprobs")
        need(of_prompt is None or not self.stream, "a stream has no prompt_logprobs", "prompt_logprobs")
        need(self.stream_options is None or self.stream, "stream_options need stream=true", "stream_options")
        for key, value in (self.model_extra or {}).items():
            asks = key in UNSUPPORTED and value and value != UNSUPPORTED[key]
            need(not asks, f"the embedded engine lacks {key}; serve the model with vLLM", key)


class Conversation(RequestBody, frozen=True):
    """Messages for the model's chat template."""

    messages: list[Json] | None = None
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    """Whether the last message stays open, so that its continuation is generated or its start is rated as a start."""


class ChatRequest(SampledRequest, Conversation, frozen=True):
    """POST /v1/chat/completions."""

    messages: list[Json]  # pyright: ignore[reportGeneralTypeIssues]  # required here
    max_tokens: int | None = Field(None, validation_alias=AliasChoices("max_completion_tokens", "max_tokens"))
    logprobs: bool = False
    top_logprobs: int = 0

    def tops(self) -> int | None:
        need(not self.top_logprobs or self.logprobs, "top_logprobs need logprobs=true", "top_logprobs")
        return self.top_logprobs if self.logprobs else None


class TextRequest(SampledRequest, frozen=True):
    """POST /v1/completions."""

    prompt: str | list[int] | list[str] | list[list[int]] = ""
    max_tokens: int | None = 16
    logprobs: int | None = None

    def tops(self) -> int | None:
        return self.logprobs


class TokenizeRequest(Conversation, frozen=True):
    """POST /tokenize: of a text or of messages."""

    prompt: str | None = None


class DetokenizeRequest(RequestBody, frozen=True):
    """POST /detokenize."""

    tokens: list[int]


class PoolingRequest(Conversation, frozen=True):
    """POST /pooling and /classify: rewards of texts, of token ids or of a conversation."""

    input: str | list[int] | list[str] | list[list[int]] | None = None
    add_generation_prompt: bool = False
    task: str | None = None
    """`classify`: the reward after the last token; `token_classify`: that after each token."""
    use_activation: bool = True
    """Whether rewards are turned into probabilities (a sigmoid)."""


class ScoreRequest(RequestBody, frozen=True):
    """POST /score: rewards of pairs of texts, each pair read as one text."""

    text_1: str | list[str]
    text_2: str | list[str]
    use_activation: bool = True


# -- responses ---------------------------------------------------------------------------------------------------------


def failure(error: Exception) -> Json:
    """The body that says a computation failed."""
    words = f"{type(error).__name__}: {error}"
    return {"error": {"message": words, "type": "InternalServerError", "param": None, "code": 500}}


class VLLMResponseWriter:
    """Writes what is generated for one request, whole or event by event."""

    def __init__(self, asked: SampledRequest, request: GenerationRequest, engine: Engine) -> None:
        self.asked: SampledRequest = asked
        self.request: GenerationRequest = request
        self.model: str = engine.name
        self.pieces: dict[int, bytes] = engine.tokenizer.pieces
        self.chat: bool = isinstance(asked, ChatRequest)
        self._id = f"{'chatcmpl' if self.chat else 'cmpl'}-{uuid4().hex[:16]}"
        self._created = int(time())
        self._counts = [0] * request.n
        self._shown = [0] * request.n
        self._prompt_told = False

    def body(self, choices: list[Delta]) -> Json:
        """The response in one piece."""
        body = self._head("chat.completion" if self.chat else "text_completion")
        body |= {"choices": [self._whole(choice) for choice in choices]}
        body |= {"usage": self._usage(sum(len(choice.tokens) for choice in choices))}
        return body | (self._of_prompt() if self.chat else {})

    def _whole(self, choice: Delta) -> Json:
        said: Json = {"message": {"role": "assistant", "content": choice.text}} if self.chat else {"text": choice.text}
        return self._choice(choice, said) | ({} if self.chat else self._of_prompt())

    def events(self, delta: Delta) -> Iterable[Json]:
        """The events of a stream that tell of `delta`."""
        index = delta.index
        if self.chat and not self._counts[index]:
            opening = {"index": index, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}
            yield self._event(opening, 0) | self._prompt_ids_once()
        self._counts[index] += len(delta.tokens)
        said: Json = {"delta": {"content": delta.text}} if self.chat else {"text": delta.text}
        choice = self._choice(delta, said) | ({} if self.chat else self._prompt_ids_once())
        yield self._event(choice, self._counts[index])

    def closing(self) -> Iterable[Json]:
        """The event after the last delta, with the usage of all choices if it is asked for."""
        options = self.asked.stream_options
        if options and options.include_usage:
            yield self._head(self._event_kind) | {"choices": [], "usage": self._usage(sum(self._counts))}

    def _event(self, choice: Json, tokens: int) -> Json:
        options = self.asked.stream_options
        usage = {"usage": self._usage(tokens)} if options and options.continuous_usage_stats else {}
        return self._head(self._event_kind) | {"choices": [choice]} | usage

    @property
    def _event_kind(self) -> str:
        return "chat.completion.chunk" if self.chat else "text_completion"

    def _head(self, kind: str) -> Json:
        return {"id": self._id, "object": kind, "created": self._created, "model": self.model}

    def _usage(self, completion_tokens: int) -> Json:
        """Tokens of the prompt, counted once, and of what was generated."""
        prompt = len(self.request.prompt)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion_tokens,
            "total_tokens": prompt + completion_tokens,
            "prompt_tokens_details": {"cached_tokens": self.request.cached_tokens},
        }

    def _choice(self, delta: Delta, said: Json) -> Json:
        ended = {"finish_reason": delta.finish_reason, "stop_reason": delta.stop_reason}
        ids = {"token_ids": delta.tokens if self.asked.return_token_ids else None}
        return {"index": delta.index, **said, "logprobs": self._logprobs(delta), **ended, **ids}

    def _prompt_ids_once(self) -> Json:
        told, self._prompt_told = self._prompt_told, True
        return {"prompt_token_ids": self.request.prompt.tolist()} if self.asked.return_token_ids and not told else {}

    def _of_prompt(self) -> Json:
        ids = self.request.prompt.tolist() if self.asked.return_token_ids else None
        scores: list[Json | None] | None = None
        if self.asked.prompt_logprobs is not None:
            scores = [None, *map(self._ranked, self.request.prompt_scores)]
        return {"prompt_token_ids": ids, "prompt_logprobs": scores}

    def _ranked(self, scored: ScoredToken) -> Json:
        """A token of the prompt and the likeliest ones at its position, by id."""
        tops = [(token, logprob, rank) for rank, (token, logprob) in enumerate(scored.tops, 1)]
        return {
            str(token): {"logprob": logprob, "rank": rank, "decoded_token": self._text(token)}
            for token, logprob, rank in [*tops, (scored.token, scored.logprob, scored.rank)]
        }

    def _logprobs(self, delta: Delta) -> Json | None:
        if self.asked.tops() is None:
            return None
        if self.chat:
            content = [
                self._entry(one.token, one.logprob) | {"top_logprobs": [self._entry(*top) for top in one.tops]}
                for one in delta.scores
            ]
            return {"content": content}
        texts, offsets = [self._text(one.token) for one in delta.scores], []
        for text in texts:
            offsets.append(self._shown[delta.index])
            self._shown[delta.index] += len(text)
        tops = [{self._text(i): p for i, p in [(one.token, one.logprob), *one.tops]} for one in delta.scores]
        logprobs = [one.logprob for one in delta.scores]
        return {"tokens": texts, "token_logprobs": logprobs, "top_logprobs": tops, "text_offset": offsets}

    def _entry(self, token: int, logprob: float) -> Json:
        return {"token": self._text(token), "logprob": logprob, "bytes": list(self.pieces.get(token, b""))}

    def _text(self, token: int) -> str:
        return self.pieces.get(token, b"").decode("utf-8", "replace")
