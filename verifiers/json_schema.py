"""JSON that fits a schema, and tool calls that fit the request's tools (extra `answers`: the `jsonschema` library)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from time import thread_time
from typing import Any, ClassVar

from pydantic import JsonValue, field_validator

from tts import registry
from tts.base import Verifier
from tts.errors import ConfigError, MissingExtra
from tts.resources import Resources
from tts.session import Session
from tts.types import Candidate, Problem, Scale, Verdict
from tts.verifiers.programs.extract import fenced_blocks
from tts.verifiers.sandbox import CaseResult, Invocation, Job, ProgramLimits, Sandbox, SandboxError, encode

LIMITS = ProgramLimits(cpu_seconds=1.0)
"""Neither a schema's patterns nor texts crafted to be slow may hold up the run."""
LONGEST_TEXT = 200_000
"""Characters; a longer text is refused unread."""
LONGEST_SCHEMA = 200_000
"""Characters of a schema as JSON."""
CHECKED_HERE = 5_000
"""Characters up to which a schema is checked at once; a longer one is checked where texts are, when the first comes."""
APPLIED_HERE = 300_000
"""Length of schema times length of text up to which a schema without hard parts is applied without the sandbox."""
_HARD = re.compile(r'"(?:pattern|patternProperties|format|uniqueItems|\$\w+)"')

PROGRAM = (Path(__file__).parent / "answers" / "schema_child.py").read_text(encoding="utf-8")


@dataclass(frozen=True)
class Misfit:
    """The first of several texts that does not fit its schema."""

    number: int
    """Its number; how many there are if all fit."""
    errors: list[str]
    cpu_seconds: float


async def first_misfit(pairs: Sequence[tuple[Mapping[str, Any], str]], resources: Resources) -> Misfit:
    """Apply each schema to its text, which is JSON. Raises `SandboxError` when the sandbox fails."""
    written = [json.dumps(schema) for schema, _ in pairs]
    schemas = list(dict.fromkeys(written))  # many texts share one
    places = {schema: place for place, schema in enumerate(schemas)}
    texts = [(places[schema], text) for schema, (_, text) in zip(written, pairs, strict=True)]
    size = sum(len(schemas[place]) * len(text) for place, text in texts)
    if size <= APPLIED_HERE and not any(map(_HARD.search, schemas)):
        start = thread_time()
        with suppress(Exception):  # a schema that is none, or too deep: the sandbox says what is wrong
            from tts.verifiers.answers.schema_child import first_errors  # here: its library is an extra

            number, errors = first_errors(schemas, texts)
            return Misfit(number, errors, thread_time() - start)
    case, seconds = await _run(resources, "first_errors", schemas, texts)
    if case.status != "ok":
        return Misfit(0, [f"it cannot be checked ({case.status}) {case.error}"], seconds)
    number, errors = case.values[0]
    return Misfit(number, list(errors), seconds)


async def _run(resources: Resources, function: str, *arguments: Any) -> tuple[CaseResult, float]:
    """How a call of the program ended, and the CPU seconds that it took. Raises `SandboxError`."""
    call = Invocation(function, encode(arguments))
    result = await resources.get(Sandbox).run(Job(PROGRAM, ((call,),), limits=LIMITS, preload=("jsonschema",)))
    case = result.cases[0] if result.cases else result.loaded
    if case.status == "infra":
        raise SandboxError(f"cannot apply the schema: {case.error}")
    return case, result.cpu_seconds


def _need_library(name: str) -> None:
    if find_spec("jsonschema") is None:
        raise MissingExtra("answers", f"the verifier {name}")


