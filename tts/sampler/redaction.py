"""Keeps secrets out of all that a server says: answers, errors, headers, whatever encoding it repeats them in."""

from __future__ import annotations

import asyncio
import re
from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping
from html.entities import codepoint2name
from typing import Any, AnyStr

HIDDEN = "[API key]"
"""What stands in place of a secret."""

SHORTEST = 6
"""Characters of a secret that is looked for in answers. A shorter one may be any word of them; see `Redactor.error`."""

LONGEST_ESCAPE = 24
"""Bytes that one byte of a secret may be written with; more would need many layers of escapes. Every repetition in the
patterns is bounded, or a long run of backslashes would take time that grows with its square."""

SLICE = 1 << 15
"""Characters that are searched at once."""

HINT = 20
"""Characters that tell where an encoded secret may begin, at most."""

PLACEHOLDERS = frozenset(
    {"dummy", "empty", "llama.cpp", "lm-studio", "no-key", "no_key", "none", "not-needed", "ollama"}
)
"""Keys that are given where a server wants any."""

PLAIN_HEADERS = frozenset(
    {"accept", "accept-encoding", "accept-language", "content-type", "http-referer", "referer", "user-agent", "x-title"}
)
"""Headers whose values are no secrets."""


class Redactor:
    """Puts `[API key]` in place of each of some secrets, in any usual encoding: as it is, in either case, escaped as in
    JSON, URLs or HTML, in base64 (also as a part of what was encoded) and in hexadecimal digits."""

    def __init__(self, secrets: Iterable[str]) -> None:
        given = sorted({secret for secret in secrets if secret}, key=len, reverse=True)
        long = [one for one in given if len(one) >= SHORTEST and one.lower() not in PLACEHOLDERS]
        forms = [pair for one in long for pair in _forms(one)]
        self._words = [(re.compile(hint), re.compile(form)) for hint, form in forms]
        self._bytes = [(re.compile(hint.encode()), re.compile(form.encode())) for hint, form in forms]
        self._short = [re.compile(_spelt(one)) for one in given if one not in long]
        self.reach = max((LONGEST_ESCAPE * len(one.encode()) for one in long), default=0)
        """Bytes that an encoded secret has at most: how far one may reach into what comes next."""

    def __bool__(self) -> bool:
        return bool(self._words)

    def __call__(self, text: AnyStr) -> AnyStr:
        """`text` without the secrets."""
        if isinstance(text, str):
            for hint, form in self._words:
                text = _without(text, _all_places(text, hint, form), HIDDEN)
        else:
            for hint, form in self._bytes:
                text = _without(text, _all_places(text, hint, form), HIDDEN.encode())
        return text

    async def patiently(self, data: bytes) -> bytes:
        """The same for a long body, without holding up the event loop."""
        for hint, form in self._bytes:
            places = []
            for start in range(0, len(data), SLICE):
                places += _places(data, hint, form, start, places[-1][1] if places else 0)
                await asyncio.sleep(0)
            data = _without(data, places, HIDDEN.encode())
        return data

    def call(self, call: dict[str, Any]) -> dict[str, Any]:
        """A tool call without the secrets."""
        said = call["function"]
        return {**call, "function": {**said, "arguments": self(said["arguments"])}}

    def finds(self, data: bytes) -> bool:
        """Whether `data` has any of the secrets."""
        return any(True for hint, form in self._bytes for _ in _all_places(data, hint, form))

    def error(self, text: str) -> str:
        """The same for the words of an error, where even the shortest secret is hidden."""
        for pattern in self._short:
            text = pattern.sub(HIDDEN, text)
        return self(text)


class SecretScan:
    """Whether bytes that come in pieces have a secret; each piece is read once."""

    def __init__(self, hide: Redactor) -> None:
        self._hide = hide
        self._tail = b""
        self.found = False

    def feed(self, piece: bytes) -> None:
        """Look at the next piece."""
        if self._hide and not self.found:
            seen = self._tail + piece
            self.found = self._hide.finds(seen)
            self._tail = seen[-self._hide.reach :]

    def clean(self, whole: bytes) -> bytes:
        """`whole`, which is all the pieces, without the secrets; the next piece is the first of something new."""
        clean = self._hide(whole) if self.found else whole
        self.found, self._tail = False, b""
        return clean


