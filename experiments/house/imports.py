"""The modules of a checkout, the imports between them, and the circles those imports form.

`tts/strategies` and `tts/verifiers` are links to top-level folders, so each of those files is read once, there.
Importing `a.b` also runs the `__init__` of `a`; that is not counted as an import of `a`.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

FOLDERS = ("tts", "strategies", "verifiers")


@dataclass(frozen=True)
class Module:
    """One source file; `path` is relative to the checkout."""

    path: PurePosixPath
    lines: int
    tree: ast.Module

    @property
    def name(self) -> str:
        """Its import name: `tts.strategies.single` for strategies/single.py."""
        parts = self.path.with_suffix("").parts
        return ".".join((*(() if parts[0] == "tts" else ("tts",)), *parts)).removesuffix(".__init__")

    @property
    def room(self) -> str:
        return "/".join(self.path.parent.parts[:2])


@dataclass(frozen=True, order=True)
class Import:
    """`source` imports `target`; `how` is "" at module level, else "in a function" or "for types"."""

    source: str
    target: str
    how: str


def read(root: Path) -> list[Module]:
    files = [file for folder in FOLDERS for file in sorted((root / folder).rglob("*.py"))]
    own = [file for file in files if file.resolve() == root / file.relative_to(root)]
    texts = [(PurePosixPath(file.relative_to(root)), file.read_text()) for file in own]
    return [Module(path, len(text.splitlines()), ast.parse(text)) for path, text in texts]


def imports(modules: list[Module]) -> set[Import]:
    """All imports between modules. `from package import name` imports `package.name` if that is a module."""
    names = {module.name for module in modules}
    found = set()
    for module in modules:
        for statement, how in import_statements(module.tree, ""):
            for target in targets(statement, module):
                known = target if target in names else target.rpartition(".")[0]
                if known in names and known != module.name:
                    found.add(Import(module.name, known, how))
    return found


def import_statements(node: ast.AST, how: str) -> Iterator[tuple[ast.Import | ast.ImportFrom, str]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child, how
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            yield from import_statements(child, "for types")
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from import_statements(child, how or "in a function")
        else:
            yield from import_statements(child, how)


def targets(statement: ast.Import | ast.ImportFrom, module: Module) -> list[str]:
    if isinstance(statement, ast.Import):
        return [alias.name for alias in statement.names]
    package = statement.module or ""
    if statement.level:
        above = module.name.split(".")[: -statement.level + (module.path.name == "__init__.py") or None]
        package = ".".join([*above, *filter(None, [package])])
    return [f"{package}.{alias.name}" for alias in statement.names]


def circles(edges: Iterable[Import]) -> list[list[str]]:
    """Strongly connected components with more than one module (Tarjan 1972)."""
    successors: dict[str, set[str]] = defaultdict(set)
    for edge in edges:
        successors[edge.source].add(edge.target)
    order: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found = []

    def visit(name: str) -> None:
        order[name] = lowest[name] = len(order)
        stack.append(name)
        for target in successors.get(name, ()):
            if target not in order:
                visit(target)
            if target in stack:
                lowest[name] = min(lowest[name], lowest[target])
        if lowest[name] == order[name]:
            start = stack.index(name)
            if len(stack) - start > 1:
                found.append(sorted(stack[start:]))
            del stack[start:]

    for name in sorted(successors):
        if name not in order:
            visit(name)
    return sorted(found)
