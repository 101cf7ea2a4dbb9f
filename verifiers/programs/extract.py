"""Programs in answers: where they are, and what can be said of them without running them."""

from __future__ import annotations

import ast
import builtins
import hashlib
import re
import textwrap
import warnings
from collections.abc import Iterator
from functools import lru_cache

from tts.prompting import without_thoughts

LONGEST_PARSED = 100_000  # characters; a longer program is taken as it is
_CODE_LINE = re.compile(r"^(?:from\s+\S+\s+import|import\s|def\s|class\s|async\s+def\s|@\w)", re.MULTILINE)
_DEFINITIONS = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def extract_program(
    text: str,
    entry_point: str | None = None,
    prompt: str = "",
    container: str | None = None,
    *,
    language: str = "python",
) -> str | None:
    """The program that `text` proposes, or None when there is nothing that could be one.

    `entry_point` is the function or class that it must define, be it in the class `container`; `prompt` is the code
    that a completion continues. Reasoning that ends with `</think>` is dropped. Then, in this order: the whole text
    where it is Python that defines `entry_point`; the continuation of `prompt`; the last fenced block that defines
    `entry_point` and parses; unfenced code that defines it; a fenced body for `prompt`; else the largest block, or
    the text itself. A program that is complete is put after `prompt`, whose imports and helpers it may use; if its
    only function has another name, it gets the name `entry_point` too. In a `language` other than Python the result is
    the largest block, or the text itself.
    """
    text = without_thoughts(text) or text
    if language != "python":
        return max(reversed(fenced_blocks(text)), key=len, default=text) if text.strip() else None
    wanted = [name for name in (entry_point, container) if name]
    if any(defines(text, name) for name in wanted) and parses(text):
        return _behind(prompt, text)
    blocks = fenced_blocks(text)
    if prompt and (program := _continued(prompt, text.partition("\n```")[0], entry_point)):
        return program
    whole = [block for block in blocks if any(defines(block, name) for name in wanted)]
    if not whole and not blocks and any(defines(text, name) for name in wanted):
        whole = [unfenced(text)]
    if whole:
        return _behind(prompt, next(filter(parses, reversed(whole)), whole[-1]))
    largest = max(reversed(blocks), key=len, default="")
    if prompt and _is_body(largest) and (program := _continued(prompt, largest, indent=True)):
        return program
    code = largest or unfenced(text)
    return _behind(prompt, _named(code, entry_point)) if code.strip() else None


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
    """Whether `code` binds `name` at its top level, judging by its lines."""
    escaped = re.escape(name)
    return bool(re.search(rf"^(?:(?:async\s+)?def|class)\s+{escaped}\b|^{escaped}\s*=", code, re.MULTILINE))


def unfenced(text: str) -> str:
    """All of `text` where it is Python; else the part from its first line of code, without the prose after it."""
    if parses(text):
        return text
    first = _CODE_LINE.search(text)
    code = text[first.start() :] if first else text
    return _trimmed(code) or code


@lru_cache(256)
def parses(source: str) -> bool:
    """Whether `source` has Python's syntax; what is too long to try counts as Python."""
    return len(source) > LONGEST_PARSED or not isinstance(syntax(source), int)


def with_setup(setup: str, program: str) -> str:
    """`program` after `setup`; its future imports, which must come first, stay first."""
    if not setup.strip():
        return program
    tree = syntax(program) if "__future__" in program else 1
    if not isinstance(tree, int):
        future = [node for node in tree.body if isinstance(node, ast.ImportFrom) and node.module == "__future__"]
        lines = program.splitlines(keepends=True)
        place = max((node.end_lineno or 0 for node in future), default=0)
        return "".join([*lines[:place], "\n", setup, "\n", *lines[place:]])
    return f"{setup}\n{program}"


