"""Reads and compares mathematical expressions; runs in the sandbox, since nobody knows what expressions expand to.

`values` says what one expression is worth, `same` asks math-verify about two that are worth no numbers.
"""

from __future__ import annotations

import re
import sys
import zlib
from typing import Any

import sympy
from math_verify import LatexExtractionConfig, parse, verify
from sympy.core.function import AppliedUndef

CONFIG = [LatexExtractionConfig(boxed_match_priority=-1)]
DIGITS = 90
"""Significant digits of values."""
EXACT_BITS = 100_000
"""Size of the fractions that are returned exactly."""
POINTS = 4
"""Places at which expressions with variables are evaluated: two where all are positive, and two others."""

DECIMAL = re.compile(r"(?<![\d.])(\d*)\.(\d+)(?![\d.])")


def read(text: str) -> list[Any]:
    """What math-verify reads: an expression of SymPy and its text; empty if nothing."""
    unlimited: Any = None
    return parse(f"${text}$", CONFIG, fallback_mode="no_fallback", parsing_timeout=unlimited)


def same(one: str, other: str) -> bool:
    """Whether math-verify takes two expressions for the same."""
    first, second = read(one), read(other)
    options: dict[str, Any] = {"timeout_seconds": None, "allow_set_relation_comp": True}
    return bool(first and second) and (verify(first, second, **options) or verify(second, first, **options))


def values(text: str) -> list[Any]:
    """What an expression is worth: `["exact", p, q]` for a fraction in hexadecimal digits, else `["value", points]`.

    An equation gives `["equation", points]`, the values of its left side without its right side. A point is its real
    and its imaginary part in decimal digits, or None where it has no value. Empty for anything else, such as sets.
    """
    found = read(DECIMAL.sub(lambda m: rf"{{\frac{{{int(m[1] + m[2])}}}{{{10 ** len(m[2])}}}}}", text))
    if not found or not isinstance(found[0], sympy.Expr | sympy.Equality):
        return []
    equation, it = isinstance(found[0], sympy.Equality), _any(found[0])
    kind = "equation" if equation else "value"
    if equation:
        it = it.lhs - it.rhs
    if it.atoms(AppliedUndef) or it.is_Matrix:
        return []
    it = evaluated(it.xreplace({one: sympy.I for one in it.free_symbols if one.name == "i"}))
    if it.is_Rational and max(abs(it.p), it.q).bit_length() <= EXACT_BITS:
        return ["exact", hex(it.p), hex(it.q)] if kind == "value" else []
    free = sorted(it.free_symbols, key=lambda one: one.name)
    if not free and kind == "equation":
        return []
    points = [at(it, {one: place(one.name, k) for one in free}) for k in range(POINTS if free else 1)]
    return [kind, points] if points[0] is not None else []


def _any(it: Any) -> Any:
    return it  # SymPy's types say less than its objects can do


def evaluated(it: Any) -> Any:
    """The expression as SymPy makes it, with the arithmetic that reading has left undone."""
    return it.func(*map(evaluated, it.args)) if it.args else it


def place(name: str, k: int) -> Any:
    """Where the variable `name` is at point `k`: between 0.5 and 2, or at later points sometimes minus that."""
    number = zlib.crc32(f"{name} {k}".encode())
    sign = 1 if k < 2 else -1 if k == 2 else 1 - 2 * (number & 1)
    return sympy.Float(
        sign * (sympy.Rational(1, 2) + sympy.Rational(3, 2) * sympy.Rational(number, 1 << 32)), DIGITS + 20
    )


def at(it: Any, places: dict[Any, Any]) -> list[str] | None:
    """The value at a point."""
    value = it.xreplace(places).evalf(DIGITS)
    parts = value.as_real_imag()
    if not all(part.is_Float or part.is_Integer for part in parts):
        return None
    return ["0" if part == 0 or getattr(part, "_prec", 0) == 1 else str(part.n(DIGITS)) for part in parts]


sys.set_int_max_str_digits(0)
same(r"\frac{\sqrt{3}}{3} + x", r"x + \frac{1}{\sqrt{3}}")  # warm up: the first comparison is slow
for example in (r"\frac{\sqrt{3}}{3} + \sin x", r"y = e^{i\pi/3} + 0.5", r"\ln 2 + \binom{n}{2}", r"\frac{1}{7!}"):
    values(example)
