"""Request bodies: what the gateway must understand is checked, everything else is passed on.

A plain model's requests are not checked; the model server decides about them.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, Field, PositiveFloat, PositiveInt, ValidationError, field_validator

from tts.gateway.exchange import APIError, bad_request
from tts.types import Budget

Kind = Literal["chat/completions", "completions", "responses"]
KINDS: tuple[Kind, ...] = get_args(Kind)

Spec = str | dict[str, Any]
Table = dict[str, Any]


class RequestOptions(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
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
    models: dict[str, str] = {}
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


class Body(BaseModel, strict=True, use_attribute_docstrings=True):
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
    stop: str | list[str] | None = None
    logprobs: int | None = None


class Chat(Body):
    """A chat completion."""

    messages: Annotated[list[Message], Field(min_length=1)]
    n: PositiveInt | None = None
    max_tokens: PositiveInt | None = None
    max_completion_tokens: PositiveInt | None = None
    stop: str | list[str] | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    tools: list[Table] | None = None
    tool_choice: str | Table | None = None
    parallel_tool_calls: bool | None = None
    response_format: Table | None = None


class Responses(Body):
    """A request of the Responses API."""

    input: str | list[Table]
    instructions: str | None = None
    max_output_tokens: PositiveInt | None = None
    top_logprobs: int | None = None
    tools: list[Table] | None = None
    tool_choice: str | Table | None = None
    parallel_tool_calls: bool | None = None
    text: Table | None = None
    reasoning: Table | None = None
    metadata: Table | None = None


BODIES: dict[Kind, type[Body]] = {"chat/completions": Chat, "completions": Completion, "responses": Responses}


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
    return bad_request(f"{place}: {first['msg']}{known}", place)