def syntax(source: str) -> ast.Module | int:
    """The syntax tree, or the number of the first invalid line."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(source)
    except SyntaxError as error:
        return error.lineno or 1
    except (ValueError, MemoryError, RecursionError):  # null bytes, nesting too deep
        return 1


def _trimmed(source: str, keep: int = 0) -> str | None:
    """`source` without what follows its last line that parses; at least `keep` lines must remain."""
    lines = source.splitlines(keepends=True)
    for _ in range(6):
        text = "".join(lines)
        bad = None if len(text) > LONGEST_PARSED else syntax(text)
        if not isinstance(bad, int):
            return text
        lines = lines[: min(bad, len(lines)) - 1]
        if len(lines) <= keep:
            return None
    return None


def _continued(prompt: str, body: str, entry_point: str | None = None, indent: bool = False) -> str | None:
    """`prompt` and the indented `body` that completes it; with `indent`, a flush body is indented first.

    A body that begins with the function's signature again is the whole function, indented.
    """
    first = next((line for line in body.splitlines() if line.strip()), "")
    if not first or (first == first.lstrip() and not indent):
        return None
    if entry_point and re.match(rf"\s+(?:async\s+)?(?:def|class)\s+{re.escape(entry_point)}\b", first):
        indentation = first[: len(first) - len(first.lstrip())]
        whole = _trimmed("".join(line.removeprefix(indentation) for line in body.splitlines(keepends=True)))
        return _behind(prompt, whole) if whole else None
    if first == first.lstrip():
        body = textwrap.indent(body, "    ")
    if not prompt.endswith("\n"):
        prompt += "\n"
    return _trimmed(prompt + body, keep=len(prompt.splitlines()))


def _is_body(code: str) -> bool:
    """Whether `code` looks like the inside of a function rather than a program."""
    return bool(re.search(r"^(?:return|yield)\b", code, re.MULTILINE)) or not _CODE_LINE.search(code)


def _named(code: str, entry_point: str | None) -> str:
    """`code` with the name `entry_point` for its only function that no other uses, or a method of its only class."""
    tree = syntax(code) if entry_point and len(code) <= LONGEST_PARSED else 1
    if isinstance(tree, int):
        return code
    found = {node.name: node for node in tree.body if isinstance(node, _DEFINITIONS)}
    used = {
        part.id
        for name, node in found.items()
        for part in ast.walk(node)
        if isinstance(part, ast.Name) and part.id != name
    }
    leading = [name for name in found if name not in used]
    if len(leading) != 1 or leading[0].startswith("__"):
        return code
    node, value = found[leading[0]], leading[0]
    if isinstance(node, ast.ClassDef) and any(getattr(part, "name", None) == entry_point for part in node.body):
        value = f"{value}().{entry_point}"
    return f"{code.rstrip()}\n\n\n{entry_point} = {value}\n"


def _behind(prompt: str, code: str) -> str:
    """`code` after `prompt`, where that stands alone (its stub is then defined again by `code`)."""
    if code.startswith(prompt) or not parses(prompt):
        return code
    return with_setup(prompt, code) if "__future__" in code else f"{prompt}\n\n{code}"


_NAME_FIELD = {
    ast.FunctionDef: "name",
    ast.AsyncFunctionDef: "name",
    ast.ClassDef: "name",
    ast.arg: "arg",
    ast.Name: "id",
    ast.ExceptHandler: "name",
    ast.alias: "asname",
    ast.keyword: "arg",
}
"""Where a node has a name that the program may have given."""
LOOPS = (ast.For, ast.AsyncFor, ast.While)
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


def normal_form(program: str) -> str | None:
    """A digest of the program's `normal_tree`: the same for programs that differ only in names, comments and layout."""
    try:
        tree = normal_tree(program)
        dumped = ast.dump(tree) if tree else None
    except RecursionError:
        return None
    return hashlib.blake2b(dumped.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest() if dumped else None


def normal_tree(program: str) -> ast.Module | None:
    """The syntax tree of a Python program, with the names that it defines numbered in order.

    Comments, docstrings, annotations and layout are removed. None for what is not Python, is too long, or does nothing.
    """
    tree = syntax(program) if len(program) <= LONGEST_PARSED else 1
    if isinstance(tree, int) or all(isinstance(node, ast.Expr) and not _calls(node) for node in tree.body):
        return None
    names = {name: f"v{i}" for i, name in enumerate(dict.fromkeys(_given_names(tree)))}
    return _Normal(names).visit(tree)


def _calls(node: ast.AST) -> bool:
    return any(isinstance(part, ast.Call) for part in ast.walk(node))


def _given_names(tree: ast.AST) -> list[str]:
    """The names that the program defines, in order of appearance."""
    found = [
        getattr(node, field) or ""
        for node in ast.walk(tree)
        if (field := _NAME_FIELD.get(type(node)))
        and not isinstance(node, ast.keyword)
        and not (isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load))
    ]
    return [name for name in found if name and not hasattr(builtins, name)]


class _Normal(ast.NodeTransformer):
    def __init__(self, names: dict[str, str]) -> None:
        self._names = names

    def generic_visit(self, node: ast.AST) -> ast.AST:
        if field := _NAME_FIELD.get(type(node)):
            name = getattr(node, field)
            setattr(node, field, self._names.get(name, name))
        if isinstance(node, ast.Global | ast.Nonlocal):
            node.names = [self._names.get(name, name) for name in node.names]
        if isinstance(node, ast.arg):
            node.annotation = None
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            node.returns = None
        if isinstance(node, _DEFINITIONS | ast.Module):
            node.body = [part for part in node.body if not _is_text(part)] or [ast.Pass()]
        return super().generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        plain = ast.Assign([node.target], node.value) if node.value else ast.Pass()
        return self.generic_visit(plain)


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


# -- facts --------------------------------------------------------------------------------------------------------


def program_facts(source: str) -> list[str]:
    """Facts about a program, each a sentence: its size, what it defines and imports, and what it is built from."""
    tree = syntax(source)
    if isinstance(tree, int):
        return [f"It is no Python: line {tree} is wrong."]
    nodes = list(ast.walk(tree))
    functions = [node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    lines = sum(bool(line.strip()) for line in source.splitlines())
    return [
        f"It has {lines} lines that are not empty.",
        f"Functions: {_listed(f'{one.name}({ast.unparse(one.args)})' for one in functions)}.",
        f"Functions with a docstring: {_listed(one.name for one in functions if ast.get_docstring(one))}.",
        f"Functions that call themselves: {_listed(one.name for one in functions if _recursive(one))}.",
        f"Classes: {_listed(node.name for node in nodes if isinstance(node, ast.ClassDef))}.",
        f"Imports: {_listed(_imported(nodes))}.",
        f"Loops: {sum(isinstance(node, LOOPS) for node in nodes)}; "
        f"comprehensions: {sum(isinstance(node, COMPREHENSIONS) for node in nodes)}.",
    ]


def _recursive(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    calls = (node.func for node in ast.walk(function) if isinstance(node, ast.Call))
    return any(isinstance(called, ast.Name) and called.id == function.name for called in calls)


def _imported(nodes: list[ast.AST]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield f"{'.' * node.level}{node.module or ''}"


def _listed(names: Iterator[str]) -> str:
    return ", ".join(dict.fromkeys(names)) or "none"
