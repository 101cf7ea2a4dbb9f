"""Arguments that JSON cannot tell apart, in the types that an example call shows: tuples, sets, complex numbers."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from tts.verifiers.programs.extract import syntax


def typed_arguments(inputs: Sequence[Sequence[Any]], like: str) -> list[tuple[Any, ...]]:
    """`inputs` with the types of the literal arguments of the first call in `like`, by position."""
    examples = _literals(like) if like else []
    return [
        tuple(_typed(value, examples[i] if i < len(examples) else None) for i, value in enumerate(args))
        for args in inputs
    ]


def _literals(source: str) -> list[Any]:
    """The arguments of the first call; None for one that is no literal."""
    tree = syntax(source)
    calls = [] if isinstance(tree, int) else [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    named = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id != "set"]
    found = []
    for argument in named[0].args if named else ():
        try:
            found.append(ast.literal_eval(argument))
        except ValueError:
            found.append(None)
    return found


def _typed(value: Any, example: Any) -> Any:
    if isinstance(value, list) and isinstance(example, list | tuple | set):
        inner = next((item for item in example if isinstance(item, list | tuple | set | dict)), example)
        return type(example)(_typed(item, inner) for item in value)
    if isinstance(value, dict) and isinstance(example, dict):
        inner = next(iter(example.values()), None)
        return {key: _typed(item, inner) for key, item in value.items()}
    if isinstance(value, str) and isinstance(example, int | float | complex) and not isinstance(example, bool):
        with suppress(ValueError):
            return complex(value) if "j" in value else float(value)
    return value
