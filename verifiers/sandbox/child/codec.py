"""Plain data as text and back: all that crosses between a program and its judge.

The text is JSON. What JSON has stands for itself (None, bool, str, list, finite float, int below 2**63); everything
else is an object of one key that names its type: `{"t": [...]}` a tuple, `s` set, `z` frozenset, `d` dict as pairs,
`i` int in hexadecimal, `f` a float that is not finite, `c` complex, `b` bytes in hexadecimal, `a` bytearray, `r` range,
`q` deque, `v` Fraction, `m` Decimal, `w` what datetime defines, `o` any other object, of which only the type's name
crosses. Decoding makes only exact types of the standard library and never calls foreign code.

Between a program and an interpreter of tests (`resolve`, `refer`) things cross by reference, too: `n` is a thing's
number or name. There more crosses as data: `k` Counter, OrderedDict and defaultdict, `u` a named tuple, of which names
and values cross, `y` a builtin type or constant, `x` what its words make again (a path, an address), `p` an array of
numpy.

Both sides use this file, so it needs nothing but the standard library.
"""

from __future__ import annotations

import builtins
import json
import math
import re
import sys
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from collections.abc import Callable, Collection
from types import FunctionType
from typing import Any

Value = Any
"""None, bool, int, float, complex, str, bytes, list, tuple, dict, set, frozenset of such, what is named above, or
`Opaque`."""

DEPTH = 200  # levels of nesting; what is deeper is Opaque
SMALL = 1 << 63
MOST_DIGITS = 4300  # of a number: reading it takes quadratic time
NUMBERS, CONTAINERS = frozenset((int, float)), frozenset((list, dict))
MOST_ALIKE = 64  # keys of one table that share their hash: reading them takes quadratic time
STATUSES = ("ok", "error", "memory", "output", "large")  # what a program may say of itself
NOT_FINITE = ("inf", "-inf", "nan")
TIMES = ("date", "datetime", "time", "timedelta")

resolve: Callable[[Any], Any] | None = None
"""What is meant by a reference, where there are references."""

refer: Callable[[Any], int | str] | None = None
"""What stands for an object that is no plain data, where there are references."""


class Opaque:
    """Stands for an object that is not plain data. Equal to nothing, not even to itself."""

    __slots__ = ("type",)

    def __init__(self, type: str) -> None:
        self.type: str = type

    def __eq__(self, other: object) -> bool:
        return False

    def __hash__(self) -> int:
        return hash(self.type)

    def __repr__(self) -> str:
        return f"<{self.type} object>"


class ObjectReference:
    """Stands for a thing that stays where it is, by its number or name."""

    __slots__ = ("key",)

    def __init__(self, key: int | str) -> None:
        self.key: int | str = key


def encode(value: Any) -> str:
    """`value` as one line of ASCII. Cycles, too deep nesting and foreign objects become `Opaque`."""
    return _write(pack(value))


def decode(text: str) -> Value:
    """The value that `encode` was given. Raises `ValueError` on anything that `encode` cannot have made."""
    return unpack(parse(text))


def digest(text: str) -> str:
    """What stands for a text that `encode` has made where that is large."""
    import hashlib  # whose libraries would make every fork larger

    return hashlib.blake2b(text.encode("ascii"), digest_size=16).hexdigest()


def is_plain(value: Any) -> bool:
    """Whether `value` is nothing but exact built-in data."""
    kind = type(value)
    if kind in (bool, int, float, complex, str, bytes, type(None)):
        return True
    if kind in (list, tuple, set, frozenset, deque):
        return all(map(is_plain, value))
    if kind in (bytearray, range) or (kind.__name__, kind) in _known():
        return True
    return kind is dict and all(map(is_plain, value)) and all(map(is_plain, value.values()))


def _known() -> list[tuple[str, type]]:
    """The types of modules that are imported only where they are used, by name."""
    places = [("fractions", "Fraction"), ("decimal", "Decimal"), *(("datetime", name) for name in TIMES)]
    kinds = [(name, getattr(sys.modules.get(module), name, None)) for module, name in places]
    return [(name, kind) for name, kind in kinds if isinstance(kind, type)]


# -- writing -------------------------------------------------------------------------------------------------------


_write = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode


