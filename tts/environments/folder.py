"""A folder as a value: files by path, the difference between two folders as a patch, and a patch applied to one.

A patch is a unified diff as git and patch write it. It holds all that differs in files of text; `applied` undoes
nothing and guesses little: a hunk is put where its lines are, nearest to the place that it names.
"""

from __future__ import annotations

import hashlib
import json
import posixpath
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher

from tts.errors import ConfigError
from tts.types import Problem

Folder = Mapping[str, bytes]
"""Contents by path. A path that ends in a slash is a folder that holds nothing."""

HIDDEN = frozenset({".git"})
"""Folders that are no part of what a folder holds, wherever they are."""
CONTEXT = 3
QUADRATIC = 1_000_000
"""Lines times lines up to which the difference of two texts is looked for in all their lines."""
FILES = 10
"""For how many texts of that size together: beyond, each is replaced from its first line that differs to its last."""
NO_NEWLINE = "\\ No newline at end of file"


class PatchError(ValueError):
    """A patch that cannot be read, or does not fit."""


def path_of(text: str) -> str:
    """`text` as a path within a folder. Raises `ValueError` for one that leads out of it or can be no file's."""
    path = posixpath.normpath(text)
    if not text or text.startswith("/") or path.split("/")[0] in ("..", ".") or len(path) > 200:
        raise ValueError(f"'{text[:200]}' is no path of a file in this folder")
    if any(ord(letter) < 32 or letter == "\x7f" for letter in path):
        raise ValueError(f"'{text[:200]!r}' has control characters")
    path.encode()  # no halves of characters
    return path


def folder_of(problem: Problem) -> dict[str, bytes]:
    """The files that a problem begins with: `metadata["files"]`, texts by path. Raises `ConfigError`."""
    given = problem.metadata.get("files", {})
    try:
        return {path_of(path): text.encode() for path, text in given.items()}
    except (AttributeError, ValueError, TypeError) as error:
        raise ConfigError(f"the files of {problem.id} must be texts by path, metadata['files']: {error}") from None


def visible(folder: Folder) -> dict[str, bytes]:
    """The files of `folder` that count."""
    return {
        path: data
        for path, data in folder.items()
        if not path.endswith("/") and not HIDDEN.intersection(path.split("/")[:-1])
    }


def digest_of(folder: Folder) -> str:
    """The same for the same files, whatever they were made of."""
    made = hashlib.blake2b(digest_size=16)
    for path, data in sorted(visible(folder).items()):
        made.update(f"{len(path.encode())} {len(data)}\n".encode() + path.encode() + data)
    return made.hexdigest()


def text_of(data: bytes) -> str | None:
    """A file's text; None if it has none."""
    try:
        return None if b"\0" in data else data.decode()
    except UnicodeDecodeError:
        return None


# -- from two folders to a patch -----------------------------------------------------------------------------------


def difference(before: Folder, after: Folder) -> tuple[str, list[str]]:
    """The patch that leads from one folder to the other, and the files that it leaves out, as they are no text."""
    before, after = visible(before), visible(after)
    parts, left_out, room = list[str](), list[str](), FILES * QUADRATIC
    for path in sorted(path for path in before | after if before.get(path) != after.get(path)):
        old, new = (text_of(folder.get(path, b"")) for folder in (before, after))
        if old is None or new is None:
            left_out.append(path)
            continue
        heads = (
            _head("a", path) if path in before else "/dev/null",
            _head("b", path) if path in after else "/dev/null",
        )
        lines, size = (_lines(old), _lines(new)), old.count("\n") * new.count("\n")
        closely = size <= min(QUADRATIC, room)
        room -= size if closely else 0
        parts.append(f"--- {heads[0]}\n+++ {heads[1]}\n" + "".join(_hunks(*lines, closely)))
    return "".join(parts), left_out


def _head(side: str, path: str) -> str:
    return json.dumps(f"{side}/{path}") if '"' in path or path != path.strip() else f"{side}/{path}"


def _lines(text: str) -> list[str]:
    """The lines of a text, with their ends; only the newline ends one."""
    *whole, last = text.split("\n")
    return [f"{line}\n" for line in whole] + ([last] if last else [])


def _hunks(old: Sequence[str], new: Sequence[str], closely: bool) -> Iterator[str]:
    for group in _close_groups(old, new) if closely else _one_group(old, new):
        begin, end = group[0], group[-1]
        sizes = (end[2] - begin[1], end[4] - begin[3])
        places = (begin[1] + bool(sizes[0]), begin[3] + bool(sizes[1]))
        yield f"@@ -{places[0]},{sizes[0]} +{places[1]},{sizes[1]} @@\n"
        for kind, i, j, k, n in group:
            marked = [(" ", old[i:j])] if kind == "equal" else [("-", old[i:j]), ("+", new[k:n])]
            for mark, lines in marked:
                for line in lines:
                    yield f"{mark}{line}" if line.endswith("\n") else f"{mark}{line}\n{NO_NEWLINE}\n"


_Group = list[tuple[str, int, int, int, int]]


def _close_groups(old: Sequence[str], new: Sequence[str]) -> Iterator[_Group]:
    """What differs, with a few lines around it.

    Lines that are often in both, such as empty ones, are equal only beside others that are: if each were compared with
    each, a thousand lines could take seconds.
    """
    before, after = Counter(old), Counter(new)
    room, often = len(old) + len(new), set[str]()
    for line in sorted(before.keys() & after.keys(), key=lambda line: (before[line] * after[line], line)):
        room -= before[line] * after[line]
        if room < 0:
            often.add(line)
    yield from SequenceMatcher(often.__contains__, old, new, autojunk=False).get_grouped_opcodes(CONTEXT)


