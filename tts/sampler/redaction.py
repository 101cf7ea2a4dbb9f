"""Keeps secrets out of all that a server says: answers, errors, headers, whatever encoding it repeats them in."""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from html.entities import html5
from typing import Any, AnyStr

HIDDEN = "[API key]"
"""What stands in place of a secret."""

SHORTEST = 6
"""Characters of a secret that is looked for in answers. A shorter one may be any word of them; see `Redactor.error`."""

LONGEST_ESCAPE = 24
"""Bytes that one byte of a secret may be written with; more would need several layers of escapes."""

WINDOW = 1 << 15
"""Characters that are searched at once."""

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
    JSON, URLs or HTML, in base64 (also as a part of what was encoded) and in hexadecimal digits.

    Those are what servers, proxies and their logs write by themselves when they quote a request: JSON, URLs, pages,
    `repr`, `Authorization: Basic`, dumps. What only someone would write who means to get a secret past this (reversed,
    spaced out, base32, encrypted) is not looked for: there is no end to it, and such a server has the key anyway.
    """

    def __init__(self, secrets: Iterable[str]) -> None:
        given = sorted({secret for secret in secrets if secret}, key=len, reverse=True)
        long = [one for one in given if len(one) >= SHORTEST and one.lower() not in PLACEHOLDERS]
        forms = [pair for one in long for pair in _forms(one)]
        self._words = [(re.compile(hint), re.compile(form)) for hint, form in forms]
        self._bytes = [(re.compile(hint.encode()), re.compile(form.encode())) for hint, form in forms]
        self._short = [re.compile(_spelt(one)) for one in given if one not in long]
        self.reach: int = max((LONGEST_ESCAPE * len(one.encode()) for one in long), default=0)
        """Bytes that an encoded secret has at most: how far one may reach into what comes next."""

    def __bool__(self) -> bool:
        return bool(self._words)

    def __call__(self, text: AnyStr) -> AnyStr:
        """`text` without the secrets."""
        if isinstance(text, str):
            for hint, form in self._words:
                text = _hidden(text, hint, form, HIDDEN)
        else:
            for hint, form in self._bytes:
                text = _hidden(text, hint, form, HIDDEN.encode())
        return text

    def call(self, call: dict[str, Any]) -> dict[str, Any]:
        """A tool call without the secrets."""
        said = call["function"]
        return {**call, "function": {**said, "arguments": self(said["arguments"])}}

    def finds(self, data: bytes) -> bool:
        """Whether `data` has any of the secrets."""
        return any(True for hint, form in self._bytes for _ in _places(data, hint, form))

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
        self.found: bool = False

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


def _places(text: AnyStr, hint: re.Pattern[AnyStr], form: re.Pattern[AnyStr]) -> Iterator[tuple[int, int]]:
    """Where `form` matches in `text`. Only where its first two characters do is it tried: a search at every place would
    hold up the event loop over a long answer."""
    end = 0
    for begin in range(0, len(text), WINDOW):  # between two of them, other threads get their turn
        for place in hint.finditer(text, begin, begin + WINDOW + 2):
            if end <= place.start() < begin + WINDOW and (match := form.match(text, place.start())):
                end = match.end()
                yield match.span()


def _hidden(text: AnyStr, hint: re.Pattern[AnyStr], form: re.Pattern[AnyStr], instead: AnyStr) -> AnyStr:
    parts: list[AnyStr] = []
    kept = 0
    for start, end in _places(text, hint, form):
        parts += [text[kept:start], instead]
        kept = end
    parts.append(text[kept:])
    return text[:0].join(parts) if kept else text  # pyright: ignore[reportArgumentType] - all of one kind


def secret_headers(headers: Mapping[str, str]) -> list[str]:
    """The values of `headers` that are secrets, with their parts: what stands behind a scheme (`Bearer KEY`), a
    password in base64, the values of cookies."""
    secrets: list[str] = []
    for name, value in headers.items():
        if name.lower() in PLAIN_HEADERS:
            continue
        scheme, _, credential = value.strip().rpartition(" ")
        secrets += [value.strip(), credential]
        if name.lower() == "cookie":
            secrets += [pair.partition("=")[2].strip() for pair in value.split(";")]
        if scheme.lower() == "basic":
            with suppress(ValueError):
                pair = b64decode(credential).decode()
                secrets += [pair, pair.partition(":")[2]]
    return [secret for secret in secrets if len(secret) >= SHORTEST + 2]


def _forms(secret: str) -> Iterator[tuple[str, str]]:
    """Patterns for a secret's encodings, each with one for the places where it may begin."""
    first, second = ("".join({one, one.lower(), one.upper()}) for one in secret[:2])
    plain = rf"(?<=[{re.escape(first)}])(?=[{re.escape(second)}\\%&])"
    codes = "|".join(f"{ord(one):02x}|{ord(one):02X}" for one in first)
    escaped = rf"(?<=\\)(?=\\{{0,7}}[%&{re.escape(first)}uxU0-7])|(?<=%)(?=25|{codes})|(?<=&)(?=[#a-z])"
    yield rf"[{re.escape(first)}\\%&](?:{plain}|{escaped})" if first.isascii() else "", _spelt(secret)
    data = secret.encode()
    digits = [_either(f"{byte:02x}") for byte in data]
    yield _either(f"{data[0] >> 4:x}") + _either(f"{data[0] & 15:x}"), "(?:[ :,-]|0x|, 0x| 0x)?".join(digits)
    forms: set[str] = set()
    for before in range(3):  # where it stands within a group of three bytes
        digits = b64encode(b"\0" * before + data).decode()
        own = digits[-(-before * 8 // 6) : (before + len(data)) * 8 // 6]  # those that depend on it alone
        forms |= {own, own.translate(str.maketrans("+/", "-_"))}
    yield (
        "|".join(sorted({re.escape(form[:2]) for form in forms})),
        "|".join(WRAPPED.join(_spelt(digit) if digit in "+/" else digit for digit in form) for form in sorted(forms)),
    )


WRAPPED = r"(?:\s|\\[rn]){0,4}"
"""Where a line of base64 may end."""

BACKSLASH = r"(?:\\|%(?:25){0,4}5[cC])"


def _spelt(secret: str) -> str:
    """A pattern for `secret` with each character as it is or escaped in one of the usual ways."""
    return "".join(f"(?:{'|'.join(_escapes(character))})" for character in secret)


def _escapes(character: str) -> Iterable[str]:
    for one in sorted({character, character.lower(), character.upper()} if character.isascii() else {character}):
        code, plain = ord(one), re.escape(one)
        octets = "".join(f"%(?:25){{0,4}}{_either(f'{byte:02x}')}" for byte in one.encode())
        yield plain
        yield octets
        names = "".join(f"|{name[:-1]}" for name in sorted(html5) if html5[name] == one and name.endswith(";"))
        entity = rf"&(?:amp;){{0,4}}(?:#0{{0,8}}{code}|#[xX]0{{0,8}}{_either(f'{code:x}')}{names})(?:;|(?![0-9a-fA-F]))"
        yield entity
        if not one.isascii():  # JSON writes two halves, Python the bytes
            units = one.encode("utf-16-be").hex(" ", 2).split()
            yield "".join(rf"{BACKSLASH}{{1,8}}u{_either(unit)}" for unit in units)
            yield "".join(rf"{BACKSLASH}{{1,8}}x{_either(f'{byte:02x}')}" for byte in one.encode())
        yield (
            rf"{BACKSLASH}{{1,8}}(?:[uU]{{?0{{0,8}}{_either(f'{code:x}')}}}?|x{_either(f'{code:02x}')}|0?{code:o}"
            rf"|{plain}|{octets}|{entity})"
        )


def _either(digits: str) -> str:
    return "".join(f"[{digit}{digit.upper()}]" if digit.isalpha() else digit for digit in digits)
