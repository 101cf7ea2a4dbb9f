"""Applies JSON schemas; runs in the sandbox where a schema or a text may be made to be slow."""

from __future__ import annotations

import json
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


def first_errors(*pairs: tuple[Any, str]) -> tuple[int, list[str]]:
    """The number of the first text that does not fit its schema, and why; how many there are, if all fit."""
    checked = set[str]()
    for number, (schema, text) in enumerate(pairs):
        if (written := json.dumps(schema)) not in checked:
            if wrong := fault(schema):
                return number, [f"the schema itself is invalid, at {wrong}"]
            checked.add(written)
        kind = validator_for(schema)
        found = kind(schema, format_checker=kind.FORMAT_CHECKER).iter_errors(json.loads(text))
        if errors := [f"{error.json_path}: {error.message[:200]}" for error, _ in zip(found, range(5), strict=False)]:
            return number, errors
    return len(pairs), []
