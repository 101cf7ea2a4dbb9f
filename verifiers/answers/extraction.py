r"""Finds the final answer in a text, and reads numbers.

Four kinds of marks announce an answer; the last mark in the text counts, whatever its kind:

    \boxed{x}  \fbox{x}      with balanced braces
    #### x                   unless x starts with a letter before the text's last line (such lines are headings)
    Answer: x                also **Answer:** x, Final answer: x, and x on the next line
    the answer is x          up to the end of the sentence

Nothing here raises on any text, and time grows linearly with its length.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from fractions import Fraction

LONGEST_ANSWER = 10_000  # characters; anything longer is not a final answer
LONGEST_NUMBER = 400  # digits, and the largest power of ten
MARKS_READ = 16  # the last ones of a text; earlier ones are ignored

_MARK = re.compile(
    r"(?P<box>\\(?:boxed|fbox)\s*\{)"
    r"|^[ \t]*\#{4}[ \t]*(?=[^A-Za-z\s]|[^\n]+\s*\Z)"
    r"|\banswer\b[ \t*_`]{0,4}(?:[:=]|(?P<sentence>is\b)[ \t]*:?)[\s*_:]*",
    re.IGNORECASE | re.MULTILINE,
)
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_WRAPPED = re.compile(r"\\(?:text|textbf|mathrm|mathbf)\s*\{([^{}]*)\}")


def final_answers(text: str) -> list[str] | None:
    """The announced answers, the last one first; empty if none is announced.

    None if the last one is a box that never closes: the text was cut off inside its answer.
    """
    answers = []
    marks = deque(_MARK.finditer(text), maxlen=MARKS_READ)
    for i, mark in enumerate(reversed(marks)):
        rest = text[mark.end() : mark.end() + LONGEST_ANSWER]
        content = _within_braces(rest) if mark["box"] else rest.partition("\n")[0]
        if content and mark["sentence"]:
            content = first_sentence(content)
        if content is None and i == 0:
            return None
        if content and (answer := clean(content)):
            answers.append(answer)
    return answers


def final_answer(text: str) -> str:
    """The answer announced last; empty if there is none."""
    return (final_answers(text) or [""])[0]


def clean(answer: str) -> str:
    r"""`answer` without emphasis, quotes, dollar signs, `\text{}` and full stop around it, and with single spaces."""
    answer = " ".join(answer.split()).removeprefix(r"\(").removesuffix(".").removesuffix(r"\)")
    answer = answer.lstrip(" *_`\"'$").rstrip(" *_`\"'$.")
    wrapped = _WRAPPED.fullmatch(answer)
    return wrapped[1].strip() if wrapped else answer


def first_sentence(text: str) -> str:
    """`text` up to the first full stop that is followed by space."""
    return re.split(r"\.\s", text, maxsplit=1)[0]


def _within_braces(text: str) -> str | None:
    """The part of `text` before the brace that closes one opened just before it."""
    depth = 1
    for match in _BRACE.finditer(text):
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if depth == 0:
            return text[: match.start()]
    return None


# -- numbers -------------------------------------------------------------------------------------------------------

_PLAIN = r"(?:(?:\d{1,3}(?:,\d{3}(?!\d))+|\d+)(?:\.\d+)?|\.\d+)"
_NUMBER = re.compile(
    rf"""
    (?P<sign>(?<![\w)}}\]])[-+])?
    (?: \\[dt]?frac\s*(?:\{{\s*(?P<over>-?{_PLAIN})\s*\}}|(?P<over1>\d))
                   \s*(?:\{{\s*(?P<under>-?{_PLAIN})\s*\}}|(?P<under1>\d))
      | (?P<plain>{_PLAIN}) (?:[eE](?P<power>[-+]?\d+))?
        (?:\s*(?:\\times|\\cdot|[×x*])\s*10\s*\^\s*\{{?\s*(?P<ten>[-+]?\d+)\s*\}}?)?
        (?:\s*/\s*(?P<divisor>{_PLAIN}))?
    )
    | \^\s*\{{?[-+]?\w*\}}? | \\?[^\W\d]\w*     # exponents and words: digits in them are not numbers
    """,
    re.VERBOSE,
)
_EXPRESSION = re.compile(r"\\(?:sqrt|pi|infty|log|ln|sin|cos|tan)\b|[√π∞]")
_NOISE = re.compile(r"(?:\bUS|\bA|\bC)?\\?[$€£¥₹]|\\[,!; ]|[*_`]{2,}")


def parse_number(text: str) -> Fraction | None:
    r"""The one number that `text` states; None if there is none, or several, or a formula.

    Reads thousands separators, currencies, trailing units, a percent sign (dropped: 50 % reads as 50), a/b,
    \frac{a}{b}, 1.5e3, 1.5 \times 10^3 and the Unicode minus; of `x = 3` or `3 + 4 = 7` what follows the last equals
    sign.
    """
    text = first_sentence(_plain(text[:LONGEST_ANSWER])).rpartition("=")[2]
    found = [] if _EXPRESSION.search(text) else list(_numbers(text))
    if len(found) != 1 or text[found[0].end() :].lstrip().startswith("^"):
        return None
    return _value(found[0])


def last_number(text: str) -> Fraction | None:
    """The last number anywhere in `text`."""
    found = deque(_numbers(_plain(text)), maxlen=1)
    return _value(found[0]) if found else None


def canonical(number: Fraction) -> str:
    """18 for a whole number, else the shortest decimal that reads back as the same double."""
    if number.denominator == 1:
        return str(number.numerator)
    try:
        return repr(float(number))
    except OverflowError:
        return str(number.numerator // number.denominator)


def _plain(text: str) -> str:
    return _NOISE.sub("", text.replace("−", "-").replace("{,}", ","))


def _numbers(text: str) -> Iterator[re.Match[str]]:
    return (match for match in _NUMBER.finditer(text) if match["plain"] or match["over"] or match["over1"])


def _value(match: re.Match[str]) -> Fraction | None:
    over = match["plain"] or match["over"] or match["over1"]
    under = match["divisor"] or match["under"] or match["under1"] or "1"
    powers = [match["power"] or "0", match["ten"] or "0"]
    if len(over) + len(under) > LONGEST_NUMBER or any(len(power) > 4 for power in powers):
        return None
    power = sum(map(int, powers))
    numerator, denominator = (Fraction(part.replace(",", "")) for part in (over, under))
    if denominator == 0 or abs(power) > LONGEST_NUMBER:
        return None
    return (-1 if match["sign"] == "-" else 1) * numerator / denominator * Fraction(10) ** power
