"""Applies JSON schemas; runs in the sandbox where a schema or a text may be made to be slow."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from jsonschema import SchemaError
from jsonschema.validators import validator_for


def fault(schema: Any) -> str:
    """What is wrong with a schema itself, and where; empty if it is one."""
    try:
        validator_for(schema).check_schema(schema)
    except SchemaError as error:
        return f"{error.json_path}: {error.message[:200]}"
    return ""


def first_errors(schemas: Sequence[str], texts: Sequence[tuple[int, str]]) -> tuple[int, list[str]]:
    """The number of the first text that does not fit its schema, and why; how many there are, if all fit.

    `schemas` and `texts` are JSON; with each text comes the place of its schema.
    """
    validators: dict[int, Any] = {}
    for number, (place, text) in enumerate(texts):
        if place not in validators:
            schema = json.loads(schemas[place])
            if wrong := fault(schema):
                return number, [f"the schema itself is invalid, at {wrong}"]
            kind = validator_for(schema)
            validators[place] = kind(schema, format_checker=kind.FORMAT_CHECKER)
        found = validators[place].iter_errors(json.loads(text))
        if errors := [f"{error.json_path}: {error.message[:200]}" for error, _ in zip(found, range(5), strict=False)]:
            return number, errors
    return len(texts), []
