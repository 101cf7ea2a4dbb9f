"""Request bodies: what the gateway must understand is checked, everything else is passed on.

A plain model's requests are not checked; the model server decides about them.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, NonNegativeInt, PositiveFloat, PositiveInt, ValidationError, field_validator

from tts.concurrency import LARGE, aside
from tts.errors import complaint
from tts.gateway.exchange import PASSED, APIError, Kind, bad_request
from tts.gateway.settings import GatewayLimits
from tts.sampler.parameters import LENGTHS
from tts.sampler.protocol import DEEPEST, check_depth, values_in
from tts.settings import Documented, Settings
from tts.text import size_of
from tts.types import Budget

Spec = str | dict[str, Any]
Table = dict[str, Any]

MOST_MESSAGES = 10_000
MOST_TOOLS = 512
MOST_PARAMETERS = 128
SIZES = {
    "model": 4096,
    "response_format": 2**17,
    "text": 2**17,
    "tools": 2**18,
    "tool_choice": 2**12,
}
"""How large the fields of a request for a strategy may be: characters of texts and names, and one for every value."""

OPTION_SIZES = {
    "strategy": 2**16,
    "verifier": 2**16,
    "answer": 4096,
    "tests": 2**20,
    "schema": 2**17,
    "format": 2000,
    "rubric": 2**16,
    "models": 4096,
}
"""The same for the fields of `tts`."""

SPEC = 4096
"""How long a text in a spec may be, and a spec that is a text."""

SAMPLING = frozenset(
    {
        *("temperature", "top_p", "top_k", "min_p", "seed", "user"),
        *("frequency_penalty", "presence_penalty", "repetition_penalty"),
        *("reasoning_effort", "chat_template_kwargs", "service_tier"),
    }
)
"""Fields that say how the model samples: every call of the model that writes the answer carries them."""

PROTOCOL = frozenset({"model", "messages", "prompt", "input", "n", "stream", "stream_options", "tts"})
"""Fields that the gateway answers to itself."""


READ_HERE = frozenset({*PROTOCOL, *LENGTHS, *("best_of", "max_output_tokens", "n_predict", "tools", "instructions")})
"""Fields by which the gateway lets requests in, and reserves what they may cost."""


def sampling_of(body: Table) -> tuple[Table, Table]:
    """What a chat or completion body says of sampling: for every call, and for the one that writes the answer alone.

    The latter has what the answer must be (its length, tools, format, where it stops), and fields that nobody here
    knows: they go to the server as they are. Of several lengths the smallest holds; llama.cpp's own name for it would
    go before the others.
    """
    given = {name: value for name, value in body.items() if name not in PROTOCOL and value is not None}
    form = {name: value for name, value in given.items() if name not in SAMPLING}
    lengths = [form.pop(name) for name in (*LENGTHS, "n_predict") if name in form]
    if lengths:
        form["max_completion_tokens" if "max_completion_tokens" in given else "max_tokens"] = min(lengths)
    return {name: given[name] for name in SAMPLING & given.keys()}, form


class RequestOptions(Settings):
    """The field `tts` of a body, where it is more than a strategy's spec."""

    strategy: Spec | None = None
    """The strategy's spec, `best_of_n:n=8`, or the name of a preset."""
    verifier: Spec | None = None
    """The verifier's spec."""
    answer: str | None = None
    """How to read and compare answers, for votes."""
    tests: Table | None = None
    """Tests for the requested program, in the form of `unit_tests`."""
    schema_: Annotated[Table | None, Field(alias="schema")] = None
    """A JSON schema that the answer must satisfy."""
    format: str | None = None
    """A regular expression that must match somewhere in the answer."""
    rubric: str | None = None
    """What makes an answer good, in words for a judge."""
    models: dict[str, str] = Field(default_factory=dict)
    """Configured models for further roles, by role: `{"judge": "big"}`."""
    budget: Budget = Budget()
    """Caps on this request."""
    deadline: PositiveFloat | None = None
    """Seconds after which the best answer so far is returned."""
    on_abstain: Literal["answer", "error"] = "answer"
    """What to give where the strategy finds no candidate good enough: the best of them, which the response says, or an
    error (422)."""
    on_unverified: Literal["answer", "error"] = "answer"
    """What to give where the answer could not be verified: the answer, which the response says, or an error."""
    details: bool = False
    """Whether the answer has a field `tts` with the usage by role and the candidates."""
    progress: bool = False
    """Whether a stream reports progress, in chunks without choices that have a field `tts`."""


