r"""Reads mathematical answers as people write them: LaTeX or plain, with units, lists, intervals and matrices.

    normal(r"\dfrac43 \text{ cm}")  ->  \frac{4}{3} cm
    read("(3, 4]")                  ->  Group("(", "]", [Quantity("3"), Quantity("4")])

Nothing here raises on any text, and time grows linearly with its length.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache

from tts.verifiers.answers.extraction import clean, parse_number

LONGEST_READ = 500  # characters; a longer answer is compared as text alone
DEEPEST = 8  # brackets in brackets that are looked into

_SYMBOLS = str.maketrans(
    {"−": "-", "–": "-", "×": r"\times ", "·": r"\cdot ", "÷": "/", "π": r"\pi ", "∞": r"\infty ", "±": r"\pm ",
     "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "∪": r"\cup ", "∈": r"\in ", "°": r"^\circ ", "²": "^2", "³": "^3",
     "⁴": "^4", "½": r"\frac{1}{2}", "¼": r"\frac{1}{4}", "¾": r"\frac{3}{4}", "′": "'", "\u00a0": " "}
)  # fmt: skip
_REWRITES = [
    (re.compile(r"[√]\s*(?:\(([^()]*)\)|(\d+(?:\.\d+)?|[A-Za-z]))"), lambda m: rf"\sqrt{{{m[1] or m[2]}}}"),
    (re.compile(r"(?<![\\A-Za-z])(sqrt|pi|infty|infinity|inf|oo)(?![A-Za-z])"), lambda m: _COMMAND[m[1]]),
    (re.compile(r"\\sqrt\s*\(([^()]*)\)"), r"\\sqrt{\1}"),
    (re.compile(r"\\(?:left|right|[bB]igg?[lrm]?|displaystyle|limits|quad|qquad)(?![A-Za-z])\.?|(?<!\\)\\ |~"), " "),
    (re.compile(r"(?<=\d)\s*(?:,\s*\\!|\{,\})\s*(?=\d)"), ""),  # thousands
    (re.compile(r"\\[!,;:]"), " "),
    (re.compile(r"\\[dtc]frac(?![A-Za-z])"), r"\\frac"),
    (re.compile(r"\\frac\s*(\d)"), r"\\frac{\1}"),
    (re.compile(r"\\sqrt\s*(\d)(?!\d)|\\sqrt\s+([A-Za-z])"), lambda m: rf"\sqrt{{{m[1] or m[2]}}}"),
    (re.compile(r"(\\frac\s*\{[^{}]*\})\s*([0-9A-Za-z])"), r"\1{\2}"),
    (re.compile(r"\^\s*\{\s*\\circ\s*\}|\^\s*\\circ(?![A-Za-z])|\\degree(?![A-Za-z])"), " degrees"),
    (re.compile(r"\\(?:text|mbox|mathrm|textbf|mathbf|textrm|textit|operatorname)\s*\{([^{}]*)\}"), r"\\text{\1}"),
    (re.compile(r"\\text\{\s*(and|or)\s*\}", re.IGNORECASE), r" \1 "),
    (re.compile(r"\\(le|ge|ne)q?(?![A-Za-z])"), r"\\\1 "),
    (re.compile(r"\\[lr]brace(?![A-Za-z])"), lambda m: r"\{" if m[0][1] == "l" else r"\}"),
    (re.compile(r"\+\s*\\infty"), r"\\infty"),
    (re.compile(r"([_^])\{\s*(\w)\s*\}"), r"\1\2"),
    (re.compile(r"\s+"), " "),
]  # fmt: skip
_COMMAND = {"sqrt": r"\sqrt", "pi": r"\pi ", "infty": r"\infty ", "infinity": r"\infty ", "inf": r"\infty ",
            "oo": r"\infty "}  # fmt: skip


def normal(text: str) -> str:
    """`text` with one way of writing for what is written in many ways."""
    text = clean(text).translate(_SYMBOLS)
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    return text.lstrip(" ;").rstrip(" .;")


# -- structure -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Quantity:
    """A single expression."""

    text: str
    """Without its name, unit and spaces."""
    name: str = ""
    """What it is said to be: `x` of x = 3."""
    unit: str = ""
    """One spelling of its unit; `_8` for a numeral in base 8."""
    words: bool = False
    """Whether it is written as text: a name or a choice."""
    number: Fraction | None = None
    places: int = 0
    """Decimal places of the number as it is written."""


@dataclass(frozen=True, slots=True)
class Group:
    """Several expressions.

    `opening` and `closing` are the brackets of a tuple or an interval, ( for the open end ] too; { and } of a set;
    empty for a bare list; "union"; "matrix" and the number of columns.
    """

    opening: str
    closing: str
    items: tuple[Quantity | Group, ...]
    text: str = field(compare=False)


Form = Quantity | Group


@lru_cache(maxsize=4096)
def read(text: str) -> Form:
    """The structure of a normal text."""
    return _read(text, DEEPEST) if len(text) <= LONGEST_READ else Quantity(text)


_NAME = re.compile(r"([A-Za-z]\w?(?:\([a-z]\))?)\s*(?:=|\\in(?![a-z]))\s*(?=\S)")
_MATRIX = re.compile(r"\\begin\{([pb]?matrix|array)\}(?:\{[^{}]*\})?(.*)\\end\{\1\}", re.DOTALL)
_ENDS = {"(": ")", "[": "]", "]": "[", r"\{": r"\}"}


def _read(text: str, depth: int) -> Form:
    text = whole = text.strip(" $")
    parts = _split(text, r"\\cup(?![a-z])|\sU\s") if depth else [text]
    if len(parts) > 1:
        return Group("union", "", tuple(_read(part, depth - 1) for part in parts), whole)
    if depth and (name := _NAME.match(text)) and text[name.end() :].startswith(("(", "[", r"\{", r"\begin")):
        text = text[name.end() :]
    if depth and (matrix := _MATRIX.fullmatch(text)):
        rows = [_split(row, "&") for row in re.split(r"\\\\", matrix[2]) if row.strip()]
        width = str(len(rows[0])) if rows else ""
        return Group("matrix", width, tuple(_read(cell, depth - 1) for row in rows for cell in row), whole)
    if depth and (inside := _bracketed(text)):
        opening, closing, content = inside
        items = _items(content, depth)
        if opening == r"\{":
            return Group("{", "}", items, whole)
        if len(items) > 1:
            return Group({"]": "("}.get(opening, opening), {"[": ")"}.get(closing, closing), items, whole)
        if opening + closing == "()":
            return _read(content, depth - 1)
    single = _quantity(text)
    if depth and single.number is None and len(items := _items(text, depth)) > 1:
        return Group("", "", items, whole)
    return single


def _items(text: str, depth: int) -> tuple[Form, ...]:
    """The members of a list; a plus-minus is two of them."""
    found: list[Form] = []
    for part in _split(text, r",?\s(?:and|or)\s|,|;"):
        signs = ("+", "-") if part.count(r"\pm") == 1 else ("",)
        found += [_read(part.replace(r"\pm", sign).strip().removeprefix("+"), depth - 1) for sign in signs]
    return tuple(found)


def _bracketed(text: str) -> tuple[str, str, str] | None:
    """Brackets around all of `text`, and what is inside."""
    opening = text[:2] if text.startswith(r"\{") else text[:1]
    if opening not in _ENDS:
        return None
    for closing in (")", "]", "[", r"\}"):
        if text.endswith(closing) and len(text) >= len(opening) + len(closing):
            inner = text[len(opening) : -len(closing)]
            fits = opening == r"\{" if closing == r"\}" else opening != r"\{"
            return (opening, closing, inner) if fits and _closed(inner) else None
    return None


_TOKEN = re.compile(r"\\[{}]|\\[A-Za-z]+|[()\[\]{}]")


def _closed(text: str) -> bool:
    """Whether no bracket in `text` is closed that was not opened there."""
    depth = 0
    for token in _TOKEN.findall(text):
        depth += (token in ("(", "[", "{", r"\{")) - (token in (")", "]", "}", r"\}"))
        if depth < 0:
            return False
    return depth == 0


def _split(text: str, separator: str) -> list[str]:
    """`text` cut at the matches of `separator` outside brackets."""
    parts, depth, begin = [], 0, 0
    for match in re.finditer(rf"(?P<cut>{separator})|{_TOKEN.pattern}", text):
        if match["cut"] is None:
            token = match[0]
            depth += (token in ("(", "[", "{", r"\{", r"\begin")) - (token in (")", "]", "}", r"\}", r"\end"))
        elif depth == 0:
            parts.append(text[begin : match.start()])
            begin = match.end()
    parts.append(text[begin:])
    return [part for part in parts if part.strip()]


# -- single expressions --------------------------------------------------------------------------------------------

_UNIT = re.compile(
    r"\s*(?:(?P<percent>\\?%|\bpercent(?:age)?)"
    r"|(?P<text>(?:\\text\{[^{}]*\}\s*(?:\^\{?\d\}?)?\s*)+)"
    r"|(?P<base>_\d{1,2}|_\{\d{1,2}\})"
    r"|(?P<plain>(?:(?<=[\s\d}])(?:cm|mm|km|kg|mg|ml|ft|lbs?|hrs?|mph)|(?<=\s)(?!and\b|or\b)[A-Za-z]{2,})"
    r"(?:\s+[A-Za-z]{2,})*\s*(?:\^\{?\d\}?)?))\s*$"
)
_MONEY = re.compile(r"^(-?)\s*\\?\$\s*")
_SPELLINGS = {
    "percentage": "%", "percent": "%", "degree": "deg", "dollar": "$", "buck": "$", "usd": "$", "inche": "in",
    "inch": "in", "foot": "ft", "feet": "ft", "centimeter": "cm", "centimetre": "cm", "millimeter": "mm",
    "meter": "m", "metre": "m", "kilometer": "km", "kilometre": "km", "kilogram": "kg", "gram": "g", "hour": "h",
    "hr": "h", "minute": "min", "second": "s", "sec": "s", "liter": "l", "litre": "l", "mile": "mi",
}  # fmt: skip
_WORDS = re.compile(r"[A-Za-z]+(?:(?:[ ']|\. |-(?=[A-Za-z]))[A-Za-z]+)*|\([A-Za-z]\)")
_FUNCTIONS = re.compile(r"\b(?:sin|cos|tan|cot|sec|csc|log|ln|exp|max|min|gcd|lcm)\b")


def _quantity(text: str) -> Quantity:
    name = _NAME.match(text)
    whole, text = text, text[name.end() :] if name else text
    if re.search(r"[=<>]|\\(?:le|ge|ne|in)(?![a-z])", text):  # an equation or a chain of relations: not a name
        return Quantity(squeezed(whole))
    label = squeezed(name[1]) if name else ""
    words = re.sub(r"\\text\{([^{}]*)\}", r"\1", text).strip(" .")
    if (text.startswith(r"\text{") or len(words) > 3) and _WORDS.fullmatch(words) and not _FUNCTIONS.search(words):
        return Quantity(" ".join(words.strip("() ").casefold().split()), label, words=True)
    text, unit = _without_unit(text)
    mixed = re.fullmatch(r"(-?)\s*(\d+)\s*\\frac\{(\d+)\}\{(\d+)\}|(-?)\s*(\d+)\s+(\d+)\s*/\s*(\d+)", text)
    if mixed:
        sign, whole, over, under = (mixed[i] or mixed[i + 4] or "" for i in range(1, 5))
        if int(under or 0):
            text = rf"{sign}\frac{{{int(whole) * int(under) + int(over)}}}{{{under}}}"
    number = _number(text)
    places = len(text.rpartition(".")[2]) if re.fullmatch(r"-?[\d,]*\.\d+", text) else 0
    text = squeezed(text if number is None else text.replace(",", ""))
    return Quantity(text, label, unit, number=number, places=places)


def _without_unit(text: str) -> tuple[str, str]:
    money = _MONEY.match(text)
    text = _MONEY.sub(r"\1", text)
    match = _UNIT.search(text)
    if not match or not text[: match.start()].strip(" $"):
        return text, "$" if money else ""
    core = text[: match.start()].strip(" $")
    if match["percent"]:
        return core, "%"
    if match["base"]:
        return (core, match["base"]) if re.fullmatch(r"[0-9A-F]+", core) else (text, "")
    if match["plain"] and not re.search(r"[\d})]$", core):
        return text, "$" if money else ""
    return core, _unit(match["text"] or match["plain"])


def _unit(text: str) -> str:
    """One spelling: singular, abbreviated, `square inches` as `in^2`."""
    text = re.sub(r"\\text\{([^{}]*)\}", r"\1", text).replace("{", "").replace("}", "").casefold()
    power = next((f"^{i}" for word, i in (("square", 2), ("sq", 2), ("cubic", 3)) if word in text.split()), "")
    words = [word for word in re.findall(r"[a-z%$]+|\^\d", text) if word not in ("square", "sq", "cubic", "the", "of")]
    singular = [word if len(word) < 4 else word.removesuffix("s") for word in words]
    return "".join(_SPELLINGS.get(word) or word for word in singular) + power


_NUMERAL = re.compile(
    r"(?:[-+\d.,/\s]|\\frac\s*\{\s*-?\d+\s*\}\s*\{\s*-?\d+\s*\}|\\(?:times|cdot)\s*10\s*\^\s*\{?-?\d+\}?|[eE][-+]?\d)+"
)


def _number(text: str) -> Fraction | None:
    """The number, if `text` is one and nothing else."""
    if not any(map(str.isdigit, text)) or not _NUMERAL.fullmatch(text) or re.search(r"\d\s+\d|^\W*[eE]", text):
        return None
    return parse_number(text)


def squeezed(text: str) -> str:
    r"""`text` without the spaces that mean nothing: all but that behind a command such as `\pi x`."""
    return re.sub(r"(\\[A-Za-z]+)\s+(?=[A-Za-z])|\s+", lambda match: f"{match[1]} " if match[1] else "", text)
