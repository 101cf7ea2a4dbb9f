"""Finds the program in a model's answer: fenced, bare, or the continuation of a given beginning.

All that is returned is text; nothing is run here and nothing raises on odd input.
"""

from __future__ import annotations

import ast
import re
import textwrap
import warnings

LONGEST_PARSED = 100_000  # characters; a longer program is taken as it stands
_CODE_LINE = re.compile(r"^(?:from\s+\S+\s+import|import\s|def\s|class\s|async\s+def\s|@\w)", re.MULTILINE)


def extract_program(text: str, entry_point: str | None = None, prompt: str = "") -> str | None:
    """The program that `text` proposes, or None when there is nothing that could be one.

    `entry_point` is the function or class that it must define, `prompt` the code that a completion continues.
    In this order: the continuation of `prompt`; the last fenced block that defines `entry_point` and parses;
    unfenced code that defines it; a fenced body for `prompt`; else the largest block, or the text itself.
    A program that is whole comes behind `prompt`, whose imports and helpers it may use.
    """
    blocks = fenced_blocks(text)
    if prompt and (program := _continued(prompt, text.partition("\n```")[0])):
        return program
    if entry_point:
        whole = [block for block in blocks if defines(block, entry_point)]
        if not whole and not blocks and defines(text, entry_point):
            whole = [unfenced(text)]
        if whole:
            return _behind(prompt, next(filter(parses, reversed(whole)), whole[-1]))
    largest = max(reversed(blocks), key=len, default="")
    if prompt and _is_body(largest) and (program := _continued(prompt, largest, indent=True)):
        return program
    code = largest or unfenced(text)
    return _behind(prompt, code) if code.strip() else None


def fenced_blocks(text: str) -> list[str]:
    """The contents of the ``` and ~~~ blocks of `text`, in order; the last one may be unclosed."""
    blocks: list[list[str]] = []
    fence, indent = "", 0
    for line in text.splitlines():
        bare = line.lstrip()
        if not fence and bare.startswith(("```", "~~~")):
            fence, indent = bare[:3], len(line) - len(bare)
            blocks.append([])
        elif fence and bare.startswith(fence) and not bare.strip(fence[0] + " "):
            fence = ""
        elif fence:
            blocks[-1].append(line[min(indent, len(line) - len(bare)) :])
    return ["\n".join(block) + "\n" for block in blocks if any(map(str.strip, block))]


def defines(code: str, name: str) -> bool:
    """Whether `code` binds `name` at its top level, by the look of its lines."""
    escaped = re.escape(name)
    return bool(re.search(rf"^(?:(?:async\s+)?def|class)\s+{escaped}\b|^{escaped}\s*=", code, re.MULTILINE))


def unfenced(text: str) -> str:
    """All of `text` where it is Python, else from its first line of code on, without the prose behind it."""
    if parses(text):
        return text
    first = _CODE_LINE.search(text)
    code = text[first.start() :] if first else text
    return _trimmed(code) or code


def parses(source: str) -> bool:
    """Whether `source` is Python by its syntax; what is too long to try counts as Python."""
    return _first_bad_line(source) is None


def _first_bad_line(source: str) -> int | None:
    if len(source) > LONGEST_PARSED:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ast.parse(source)
    except SyntaxError as error:
        return error.lineno or 1
    except (ValueError, MemoryError, RecursionError):  # null bytes, nesting too deep
        return 1
    return None


def _trimmed(source: str, keep: int = 0) -> str | None:
    """`source` without what follows its last line that parses; at least `keep` lines must remain."""
    lines = source.splitlines(keepends=True)
    for _ in range(6):
        bad = _first_bad_line("".join(lines))
        if bad is None:
            return "".join(lines)
        lines = lines[: min(bad, len(lines)) - 1]
        if len(lines) <= keep:
            return None
    return None


def _continued(prompt: str, body: str, indent: bool = False) -> str | None:
    """`prompt` and the indented `body` that completes it; with `indent`, a flush body is indented first."""
    first = next((line for line in body.splitlines() if line.strip()), "")
    if not first or (first == first.lstrip() and not indent):
        return None
    if first == first.lstrip():
        body = textwrap.indent(body, "    ")
    if not prompt.endswith("\n"):
        prompt += "\n"
    return _trimmed(prompt + body, keep=len(prompt.splitlines()))


def _is_body(code: str) -> bool:
    """Whether `code` looks like the inside of a function rather than a program."""
    return bool(re.search(r"^(?:return|yield)\b", code, re.MULTILINE)) or not _CODE_LINE.search(code)


def _behind(prompt: str, code: str) -> str:
    """`code` after `prompt`, where that stands alone (its stub is then defined again by `code`)."""
    if not prompt or "from __future__" in code or not parses(prompt):
        return code
    return f"{prompt}\n\n{code}"
