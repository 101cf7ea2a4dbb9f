"""How well written accepted programs are, and whether the wrong ones among them are written worse.

Stroebl et al. 2024 (arXiv 2411.17501) find that false positives of unit tests are of lower quality than right
programs, by three of the readability measures of RACE (Zheng et al. 2024, arXiv 2407.11470): naming, length and
comments. Here they are read off the syntax tree and the tokens; no prompt asks for them.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from dataclasses import astuple, dataclass, fields

import numpy as np

from tts.runs.run import Track
from tts.verifiers.programs.extract import extract_program, syntax

LONGEST_LINE = 70
LONGEST_FUNCTION = 30
LINES_PER_COMMENT = 5

_SNAKE = re.compile(r"_*[a-z0-9]+(?:_[a-z0-9]+)*_*|[A-Z][A-Z0-9_]*")
_CAMEL = re.compile(r"_*[a-z]+[a-z0-9]*(?:[A-Z][a-z0-9]*)*_*")
_CLASS = re.compile(r"_*[A-Z][A-Za-z0-9]*")


@dataclass(frozen=True)
class Style:
    """Whether a program keeps each convention. A name of one lower-case word fits both of the first two."""

    snake_case: bool
    """Functions, arguments and variables are named like_this, constants LIKE_THIS, classes LikeThis."""
    camel_case: bool
    """Functions, arguments and variables are named likeThis."""
    length: bool
    """No line is longer than 70 characters, no function than 30 lines."""
    comments: bool
    """At least one comment or docstring for every five lines of code."""


def style_of(program: str) -> Style | None:
    """The style of a Python program; None where it does not parse."""
    tree = syntax(program)
    if isinstance(tree, int):
        return None
    names, classes = set(_names(tree)), {node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
    named_well = all(_CLASS.fullmatch(name) for name in classes)
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    lengths = [(node.end_lineno or node.lineno) - node.lineno + 1 for node in functions]
    comments, code = _comments_and_code(program, tree)
    return Style(
        snake_case=named_well and all(_SNAKE.fullmatch(name) for name in names),
        camel_case=named_well and all(_CAMEL.fullmatch(name) for name in names),
        length=max(map(len, program.splitlines()), default=0) <= LONGEST_LINE
        and max(lengths, default=0) <= LONGEST_FUNCTION,
        comments=comments * LINES_PER_COMMENT >= code,
    )


def _names(tree: ast.Module) -> Iterator[str]:
    """The names that the program makes up: functions (special ones aside), arguments and variables."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not re.fullmatch(r"__\w+__", node.name):
            yield node.name
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id.strip("_"):
            yield node.id


def _comments_and_code(program: str, tree: ast.Module) -> tuple[int, int]:
    """The number of comments, docstrings included, and of lines with code."""
    documented = [
        node.body[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and ast.get_docstring(node, clean=False) is not None
    ]
    prose = {line for node in documented for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)}
    comments, code = len(documented), set()
    silent = {tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    try:
        for token in tokenize.generate_tokens(io.StringIO(program).readline):
            if token.type == tokenize.COMMENT:
                comments += 1
            elif token.type not in silent:
                code.update(range(token.start[0], token.end[0] + 1))
    except (tokenize.TokenError, SyntaxError):  # what parses may still not tokenise
        pass
    return comments, len(code - prose)


@dataclass(frozen=True)
class StyleReport:
    """Shares of programs that keep each convention (the fields of `Style`)."""

    right: dict[str, float]
    """P(convention kept | accepted and right)."""
    wrong: dict[str, float]
    """P(convention kept | accepted and wrong): of the false positives."""
    programs: tuple[int, int]
    """How many are right and wrong; each distinct program of a problem counts once."""


def style_report(track: Track) -> StyleReport | None:
    """The styles of the programs that passed a strategy's tests; None without both right and wrong ones."""
    styles: dict[bool, list[tuple[bool, ...]]] = {True: [], False: []}
    seen: set[tuple[str, str]] = set()
    problems = {row.cell: row.problem for row in track.rows}
    passed = "passed AND correct IS NOT NULL AND json_type(details, '$.verdict.outcomes') IS NOT NULL"
    for cell, content, truth, known in track.read(f"cell, content, correct, {passed}", holding="outcomes"):
        program = extract_program(content) if known else None
        style = style_of(program) if program and (problems[cell], program) not in seen else None
        if program and style:
            seen.add((problems[cell], program))
            styles[bool(truth)].append(astuple(style))
    if not styles[True] or not styles[False]:
        return None
    right, wrong = (
        dict(zip(CONVENTIONS, np.mean(styles[flag], axis=0).tolist(), strict=True)) for flag in (True, False)
    )
    return StyleReport(right, wrong, (len(styles[True]), len(styles[False])))


CONVENTIONS = tuple(field.name for field in fields(Style))
