"""Compares what expressions are worth, as `math_child.values` says it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import MAX_EMAX, MIN_EMIN, Context, Decimal, localcontext
from typing import Any

DECIMALS = 6
"""Places that a decimal needs to stand for an exact value that rounds to it."""
SIGNIFICANT = Decimal("1e-4")
"""Largest difference of such a decimal, relative to the value: places alone say nothing about tiny ones."""

_CLOSED = Decimal("1e-60")  # relative; evaluation adds digits until it has enough
_OPEN = Decimal("1e-30")  # with variables it does not
_ROUNDED = Decimal("2e-6")  # where decimals are part of an expression
_NOTHING = Decimal("1e-80")  # what is left where everything cancels out
_CONTEXT = Context(prec=100, Emax=MAX_EMAX, Emin=MIN_EMIN)
_DECIMAL = re.compile(r"-?\d*\.(\d+)")
_LONG_DECIMAL = re.compile(rf"\.\d{{{DECIMALS}}}")

Point = tuple[Decimal, Decimal]


def same_values(one: Sequence[Any], other: Sequence[Any], texts: tuple[str, str]) -> bool | None:
    """Whether two expressions have the same values; None where that does not decide it."""
    if not one or not other or ("equation" in (one[0], other[0]) and one[0] != other[0]):
        return None
    if one[0] == other[0] == "exact":
        return list(one[1:]) == list(other[1:])
    with localcontext(_CONTEXT):
        first, second = _points(one), _points(other)
        variables = max(len(first), len(second)) > 1
        length = max(len(first), len(second))
        first, second = (side * (length if len(side) == 1 else 1) for side in (first, second))
        pairs = [(a, b) for a, b in zip(first, second, strict=True) if a is not None and b is not None]
        pairs = pairs[:2] + [(a, b) for a, b in pairs[2:] if a[1] == b[1] == 0]
        if variables and any(_size(a) < _NOTHING or _size(b) < _NOTHING for a, b in pairs):
            return None
        if one[0] == "equation":
            return _proportional(pairs)
        for text, pair in zip(texts, (pairs[0], pairs[0][::-1]), strict=True):
            if (decimal := _DECIMAL.fullmatch(text)) and not variables:
                return len(decimal[1]) >= DECIMALS and _rounds(decimal, *pair)
        limit = _ROUNDED if any(map(_LONG_DECIMAL.search, texts)) else _OPEN if variables else _CLOSED
        return all(_near(a, b, limit) for a, b in pairs)


def _points(worth: Sequence[Any]) -> list[Point | None]:
    if worth[0] == "exact":
        return [(Decimal(int(worth[1], 16)) / Decimal(int(worth[2], 16)), Decimal(0))]
    return [None if point is None else (Decimal(point[0]), Decimal(point[1])) for point in worth[1]]


def _size(point: Point) -> Decimal:
    return max(abs(point[0]), abs(point[1]))


def _near(a: Point, b: Point, limit: Decimal) -> bool:
    return max(abs(a[0] - b[0]), abs(a[1] - b[1])) <= limit * max(_size(a), _size(b))


def _rounds(decimal: re.Match[str], one: Point, other: Point) -> bool:
    """Whether the decimal `one`, as it is written, stands for the value `other`."""
    gap = abs(one[0] - other[0])
    return other[1] == 0 and gap.scaleb(len(decimal[1])) <= 1 and gap <= SIGNIFICANT * abs(other[0])


def _proportional(pairs: list[tuple[Point, Point]]) -> bool | None:
    """Whether the left sides (right sides taken off) of two equations differ by a factor only."""
    real = [(a[0], b[0]) for a, b in pairs if a[1] == b[1] == 0]
    if len(real) < 2 or len(real) < len(pairs):
        return None
    (a, b), *rest = real
    return all(abs(a * d - b * c) <= _OPEN * abs(a * d) for c, d in rest)