def pack(value: Any, depth: int = DEPTH) -> Any:
    """`value` as data that `json` can write.

    Instances of subclasses of the built-in types are read by the built-in type's own methods, so that a Counter is
    its dict and an `int` that lies about `==` is the number it is.
    """
    kind = type(value)
    if value is None or kind is bool or kind is str:
        return value
    if kind is int:
        return value if -SMALL < value < SMALL else {"i": hex(value)}
    if kind is float:
        return value if math.isfinite(value) else {"f": repr(value)}
    if depth == 0:
        return {"o": kind.__name__}
    if kind is list:
        return value if _stands_for_itself(value) else [pack(item, depth - 1) for item in value]
    if resolve is not None and kind not in (dict, tuple) and (own := _special(value, kind, depth - 1)) is not None:
        return own
    if refer is not None and _has_own_methods(kind):
        return {"n": refer(value)}
    for base, write in WRITERS:
        if issubclass(kind, base):
            return write(value, depth - 1)
    for name, known in _known():
        if kind is known:
            return KNOWN_WRITERS[name](value)
    if kind is ObjectReference:
        return {"n": value.key}
    numpy, sympy = sys.modules.get("numpy"), sys.modules.get("sympy")
    if numpy is not None and isinstance(value, numpy.generic):
        return pack(value.item(), depth - 1)
    if sympy is not None and isinstance(value, (sympy.Integer, sympy.Float)):
        return pack(int(value) if isinstance(value, sympy.Integer) else float(value), depth - 1)
    if sympy is not None and isinstance(value, (sympy.Rational, sympy.logic.boolalg.BooleanAtom)):
        if not isinstance(value, sympy.Rational):
            return bool(value)
        from fractions import Fraction

        return pack(Fraction(int(value.p), int(value.q)), depth - 1)
    if refer is not None:
        return {"n": refer(value)}
    return {"o": value.type if kind is Opaque else kind.__name__}


def as_builtin(value: Any) -> str:
    """As `encode`, of the builtin type that the value's own type derives from."""
    return _write(next((write(value, DEPTH) for base, write in WRITERS if issubclass(type(value), base)), pack(value)))


def _has_own_methods(kind: type) -> bool:
    """Whether a type that derives from a builtin one adds methods to it, or is an enumeration."""
    if not issubclass(kind, tuple(base for base, _ in WRITERS)):
        return False
    enum = sys.modules.get("enum")
    return (enum is not None and issubclass(kind, enum.Enum)) or any(
        isinstance(own, FunctionType | property | classmethod | staticmethod) and name[0] != "_"
        for one in kind.__mro__
        if one.__module__.partition(".")[0] not in sys.stdlib_module_names
        for name, own in vars(one).items()
    )


def _stands_for_itself(items: list[Any]) -> bool:
    """Whether `items` are all text, or all small integers and finite floats; checked at the speed of C."""
    kinds = set(map(type, items))
    if not kinds <= NUMBERS:
        return kinds == {str}
    small = int not in kinds or (min(items) > -SMALL and max(items) < SMALL)
    return small and (float not in kinds or all(map(math.isfinite, items)))


def _items(base: Any) -> Callable[[Any, int], list[Any]]:
    return lambda value, depth: [pack(item, depth) for item in base.__iter__(value)]


def _tagged(tag: str, base: Any) -> Callable[[Any, int], dict[str, Any]]:
    return lambda value, depth: {tag: [pack(item, depth) for item in base.__iter__(value)]}


def _special(value: Any, kind: type, depth: int) -> Any:
    """A value of a kind that the tests may use as such; None for anything else."""
    if kind in (type, type(...), type(NotImplemented)):
        name = value.__name__ if kind is type else repr(value)
        return {"y": name} if BUILTIN.get(name) is value else None
    if kind.__name__ in WORDS and kind is getattr(sys.modules.get(WORDS[kind.__name__]), kind.__name__, None):
        return {"x": [kind.__name__, str(value)]}
    numpy = sys.modules.get("numpy")
    if numpy is not None and kind is numpy.ndarray and ARRAY.fullmatch(value.dtype.str):
        return {"p": [value.dtype.str, list(value.shape), value.tobytes().hex()]}
    if _has_own_methods(kind):
        return None
    if kind in (Counter, OrderedDict, defaultdict):
        made = (
            ""
            if kind is not defaultdict
            else next((n for n, one in FACTORIES.items() if one is value.default_factory), "")
        )
        return {"k": [kind.__name__, made, _pairs(value, depth)["d"]]}
    names = vars(kind).get("_fields") if kind.__mro__[1:] == (tuple, object) else None
    if type(names) is tuple and len(names) == tuple.__len__(value):
        return {"u": [kind.__name__, list(names), [pack(item, depth) for item in tuple.__iter__(value)]]}
    return None


