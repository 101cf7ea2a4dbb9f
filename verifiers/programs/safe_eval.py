"""Evaluates expressions over plain data by walking their syntax tree: runs no code, and nothing grows large.

It knows only what assertions are made of: literals, comprehensions, and the operators, functions and methods listed
here, which take and make plain data of bounded size. Every operation is charged what it costs, so that an evaluation
ends within milliseconds; what needs more is left to an interpreter in the sandbox.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, TypeGuard

from tts.verifiers.sandbox import few_alike

STEPS = 20_000
"""Nodes that an evaluation may visit, each about a microsecond; work in C is charged at its own speed."""
ITEMS = 16
"""Items that an operation in C handles in the time of a step."""
LARGEST = 200_000
"""Most items of a sequence, characters of a text, or bits of a number that may be computed."""
CONTAINERS = frozenset((list, tuple, set, frozenset, dict))


class NotPlain(Exception):
    """The expression needs more than plain data, or is too large."""


Names = Mapping[str, Any]

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
KNOWN = (
    *(ast.Constant, ast.Name, ast.List, ast.Tuple, ast.Set, ast.Dict, ast.Call, ast.Compare, ast.UnaryOp, ast.BinOp),
    *(ast.BoolOp, ast.IfExp, ast.Subscript, ast.Slice, ast.Attribute),
    *(ast.ListComp, ast.GeneratorExp, ast.SetComp, ast.DictComp),
)
"""The kinds of expression that `evaluate` can compute."""
CONSTANTS = {"pi": math.pi, "e": math.e, "inf": math.inf, "nan": math.nan}
COPIES = {("copy", "copy"), ("copy", "deepcopy")}
TABLES = frozenset(("set", "frozenset", "dict"))
"""Functions that make a table of hashes."""
METHODS: dict[type, frozenset[str]] = {
    str: frozenset(("lower", "upper", "strip", "split", "startswith", "endswith", "count", "isdigit", "isalpha")),
    list: frozenset(("count", "index", "copy")),
    tuple: frozenset(("count", "index")),
    dict: frozenset(("keys", "values", "items", "get", "copy")),
    set: frozenset(("issubset", "issuperset", "union", "intersection", "difference", "copy")),
}


def evaluate(node: ast.expr, names: Names, steps: int = STEPS) -> Any:
    """The value of `node`, in which `names` are known.

    Raises `NotPlain` for what is unknown here or takes more than `steps`, and whatever Python raises for what it
    refuses (`1 / 0`).
    """
    return Evaluation(steps).value(node, names)


def weight(value: Any, most: int) -> int:
    """About how many items are in a value, all levels and repetitions together; counting ends beyond `most`."""
    found, left = 1, [value]
    while left and found <= most:
        one = left.pop()
        kind = type(one)
        if kind is int:
            found += one.bit_length() >> 6
        elif kind in CONTAINERS:
            found += len(one)
            parts = [*one, *one.values()] if kind is dict else one
            kinds = set(map(type, parts)) if found <= most else _LIGHT
            if kinds == {str}:
                found += sum(map(len, parts))
            elif kinds == {int}:
                found += max(max(parts), -min(parts)).bit_length() >> 6 and sum(
                    part.bit_length() >> 6 for part in parts
                )
            elif not kinds <= _LIGHT:
                left += [part for part in parts if type(part) not in _LIGHT]
        elif hasattr(kind, "__len__"):
            try:
                found += len(one)
            except OverflowError:  # a range
                return most + 1
    return found


_LIGHT = frozenset((bool, float, complex, type(None)))


def is_constant(node: ast.AST) -> bool:
    """Whether it is a text or a number as it is written, such as -1."""
    if type(node) is ast.UnaryOp and type(node.op) is ast.USub:
        node = node.operand
    return type(node) is ast.Constant


def parts_of(node: ast.AST) -> Iterator[ast.AST]:
    """`node` and all in it, without the constants that lists, tuples and sets consist of: there may be very many."""
    left = [node]
    while left:
        yield (one := left.pop())
        if isinstance(one, ast.List | ast.Tuple | ast.Set):
            left.extend(part for part in one.elts if not is_constant(part))
        else:
            left.extend(ast.iter_child_nodes(one))


def computable(node: ast.expr, names: Iterable[str]) -> bool:
    """Whether `evaluate` knows everything in `node`, once `names` have values."""
    parts = [part for part in parts_of(node) if isinstance(part, ast.expr)]
    bound_here = {part.id for part in parts if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)}
    known = {*names, *FUNCTIONS, *bound_here}
    called = [part.func for part in parts if isinstance(part, ast.Call)]
    modules: list[ast.expr] = [part.value for part in parts if _is_of_module(part)]

    def is_known(part: ast.expr) -> bool:
        if isinstance(part, ast.Name):
            return part.id in known or part in modules
        if isinstance(part, ast.Attribute) and not _is_of_module(part):
            return part in called and any(part.attr in methods for methods in METHODS.values())
        return isinstance(part, KNOWN)

    return all(map(is_known, parts))


def _is_of_module(node: ast.expr) -> TypeGuard[ast.Attribute]:
    if not isinstance(node, ast.Attribute) or not isinstance(node.value, ast.Name):
        return False
    module = node.value.id
    return (module, node.attr) in COPIES or (module == "math" and (node.attr in MATH or node.attr in CONSTANTS))


def _refuse_large(operation: ast.operator, left: Any, right: Any) -> None:
    """Raise `NotPlain` where the result would be larger than `LARGEST`."""
    if isinstance(operation, ast.Pow):
        if not all(isinstance(one, int | float | complex) for one in (left, right)):
            raise NotPlain("a power of other than numbers")
        if isinstance(left, int) and isinstance(right, int) and left.bit_length() * abs(right) > LARGEST:
            raise NotPlain("a large power")
    elif isinstance(operation, ast.Mult):
        for sequence, times in ((left, right), (right, left)):
            if not isinstance(sequence, str | bytes | list | tuple) or not isinstance(times, int):
                continue
            if weight(sequence, LARGEST) * times > LARGEST:
                raise NotPlain("a long sequence")
        if isinstance(left, int) and isinstance(right, int) and left.bit_length() + right.bit_length() > LARGEST:
            raise NotPlain("a large product")
    elif isinstance(operation, ast.Mod) and isinstance(left, str | bytes):
        raise NotPlain("a format")


class Evaluation:
    """Evaluates expressions with so many steps for all of them."""

    def __init__(self, steps: int) -> None:
        self.steps: int = steps

    def charge(self, *values: Any) -> None:
        """Take the steps that an operation on these values costs."""
        for value in values:
            if type(value) not in _LIGHT:
                self.steps -= weight(value, self.steps * ITEMS) // ITEMS
        if self.steps < 0:
            raise NotPlain("too many steps")

    def value(self, node: ast.expr, names: Names) -> Any:
        """As `evaluate`."""
        self.steps -= 1
        if self.steps < 0:
            raise NotPlain("too many steps")
        match node:
            case ast.Constant(value=value):
                return value
            case ast.Name(id=name):
                if name in names:
                    return names[name]
                if name in TYPES:
                    return TYPES[name]
                raise NotPlain(f"the name {name}")
            case ast.List(elts=parts):
                return self.values(parts, names)
            case ast.Tuple(elts=parts):
                return tuple(self.values(parts, names))
            case ast.Set(elts=parts):
                return set(few_alike(self.values(parts, names)))
            case ast.Dict():
                return self.mapping(node, names)
            case ast.Call():
                return self.call(node, names)
            case ast.Compare():
                return self.comparison(node, names)
            case ast.UnaryOp(op=operation, operand=operand):
                return UNARY[type(operation)](self.value(operand, names))
            case ast.BinOp(op=operation, left=left, right=right):
                if type(operation) not in BINARY:
                    raise NotPlain(f"the operator {type(operation).__name__}")
                one, other = self.value(left, names), self.value(right, names)
                _refuse_large(operation, one, other)
                if isinstance(one, int) and isinstance(other, int):
                    self.steps -= ((one.bit_length() >> 6) * (other.bit_length() >> 6)) >> 8
                if isinstance(operation, ast.Pow) and isinstance(one, int) and isinstance(other, int):
                    self.steps -= (one.bit_length() * abs(other) >> 6) ** 2 >> 8
                self.charge(one, other)
                result = BINARY[type(operation)](one, other)
                self.charge(result)
                return result
            case ast.BoolOp(op=operation, values=parts):
                value = None
                for part in parts:
                    value = self.value(part, names)
                    if bool(value) is isinstance(operation, ast.Or):
                        break
                return value
            case ast.IfExp(test=test, body=body, orelse=other):
                return self.value(body if self.value(test, names) else other, names)
            case ast.Subscript(value=owner, slice=place):
                value = self.value(owner, names)
                if isinstance(value, type):
                    raise NotPlain("a subscripted type")
                found = value[self.value(place, names)]
                if isinstance(place, ast.Slice):
                    self.charge(found)
                return found
            case ast.Slice():
                return slice(*(part and self.value(part, names) for part in (node.lower, node.upper, node.step)))
            case ast.Attribute(value=ast.Name(id="math"), attr=name) if name in CONSTANTS:
                return CONSTANTS[name]
            case ast.ListComp() | ast.GeneratorExp():
                return [self.value(node.elt, inner) for inner in self.each(node.generators, names)]
            case ast.SetComp():
                return set(few_alike([self.value(node.elt, inner) for inner in self.each(node.generators, names)]))
            case ast.DictComp():
                inners = self.each(node.generators, names)
                pairs = [(self.value(node.key, inner), self.value(node.value, inner)) for inner in inners]
                few_alike([key for key, _ in pairs])
                return dict(pairs)
        raise NotPlain(f"{type(node).__name__} is not computed here")

    def values(self, nodes: Sequence[ast.expr], names: Names) -> list[Any]:
        found: list[Any] = []
        for node in nodes:
            if isinstance(node, ast.Starred):
                more = self.value(node.value, names)
                self.charge(more)
                found.extend(islice(more, LARGEST))
            else:
                found.append(self.value(node, names))
        return found

    def mapping(self, node: ast.Dict, names: Names) -> dict[Any, Any]:
        made: dict[Any, Any] = {}
        for key, value in zip(node.keys, node.values, strict=True):
            if key is None:
                more = self.value(value, names)
                self.charge(more)
                made.update(more)
            else:
                made[self.value(key, names)] = self.value(value, names)
        few_alike(made)
        return made

    def comparison(self, node: ast.Compare, names: Names) -> bool:
        left = self.value(node.left, names)
        for operation, part in zip(node.ops, node.comparators, strict=True):
            right = self.value(part, names)
            if isinstance(operation, ast.In | ast.NotIn):
                self.charge(right)
            elif not isinstance(operation, ast.Is | ast.IsNot):
                self.charge(min(left, right, key=lambda one: weight(one, 1 << 20)))
            if not COMPARE[type(operation)](left, right):
                return False
            left = right
        return True

    def call(self, node: ast.Call, names: Names) -> Any:
        function = self.function(node.func, names)
        arguments = self.values(node.args, names)
        named = {word.arg: self.value(word.value, names) for word in node.keywords if word.arg}
        if len(named) < len(node.keywords):
            raise NotPlain("** arguments")
        owner = getattr(function, "__self__", None)
        self.charge(owner, *arguments)
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        if name in TABLES or isinstance(owner, set | frozenset):
            arguments = [
                list(islice(one, LARGEST)) if isinstance(one, Iterable) and not isinstance(one, dict) else one
                for one in arguments
            ]
            for one in arguments:
                if isinstance(one, list):
                    few_alike([pair[0] for pair in one] if name == "dict" else one)
        if name == "sum" and any(not isinstance(one, int | float | complex) for one in arguments[1:]):
            raise NotPlain("a sum of other than numbers")
        if name == "round" and any(isinstance(one, int) and abs(one) > 400 for one in arguments[1:]):
            raise NotPlain("a round number")
        return function(*arguments, **named)

    def function(self, node: ast.expr, names: Names) -> Callable[..., Any]:
        if isinstance(node, ast.Name) and node.id in FUNCTIONS and node.id not in names:
            return FUNCTIONS[node.id]
        if isinstance(node, ast.Attribute):
            if isinstance(node.value, ast.Name) and node.value.id == "math" and node.attr in MATH:
                return MATH[node.attr]
            if isinstance(node.value, ast.Name) and (node.value.id, node.attr) in COPIES:
                return lambda value: value  # nothing here changes a value
            owner = self.value(node.value, names)
            if node.attr in METHODS.get(type(owner), ()):
                return getattr(owner, node.attr)
        raise NotPlain(f"a call of {ast.unparse(node)}")

    def each(self, generators: Sequence[ast.comprehension], names: Names) -> Iterator[Names]:
        if not generators:
            yield names
            return
        first, *rest = generators
        for item in islice(self.value(first.iter, names), LARGEST):
            inner = {**names, **bound(first.target, item)}
            if all(self.value(condition, inner) for condition in first.ifs):
                yield from self.each(rest, inner)


def bound(target: ast.expr, value: Any) -> dict[str, Any]:
    """The names that assigning `value` to `target` binds. Raises `NotPlain` for anything but names and tuples."""
    if isinstance(target, ast.Name):
        return {target.id: value}
    if isinstance(target, ast.Tuple | ast.List):
        found: dict[str, Any] = {}
        for part, item in zip(target.elts, value, strict=True):
            found |= bound(part, item)
        return found
    raise NotPlain("an assignment to other than names")
