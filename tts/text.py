"""Text that every file, terminal and program can take, whatever a server or a data set sent."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

T = TypeVar("T")


def well_formed(data: T) -> T:
    """`data` (a text, or lists and tables with texts in them) without halves of surrogate pairs.

    JSON can spell half a character (`\\ud83d`), and a stream can cut one in two. Two halves that meet become their
    character; a lone one, which UTF-8 cannot encode, becomes U+FFFD. All other characters stay, NUL included.
    """
    return _mended(data)


def counted(number: float, one: str, many: str = "") -> str:
    """How many there are, in words: `1 sample`, `1,234 samples`; `many` where that is not `one` and an s."""
    return f"{number:,.0f} {one if number == 1 else many or f'{one}s'}"


def one_line(json_text: str) -> str:
    """JSON in which no character ends a line, not even for readers that split at U+0085, U+2028 or U+2029."""
    return json_text.translate(_LINE_ENDS)


_LINE_ENDS = {code: f"\\u{code:04x}" for code in (0x85, 0x2028, 0x2029)}


_ACTING = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""What a terminal does not show but act on, and what lets text seem to be in another order; no tabs and line breaks."""


def visible(text: str) -> str:
    """`text` for a terminal, which shows all of it and acts on nothing: whatever it names may come from a stranger."""
    return _ACTING.sub(lambda mark: repr(mark[0])[1:-1], text)


def visible_json(json_text: str) -> str:
    """The same JSON, for a terminal; what reads it reads what it did before."""
    return _ACTING.sub(lambda mark: f"\\u{ord(mark[0]):04x}", json_text)


PIECE = 1 << 14
"""Characters that are mended at once; between two pieces, other threads get their turn."""


def _pieces(text: str) -> Iterator[str]:
    start = 0
    while start < len(text):
        end = start + PIECE
        end += "\ud800" <= text[end - 1 : end] <= "\udbff"  # its other half comes with it
        yield text[start:end]
        start = end


def _paired(text: str) -> str:
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _mended(data: Any) -> Any:
    if isinstance(data, str):
        try:
            if not data.isascii():
                data.encode()
        except UnicodeEncodeError:
            return type(data)("".join(map(_paired, _pieces(data))))
        return data
    if type(data) is list or type(data) is tuple:
        return type(data)(map(_mended, data))
    if isinstance(data, Mapping):
        return {_mended(key): _mended(value) for key, value in data.items()}
    return data


def head_of(value: Any, most: int) -> Any:
    """Plain data with all that the first `most` characters of its JSON can show, and little more."""
    if isinstance(value, str):
        return value[:most]
    if isinstance(value, Mapping):
        return {key: head_of(one, most) for key, one in value.items()}
    return [head_of(one, most) for one in value[: most // 3]] if isinstance(value, list | tuple) else value


def size_of(value: Any, most: float, each: int = 1) -> int:
    """The characters of all texts in plain data, and `each` for every value; beyond `most` it is not counted further.

    With 16 for `each` it is about the work that the data makes, as `aside` wants to know it.
    """
    size, left = 0, [value]
    while left and size <= most:
        one = left.pop()
        size += each
        if isinstance(one, str):
            size += len(one)
        elif isinstance(one, list | tuple):
            size += len(one)
            left.extend(one)
        elif isinstance(one, dict | Mapping):
            size += sum(map(len, one)) + len(one)
            left.extend(one.values())
    return size


def broken(text: str, width: int) -> str:
    """`text` in lines of at most `width` characters, broken after spaces and the marks of a spec where it can be."""
    lines = [""]
    for part in re.findall(r"\(?[^\s,:/(]*(?:[,:/(]|\s+|$)", text):
        for piece in [part] if len(part.rstrip()) <= width else re.findall("[^=]+=?|=", part):  # n=4 stays together
            if lines[-1] and len(lines[-1]) + len(piece.rstrip()) > width:
                lines.append("")
            lines[-1] += piece
    return "\n".join(line.rstrip() for line in lines)