def _pairs(value: Any, depth: int) -> dict[str, Any]:
    return {"d": [[pack(key, depth), pack(item, depth)] for key, item in dict.items(value)]}


BUILTIN = {name: one for name, one in vars(builtins).items() if isinstance(one, type)} | {
    "Ellipsis": ...,
    "NotImplemented": NotImplemented,
}
WORDS = {
    **dict.fromkeys(("PurePosixPath", "PosixPath", "PureWindowsPath"), "pathlib"),
    **dict.fromkeys(("IPv4Address", "IPv6Address", "IPv4Network", "IPv6Network"), "ipaddress"),
    "UUID": "uuid",
}
"""Types whose values are made again from their words, and where they are."""
ARRAY = re.compile(r"[<>|][biufcSU]\d{1,9}")
WRITERS: tuple[tuple[Any, Callable[[Any, int], Any]], ...] = (
    (tuple, _tagged("t", tuple)),
    (dict, _pairs),
    (set, _tagged("s", set)),
    (frozenset, _tagged("z", frozenset)),
    (list, _items(list)),
    (deque, _tagged("q", deque)),
    (bytearray, lambda value, depth: {"a": bytearray.hex(value)}),
    (range, lambda value, depth: {"r": [hex(part) for part in (value.start, value.stop, value.step)]}),
    (bytes, lambda value, depth: {"b": bytes.hex(value)}),
    (complex, lambda value, depth: {"c": [repr(value.real), repr(value.imag)]}),
    (int, lambda value, depth: pack(int.__add__(value, 0), depth)),
    (float, lambda value, depth: pack(float.__add__(value, 0.0), depth)),
    (str, lambda value, depth: str.__getitem__(value, slice(None))),
)
KNOWN_WRITERS: dict[str, Callable[[Any], Any]] = {
    "Fraction": lambda value: {"v": [hex(value.numerator), hex(value.denominator)]},
    "Decimal": lambda value: {"m": str(value)},
    "timedelta": lambda value: {"w": ["timedelta", f"{value.days},{value.seconds},{value.microseconds}"]},
    **dict.fromkeys(TIMES[:3], lambda value: {"w": [type(value).__name__, value.isoformat()]}),
}


# -- reading -------------------------------------------------------------------------------------------------------


def _refused(name: str) -> Any:
    raise ValueError(f"{name} is not part of the format")


def _few_digits(digits: str) -> int:
    if len(digits) > MOST_DIGITS:
        raise ValueError("a number of too many digits")
    return int(digits)


_decoder = json.JSONDecoder(parse_constant=_refused)
_careful = json.JSONDecoder(parse_int=_few_digits, parse_constant=_refused)


def parse(text: str) -> Any:
    """The JSON tree of a hostile text. Raises `ValueError`."""
    bounded = 0 < sys.get_int_max_str_digits() <= MOST_DIGITS  # else the interpreter itself reads without a limit
    try:
        return (_decoder if bounded else _careful).decode(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def unpack(tree: Any, depth: int = DEPTH + 2) -> Value:
    """The value of a parsed tree. Raises `ValueError`."""
    kind = type(tree)
    if kind is list:
        if depth == 0:
            raise ValueError("nested too deeply")
        if CONTAINERS.isdisjoint(map(type, tree)):
            return tree
        return [unpack(item, depth - 1) for item in tree]
    if kind is not dict:
        return tree
    if len(tree) != 1 or depth == 0:
        raise ValueError("not a tagged value")
    [(tag, body)] = tree.items()
    if tag not in READERS:
        raise ValueError(f"no type has the tag {tag!r}")
    try:
        return READERS[tag](body, depth - 1)
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"not a value of tag {tag!r}: {error}") from None


def read_answer(line: bytes, *, asking: bool = False) -> tuple[Any, tuple[Value, ...], str, str]:
    """A program's answer: status, values, output, error. Raises `ValueError` when the line is not an answer.

    Where it may be `asking` for a thing of the tests, the status may be "ask".
    """
    try:
        status, values, stdout, error = parse(line.decode("ascii"))
    except TypeError:
        raise ValueError("not an answer") from None
    if not (status in STATUSES or (asking and status == "ask")) or not (
        type(values) is list and type(stdout) is str and type(error) is str
    ):
        raise ValueError("not an answer")
    return status, tuple(map(unpack, values)), stdout, error[:1000]


def _list(body: Any, depth: int) -> list[Any]:
    if type(body) is not list:
        raise ValueError("not a list")
    return unpack(body, depth)


