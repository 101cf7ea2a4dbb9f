"""JSON that fits a schema, and tool calls that fit the request's tools (extra `answers`: the `jsonschema` library)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
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

LIMITS = ProgramLimits(cpu_seconds=2.0)
"""Neither a schema's patterns nor texts crafted to be slow may hold up the run."""

PROGRAM = """
import json
from jsonschema import SchemaError
from jsonschema.validators import validator_for

def fault(schema):
    schema = json.loads(schema)
    try:
        validator_for(schema).check_schema(schema)
    except SchemaError as error:
        return f"{error.json_path}: {error.message[:200]}"

def errors(schema, text):
    schema = json.loads(schema)
    kind = validator_for(schema)
    found = kind(schema, format_checker=kind.FORMAT_CHECKER).iter_errors(json.loads(text))
    return [f"{error.json_path}: {error.message[:200]}" for error, _ in zip(found, range(5))]

def first_errors(schemas, calls):
    "The number of the first of the calls, (tool, arguments), that does not fit, and what is wrong with it."
    checked = {}
    for number, (tool, arguments) in enumerate(calls):
        if tool not in checked:
            checked[tool] = fault(schemas[tool])
        if checked[tool]:
            return [number, ["the tool's own schema is invalid, at " + checked[tool]]]
        if wrong := errors(schemas[tool], arguments):
            return [number, wrong]
"""


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
        if not registry.trusted():
            return
        import jsonschema.validators

        try:
            jsonschema.validators.validator_for(self.definition).check_schema(self.definition)
        except jsonschema.SchemaError as error:
            raise ConfigError(f"not a JSON schema, at {error.json_path}: {error.message}") from None

    async def vet(self, resources: Resources) -> None:
        """Check a stranger's schema where that holds nobody up."""
        case, _ = await _run(resources, "fault", json.dumps(self.definition))
        wrong = case.values[0] if case.status == "ok" else f"it cannot be checked ({case.status}) {case.error}"
        if wrong:
            raise ConfigError(f"not a JSON schema, at {wrong}")

    async def verify(self, problem: Problem, candidate: Candidate, session: Session) -> Verdict:
        """Raises `SandboxError` when the sandbox fails."""
        start = thread_time()
        text = next((text for text in self._proposals(candidate.content) if _is_json(text)), None)
        reading = thread_time() - start
        if text is None:
            return Verdict(0.0, False, "there is no valid JSON in the text", cpu_seconds=reading)
        case, seconds = await _run(session.resources, "errors", json.dumps(self.definition), text)
        wrong = list(case.values[0]) if case.status == "ok" else [f"it cannot be checked ({case.status}) {case.error}"]
        return Verdict(float(not wrong), not wrong, "\n".join(wrong), {}, reading + seconds)

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


def _need_library(name: str) -> None:
    if find_spec("jsonschema") is None:
        raise MissingExtra("answers", f"the verifier {name}")


async def _run(resources: Resources, function: str, *arguments: Any) -> tuple[CaseResult, float]:
    """How a call of the program ended, and the CPU seconds that it took. Raises `SandboxError`."""
    call = Invocation(function, encode(arguments))
    result = await resources.get(Sandbox).run(Job(PROGRAM, ((call,),), limits=LIMITS, preload=("jsonschema",)))
    case = result.cases[0] if result.cases else result.loaded
    if case.status == "infra":
        raise SandboxError(f"cannot apply the schema: {case.error}")
    return case, result.cpu_seconds


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
        tools, calls, wrong = _parameters(problem.metadata.get("tools") or ()), list[tuple[str, str]](), ""
        for call in candidate.tool_calls:
            function = call.get("function") or {}
            name, arguments = str(function.get("name")), function.get("arguments") or "{}"
            if name not in tools:
                wrong = f"there is no tool {name!r}; there are: {', '.join(tools) or 'none'}"
            elif not _is_json(arguments):
                wrong = f"{name}: there is no valid JSON in the text"
            if wrong:
                break
            calls.append((name, arguments))
        schemas = {name: json.dumps({"type": "object", **tools[name]}) for name, _ in calls}
        reading, seconds = thread_time() - start, 0.0
        if calls:  # all in one program: each schema is checked once
            case, seconds = await _run(session.resources, "first_errors", schemas, calls)
            if case.status != "ok":
                wrong = f"the calls cannot be checked ({case.status}) {case.error}"
            elif case.values[0] is not None:
                number, errors = case.values[0]
                wrong = f"{calls[number][0]}: " + "\n".join(errors)
        return Verdict(float(not wrong), not wrong, wrong, {}, reading + seconds)


def _parameters(tools: Any) -> dict[str, Mapping[str, Any]]:
    """The schema of each function's parameters, by its name."""
    functions = [tool.get("function") or {} for tool in tools if isinstance(tool, Mapping)]
    return {str(function.get("name")): function.get("parameters") or {} for function in functions}
