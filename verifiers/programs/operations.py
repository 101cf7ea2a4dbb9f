"""What `plain` computes with: operators, functions and methods that take and make plain data of bounded size."""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable
from typing import Any

LARGEST = 1_000_000
"""Items of a sequence, characters of a text, and bits of a number that may be computed."""


class NotPlain(Exception):
    """The expression needs more than plain data, or is too large."""


BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
    ast.BitAnd: operator.and_,
    ast.BitOr: operator.or_,
    ast.BitXor: operator.xor,
}
UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {
    ast.Not: operator.not_,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
    ast.Invert: operator.invert,
}
COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Is: operator.is_,
    ast.IsNot: operator.is_not,
    ast.In: lambda item, container: item in container,
    ast.NotIn: lambda item, container: item not in container,
}
TYPES = {kind.__name__: kind for kind in (bool, int, float, complex, str, bytes, list, tuple, dict, set, frozenset)}


def _range(*bounds: int) -> range:
    made = range(*bounds)
    if len(made) > LARGEST:
        raise NotPlain("a long range")
    return made


FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{f.__name__: f for f in (abs, all, any, len, max, min, repr, reversed, round, sorted, sum, zip, enumerate)},
    **{name: kind for name, kind in TYPES.items() if kind is not bytes},  # bytes(n) makes n of them
    "range": _range,
    "isinstance": isinstance,
    "type": lambda value: type(value),
}
MATH = {f.__name__: f for f in (math.fabs, math.isclose, math.isnan, math.isinf, math.sqrt, math.floor, math.ceil)}
CONSTANTS = {"pi": math.pi, "e": math.e, "inf": math.inf, "nan": math.nan}
COPIES = {("copy", "copy"), ("copy", "deepcopy")}
METHODS: dict[type, frozenset[str]] = {
    str: frozenset(("lower", "upper", "strip", "split", "startswith", "endswith", "count", "isdigit", "isalpha")),
    list: frozenset(("count", "index", "copy")),
    tuple: frozenset(("count", "index")),
    dict: frozenset(("keys", "values", "items", "get", "copy")),
    set: frozenset(("issubset", "issuperset", "union", "intersection", "difference", "copy")),
}


def refuse_large(operation: ast.operator, left: Any, right: Any) -> None:
    """Raise `NotPlain` where the result would be larger than `LARGEST`."""
    if isinstance(operation, ast.Pow):
        if isinstance(left, int) and isinstance(right, int) and left.bit_length() * abs(right) > LARGEST:
            raise NotPlain("a large power")
    elif isinstance(operation, ast.Mult):
        for sequence, times in ((left, right), (right, left)):
            if not isinstance(sequence, str | bytes | list | tuple) or not isinstance(times, int):
                continue
            if len(sequence) * times > LARGEST:
                raise NotPlain("a long sequence")
        if isinstance(left, int) and isinstance(right, int) and left.bit_length() + right.bit_length() > LARGEST:
            raise NotPlain("a large product")
    elif isinstance(operation, ast.Mod) and isinstance(left, str | bytes):
        raise NotPlain("a format")
