"""Whether a value is right. All values here are plain data of exact types of the standard library (or `Opaque`).

The rule is Python's own `==` (so `True == 1`, and a list is not a tuple) except where a form of tests says otherwise.
A tolerance is for floats alone: where a whole number is expected, only its exact value is right. Large values are
compared in the sandbox (`remote_tests`), with this source, so it needs nothing but the standard library.
"""

from __future__ import annotations

import math
from typing import Any


def same_json(got: Any, expected: Any) -> bool:
    """`==`, except that a tuple equals the list of its items (JSON has no tuples) and floats may differ by rounding."""
    if isinstance(expected, list):
        same_kind = isinstance(got, list | tuple) and len(got) == len(expected)
        return same_kind and all(map(same_json, got, expected))
    if isinstance(expected, dict):
        same_kind = isinstance(got, dict) and got.keys() == expected.keys()
        return same_kind and all(same_json(got[key], expected[key]) for key in expected)
    if isinstance(got, float) and isinstance(expected, float):
        return near(got, expected, 1e-12, 1e-6)
    return bool(got == expected)


def same_as_reference(got: Any, expected: Any, atol: float = 0.0) -> bool:
    """EvalPlus's rule (Liu et al. 2023, arXiv 2305.01210): `==`, or floats within 1e-7 relative plus `atol`.

    A float, or a list of floats, has `atol` 1e-6 at least. What is only near must be of the same type, and integers
    are never near.
    """
    if got == expected:
        return True
    atol = atol or (1e-6 if _floats(expected) else 0.0)
    if atol == 0.0 or type(got) is not type(expected):
        return _same_nans(got, expected)
    return _near_all(got, expected, atol)


def _near_all(got: Any, expected: Any, atol: float) -> bool:
    if isinstance(expected, list | tuple):
        same_kind = isinstance(got, list | tuple) and len(got) == len(expected)
        return same_kind and all(_near_all(one, other, atol) for one, other in zip(got, expected, strict=True))
    inexact = isinstance(got, float | complex) and isinstance(expected, float | complex)
    return near(got, expected, 1e-7, atol) if inexact else bool(got == expected)


def near(got: complex, expected: complex, rtol: float, atol: float) -> bool:
    """Whether two floats differ by at most `atol` plus `rtol` times the expected one; two NaNs are the same."""
    if got == expected:
        return True
    if got != got or expected != expected:
        return got != got and expected != expected
    try:
        distance = abs(got - expected)
        return distance <= atol + rtol * abs(expected) and distance < math.inf
    except OverflowError:
        return False


def _floats(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return bool(value) and all(isinstance(item, float) for item in value)
    return isinstance(value, float)


def _same_nans(got: Any, expected: Any) -> bool:
    """`==`, but a NaN equals a NaN."""
    if type(got) is type(expected) and isinstance(expected, list | tuple):
        return len(got) == len(expected) and all(map(_same_nans, got, expected))
    return got == expected or (isinstance(got, float) and isinstance(expected, float) and got != got != expected)
