"""The part of vLLM's OpenAI protocol that the sampler uses: requests checked as vLLM checks them, and its errors."""

from __future__ import annotations

import json
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ValidationError

from tts.lab.engine.sampling import GREEDY, Settings

MOST_LOGPROBS = 20
M = TypeVar("M", bound=BaseModel)


class Refused(Exception):
    """An answer that is an error: its status, and the words and the parameter at fault."""

    def __init__(self, message: str, param: str | None = None, *, status: int = 400, kind: str = "BadRequestError"):
        super().__init__(message)
        self.status = status
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": status}}


def need(condition: object, message: str, param: str | None = None) -> None:
    """Refuse the request unless `condition`."""
    if not condition:
        raise Refused(message, param)


def parse(kind: type[M], body: bytes) -> M:
    """The request in `body`; raises `Refused` naming every field at fault."""
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        problems = [
            {"type": one["type"], "loc": ".".join(map(str, ("body", *one["loc"]))), "msg": one["msg"]}
            for one in error.errors(include_url=False, include_context=False)
        ]
        words = f"{len(problems)} validation error{'s' * (len(problems) > 1)}: {'; '.join(map(str, problems))}"
        at_fault = ".".join(problems[0]["loc"].split(".")[:2])
        raise Refused(words, at_fault, kind="Bad Request") from None


class StreamOptions(BaseModel):
    """What a stream tells beside the text."""

    include_usage: bool = False
    continuous_usage_stats: bool = False


Stops = Annotated[tuple[str, ...], BeforeValidator(lambda value: (value,) if isinstance(value, str) else value or ())]


class Sampled(BaseModel, extra="allow"):
    """What requests for chat and for text have in common. Unknown fields are ignored, as in vLLM."""

    model: str | None = None
    n: int = 1
    max_tokens: int | None = None
    min_tokens: int = 0
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    stop: Stops = ()
    stop_token_ids: list[int] | None = None
    ignore_eos: bool = False
    include_stop_str_in_output: bool = False
    skip_special_tokens: bool = True
    prompt_logprobs: int | None = None
    return_token_ids: bool | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None

    def tops(self) -> int | None:
        """How many likeliest tokens are told with each; None: no log-probabilities."""
        raise NotImplementedError

    def limit(self) -> int | None:
        """The most tokens of a choice, as asked for."""
        return self.max_tokens

    def settings(self, prompt_tokens: int, positions: int) -> Settings:
        """How the answer is sampled, within what the context leaves room for. Raises `Refused`."""
        check_length(prompt_tokens, positions)
        self._check(positions)
        room = positions - prompt_tokens
        need(room, f"the prompt fills the context of {positions} tokens: there is no room to answer", "max_tokens")
        most = min(self.limit() or room, room)
        need(0 <= self.min_tokens <= most, f"min_tokens must lie between 0 and max_tokens={most}")
        return Settings(
            max_tokens=most,
            min_tokens=self.min_tokens,
            temperature=_or(self.temperature, 1.0),
            top_k=max(0, self.top_k or 0),
            top_p=_or(self.top_p, 1.0),
            min_p=_or(self.min_p, 0.0),
            seed=self.seed,
            stop=self.stop,
            stop_ids=frozenset(self.stop_token_ids or ()),
            ignore_end=self.ignore_eos,
            include_stop=self.include_stop_str_in_output,
            skip_special=self.skip_special_tokens,
            tops=self.tops(),
            prompt_tops=self.prompt_logprobs,
        )

    def _check(self, positions: int) -> None:
        temperature, top_p, limit, given = _or(self.temperature, 1.0), _or(self.top_p, 1.0), self.limit(), self.tops()
        need(self.n >= 1, f"n must be 1 or more, not {self.n}")
        need(temperature >= 0, f"temperature must not be negative, but is {temperature}", "temperature")
        need(self.n == 1 or temperature >= GREEDY, f"n must be 1 where temperature is 0, not {self.n}")
        need(0 < top_p <= 1, f"top_p must lie in (0, 1], but is {top_p}", "top_p")
        need(_or(self.top_k, 0) >= -1, f"top_k must be 0 (all) or more, but is {self.top_k}")
        need(0 <= _or(self.min_p, 0.0) <= 1, f"min_p must lie in [0, 1], but is {self.min_p}")
        need(limit is None or limit >= 1, f"max_tokens must be 1 or more, but is {limit}", "max_tokens")
        need(
            limit is None or limit <= positions, f"max_tokens={limit} exceeds the context of {positions}", "max_tokens"
        )
        need(all(self.stop), "an empty text cannot be a stop string")
        need((given or 0) <= MOST_LOGPROBS, f"{given} logprobs are asked for, {MOST_LOGPROBS} at most", "logprobs")
        of_prompt = self.prompt_logprobs
        need(_or(of_prompt, 0) in range(MOST_LOGPROBS + 1), "prompt_logprobs must lie in 0..20", "prompt_logprobs")
        need(of_prompt is None or not self.stream, "a stream has no prompt_logprobs", "prompt_logprobs")
        need(self.stream_options is None or self.stream, "stream_options need stream=true", "stream_options")
        for key, harmless in UNSUPPORTED.items():
            value = (self.model_extra or {}).get(key)
            need(not value or value in harmless, f"the embedded engine has no {key}; serve the model with vLLM", key)


UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "presence_penalty": (),
    "frequency_penalty": (),
    "repetition_penalty": (1,),
    "logit_bias": (),
    "bad_words": (),
    "allowed_token_ids": (),
    "response_format": ({"type": "text"},),
    "structured_outputs": (),
    "tools": (),
    "echo": (),
    "suffix": (),
    "use_beam_search": (),
}
"""Fields that would change the answer and are not here, with the values that ask for nothing."""


class ChatRequest(Sampled):
    """POST /v1/chat/completions."""

    messages: list[dict[str, Any]]
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    add_generation_prompt: bool = True
    continue_final_message: bool = False

    def limit(self) -> int | None:
        """The newer name of the limit wins."""
        return _or(self.max_completion_tokens, self.max_tokens)

    def tops(self) -> int | None:
        """`top_logprobs`, where `logprobs` is true."""
        need(not self.top_logprobs or self.logprobs, "top_logprobs need logprobs=true", "top_logprobs")
        return (self.top_logprobs or 0) if self.logprobs else None


class TextRequest(Sampled):
    """POST /v1/completions."""

    prompt: str | list[int] | list[str] | list[list[int]] | None = None
    logprobs: int | None = None

    def limit(self) -> int | None:
        """Sixteen tokens, as everywhere, where nothing is said."""
        return _or(self.max_tokens, 16)

    def tops(self) -> int | None:
        """`logprobs`."""
        return self.logprobs


class TokenizeRequest(BaseModel):
    """POST /tokenize: of a text or of messages."""

    model: str | None = None
    prompt: str | None = None
    messages: list[dict[str, Any]] | None = None
    add_generation_prompt: bool = True
    continue_final_message: bool = False


class DetokenizeRequest(BaseModel):
    """POST /detokenize."""

    model: str | None = None
    tokens: list[int]


class PoolingRequest(BaseModel):
    """POST /pooling and /classify: rewards of texts, of token ids or of a conversation."""

    model: str | None = None
    input: str | list[int] | list[str] | list[list[int]] | None = None
    messages: list[dict[str, Any]] | None = None
    add_generation_prompt: bool = False
    continue_final_message: bool = False
    """Whether the last message has no end yet, so that a beginning of an answer is rated as one."""
    task: str | None = None
    """`classify`: the reward behind the last token; `token_classify`: that behind each token."""
    use_activation: bool = True
    """Whether rewards are turned into probabilities (a sigmoid)."""


class ScoreRequest(BaseModel):
    """POST /score: rewards of pairs of texts, read one after the other."""

    model: str | None = None
    text_1: str | list[str]
    text_2: str | list[str]
    use_activation: bool = True


def check_length(tokens: int, positions: int) -> None:
    """Refuse a prompt without tokens, or one that is longer than the context."""
    need(tokens, "the prompt is empty: give prompt or messages with at least one token", "prompt")
    words = f"This model's maximum context length is {positions} tokens, and the prompt has {tokens}; shorten it"
    need(tokens <= positions, words, "input_tokens")


def chunk(data: Any) -> bytes:
    """One event of a stream."""
    return b"data: " + json.dumps(data, separators=(",", ":")).encode() + b"\n\n"


def failure(error: Exception) -> dict[str, Any]:
    """The body that says a computation failed."""
    words = f"{type(error).__name__}: {error}"
    return {"error": {"message": words, "type": "InternalServerError", "param": None, "code": 500}}


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value