def _places(
    text: AnyStr, hint: re.Pattern[AnyStr], form: re.Pattern[AnyStr], start: int = 0, end: int = 0
) -> Iterator[tuple[int, int]]:
    """Where `form` matches in `text`, from `end` on, and beginning in the slice that `start` begins.

    Only where its first two characters do is it tried: a search at every place would hold up the event loop over a long
    answer.
    """
    stop = start + SLICE
    for place in hint.finditer(text, start, stop + HINT):
        if end <= place.start() < stop and (match := form.match(text, place.start())):
            end = match.end()
            yield match.span()


def _all_places(text: AnyStr, hint: re.Pattern[AnyStr], form: re.Pattern[AnyStr]) -> Iterator[tuple[int, int]]:
    end = 0
    for start in range(0, len(text), SLICE):
        for place in _places(text, hint, form, start, end):
            end = place[1]
            yield place


def _without(text: AnyStr, places: Iterable[tuple[int, int]], instead: AnyStr) -> AnyStr:
    parts, kept = list[AnyStr](), 0
    for start, end in places:
        parts += (text[kept:start], instead)
        kept = end
    return text[:0].join([*parts, text[kept:]]) if kept else text


def secret_headers(headers: Mapping[str, str]) -> list[str]:
    """The values of `headers` that are secrets, and of those with a scheme (`Bearer KEY`) the part behind it too."""
    values = [value.strip() for name, value in headers.items() if name.lower() not in PLAIN_HEADERS]
    return [part for value in values for part in (value, value.rpartition(" ")[2]) if len(part) >= SHORTEST + 2]


def _forms(secret: str) -> Iterator[tuple[str, str]]:
    """Patterns for a secret's encodings, each with one for the places where it may begin."""
    first, second = ("".join({one, one.lower(), one.upper()}) for one in secret[:2])
    plain = rf"(?<=[{re.escape(first)}])(?=[{re.escape(second)}\\%&])"
    codes = "|".join(f"{ord(one):02x}|{ord(one):02X}" for one in first)
    escaped = rf"(?<=\\)(?=\\{{0,15}}[{re.escape(first)}uxU0-7])|(?<=%)(?=25|{codes})|(?<=&)(?=[#a-z])"
    yield rf"[{re.escape(first)}\\%&](?:{plain}|{escaped})" if first.isascii() else "", _spelt(secret)
    data = secret.encode()
    forms = {data.hex(), data.hex().upper()}
    for before in range(3):  # where it stands within a group of three bytes
        digits = b64encode(b"\0" * before + data).decode()
        own = digits[-(-before * 8 // 6) : (before + len(data)) * 8 // 6]  # those that depend on it alone
        forms |= {own, own.translate(str.maketrans("+/", "-_"))}
    yield (
        "|".join(sorted({re.escape(form[:2]) for form in forms})),
        "|".join("".join(_spelt(digit) if digit in "+/" else digit for digit in form) for form in sorted(forms)),
    )


def _spelt(secret: str) -> str:
    """A pattern for `secret` with each character as it is or escaped in one of the usual ways."""
    return "".join(f"(?:{'|'.join(_escapes(character))})" for character in secret)


def _escapes(character: str) -> Iterable[str]:
    for one in sorted({character, character.lower(), character.upper()} if character.isascii() else {character}):
        code, plain = ord(one), re.escape(one)
        octets = "".join(f"%(?:25){{0,4}}{_either(f'{byte:02x}')}" for byte in one.encode())
        yield plain
        yield octets
        yield rf"\\{{1,16}}(?:u{{?0{{0,6}}{_either(f'{code:x}')}}}?|x{_either(f'{code:02x}')}|0?{code:o}|{plain})"
        names = "".join(f"|{name}" for name in [codepoint2name.get(code)] if name)
        yield rf"&(?:amp;){{0,4}}(?:#0{{0,6}}{code}|#[xX]0{{0,6}}{_either(f'{code:x}')}{names});"


def _either(digits: str) -> str:
    return "".join(f"[{digit}{digit.upper()}]" if digit.isalpha() else digit for digit in digits)
