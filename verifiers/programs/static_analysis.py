"""What a Python program's syntax tree tells without running it: its normal form, and facts about it in words."""

from __future__ import annotations

import ast
import builtins
import hashlib
from collections.abc import Iterator

from tts.verifiers.programs.extract import LONGEST_PARSED, syntax

_DEFINITIONS = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
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
