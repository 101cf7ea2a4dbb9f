r"""Reads and compares mathematical answers as people write them: LaTeX or plain text, with units, lists, intervals and
matrices. Answers are compared part by part, so that algebra is needed only for single expressions that are not numbers.

    normal(r"\dfrac43 \text{ cm}")  ->  \frac{4}{3} cm
    read("(3, 4]")                  ->  Group("(", "]", [Quantity("3"), Quantity("4")])

Reading never raises on any text, and its time grows linearly with the text's length.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache

from tts.verifiers.answers.extraction import clean, in_ascii, parse_number
from tts.verifiers.answers.math_values import DECIMALS, SIGNIFICANT

LONGEST_READ = 500  # characters; a longer answer is compared as text only
LONGEST_NOTATION = 2000  # characters; a longer one is not rewritten
DEEPEST = 8  # levels of nested brackets that are read

_SYMBOLS = str.maketrans(
    {"−": "-", "–": "-", "×": r"\times ", "·": r"\cdot ", "÷": "/", "π": r"\pi ", "∞": r"\infty ", "±": r"\pm ",
     "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "∪": r"\cup ", "∈": r"\in ", "°": r"^\circ ", "∅": r"\emptyset ",

     "θ": r"\theta ", "α": r"\alpha ", "β": r"\beta ", "⋅": r"\cdot ",
     "∙": r"\cdot ", "—": "-", "‐": "-", "‑": "-", "º": r"^\circ ", "ø": r"\emptyset ", "Ø": r"\emptyset ", "′": "'",
     "∛": r"\sqrt[3]", "∜": r"\sqrt[4]", "ℝ": r"\R "}
)  # fmt: skip
_FUNCTION_NAMES = r"exp|lg|sinh|cosh|tanh|arcsin|arccos|arctan|sin|cos|tan|cot|sec|csc|log|ln"
_LAYOUT = (
    r"\\(?:tiny|scriptsize|footnotesize|small|normalsize|[lL]arge|LARGE|[hH]uge|boldmath|(?:text|script){1,2}style|"
    r"math?strut|strut|hfill)(?![A-Za-z])|\\(?:(?:text)?color|[hvm]space\*?|[hv]?phantom)\s?\{[^{}]*\}"
)
_UNMARKED = {0x304: None, 0x305: None}
_PARENTHESES = r"\(([^()]*+(?:\([^()]*+\)[^()]*+)*+)\)"
_ORDINAL = r"(?<=\d)\s?\^?\s?\{?\s?(?:\\(?:text(?:superscript)?|mathrm|rm)\s?\{)?\s?(?:st|nd|rd|th)\b\s?\}?\s?\}?"
_RECURRING = r"(?<![\d.])(\d{0,20})\.(\d{0,20})(?:\\(?:overline|bar|dot)\s?(?:\{(\d{1,20})\}|(\d))|\((\d{1,20})\))"
_REWRITES = [
    (re.compile(r"(?:\d[\u0304\u0305])+"), lambda m: rf"\overline{{{m[0].translate(_UNMARKED)}}}"),
    (re.compile(r"(\d)\u0307(?:(\d*)(\d)\u0307)?"), r"\\overline{\1\2\3}"),
    (re.compile(r"\\dot\s?\{?(\d)\}?(\d*)\\dot\s?\{?(\d)\}?"), r"\\overline{\1\2\3}"),
    (re.compile(_LAYOUT), " "),
    (re.compile(r"\\(?:bm|boldsymbol|pmb|mathcal|ensuremath|mathit|mathsf|emph|underline)\s?\{([^{}]*)\}"), r"{\1}"),
    (re.compile(r"\\(?:mathrm|operatorname|mathbf|rm|text(?=\s?\{[ei]\}\s?\^))\s?\{\s?([A-Za-z])\s?\}"), r"{\1}"),
    (re.compile(r"\\(?:varnothing|O)(?![A-Za-z])|\\\{\s?\\\}"), r"\\emptyset"),
    (re.compile(rf"\\(?:operatorname|mathrm|text)\s?\{{({_FUNCTION_NAMES})\}}"), r"\\\1 "),
    (re.compile(rf"(?<![\\A-Za-z])({_FUNCTION_NAMES})(?=\s?[({{\d\\^_]|\s[a-z](?![a-z])|[a-z](?![A-Za-z]))"), r"\\\1"),
    (re.compile(r"([-+])\s?([-+])(?=\s?[\dA-Za-z\\({.])"), lambda m: "+" if m[1] == m[2] else "-"),
    (re.compile(_RECURRING), lambda m: _recurring(m[1], m[2], m[3] or m[4] or m[5])),
    (re.compile(r"(?<=\d)\s?(\\text\{)\s?(?:st|nd|rd|th)\b(?=[^{}])"), r"\1"),
    (re.compile(_ORDINAL), " "),
    (re.compile(rf"√\s?(?:{_PARENTHESES}|\{{([^{{}}]*)\}}|(\d+(?:\.\d+)?|[A-Za-z]))"),
     lambda m: rf"\sqrt{{{m[1] or m[2] or m[3]}}}"),
    (re.compile(r"(?<![\\A-Za-z])(sqrt|pi|infty|infinity|inf|oo)(?![A-Za-z])"), lambda m: _COMMAND[m[1]]),
    (re.compile(rf"(\\sqrt(?:\[\d\])?)\s*{_PARENTHESES}"), r"\1{\2}"),
    (re.compile(r"(\\sqrt\s?\[\d\])\s?(\d+|[A-Za-z])"), r"\1{\2}"),
    (re.compile(r"\*\*\s?(?:\((-?\w+)\)|(-?\w+))"), lambda m: f"^{{{m[1] or m[2]}}}"),
    (re.compile(r"\\lg(?![A-Za-z])"), r"\\log "),
    (re.compile(r"(?<![\\A-Za-z])\\?a(sin|cos|tan)(?![A-Za-z])"), r"\\arc\1 "),
    (re.compile(r"\\(?:lor|vee)(?![A-Za-z])"), " or "),
    (re.compile(r"\\(?:land|wedge)(?![A-Za-z])"), " and "),
    (re.compile(r"\\[lr]angle(?![A-Za-z])"), lambda m: "(" if m[0][1] == "l" else ")"),
    (re.compile(r"\\pmod\s?\{?(\w+)\}?"), r"(mod \1)"),
    (re.compile(r"(?i)^(?:\\text\{)?(?:the empty set|empty set|no (?:real |integer )?solutions?)\}?$"), r"\\emptyset"),
    (re.compile(r"\\(?:left|right|[bB]igg?[lrm]?|displaystyle|limits|quad|qquad)(?![A-Za-z])\.?|(?<!\\)\\ |~"), " "),
    (re.compile(r"(?<=\d)\s*(?:,\s*\\!|\{,\})\s*(?=\d)"), ""),  # thousands
    (re.compile(r"\\[!,;:]"), " "),
    (re.compile(r"\\(?:[dtcs]|nice)frac(?![A-Za-z])"), r"\\frac"),
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


def _recurring(whole: str, fixed: str, repeated: str) -> str:
    """A recurring decimal as a fraction."""
    nines, shift = 10 ** len(repeated) - 1, 10 ** len(fixed)
    value = Fraction(int(whole + fixed + repeated) - int(whole + fixed or 0), nines * shift)
    return rf"\frac{{{value.numerator}}}{{{value.denominator}}}"


def normal(text: str) -> str:
    """`text` in a single notation for what can be written in many ways; a longer one than is read as it is."""
    text = in_ascii(clean(text).translate(_SYMBOLS))
    if len(text) > LONGEST_NOTATION:
        return text
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    return text.lstrip(" ;").rstrip(" .;")


# -- structure -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Quantity:
    """One expression, taken apart."""

    text: str
    """The expression without name, unit and spaces."""
    name: str = ""
    """What it is called: `x` in x = 3."""
    unit: str = ""
    """Its unit in a standard spelling; `_8` for a numeral in base 8."""
    words: bool = False
    """Whether it is words: a name or a choice."""
    number: Fraction | None = None
    places: int = 0
    """Decimal places of the number as written."""


@dataclass(frozen=True, slots=True)
class Group:
    """Several expressions.

    `opening` and `closing` are the brackets of a tuple or an interval (an outward ] counts as an open end); { and } of
    a set; empty for a bare list; "union" and empty; "matrix" and the number of columns.
    """

    opening: str
    closing: str
    items: tuple[Quantity | Group, ...]
    text: str = field(compare=False)
    name: str = ""
    """The variable, where the text is an inequality: x > 2 is the interval from 2 on."""


Form = Quantity | Group


@lru_cache(maxsize=4096)
def read(text: str) -> Form:
    """The structure of a text that `normal` returned."""
    return _read(text, DEEPEST) if len(text) <= LONGEST_READ else Quantity(text)


_NAME = re.compile(r"([A-Za-z]\w?(?:\([a-z]\))?)\s*(?:=|\\in(?![a-z]))\s*(?=\S)")
_ALL = re.compile(r"(?:[A-Za-z]\s?\\in\s?)?(?:\\?R|\\mathbb\s?\{?R\}?)|(?:all )?real numbers|all reals")
_BUILT = re.compile(r"\\\{\s?([A-Za-z])(?:\s?\\in\s?\\?(?:R|mathbb\s?\{?R\}?))?\s?(?:\\mid(?![a-z])|[|:])(.+)\\\}")
_MATRIX = re.compile(r"\\begin\{([pb]?matrix|array)\}(?:\{[^{}]*\})?(.*)\\end\{\1\}", re.DOTALL)
_ENDS = {"(": ")", "[": "]", "]": "[", r"\{": r"\}"}


def _read(text: str, depth: int) -> Form:
    text = whole = text.strip(" $")
    if (
        depth
        and (built := _BUILT.fullmatch(text))
        and (content := _read(built[2], depth - 1))
        and _of(content, built[1])
    ):
        return content
    if depth and _ALL.fullmatch(text):
        return Group("(", ")", (_MINUS_INFINITE, _INFINITE), whole)
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
    if depth and (interval := _interval(text, depth)):
        return interval
    either = _split(text, r",?\sor\s") if depth else []
    if len(either) > 1 and all(intervals := [_interval(part, depth) for part in either]):
        return Group("union", "", tuple(one for one in intervals if one), whole)
    both = _split(text, r",?\sand\s|,") if depth else []
    if len(both) == 2 and (within := _intersection([_interval(part, depth) for part in both])):
        return within
    single = _quantity(text)
    if depth and single.number is None and len(items := _items(text, depth)) > 1:
        return Group("", "", items, whole)
    return single


def _of(form: Form, variable: str) -> bool:
    """Whether `form` says which values `variable` has."""
    parts = form.items if isinstance(form, Group) and form.opening == "union" else (form,)
    return all(isinstance(part, Group) and part.name == variable for part in parts)


_INFINITE, _MINUS_INFINITE = Quantity(r"\infty"), Quantity(r"-\infty")
_RELATION = re.compile(r"(<|>|\\[lg]t(?![a-z])|\\[lg]e(?![a-z]))\s*(=?)")
_VARIABLE = re.compile(r"[A-Za-z](?:_\{?\w+\}?)?|\\(?:theta|alpha|beta|lambda|mu|phi)")


def _interval(text: str, depth: int) -> Group | None:
    """The interval of one variable that an inequality such as x > 2 or 1 < x <= 3 describes."""
    relations = list(_RELATION.finditer(text))
    if not 1 <= len(relations) <= 2:
        return None
    cuts = [0, *(place for one in relations for place in one.span()), len(text)]
    sides = [text[cuts[i] : cuts[i + 1]].strip() for i in range(0, len(cuts), 2)]
    down = [one[1][-1] == ">" or one[1].startswith(r"\g") for one in relations]
    closed = [bool(one[2]) or one[1].endswith("e") for one in relations]
    if not all(sides) or len(set(down)) > 1 or any("=" in side for side in sides):
        return None
    if down[0]:
        sides, closed = sides[::-1], closed[::-1]
    if len(sides) == 2:  # the missing end is infinite
        at_left = bool(_VARIABLE.fullmatch(sides[0]))
        sides, closed = ([r"-\infty", *sides], [False, *closed]) if at_left else ([*sides, r"\infty"], [*closed, False])
    if not _VARIABLE.fullmatch(sides[1]) or any(map(_VARIABLE.fullmatch, (sides[0], sides[2]))):
        return None
    ends = "[" if closed[0] else "(", "]" if closed[1] else ")"
    return Group(*ends, (_read(sides[0], depth - 1), _read(sides[2], depth - 1)), text, sides[1])


def _intersection(parts: list[Group | None]) -> Group | None:
    """What x > 1 and x < 2 say together; None where they are not the two ends of one interval."""
    both = [part for part in parts if part is not None]
    if len(both) < 2 or both[0].name != both[1].name:
        return None
    upper, lower = sorted(both, key=lambda one: one.items[1] == _INFINITE)
    if lower.items[1] != _INFINITE or upper.items[0] != _MINUS_INFINITE:
        return None
    least, most = (getattr(one, "number", None) for one in (lower.items[0], upper.items[1]))
    if least is None or most is None or least > most:
        return None
    return Group(
        lower.opening, upper.closing, (lower.items[0], upper.items[1]), f"{lower.text}, {upper.text}", upper.name
    )


def _items(text: str, depth: int) -> tuple[Form, ...]:
    """The members of a list; a plus-minus gives two."""
    found: list[Form] = []
    for part in _split(text, r",?\s(?:and|or)\s|,|;"):
        signs = ("+", "-") if part.count(r"\pm") == 1 else ("",)
        found += [_read(part.replace(r"\pm", sign).strip().removeprefix("+"), depth - 1) for sign in signs]
    return tuple(found)


def _bracketed(text: str) -> tuple[str, str, str] | None:
    """The brackets around all of `text`, and what is inside."""
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
    """Whether `text` closes exactly the brackets that it opens."""
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
    r"|(?P<text>(?:\\text\{[^{}]*\}(?:\s*\^\{?\d\}?)?\s*)++)"
    r"|(?P<base>_\d{1,2}|_\{\d{1,2}\})"
    r"|(?P<plain>(?:(?<=[\s\d}])(?:cm|mm|km|kg|mg|ml|ft|lbs?|hrs?|mph)|(?<=\d\s)[mgshlL]|(?<=\s)(?!and\b|or\b)[A-Za-z]{2,})"
    r"(?:\s+[A-Za-z]{2,})*\s*(?:\^\{?\d\}?)?))\s*$"
)
_MONEY = re.compile(r"^(-?)\s*\\?([$€£¥₹])\s*")
_SPELLINGS = {
    "percentage": "%", "percent": "%", "degree": "deg", "dollar": "$", "buck": "$", "usd": "$", "euro": "€", "eur": "€",
    "inche": "in",
    "inch": "in", "foot": "ft", "feet": "ft", "centimeter": "cm", "centimetre": "cm", "millimeter": "mm",
    "meter": "m", "metre": "m", "kilometer": "km", "kilometre": "km", "kilogram": "kg", "gram": "g", "hour": "h",
    "hr": "h", "minute": "min", "second": "s", "sec": "s", "liter": "l", "litre": "l", "mile": "mi",
}  # fmt: skip
_WORDS = re.compile(r"[A-Za-z]+(?:(?:[ ']|\. |-(?=[A-Za-z]))[A-Za-z]+)*|\([A-Za-z]\)")
_FUNCTIONS = re.compile(r"\b(?:sin|cos|tan|cot|sec|csc|log|ln|exp|max|min|gcd|lcm)\b")

_LED = re.compile(
    r"(?:\\text\{([A-Za-z ]{3,})\}\s*|(?!.*\b(?:not|no|than|least|most|under|over|up|minus|negative|plus)\b)"
    r"([A-Za-z]{3,20}(?: [A-Za-z]{2,20}){0,5}) )(?!\s)"
)
_DEGREES = re.compile(r"(\\(?:sin|cos|tan|cot|sec|csc)\s*(?:\^\s*\{?-?\d+\}?\s*)?[({]?\s*)(-?\d+(?:\.\d+)?)\s*degrees")


def _quantity(text: str) -> Quantity:
    name = _NAME.match(text)
    whole, text = text, text[name.end() :] if name else text
    if re.search(r"[=<>]|\\(?:le|ge|ne|in)(?![a-z])", text):  # an equation or a chain of relations, not a name
        return Quantity(_squeezed(whole))
    label = _squeezed(name[1]) if name else ""
    words = re.sub(r"\\text\{([^{}]*)\}", r"\1", text).strip(" .")
    if (text.startswith(r"\text{") or len(words) > 3) and _WORDS.fullmatch(words) and not _FUNCTIONS.search(words):
        return Quantity(" ".join(words.strip("() ").casefold().split()), label, words=True)
    text = _DEGREES.sub(r"\1{\\frac{\2 \\pi}{180}}", text)
    if (led := _LED.match(text)) and _NUMERAL.fullmatch(text, led.end()):  # Grade 12
        led_by = (led[1] or led[2]).casefold().strip()
        label, text = label or _squeezed("" if led_by == "the" else led_by), text[led.end() :]
    text, unit = _without_unit(text)
    mixed = re.fullmatch(r"(-?)\s*(\d+)\s*\\frac\{(\d+)\}\{(\d+)\}|(-?)\s*(\d+)\s+(\d+)\s*/\s*(\d+)", text)
    if mixed:
        sign, whole, over, under = (mixed[i] or mixed[i + 4] or "" for i in range(1, 5))
        if int(under or 0):
            text = rf"{sign}\frac{{{int(whole) * int(under) + int(over)}}}{{{under}}}"
    number = _number(text)
    places = len(text.rpartition(".")[2]) if re.fullmatch(r"-?[\d,]*\.\d+", text) else 0
    text = _squeezed(text if number is None else _POWER_OF_TEN.sub(r"\\times 10^{\1}", text.replace(",", "")))
    return Quantity(text, label, unit, number=number, places=places)


_POWER_OF_TEN = re.compile(r"[eE]([-+]?\d+)")


def _without_unit(text: str) -> tuple[str, str]:
    money = _MONEY.match(text)
    text = _MONEY.sub(r"\1", text)
    match = _UNIT.search(text)
    if not match or not text[: match.start()].strip(" $"):
        return text, money[2] if money else ""
    core = text[: match.start()].strip(" $")
    if match["percent"]:
        return core, "%"
    if match["base"]:
        return (core, match["base"]) if re.fullmatch(r"[0-9A-F]+", core) else (text, "")
    if match["plain"] and not re.search(r"[\d})]$", core):
        return text, money[2] if money else ""
    return core, _unit(match["text"] or match["plain"])


def _unit(text: str) -> str:
    """A unit in the standard spelling: singular and abbreviated, such as `in^2` for `square inches`."""
    text = re.sub(r"\\text\{([^{}]*)\}", r"\1", text).replace("{", "").replace("}", "").casefold()
    power = next((f"^{i}" for word, i in (("square", 2), ("sq", 2), ("cubic", 3)) if word in text.split()), "")
    words = [word for word in re.findall(r"[a-z%$]+|\^\d", text) if word not in ("square", "sq", "cubic", "the", "of")]
    singular = [word if len(word) < 4 else word.removesuffix("s") for word in words]
    return "".join(_SPELLINGS.get(word) or word for word in singular) + power


_NUMERAL = re.compile(
    r"(?:[-+\d.,/\s]|\\frac\s*\{\s*-?\d+\s*\}\s*\{\s*-?\d+\s*\}|\\(?:times|cdot)\s*10\s*\^\s*\{?-?\d++\}?|[eE][-+]?\d)++"
)


def _number(text: str) -> Fraction | None:
    """The number that `text` is; None if it is anything else."""
    if not any(map(str.isdigit, text)) or not _NUMERAL.fullmatch(text) or re.search(r"\d\s+\d|^\W*[eE]", text):
        return None
    return parse_number(text)


def _squeezed(text: str) -> str:
    r"""`text` without meaningless spaces: all but the one after a command, as in `\pi x`."""
    return re.sub(r"(\\[A-Za-z]+)\s+(?=[A-Za-z])|\s+", lambda match: f"{match[1]} " if match[1] else "", text)


# -- comparing -----------------------------------------------------------------------------------------------------

Algebra = Callable[[str, str], Awaitable[bool]]
"""Whether two LaTeX expressions are equal."""

_BRACES = ("{", "}")
_BARE = ("", "")


async def equal_forms(one: Form, other: Form, algebra: Algebra) -> bool:
    """Whether two answers mean the same. `algebra` decides what their notation does not."""
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
    if one.name and other.name and one.name != other.name:
        return False
    if len(one.items) != len(other.items) or (len(kinds) > 1 and _BARE not in kinds):
        return False
    if kinds <= {_BRACES, _BARE} or "union" in (one.opening, other.opening):
        return await _same_members(one.items, list(other.items), algebra)
    if kinds - {_BARE, ("(", ")")} and len(kinds) > 1:
        return False
    for first, second in zip(one.items, other.items, strict=True):
        if not await equal_forms(first, second, algebra):
            return False
    return True


async def _same_members(some: Sequence[Form], others: list[Form], algebra: Algebra) -> bool:
    """Whether each of `some` means the same as one of `others`; those that read the same belong together first."""
    rest: list[Form] = []
    for member in some:
        if member in others:
            others.remove(member)
        else:
            rest.append(member)
    for member in rest:
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
    if one.text == other.text or one.text + one.unit == other.text + other.unit:
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
        gap = abs(first - second)
        if decimal.places >= DECIMALS and not terminates and gap * 10**decimal.places <= 1:
            return gap <= Fraction(SIGNIFICANT) * abs(exact)
    return False
