"""What the OpenAPI document says of the endpoints that the gateway reads and answers by itself."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from pydantic.json_schema import models_json_schema

from tts.gateway.schemas import BODIES, Kind

_PLACE = "#/components/schemas/"
_ERRORS = (400, 401, 403, 404, 408, 413, 422, 429, 500, 501, 502, 503, 504)


def operation(kind: Kind) -> dict[str, Any]:
    """What is added to the operation of an endpoint."""
    schema = {"$ref": _PLACE + BODIES[kind].__name__}
    return {
        "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}},
        "responses": {str(status): {"description": "An error in OpenAI's form."} for status in _ERRORS},
        "security": [{}, {"bearer": []}],
    }


def describe(app: FastAPI) -> None:
    """Add the forms of the bodies to the document, and how keys are shown."""
    _, found = models_json_schema([(form, "validation") for form in BODIES.values()], ref_template=_PLACE + "{model}")
    components = {"schemas": found["$defs"], "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}}}
    document = app.openapi

    def described() -> dict[str, Any]:
        return {**document(), "components": components}

    app.openapi = described