class JsonSchema(Verifier):
    """Accepts a text whose JSON is valid and fits a schema; feedback says what does not fit, and where.

    The JSON may be the whole text, its last fenced block that is JSON, or the part between its outermost brackets.
    """

    scale: ClassVar[Scale | None] = "positive"

    definition: dict[str, JsonValue]
    """The schema itself, or the path of a file that holds it."""
    bare: bool = False
    """Whether the text may contain nothing but JSON."""

    @field_validator("definition", mode="before")
    @classmethod
    def _read(cls, definition: Any) -> Any:
        if not isinstance(definition, str | Path):
            return definition
        if not registry.trusted():
            raise ConfigError("give the schema itself here, not the name of a file")
        try:
            return json.loads(Path(definition).expanduser().read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(f"cannot read the schema {definition}: {error}") from None

    def model_post_init(self, context: Any) -> None:
        """Raise `ConfigError` for an invalid schema, `MissingExtra` where the library is not installed."""
        _need_library(self.name)
        length = len(json.dumps(self.definition))
        if length > LONGEST_SCHEMA:
            raise ConfigError(f"the schema has {length:,} characters; at most {LONGEST_SCHEMA:,} are applied")
        if length > CHECKED_HERE or not registry.trusted():
            return
        import jsonschema.validators

        try:
            jsonschema.validators.validator_for(self.definition).check_schema(self.definition)
        except jsonschema.SchemaError as error:
            raise ConfigError(f"not a JSON schema, at {error.json_path}: {error.message}") from None
        except RecursionError:
            raise ConfigError("not a JSON schema: it is too deep") from None

    async def vet(self, resources: Resources) -> None:
        """Check a stranger's schema where that holds nobody up."""
        case, _ = await _run(resources, "fault", self.definition)
        wrong = case.values[0] if case.status == "ok" else f"it cannot be checked ({case.status}) {case.error}"
        if wrong:
            raise ConfigError(f"not a JSON schema, at {wrong}")

    async def verify(self, problem: Problem, candidate: Candidate, session: Session) -> Verdict:
        """Raises `SandboxError` when the sandbox fails."""
        start = thread_time()
        if len(candidate.content) > LONGEST_TEXT:
            return Verdict(0.0, False, f"the text is longer than {LONGEST_TEXT:,} characters")
        text = next((text for text in self._proposals(candidate.content) if _is_json(text)), None)
        reading = thread_time() - start
        if text is None:
            return Verdict(0.0, False, "there is no valid JSON in the text", cpu_seconds=reading)
        found = await first_misfit([(self.definition, text)], session.resources)
        fits = not found.errors
        return Verdict(float(fits), fits, "\n".join(found.errors), {}, reading + found.cpu_seconds)

    def _proposals(self, text: str) -> Iterator[str]:
        """Where the JSON may be: the whole text, the blocks from the last on, between the outermost brackets."""
        yield text
        if self.bare:
            return
        yield from reversed(fenced_blocks(text))
        starts = [place for bracket in "{[" if (place := text.find(bracket)) >= 0]
        if starts:
            start = min(starts)
            yield text[start : text.rfind("}" if text[start] == "{" else "]") + 1]


def _is_json(text: str) -> bool:
    try:
        json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return False
    return True


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


class ToolCall(Verifier):
    """Accepts calls of functions that are in `metadata["tools"]`, with arguments that fit their parameters.

    A text without any call is not judged, unless a call is `required`.
    """

    scale: ClassVar[Scale | None] = "positive"

    required: bool = False
    """Whether a text without a call is refused."""

    def model_post_init(self, context: Any) -> None:
        """Raise `MissingExtra` where the library is not installed."""
        _need_library(self.name)

    async def verify(self, problem: Problem, candidate: Candidate, session: Session) -> Verdict:
        """Check every call; feedback names the first wrong one. Raises `SandboxError` when the sandbox fails."""
        if not candidate.tool_calls:
            return Verdict(0.0, False, "no tool is called") if self.required else Verdict(None)
        start = thread_time()
        tools = _parameters(problem.metadata.get("tools") or ())
        names, pairs = list[str](), list[tuple[Mapping[str, Any], str]]()
        for call in candidate.tool_calls:
            function = call.get("function") or {}
            name, arguments = str(function.get("name")), function.get("arguments") or "{}"
            if name not in tools:
                return Verdict(0.0, False, f"there is no tool {name!r}; there are: {', '.join(tools) or 'none'}")
            if len(arguments) > LONGEST_TEXT or not _is_json(arguments):
                return Verdict(
                    0.0, False, f"{name}: the arguments are no valid JSON of at most {LONGEST_TEXT:,} characters"
                )
            names.append(name)
            pairs.append(({"type": "object", **tools[name]}, arguments))
        reading = thread_time() - start
        found = await first_misfit(pairs, session.resources)
        wrong = f"{names[found.number]}: " + "\n".join(found.errors) if found.errors else ""
        return Verdict(float(not wrong), not wrong, wrong, cpu_seconds=reading + found.cpu_seconds)


def _parameters(tools: Any) -> dict[str, Mapping[str, Any]]:
    """The schema of each function's parameters, by its name."""
    functions = [tool.get("function") or {} for tool in tools if isinstance(tool, Mapping)]
    return {str(function.get("name")): function.get("parameters") or {} for function in functions}
