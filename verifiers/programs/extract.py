"""Programs in answers: where they are, and what can be said of them without running them."""

from __future__ import annotations

import ast
import builtins
import hashlib
import re
import threading
import warnings
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import islice
from typing import Literal, overload

from tts.prompting import without_thoughts

LONGEST_PARSED = 50_000  # characters; a longer program is taken as it is
STARTS = 8  # lines at which unfenced code may begin that are tried
LOOKS = 32  # closing fences of an answer that are tried for lying inside a string
_CODE_LINE = re.compile(r"^(?:from\s+\S+\s+import|import\s|def\s|class\s|async\s+def\s|@\w)", re.MULTILINE)
_FENCE_LINE = re.compile(r"^[ \t]*(?:```|~~~)", re.MULTILINE)
_FENCE = re.compile(r"[ \t]*(`{3,}|~{3,})(.*)")
_ONE_LINE = re.compile(r"(?<!`)(`{3,}+)(.+?)\1")
_AFTER_CLOSING = re.compile(r"(?:\s|<[^<>]*>|\[[^\[\]]*\]|[`~.*])*")  # marks of models and of Markdown, no language
_LANGUAGE = re.compile(r"\s*(?:python3?|py3?)\b[ \t:]*", re.IGNORECASE)
_LANGUAGE_ALONE = re.compile(r"\s*(?:python3?|py3?|c(?:pp|\+\+)|javascript|js)\s*", re.IGNORECASE)
_ODD_SPACE = re.compile("[\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000\v]")
_INVISIBLE = re.compile("[\ufeff\u200b-\u200d\u2060\u00ad]")
_PARSING = threading.Lock()
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
    that a completion continues. Reasoning is dropped: what ends with `</think>`, and what begins with `<think>` and
    never ends. Then, in this order: the whole text where it is Python that defines `entry_point`; the continuation of
    `prompt`; the last fenced block that defines `entry_point` and parses; unfenced code that defines it; a body for
    `prompt`; else the largest block, or the text itself. A program that is complete is put after `prompt`, whose
    imports and helpers it may use; if it leaves `entry_point` undefined, its only function takes that name too. In a
    `language` other than Python the result is the largest block, or the text itself.
    """
    text = _said(text.replace("\r\n", "\n").replace("\r", "\n"))
    if not text.strip():
        return None
    if language != "python":
        return max(reversed(fenced_blocks(text)), key=len, default=text)
    wanted = [name for name in (entry_point, container) if name]
    readable = _readable(text)
    if _defines_any(readable, wanted) and parses(readable):
        return _behind(prompt, readable)
    blocks = [_readable(block) for block in fenced_blocks(text)]
    outside = _FENCE_LINE.split(readable, maxsplit=1)[0]
    if prompt and (program := _continued(prompt, outside, entry_point)):
        return program
    whole = [block for block in blocks if _defines_any(block, wanted)]
    if not any(map(parses, whole)) and _defines_any(outside, wanted):  # no fence, or nothing but a closing one
        whole.append(unfenced(outside, wanted))
    if whole:
        complete = next(filter(parses, reversed(whole)), None) or _defining_part(whole[-1], wanted)
        return _behind(prompt, complete)
    body = max(reversed(blocks), key=len, default=outside)
    if prompt and _is_body(body):
        program = _continued(prompt, body) or _continued(prompt, body, indent=True)
        if program:
            return program
    code = body if blocks else unfenced(readable, wanted)
    if not code.strip():
        return None
    if entry_point and (leading := _leading(code, entry_point)):
        stub = f"\n\ndel {entry_point}\n" if defines(prompt, entry_point) and parses(prompt) else ""
        code = f"{code.rstrip()}\n\n\nif {entry_point!r} not in globals():\n    {entry_point} = {leading}\n"
        return _behind(prompt + stub, code)
    return _behind(prompt, code)


def _said(text: str) -> str:
    """`text` without its thoughts, unless it is a program, or a block of code, that only speaks of such marks."""
    said = without_thoughts(text)
    if said == text or parses(text):
        return text
    fences = list(_FENCE_LINE.finditer(said))
    if len(fences) % 2:  # the last mark lies in a block
        begin = fences[-1].start()
        place = text.rfind(said[begin:])
        return said[:begin] + text[place:] if place >= 0 else said
    return said


def _readable(code: str) -> str:
    """`code` with characters that look like spaces, or like nothing, made plain, where it is not Python as it is."""
    if not (_ODD_SPACE.search(code) or _INVISIBLE.search(code)) or parses(code):
        return code
    plain = _INVISIBLE.sub("", code)
    margins = re.sub(r"(?m)^[^\S\n]+", lambda found: _ODD_SPACE.sub(" ", found[0]), plain)
    return margins if parses(margins) else _ODD_SPACE.sub(" ", plain)


def fenced_blocks(text: str) -> list[str]:
    """The contents of the ``` and ~~~ blocks of `text`, in order; the last one may be unclosed.

    A fence inside a string of Python that spans lines is part of the block.
    """
    found: list[str] = []
    block: list[str] | None = None
    first_end: int | None = None  # lines of the block up to a closing fence that seems to lie in a string
    fence, indent, looks = "", 0, LOOKS
    lines = text.split("\n")
    number = 0
    while number <= len(lines):
        line = lines[number] if number < len(lines) else None
        number += 1
        mark = None if line is None else _FENCE.match(line)
        if block is None:
            if line is None:
                break
            inner = [part[2] for part in _ONE_LINE.finditer(line)]
            if inner:
                found += [f"{code if parses(code) else _LANGUAGE.sub('', code, count=1)}\n".lstrip() for code in inner]
            elif mark:
                fence, indent, block, first_end = mark[1][:3], len(line) - len(line.lstrip()), [], None
                said = _LANGUAGE.sub("", mark[2], count=1)
                block += [said] if said != mark[2] and _CODE_LINE.match(said) else []
        elif line is None or (mark and mark[1].startswith(fence) and _AFTER_CLOSING.fullmatch(mark[2])):
            looks -= 1
            if line is not None and looks > 0 and _in_string("\n".join(block)):
                first_end = first_end or number
                block.append(line)
                continue
            if first_end is not None and _in_string("\n".join(block)):  # it was no string after all
                block = block[: len(block) - (number - first_end)]
                number = first_end
            found += ["\n".join(block) + "\n"] if any(map(str.strip, block)) else []
            block = None
        elif not block and not mark and _LANGUAGE_ALONE.fullmatch(line):
            continue  # it stands below the fence
        else:
            block.append(line[min(indent, len(line) - len(line.lstrip())) :])
    return found


def _in_string(code: str) -> bool:
    """Whether `code` ends inside a string that spans lines."""
    if len(code) > LONGEST_PARSED or not ('"""' in code or "'''" in code):
        return False
    try:
        parsed(code)
    except SyntaxError as error:
        return "unterminated triple-quoted" in error.msg
    except (ValueError, MemoryError, RecursionError):
        pass
    return False


def defines(code: str, name: str) -> bool:
    """Whether `code` binds `name` at its top level, in any way that can be seen without running it."""
    bound = _bound(code)
    if bound is not None:
        return name in bound
    escaped = re.escape(name)
    return bool(re.search(rf"^(?:(?:async\s+)?def|class)\s+{escaped}\b|^{escaped}\s*[=:]", code, re.MULTILINE))


def _defines_any(code: str, names: Iterable[str]) -> bool:
    return any(defines(code, name) for name in names)


@lru_cache(64)
def _bound(code: str) -> frozenset[str] | None:
    """The names that `code` binds at its top level; None for what is not Python or too long."""
    tree = syntax(code) if len(code) <= LONGEST_PARSED else 1
    if isinstance(tree, int):
        return None
    try:
        return frozenset(_bindings(tree))
    except RecursionError:
        return None


def _bindings(node: ast.AST) -> Iterator[str]:
    for part in ast.iter_child_nodes(node):
        if isinstance(part, _DEFINITIONS):
            yield part.name
            yield from (name for inner in ast.walk(part) if isinstance(inner, ast.Global) for name in inner.names)
            continue
        if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store):
            yield part.id
        elif isinstance(part, ast.alias):
            yield (part.asname or part.name).partition(".")[0]
        elif isinstance(part, ast.Subscript) and isinstance(part.ctx, ast.Store):  # globals()["f"] = ...
            yield from (key.value for key in [part.slice] if isinstance(key, ast.Constant) and type(key.value) is str)
        elif isinstance(part, ast.Call):
            yield from _bound_by_call(part)
        elif isinstance(part, ast.MatchAs | ast.MatchStar | ast.ExceptHandler):
            yield part.name or ""
        yield from _bindings(part)


def _bound_by_call(call: ast.Call) -> Iterator[str]:
    """The names that `exec`, `setattr` and `globals().update` bind, as far as they stand there."""
    texts = [part.value for part in ast.walk(call) if isinstance(part, ast.Constant) and isinstance(part.value, str)]
    match call.func:
        case ast.Name(id="exec"):
            for text in texts:
                yield from _bound(text) or ()
        case ast.Name(id="setattr") | ast.Attribute(attr="update" | "setdefault" | "__setitem__"):
            yield from texts
            yield from (word.arg for word in call.keywords if word.arg)


def unfenced(text: str, wanted: Iterable[str] = ()) -> str:
    """All of `text` where it is Python; else the part from its first line of code, without the prose after it.

    The first line of code is one from which on a name that is `wanted` is defined, where there is such a line.
    """
    if parses(text):
        return text
    starts = [found.start() for found in islice(_CODE_LINE.finditer(text), STARTS)]
    for start in starts:
        code = _trimmed(text[start:])
        if code and (not wanted or _defines_any(code, wanted)):
            return code
    code = text[starts[0] :] if starts else text
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
        lines = _lines(program)
        place = max((node.end_lineno or 0 for node in future), default=0)
        return "".join([*lines[:place], "\n", setup, "\n", *lines[place:]])
    return f"{setup}\n{program}"


def syntax(source: str) -> ast.Module | int:
    """The syntax tree, or the number of the first invalid line."""
    try:
        return parsed(source)
    except SyntaxError as error:
        return error.lineno or 1
    except (ValueError, MemoryError, RecursionError):  # null bytes, nesting too deep
        return 1


@overload
def parsed(source: str) -> ast.Module: ...
@overload
def parsed(source: str, mode: Literal["eval"]) -> ast.Expression: ...
def parsed(source: str, mode: Literal["exec", "eval"] = "exec") -> ast.AST:
    """`ast.parse` that threads may call side by side, without the warnings that `source` deserves.

    CPython counts how deep the tree is in one place for all threads: where a finalizer lets another thread parse too,
    it raises SystemError for a valid program. `warnings.catch_warnings` is no thread's own either.
    """
    with _PARSING, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ast.parse(source, mode=mode)


def _lines(text: str) -> list[str]:
    """The lines of `text` with their ends, as Python counts them: a form feed ends none."""
    return re.findall(r"[^\n]*\n|[^\n]+", text)


def _trimmed(source: str, keep: int = 0) -> str | None:
    """`source` without what follows its last line that parses; at least `keep` lines must remain."""
    lines = _lines(source)
    for _ in range(6):
        text = "".join(lines)
        bad = None if len(text) > LONGEST_PARSED else syntax(text)
        if not isinstance(bad, int):
            return text
        lines = lines[: min(bad, len(lines)) - 1]
        if len(lines) <= keep:
            return None
    return None


def _defining_part(code: str, wanted: Iterable[str]) -> str:
    """`code` without the end that is broken off or wrong, where what is `wanted` is defined before it."""
    part = _trimmed(code)
    return part if part and _defines_any(part, wanted) else code


def _continued(prompt: str, body: str, entry_point: str | None = None, indent: bool = False) -> str | None:
    """`prompt` and the indented `body` that completes it; with `indent`, a flush body is indented first.

    A body that begins with the function's signature again is the whole function, indented. One whose first line alone
    is flush has lost the indentation there.
    """
    body = body.lstrip("\n") if body.strip() else ""
    first, _, rest = body.partition("\n")
    if not first:
        return None
    flush = first == first.lstrip()
    if flush and not indent:
        second = next((line for line in rest.split("\n") if line.strip()), "")
        if second == second.lstrip() or parses(body):
            return None
        body = "    " + body
    elif flush:
        body = re.sub(r"(?m)^(?=.*\S)", "    ", body)
    elif entry_point and re.match(rf"\s+(?:async\s+)?(?:def|class)\s+{re.escape(entry_point)}\b", first):
        indentation = first[: len(first) - len(first.lstrip())]
        whole = _trimmed("".join(line.removeprefix(indentation) for line in _lines(body)))
        return _behind(prompt, whole) if whole else None
    if not prompt.endswith("\n"):
        prompt += "\n"
    return _trimmed(prompt + body, keep=len(_lines(prompt)))


def _is_body(code: str) -> bool:
    """Whether `code` looks like the inside of a function rather than a program."""
    return bool(re.search(r"^(?:return|yield)\b", code, re.MULTILINE)) or not _CODE_LINE.search(code)


def _leading(code: str, entry_point: str) -> str | None:
    """What `entry_point` may mean in `code`: its only function that no other uses, or a method of its only class."""
    tree = syntax(code) if len(code) <= LONGEST_PARSED else 1
    if isinstance(tree, int) or defines(code, entry_point):
        return None
    found = {node.name: node for node in tree.body if isinstance(node, _DEFINITIONS)}
    used = {
        part.id
        for name, node in found.items()
        for part in ast.walk(node)
        if isinstance(part, ast.Name) and part.id != name
    }
    leading = [name for name in found if name not in used]
    if len(leading) != 1 or leading[0].startswith("__"):
        return None
    node = found[leading[0]]
    if isinstance(node, ast.ClassDef) and any(getattr(part, "name", None) == entry_point for part in node.body):
        return f"{node.name}().{entry_point}"
    return node.name


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
