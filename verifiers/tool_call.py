"""Tool calls that the request's tools allow (extra `answers`: the `jsonschema` library)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tts.base import Verifier
from tts.session import Session
from tts.types import Candidate, Problem, Verdict
from tts.verifiers.json_schema import JsonSchema


class ToolCall(Verifier):
    """Accepts calls of functions that are in `metadata["tools"]`, with arguments that fit their parameters.

    A text without any call is not judged, unless a call is `required`.
    """

    required: bool = False
    """Whether a text without a call is refused."""

    async def verify(self, problem: Problem, candidate: Candidate, session: Session) -> Verdict:
        """Check every call; feedback names the first wrong one. Raises `SandboxError` when the sandbox fails."""
        if not candidate.tool_calls:
            return Verdict(0.0, False, "no tool is called") if self.required else Verdict(None)
        tools = _parameters(problem.metadata.get("tools") or ())
        seconds = 0.0
        for call in candidate.tool_calls:
            function = call.get("function") or {}
            name = str(function.get("name"))
            if name not in tools:
                return Verdict(0.0, False, f"there is no tool {name!r}; there are: {', '.join(tools) or 'none'}")
            schema = JsonSchema(definition={"type": "object", **tools[name]}, bare=True)
            arguments = replace(candidate, content=function.get("arguments") or "{}")
            verdict = await schema.verify(problem, arguments, session)
            seconds += verdict.cpu_seconds
            if not verdict.passed:
                return replace(verdict, feedback=f"{name}: {verdict.feedback}", cpu_seconds=seconds)
        return Verdict(1.0, True, cpu_seconds=seconds)


def _parameters(tools: Any) -> dict[str, Mapping[str, Any]]:
    """The schema of each function's parameters, by its name."""
    functions = [tool.get("function") or {} for tool in tools if isinstance(tool, Mapping)]
    return {str(function.get("name")): function.get("parameters") or {} for function in functions}
