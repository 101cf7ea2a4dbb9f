"""Tests from the examples in a function's docstring.

Four forms are read; an example counts only if its arguments and its expected value are Python literals:

    >>> f(1)      f(1) == 2, => 2, -> 2, ➞ 2, = 2      For x = 1 the          Input: x = 1, y = 2
    2             f(1) returns 2, should return 2       output should be 2     Output: 3
"""

from __future__ import annotations

import ast
import builtins
import re
from collections.abc import Iterator

Pair = tuple[str, str]
"""A call and its expected value, both as source."""

_STRING = r"(?:\"(?:[^\"\\\n]|\\.)*\"|'(?:[^'\\\n]|\\.)*')"
_ATOM = re.compile(rf"{_STRING}|-?(?:\d+(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?|(?:True|False|None|true|false)\b")
_TOKEN = re.compile(rf"{_STRING}|[()\[\]{{}}]")
_AFTER = re.compile(r"(?=[\s,.;:)#]|$)(?![ \t]*[-+*/=])")  # what may follow a value: no operator
_SEPARATOR = re.compile(r"[ \t]*(?:#[ \t]*)?(?:[-=]+>|={1,2}|[➞→⇒])[ \t]*|[ \t]*(?:#[ \t]*)?(?:should\s+)?returns?\s+")
_ASSIGNED = re.compile(r"[\s,]*(?:(?!Output)[A-Za-z_]\w*\s*[=:]\s*)?")


def prompt_examples(prompt: str, entry_point: str) -> list[str]:
    """The examples as assertions, without duplicates, in the order of the forms above.

    `prompt` is code up to and including the docstring of `entry_point`. If there are no other examples, calls of other
    functions are taken for calls of `entry_point`.
    """
    found = _docstring(prompt, entry_point)
    if found is None:
        return []
    text, arguments = found
    pairs = [*_doctests(text, entry_point)]
    text = re.sub(r"^[ \t]*>>>.*$", "", text, flags=re.MULTILINE)
    pairs += [*_calls(text, entry_point), *_described(text, entry_point, arguments)]
    if not pairs:
        aliases = {name for name in re.findall(r"\b([A-Za-z_]\w*)\(", text) if not hasattr(builtins, name)}
        pairs = [
            (entry_point + call.removeprefix(name), value)
            for name in sorted(aliases)
            for call, value in _calls(text, name)
        ]
    return list(dict.fromkeys(f"assert {call} == {value}" for call, value in pairs))


def _docstring(prompt: str, name: str) -> tuple[str, int] | None:
    """The source of the function's docstring (escapes as written) and its number of parameters."""
    try:
        body = ast.parse(prompt).body
    except (SyntaxError, ValueError):
        return None
    for node in body:
        if not isinstance(node, ast.FunctionDef) or node.name != name:
            continue
        for statement in node.body:  # an import may precede it
            source = ast.get_source_segment(prompt, statement) or ""
            if source.startswith(('"""', "'''")):
                return source[3:-3], len(node.args.args)
    return None


# -- the forms -----------------------------------------------------------------------------------------------------


def _doctests(text: str, name: str) -> Iterator[Pair]:
    for match in re.finditer(r"^[ \t]*>>>(.*)(?=(\n[ \t]*))", text, re.MULTILINE):
        after = match.end(2)
        try:
            tree = ast.parse(match[1].strip(), mode="eval").body
        except (SyntaxError, ValueError):
            continue
        names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        if name not in names or not all(hasattr(builtins, other) for other in names - {name}):
            continue
        if isinstance(tree, ast.Compare) and len(tree.ops) == 1 and isinstance(tree.ops[0], ast.Eq):
            if value := _literal(ast.unparse(tree.comparators[0]), 0):
                yield ast.unparse(tree.left), value[0]
        elif value := _literal(text, after):
            yield ast.unparse(tree), value[0]
        elif isinstance(tree, ast.Call) and text[after:].startswith("\n"):
            yield ast.unparse(tree), "None"  # no output: it returns None


def _calls(text: str, name: str) -> Iterator[Pair]:
    for match in re.finditer(rf"\b{re.escape(name)}(?=\()", text):
        end = _closing(text, match.end())
        call = _literal_call(text[match.start() : end]) if end else None
        separator = _SEPARATOR.match(text, end) if end and call else None
        if call and separator and (value := _value(text, separator.end())):
            yield call, value


def _described(text: str, name: str, arguments: int) -> Iterator[Pair]:
    """`For x = 1 ... the output should be 2` and `Input: x = 1, Output: 2`."""
    for start, middle in ((r"\bFor\b", r"[^\n]*?\b(?:output|result) should be\s+"), (r"\bInput:", r"\s*Output:\s*")):
        for match in re.finditer(start, text):
            given, end = _assignments(text, match.end())
            between = re.compile(middle).match(text, end)
            if len(given) == arguments and between and (value := _value(text, between.end())):
                yield f"{name}({', '.join(given)})", value


# -- reading values ------------------------------------------------------------------------------------------------


def _value(text: str, start: int) -> str | None:
    """The literal at `start`; for a calculation such as `3 - 1 = 2`, the literal after the line's last `=`."""
    literal = _literal(text, start)
    if literal and _AFTER.match(text, literal[1]):
        return literal[0]
    line = text[start:].partition("\n")[0]
    calculation, equals, result = line.rpartition("=")
    literal = _literal(result.strip(), 0)
    return literal[0] if equals and literal and re.match(r"[-+*/\d\s().]+$", calculation) else None


def _assignments(text: str, start: int) -> tuple[list[str], int]:
    """The literals of `x = 1, y = 2`, of lines `x : 1`, or of a bare list of values, and where they end."""
    values: list[str] = []
    while (name := _ASSIGNED.match(text, start)) and (literal := _literal(text, name.end())):
        values.append(literal[0])
        start = literal[1]
    return values, start


def _literal(text: str, start: int) -> tuple[str, int] | None:
    """The Python literal at `start`, normalised, and where it ends."""
    atom = _ATOM.match(text, start)
    end = atom.end() if atom else _closing(text, start) if text[start : start + 1] in {"(", "[", "{"} else None
    if end is None:
        return None
    source = {"true": "True", "false": "False"}.get(text[start:end], text[start:end])
    try:
        ast.literal_eval(source)
        return ast.unparse(ast.parse(source, mode="eval")), end
    except (SyntaxError, ValueError, TypeError):
        return None


def _literal_call(source: str) -> str | None:
    """`source` normalised, if it is a call with literal arguments."""
    try:
        call = ast.parse(source, mode="eval").body
        if not isinstance(call, ast.Call):
            return None
        for argument in [*call.args, *(keyword.value for keyword in call.keywords)]:
            ast.literal_eval(argument)
        return ast.unparse(call)
    except (SyntaxError, ValueError, TypeError):
        return None


def _closing(text: str, start: int) -> int | None:
    """The position after the bracket that closes the one at `start`."""
    depth = 0
    for token in _TOKEN.finditer(text, start):
        depth += {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}.get(token[0], 0)
        if depth == 0:
            return token.end()
    return None
