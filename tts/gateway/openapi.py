"""What the OpenAPI document says of requests. They are read by the gateway itself, so nothing here takes effect."""

from __future__ import annotations

from typing import Any

_TTS: dict[str, Any] = {
    "description": "A strategy's spec, or a table: strategy, verifier, answer, tests, schema, format, rubric, models, "
    "budget, deadline, details, progress.",
    "oneOf": [{"type": "string"}, {"type": "object"}],
}
_COMMON: dict[str, Any] = {
    "model": {"type": "string", "description": "A model, a preset, or STRATEGY@MODEL."},
    "stream": {"type": "boolean"},
    "tts": _TTS,
}
_N = {"n": {"type": "integer", "minimum": 1, "maximum": 128}}
_MESSAGE = {
    "type": "object",
    "required": ["role"],
    "properties": {
        "role": {"type": "string"},
        "content": {"type": ["string", "null", "array"], "items": {"type": "object"}},
    },
}
_ERRORS = (400, 401, 403, 404, 408, 413, 422, 429, 500, 501, 502, 503, 504)


def _documented(field: str, value: dict[str, Any], **more: Any) -> dict[str, Any]:
    schema = {"type": "object", "required": ["model", field], "properties": {**_COMMON, **more, field: value}}
    return {
        "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}},
        "responses": {str(status): {"description": "An error in OpenAI's form."} for status in _ERRORS},
        "security": [{}, {"bearer": []}],
    }


DOCUMENTED: dict[str, dict[str, Any]] = {
    "chat/completions": _documented("messages", {"type": "array", "minItems": 1, "items": _MESSAGE}, **_N),
    "completions": _documented("prompt", {"type": "string"}, **_N),
    "responses": _documented("input", {"oneOf": [{"type": "string"}, {"type": "array", "items": {"type": "object"}}]}),
}
"""By endpoint: what is added to its operation."""