class Body(Documented, strict=True):
    """What all endpoints have in common."""

    model: str
    """A model, a preset, or STRATEGY@MODEL."""
    stream: bool | None = None
    stream_options: Table | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    user: str | None = None
    tts: str | RequestOptions | None = None
    """A strategy's spec, or a table with it and with what the answer must satisfy."""


class Message(BaseModel, strict=True):
    """A message of a chat."""

    role: str
    content: str | list[Table] | None = None
    tool_calls: list[Table] | None = None

    @field_validator("content")
    @classmethod
    def _check_parts(cls, content: str | list[Table] | None) -> str | list[Table] | None:
        for part in content if isinstance(content, list) else ():
            if part.get("type") == "text" and not isinstance(part.get("text"), str):
                raise ValueError("a part of type 'text' must have text")
        return content


class Completion(Body):
    """A text completion."""

    prompt: str
    n: PositiveInt | None = None
    max_tokens: PositiveInt | None = None
    n_predict: PositiveInt | None = None
    stop: str | list[str] | None = None
    logprobs: int | None = None


class Chat(Body):
    """A chat completion."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=MOST_MESSAGES)]
    n: PositiveInt | None = None
    max_tokens: PositiveInt | None = None
    max_completion_tokens: PositiveInt | None = None
    n_predict: PositiveInt | None = None
    stop: str | list[str] | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    tools: Annotated[list[Table], Field(max_length=MOST_TOOLS)] | None = None
    tool_choice: str | Table | None = None
    parallel_tool_calls: bool | None = None
    response_format: Table | None = None


class Responses(Body):
    """A request of the Responses API."""

    input: str | Annotated[list[Table], Field(max_length=MOST_MESSAGES)]
    n_predict: PositiveInt | None = None
    instructions: str | None = None
    max_output_tokens: PositiveInt | None = None
    top_logprobs: int | None = None
    tools: Annotated[list[Table], Field(max_length=MOST_TOOLS)] | None = None
    tool_choice: str | Table | None = None
    parallel_tool_calls: bool | None = None
    text: Table | None = None
    reasoning: Table | None = None
    metadata: Table | None = None


class Turn(BaseModel, strict=True, extra="forbid"):
    """A turn of a conversation with Anthropic's API."""

    role: Literal["user", "assistant", "system"]
    content: str | list[Table]


class CountTokens(Documented, strict=True, extra="forbid"):
    """The tokens of a message's prompt."""

    model: str
    """A model, a preset, or STRATEGY@MODEL."""
    messages: Annotated[list[Turn], Field(min_length=1, max_length=MOST_MESSAGES)]
    system: str | list[Table] | None = None
    tools: Annotated[list[Table], Field(max_length=MOST_TOOLS)] | None = None
    tool_choice: Table | None = None
    thinking: Table | None = None
    output_config: Table | None = None
    output_format: Table | None = None
    cache_control: Table | None = None
    context_management: Table | None = None
    speed: str | None = None


class Messages(CountTokens):
    """A request of Anthropic's Messages API; with fields of other servers that say how the model samples."""

    max_tokens: PositiveInt
    stop_sequences: list[str] | None = None
    stream: bool | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: NonNegativeInt | None = None
    metadata: Table | None = None
    service_tier: str | None = None
    diagnostics: Table | None = None
    min_p: float | None = None
    seed: int | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    repetition_penalty: float | None = None
    reasoning_effort: str | None = None
    chat_template_kwargs: Table | None = None
    tts: str | RequestOptions | None = None
    """A strategy's spec, or a table with it and with what the answer must satisfy."""