def _one_group(old: Sequence[str], new: Sequence[str]) -> Iterator[_Group]:
    """All from the first line that differs to the last."""
    most = min(len(old), len(new))
    same = next((i for i in range(most) if old[i] != new[i]), most)
    tail = next((i for i in range(most - same) if old[-1 - i] != new[-1 - i]), most - same)
    i, j, n, context = same, len(old) - tail, len(new) - tail, min(CONTEXT, same)
    behind = min(CONTEXT, tail)
    yield [
        ("equal", i - context, i, i - context, i),
        ("replace", i, j, i, n),
        ("equal", j, j + behind, n, n + behind),
    ]


# -- from a patch to a folder --------------------------------------------------------------------------------------


@dataclass
class Hunk:
    """Lines to be replaced, with those around them."""

    place: int
    """The line, from 0, at which the patch says it begins."""
    old: list[str] = field(default_factory=list)
    new: list[str] = field(default_factory=list)


_HUNK = re.compile(r"@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@")


def applied(folder: Folder, patch: str) -> dict[str, bytes]:
    """`folder` after `patch`. Raises `PatchError`, which says what does not fit; nothing is changed then."""
    made = dict(folder)
    for old, new, hunks in _read(patch):
        if old is not None and old not in made:
            raise PatchError(f"there is no file {old}")
        if old is None and new in made:
            raise PatchError(f"there is a file {new} already")
        text = text_of(made.get(old or "", b""))
        if text is None:
            raise PatchError(f"{old} is no text")
        lines, shift = _lines(text), 0
        for number, hunk in enumerate(hunks, 1):
            place = _place(lines, hunk, hunk.place + shift, search=len(lines) * len(hunks) <= QUADRATIC)
            if place is None:
                raise PatchError(
                    f"hunk {number} of {new or old} does not fit: no such lines there\n{''.join(hunk.old)}"
                )
            lines[place : place + len(hunk.old)] = hunk.new
            shift = place - hunk.place + len(hunk.new) - len(hunk.old)
        if old is not None:
            del made[old]
        if new is not None:
            made[new] = "".join(lines).encode()
        elif lines:
            raise PatchError(f"{old} is to be removed, and {len(lines)} of its lines would be left")
    return made


def _place(lines: Sequence[str], hunk: Hunk, wanted: int, *, search: bool) -> int | None:
    """Where the hunk's lines are: where they should be, or else nearest to that."""
    size = len(hunk.old)
    if not size:
        return min(max(wanted, 0), len(lines))
    if wanted >= 0 and lines[wanted : wanted + size] == hunk.old:
        return wanted
    if not search:
        return None
    found = [i for i in range(len(lines) - size + 1) if lines[i] == hunk.old[0] and lines[i : i + size] == hunk.old]
    return min(found, key=lambda i: abs(i - wanted), default=None)


def _read(patch: str) -> Iterator[tuple[str | None, str | None, list[Hunk]]]:
    """The files of a patch: the old path, the new one, and the hunks."""
    lines = patch.split("\n")
    if lines[-1] == "":
        lines.pop()
    i, any_file = 0, False
    while i < len(lines):
        if not _begins(lines, i):
            if lines[i].startswith("@@"):
                raise PatchError("a hunk has no '--- FILE' and '+++ FILE' before it")
            i += 1
            continue
        old, new = _named(lines[i][4:], "a"), _named(lines[i + 1][4:], "b")
        if old is None and new is None:
            raise PatchError("a file is neither before nor after the patch")
        i, hunks = i + 2, list[Hunk]()
        while i < len(lines) and lines[i].startswith("@@"):
            hunk, i = _hunk(lines, i)
            hunks.append(hunk)
        any_file = True
        yield old, new, hunks
    if not any_file and patch.strip():
        raise PatchError("this is no unified diff: no '--- FILE' and '+++ FILE'")


def _named(text: str, side: str) -> str | None:
    """The path in a head line."""
    text = text.partition("\t")[0]
    try:
        name = json.loads(text) if text.startswith('"') else text.strip()
        if name == "/dev/null":
            return None
        return path_of(name.removeprefix(f"{side}/"))
    except (ValueError, AttributeError) as error:
        raise PatchError(f"{text[:200]}: {error}") from None


def _hunk(lines: Sequence[str], at: int) -> tuple[Hunk, int]:
    """The hunk that begins at a line, and the line behind it."""
    if not (head := _HUNK.match(lines[at])):
        raise PatchError(f"cannot read '{lines[at][:100]}'; write @@ -LINE,LINES +LINE,LINES @@")
    counts = [1 if size is None else int(size) for size in (head[2], head[4])]
    hunk, last = Hunk(max(0, int(head[1]) - bool(counts[0]))), " "
    at += 1
    while at < len(lines):
        line = lines[at]
        if line.startswith("\\"):
            for side in hunk.old, hunk.new:
                if side and (side is hunk.new or last != "+") and (side is hunk.old or last != "-"):
                    side[-1] = side[-1].removesuffix("\n")
            at += 1
            continue
        whole = len(hunk.old) >= counts[0] and len(hunk.new) >= counts[1]  # as far as it counts its lines rightly
        if line.startswith("@@") or (whole and (_begins(lines, at) or not line.startswith((" ", "+", "-")))):
            break
        last = line[:1] or " "
        if last not in " +-":
            raise PatchError(f"a line of a hunk begins with ' ', '+' or '-', not like '{line[:100]}'")
        if last != "+":
            hunk.old.append(line[1:] + "\n")
        if last != "-":
            hunk.new.append(line[1:] + "\n")
        at += 1
    return hunk, at


def _begins(lines: Sequence[str], at: int) -> bool:
    """Whether another file's part begins here."""
    return lines[at].startswith("--- ") and at + 1 < len(lines) and lines[at + 1].startswith("+++ ")
