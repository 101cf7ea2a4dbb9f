"""Compares answers by their parts, so that algebra is left with single expressions that are not numbers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from tts.verifiers.answers.math_text import LONGEST_READ, Form, Group, Quantity

Algebra = Callable[[str, str], Awaitable[bool]]
"""Whether two LaTeX expressions are equal."""

DECIMALS = 6  # places that a decimal needs to stand for an exact value which it rounds

_BRACES = ("{", "}")
_BARE = ("", "")


async def equal_forms(one: Form, other: Form, algebra: Algebra) -> bool:
    """Whether two answers mean the same. `algebra` is asked about what their looks do not decide."""
    if isinstance(one, Quantity) and isinstance(other, Quantity):
        return await _equal_quantities(one, other, algebra)
    if isinstance(one, Group) and isinstance(other, Group):
        return await _equal_groups(one, other, algebra)
    group, single = (one, other) if isinstance(one, Group) else (other, one)
    assert isinstance(group, Group)
    assert isinstance(single, Quantity)
    if (group.opening, group.closing) == _BRACES and len(group.items) == 1:
        return await equal_forms(group.items[0], single, algebra)
    return single.number is None and not single.words and await algebra(group.text, _named(single))


async def _equal_groups(one: Group, other: Group, algebra: Algebra) -> bool:
    kinds = {(one.opening, one.closing), (other.opening, other.closing)}
    if len(one.items) != len(other.items) or (len(kinds) > 1 and _BARE not in kinds):
        return False
    if kinds <= {_BRACES, _BARE} or one.opening == "union":
        return await _same_members(one.items, list(other.items), algebra)
    if kinds - {_BARE, ("(", ")")} and len(kinds) > 1:
        return False
    for first, second in zip(one.items, other.items, strict=True):
        if not await equal_forms(first, second, algebra):
            return False
    return True


async def _same_members(some: Sequence[Form], others: list[Form], algebra: Algebra) -> bool:
    for member in some:
        for i, other in enumerate(others):
            if await equal_forms(member, other, algebra):
                del others[i]
                break
        else:
            return False
    return True


async def _equal_quantities(one: Quantity, other: Quantity, algebra: Algebra) -> bool:
    if (one.name and other.name and one.name != other.name) or (one.unit and other.unit and one.unit != other.unit):
        return False
    if one.text == other.text:
        return True
    if one.words or other.words:
        return one.text.casefold() == other.text.casefold()
    if one.number is not None and other.number is not None:
        return _equal_numbers(one, other)
    if max(len(one.text), len(other.text)) > LONGEST_READ:
        return False
    if "=" in one.text or "=" in other.text:
        return await algebra(_named(one), _named(other))
    return await algebra(one.text, other.text)


def _named(quantity: Quantity) -> str:
    return f"{quantity.name}={quantity.text}" if quantity.name else quantity.text


def _equal_numbers(one: Quantity, other: Quantity) -> bool:
    first, second = one.number, other.number
    assert first is not None
    assert second is not None
    if first == second:
        return True
    if one.unit != other.unit and "%" in (one.unit, other.unit):
        share, plain = (first, second) if one.unit == "%" else (second, first)
        return share == 100 * plain
    for decimal, exact in ((one, second), (other, first)):
        terminates = pow(10, 400, exact.denominator) == 0
        if decimal.places >= DECIMALS and not terminates and abs(first - second) * 10**decimal.places <= 1:
            return True
    return False