class Passed(BaseModel, extra="allow"):
    """A request that goes to the model's server as it is."""

    model: str


BODIES: dict[Kind, type[BaseModel]] = {
    "chat/completions": Chat,
    "completions": Completion,
    "responses": Responses,
    "messages": Messages,
    "messages/count_tokens": CountTokens,
    **dict.fromkeys(PASSED, Passed),
}


async def parsed(content: bytes, limits: GatewayLimits) -> Table:
    """The JSON object in a body. Raises `APIError` where there is none, or more values than may be read at once."""
    if len(content) > LARGE and (await aside(len(content), values_in, content))[1] > limits.body_values:
        message = f"the JSON of a request may have at most {limits.body_values} values and keys"
        raise APIError(413, message, "request_too_large")
    try:
        body = json.loads(content)
        if content.count(b"[") + content.count(b"{") > DEEPEST:
            await aside(len(content), check_depth, body)
    except (ValueError, RecursionError) as error:
        raise APIError(400, f"the body cannot be read as JSON: {str(error)[:200]}", "invalid_json") from None
    if not isinstance(body, dict):
        raise APIError(400, "the body is not a JSON object", "invalid_json")
    return body


def check_names(body: Table) -> None:
    """Raise `APIError` (400) where a field that the gateway goes by is written otherwise: a server in Go reads `Model`
    as `model`, and would take what nobody has checked."""
    for name in body:
        if not name.islower() and (meant := name.casefold()) in READ_HERE and meant != name:
            raise bad_request(f"write {meant}, and not {name}", name)


def check_sizes(body: Table, sizes: dict[str, int], place: str = "") -> None:
    """Raise `APIError` (400) that names a field of `body` larger than `sizes` says."""
    for name, most in sizes.items():
        if name in body and size_of(body[name], most) > most:
            raise bad_request(f"{place}{name} is too large: at most {most} characters and values", f"{place}{name}")


def check_spec(spec: Any, group: str) -> None:
    """Raise `APIError` (400) where a text in a spec is too long, a schema apart."""
    if isinstance(spec, str) and len(spec) > SPEC:
        raise bad_request(f"a text in a spec may have at most {SPEC} characters", group)
    if isinstance(spec, dict | list) and len(spec) > MOST_PARAMETERS:
        raise bad_request(f"a spec may have at most {MOST_PARAMETERS} parameters or members", group)
    if isinstance(spec, dict):
        for name, value in spec.items():
            if name != "definition":
                check_spec(value, group)
    elif isinstance(spec, list):
        for value in spec:
            check_spec(value, group)


def check(kind: Kind, content: bytes) -> None:
    """Raise `APIError` (400), naming the field, where the body of a request for a strategy is invalid."""
    try:
        BODIES[kind].model_validate_json(content)
    except ValidationError as error:
        raise _invalid(error) from None


def options_of(body: Table) -> RequestOptions:
    """The field `tts` of a body. Raises `APIError` (400) that names the field at fault and lists all."""
    given = body.get("tts")
    try:
        return RequestOptions(strategy=given) if isinstance(given, str) else RequestOptions.model_validate(given or {})
    except ValidationError as error:
        names = ", ".join(field.alias or name for name, field in RequestOptions.model_fields.items())
        raise _invalid(error, "tts", known=f"; tts has: {names}") from None


def _invalid(error: ValidationError, *outer: str, known: str = "") -> APIError:
    first = error.errors()[0]
    inner = [str(part) for part in first["loc"] if part not in ("str", "RequestOptions") and "[" not in str(part)]
    place = ".".join([*outer, *inner])
    return bad_request(f"{place}: {complaint(first)}{known}", place)
