"""Bodies of requests as the gateway reads them: what it must understand, checked; everything else goes on as it is.

A plain model's requests are not held to this. The model server says what it makes of them.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, ValidationError

from tts.gateway.errors import Refused
from tts.types import Budget

Kind = Literal["chat/completions", "completions", "responses"]
KINDS: tuple[Kind, ...] = get_args(Kind)

Spec = str | dict[str, Any]
Table = dict[str, Any]


class Wishes(BaseModel):
    """The field `tts` of a body, where it is more than the spec of a strategy."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    strategy: Spec | None = None
    """Its spec, `best_of_n:n=8`, or the name of a preset."""
    verifier: Spec | None = None
    """The verifier's spec."""
    answer: str | None = None
    """How answers are read and compared, for votes."""
    tests: Table | None = None
    """Tests of the program that is asked for, in the form of `unit_tests`."""
    schema_: Annotated[Table | None, Field(alias="schema")] = None
    """A JSON schema that the answer must fit."""
    format: str | None = None
    """A regular expression that must be found in the answer."""
    rubric: str | None = None
    """What makes an answer good, in words for a judge."""
    models: dict[str, str] = {}
    """Names of configured models for further roles: `{"judge": "big"}`."""
    budget: Budget = Budget()
    """Caps on this request."""
    deadline: PositiveFloat | None = None
    """Seconds after which the best answer so far is given."""
    details: bool = False
    """Whether the answer has a field `tts` with the usage by role and the candidates."""
    progress: bool = False
    """Whether a stream has chunks without choices whose field `tts` tells how far it is."""


class Body(BaseModel):
    """What all endpoints have in common."""

    model_config = ConfigDict(strict=True, use_attribute_docstrings=True)

    model: str
    """A model, a preset, or STRATEGY@MODEL."""
    stream: bool | None = None
    stream_options: Table | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    user: str | None = None
    tts: str | Wishes | None = None
    """A strategy's spec, or a table with it and with what the answer must meet."""


class Message(BaseModel):
    """A message of a chat."""

    model_config = ConfigDict(strict=True)

    role: str
    content: str | list[Table] | None = None
    tool_calls: list[Table] | None = None


class Completion(Body):
    """A request for a text."""

    prompt: str
    n: PositiveInt | None = None
    max_tokens: PositiveInt | None = None
    stop: str | list[str] | None = None
    logprobs: int | None = None


class Chat(Body):
    """A request for a message."""

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
    """A request for a response."""

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
    """Raise `Refused` (400), naming the place, where the body of a request for a strategy is none."""
    try:
        BODIES[kind].model_validate_json(content)
    except ValidationError as error:
        raise _refused(error) from None


def wishes_of(body: Table) -> Wishes:
    """The field `tts` of a body. Raises `Refused` that names what is wrong and what there is."""
    given = body.get("tts")
    try:
        return Wishes(strategy=given) if isinstance(given, str) else Wishes.model_validate(given or {})
    except ValidationError as error:
        names = ", ".join(field.alias or name for name, field in Wishes.model_fields.items())
        raise _refused(error, "tts", known=f"; tts has: {names}") from None


def _refused(error: ValidationError, *outer: str, known: str = "") -> Refused:
    first = error.errors()[0]
    inner = [str(part) for part in first["loc"] if part not in ("str", "Wishes") and "[" not in str(part)]
    place = ".".join([*outer, *inner])
    return Refused(400, f"{place}: {first['msg']}{known}", "invalid_value", place)
