"""What can be read off a Python program without running it and without a doubt."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from tts.verifiers.programs.extract import syntax

LOOPS = (ast.For, ast.AsyncFor, ast.While)
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


def program_facts(source: str) -> list[str]:
    """Facts on a program, each a sentence: its size, what it defines, imports and is built from."""
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