def few_alike(keys: Collection[Any]) -> Collection[Any]:
    """`keys`, unless so many share their hash that a table of them would take quadratic time (`ValueError`)."""
    if len(keys) > MOST_ALIKE and max(Counter(map(hash, keys)).values()) > MOST_ALIKE:
        raise ValueError("keys that collide")
    return keys


def _dict(body: Any, depth: int) -> dict[Any, Any]:
    pairs = [(unpack(key, depth), unpack(item, depth)) for key, item in body]
    few_alike([key for key, _ in pairs])
    return dict(pairs)


FACTORIES: dict[str, Any] = {one.__name__: one for one in (int, float, str, list, dict, set, tuple, bool)}


def _dict_of_kind(body: Any, depth: int) -> Any:
    kind, made, pairs = body
    known = _dict(pairs, depth)
    if kind == "defaultdict":
        return defaultdict(FACTORIES.get(made), known)
    return {"Counter": Counter, "OrderedDict": OrderedDict}[kind](known)


def _named_tuple(body: Any, depth: int) -> Any:
    name, fields, items = body
    if not all(type(one) is str for one in (name, *fields)):
        raise ValueError("not a named tuple")
    return namedtuple(name, fields)(*_list(items, depth))  # which checks the names  # pyright: ignore


def _complex(body: Any, depth: int) -> complex:
    real, imaginary = _list(body, depth)
    return complex(float(real), float(imaginary))


def _not_finite(body: Any) -> float:
    if body not in NOT_FINITE:
        raise ValueError("not a float")
    return float(body)  # a new one each time: Python takes a NaN for equal to itself in a list


def _short(body: str) -> str:
    """`body`, unless calculating with the number that it is would take long."""
    if len(body) > MOST_DIGITS:
        raise ValueError("a number of too many digits")
    return body


def _fraction(body: Any) -> Any:
    from fractions import Fraction

    numerator, denominator = (int(_short(part), 16) for part in body)
    if denominator <= 0:
        raise ValueError("not a fraction")
    return Fraction(numerator, denominator)


def _decimal(body: Any) -> Any:
    from decimal import Decimal, DecimalException

    try:
        value = Decimal(_short(body))
    except DecimalException:
        raise ValueError("not a decimal") from None
    exponent = value.as_tuple().exponent
    if isinstance(exponent, int) and abs(exponent) > MOST_DIGITS:
        raise ValueError("a number of too many digits")
    return value


def _moment(body: Any) -> Any:
    import datetime

    name, text = body
    if name == "timedelta":
        try:
            return datetime.timedelta(*map(int, text.split(",")))
        except OverflowError:
            raise ValueError("not a timedelta") from None
    if name not in TIMES:
        raise ValueError("not a time")
    return getattr(datetime, name).fromisoformat(text)


def _made_of_words(body: Any) -> Any:
    name, words = body
    return getattr(__import__(WORDS[name]), name)(_short(words))


def read_array(body: Any) -> Any:
    """An array of numpy."""
    kind, shape, data = body
    if not ARRAY.fullmatch(kind):
        raise ValueError("not an array")
    import numpy

    return numpy.ndarray(shape, kind, bytearray.fromhex(data))


def _referred(body: Any) -> Any:
    if resolve is None or type(body) not in (int, str):
        raise ValueError("no references here")
    return resolve(body)


READERS: dict[str, Callable[[Any, int], Any]] = {
    "t": lambda body, depth: tuple(_list(body, depth)),
    "s": lambda body, depth: set(few_alike(_list(body, depth))),
    "z": lambda body, depth: frozenset(few_alike(_list(body, depth))),
    "d": _dict,
    "k": _dict_of_kind,
    "u": _named_tuple,
    "y": lambda body, depth: BUILTIN[body],
    "x": lambda body, depth: _made_of_words(body),
    "p": lambda body, depth: read_array(body),
    "i": lambda body, depth: int(body, 16),
    "f": lambda body, depth: _not_finite(body),
    "c": _complex,
    "b": lambda body, depth: bytes.fromhex(body),
    "a": lambda body, depth: bytearray.fromhex(body),
    "r": lambda body, depth: range(*(int(part, 16) for part in body)),
    "q": lambda body, depth: deque(_list(body, depth)),
    "v": lambda body, depth: _fraction(body),
    "m": lambda body, depth: _decimal(body),
    "w": lambda body, depth: _moment(body),
    "n": lambda body, depth: _referred(body),
    "o": lambda body, depth: Opaque(str(body)[:200]),
}
