"""Assertions turned into calls whose values are compared here.

`assert candidate(2) == [1, 2]` becomes the call `candidate(2)` and a condition on its value. `safe_eval` computes
arguments and conditions without running test code; loops over known values are unrolled, and assigned names are known
from there on. Tests that need more (random numbers, helpers, arguments that depend on results) are `Untranslatable`
and run in an interpreter of their own (`remote_tests`).

Most suites need no more: a second process for the tests of each program would cost nearly as much as the program's.
"""

from __future__ import annotations

import ast
import builtins
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from tts.verifiers.programs.compare import call_text, shortened, shown
from tts.verifiers.programs.extract import syntax
from tts.verifiers.programs.safe_eval import (
    STEPS,
    Evaluation,
    NotPlain,
    bound,
    computable,
    evaluate,
    is_constant,
    parts_of,
    weight,
)
from tts.verifiers.sandbox import Invocation, encode, is_plain

MOST_CASES = 10_000
MOST_STEPS = 200_000  # of evaluation, to translate a test
HEAVIEST = 100_000  # items of the arguments of a call


class Untranslatable(Exception):
    """The test needs an interpreter."""


class Undecided(str):
    """A complaint that is not final, since comparing the values takes long: an interpreter says more."""


@dataclass(frozen=True, slots=True)
class Case:
    """Calls of the program, made in order, and what their values must be."""

    calls: tuple[Invocation, ...]
    shown: str
    """The calls as source, for feedback."""
    complaint: Callable[[Sequence[Any]], str]
    """Says what is wrong with the values; nothing when they are right."""
    question: tuple[Any, Any] | None = None
    """What is given and what is expected, where a checker decides instead of `complaint`."""
    right: str = ""
    """The digest of the right value of the last call, where that is large: what has the same is right."""


def foreign_names(source: str, tested: frozenset[str], known: frozenset[str]) -> tuple[list[str], frozenset[str]]:
    """The names that a test takes from the program or from modules, and those that it may not take.

    `tested` are the names of what is under test, `known` those that are defined beside the test. In a test of these,
    any other name of the program is for making arguments, and for exceptions to catch: a function of the program that
    is given a result, or what is expected, could decide the verdict.
    """
    tree = _tree(source)
    if isinstance(tree, int):
        return [], frozenset()
    nodes = list(parts_of(tree))
    names = [node for node in nodes if isinstance(node, ast.Name)]
    own = {node.id for node in names if not isinstance(node.ctx, ast.Load)} | {
        *(node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)),
        *(node.arg for node in nodes if isinstance(node, ast.arg)),
        *(node.name or "" for node in nodes if isinstance(node, ast.ExceptHandler)),
        *((node.asname or node.name).partition(".")[0] for node in nodes if isinstance(node, ast.alias)),
    }
    used = {node.id for node in names} - own - known
    foreign = {name for name in used - tested if not hasattr(builtins, name) and name not in sys.stdlib_module_names}
    refused = {name for name in foreign if used & tested and _is_free(tree, name, tested)}
    return sorted(used - refused), frozenset(refused)


def _is_free(tree: ast.Module, name: str, tested: frozenset[str]) -> bool:
    """Whether `name`, or a name that is assigned from it, is used for other than arguments of what is tested."""
    tainted = {name}
    while True:
        free = _Free(tested, tainted)
        free.visit(tree)
        if free.assigned <= tainted:
            return free.found
        tainted |= free.assigned


class _Free(ast.NodeVisitor):
    """Looks for uses of tainted names outside arguments of what is tested, plain assignments and `except`."""

    def __init__(self, tested: frozenset[str], tainted: set[str]) -> None:
        self.tested, self.tainted = tested, tainted
        self.assigned: set[str] = set()
        self.found = False

    def visit_Call(self, node: ast.Call) -> None:
        if not (isinstance(node.func, ast.Name) and node.func.id in self.tested):
            self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        inner = _Free(self.tested, self.tainted)
        inner.visit(node.value)
        if inner.found and all(isinstance(target, ast.Name) for target in node.targets):
            self.assigned |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        else:
            self.generic_visit(node)

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> None:
        for part in node.body:
            self.visit(part)

    def visit_Name(self, node: ast.Name) -> None:
        self.found = self.found or (isinstance(node.ctx, ast.Load) and node.id in self.tainted)


def translate_assert(source: str, program: Mapping[str, str], local: frozenset[str] = frozenset()) -> tuple[Case, ...]:
    """The cases of statements. Raises `Untranslatable`.

    `program` maps names to the paths that are called in the program for them. Any other unknown name is the program's
    as well, unless it is `local`: defined beside the tests. A test that calls nothing but builtins means functions of
    the program with the same names.
    """
    body = _parsed(source)
    cases = tuple(_Translation(program, local).statements(body, {}))
    if cases:
        return cases
    called = {
        call.func.id
        for node in body
        for call in parts_of(node)
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name)
    }
    return tuple(_Translation({**program, **{name: name for name in called}}, local).statements(body, {}))


def translate_check(source: str, program: Mapping[str, str], local: frozenset[str] = frozenset()) -> tuple[Case, ...]:
    """The cases of code that defines `check(candidate)`. `program` has the path of `candidate`, whatever its name."""
    module = _parsed(source)
    checks = [node for node in module if isinstance(node, ast.FunctionDef) and node.name == "check"]
    others = [node for node in module if node not in checks]
    if len(checks) != 1 or len(checks[0].args.args) != 1 or checks[0].args.defaults or checks[0].decorator_list:
        raise Untranslatable("there is no plain check(candidate)")
    parameter = checks[0].args.args[0].arg
    program = {**program, parameter: program["candidate"]}
    translation = _Translation(program, local)
    names: dict[str, Any] = {}
    return (*translation.statements(others, names), *translation.statements(checks[0].body, names))


_tree = lru_cache(1)(syntax)  # of what is asked for several times in a row, and changed by nobody


def _parsed(source: str) -> list[ast.stmt]:
    tree = _tree(source)
    if isinstance(tree, int):
        raise Untranslatable(f"line {tree} is not Python")
    return tree.body


class _Translation:
    def __init__(self, program: Mapping[str, str], local: frozenset[str]) -> None:
        self.program = program
        self.local = local
        self.made = 0
        self.evaluation = Evaluation(MOST_STEPS)
        self.handed: set[str] = set()
        """Names of objects that the program has been given and may have changed."""

    def evaluate(self, node: ast.expr, names: Mapping[str, Any]) -> Any:
        if self.handed & _loaded(node):
            raise Untranslatable("an object that the program may have changed")
        return self.evaluation.value(node, names)

    def bind(self, target: ast.expr, value: Any, names: dict[str, Any]) -> None:
        found = bound(target, value)
        names |= found
        self.handed -= found.keys()

    def statements(self, body: Sequence[ast.stmt], names: dict[str, Any]) -> Iterator[Case]:
        """The cases of `body` in order; adds to `names` what it assigns."""
        for node in body:
            try:
                yield from self.statement(node, names)
            except Untranslatable:
                raise
            except Exception as error:  # NotPlain, and whatever Python raises for a test that is wrong in itself
                raise Untranslatable(f"{type(error).__name__}: {error}") from None

    def statement(self, node: ast.stmt, names: dict[str, Any]) -> Iterator[Case]:
        match node:
            case ast.Assert(test=condition):
                yield from self.assertion(condition, names)
            case ast.Assign(targets=[target], value=value):
                self.bind(target, self.evaluate(value, self.without_program(value, names)), names)
            case ast.For(target=target, iter=source, body=inner, orelse=[]):
                for item in self.evaluate(source, self.without_program(source, names)):
                    self.bind(target, item, names)
                    yield from self.statements(inner, names)
            case ast.Expr(value=ast.Constant() | ast.Name()) | ast.Pass():
                pass
            case ast.Import(names=modules) if all(m.name in ("math", "copy") and not m.asname for m in modules):
                pass
            case _:
                raise Untranslatable(type(node).__name__)

    def without_program(self, node: ast.expr, names: Mapping[str, Any]) -> Mapping[str, Any]:
        if self.calls_of(node, names)[1]:
            raise Untranslatable("a result is used later")
        return names

    def calls_of(self, node: ast.expr, names: Mapping[str, Any]) -> tuple[ast.expr, list[ast.Call]]:
        """`node` with each call of the program replaced by a name for its value, and these calls."""
        finder = _Calls(self.program, self.local, names)
        return finder.visit(_copied(node)), finder.found

    def assertion(self, condition: ast.expr, names: dict[str, Any]) -> Iterator[Case]:
        template, found = self.calls_of(condition, names)
        known = dict(names)
        if not found:
            if not self.evaluate(condition, known):
                raise Untranslatable("an assertion that never holds")
            return
        self.made += 1
        if self.made > MOST_CASES:
            raise Untranslatable("too many cases")
        if not computable(template, [*known, *map(_place, range(len(found)))]):
            raise Untranslatable("a condition on more than plain data")
        calls = tuple(self.call(node, known) for node in found)
        if self.handed & _loaded(template):
            raise Untranslatable("an object that the program may have changed")
        text = ", ".join(source for _, source in calls)
        yield Case(tuple(call for call, _ in calls), text, _complaint(template, _copied(condition), known, text))

    def call(self, node: ast.Call, names: Mapping[str, Any]) -> tuple[Invocation, str]:
        arguments = tuple(self.evaluate(part, names) for part in _unstarred(node.args))
        named = {word.arg: self.evaluate(word.value, names) for word in node.keywords if word.arg}
        given = frozenset().union(*map(_loaded, [*node.args, *(word.value for word in node.keywords)]))
        self.handed |= {name for name in given if name in names and not _unchanging(names[name])}
        if weight([*arguments, *named.values()], HEAVIEST) > HEAVIEST:
            raise Untranslatable("large arguments")
        if len(named) < len(node.keywords) or not is_plain([*arguments, *named.values()]):
            raise Untranslatable("arguments that are not plain data")
        assert isinstance(node.func, ast.Name)
        path = self.program.get(node.func.id, node.func.id)
        call = Invocation(path, encode(arguments), encode(named) if named else "")
        return call, call_text(path, arguments, named, 300)


def _unstarred(nodes: Sequence[ast.expr]) -> Sequence[ast.expr]:
    if any(isinstance(node, ast.Starred) for node in nodes):
        raise NotPlain("* arguments")
    return nodes


def _loaded(node: ast.expr) -> frozenset[str]:
    """The names that an expression reads."""
    return frozenset(
        part.id for part in parts_of(node) if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Load)
    )


def _unchanging(value: Any) -> bool:
    if type(value) in (tuple, frozenset):
        return all(map(_unchanging, value))
    return type(value) in (bool, int, float, complex, str, bytes, type(None))


def _copied(node: ast.expr) -> ast.expr:
    """A copy that shares constants, which nothing changes, with others: a list of numbers takes hundreds of bytes for
    each of them."""

    def copied(value: Any) -> Any:
        if isinstance(value, list):
            return [copied(one) for one in value]
        if type(value) is ast.Constant and type(value.value) in (int, float):
            return _number(type(value.value), value.value)
        if not isinstance(value, ast.AST) or type(value) is ast.Constant:
            return value
        if isinstance(value, ast.UnaryOp) and is_constant(value):
            return _negative(copied(value.operand))
        return type(value)(**{name: copied(one) for name, one in ast.iter_fields(value)})

    return copied(node)


@lru_cache(1 << 14)
def _number(kind: type, value: float) -> ast.Constant:
    return ast.Constant(value)


@lru_cache(1 << 14)
def _negative(number: ast.Constant) -> ast.UnaryOp:
    return ast.UnaryOp(ast.USub(), number)


class _Calls(ast.NodeTransformer):
    """Finds the calls that go to the program, and puts a name for its value in the place of each."""

    def __init__(self, program: Mapping[str, str], local: frozenset[str], names: Mapping[str, Any]) -> None:
        self.program, self.local, self.names = program, local, names
        self.found: list[ast.Call] = []

    def visit_Call(self, node: ast.Call) -> ast.expr:
        """Calls inside calls come first, and make it untranslatable: their values are not known yet."""
        before = len(self.found)
        self.generic_visit(node)
        if not isinstance(node.func, ast.Name) or not self._is_program(node.func.id):
            return node
        if len(self.found) > before:
            raise Untranslatable("the arguments depend on results")
        self.found.append(node)
        return ast.Name(_place(len(self.found) - 1), ast.Load())

    def _is_program(self, name: str) -> bool:
        if name in self.program:
            return True
        return not hasattr(builtins, name) and name not in self.local and name not in self.names

    def visit_List(self, node: ast.List | ast.Tuple | ast.Set) -> ast.expr:
        node.elts = [part if is_constant(part) else self.visit(part) for part in node.elts]
        return node

    visit_Tuple = visit_Set = visit_List

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.expr:
        """What `or` may skip must not be called in advance."""
        self._refuse_later(node.values[1:] if isinstance(node.op, ast.Or) else [])
        self.generic_visit(node)
        return node

    def visit_IfExp(self, node: ast.IfExp) -> ast.expr:
        self._refuse_later([node.body, node.orelse])
        self.generic_visit(node)
        return node

    def visit_Lambda(self, node: ast.Lambda) -> ast.expr:
        """Functions are not plain data."""
        raise Untranslatable("a function")

    def _refuse_later(self, nodes: Sequence[ast.expr]) -> None:
        inner = _Calls(self.program, self.local, self.names)
        for node in nodes:
            inner.visit(_copied(node))
        if any(call for call in inner.found):
            raise Untranslatable("a call that may not be made")


def _place(number: int) -> str:
    return f"<{number}>"  # no identifier, so that it cannot be one of the test's own names


def _complaint(
    template: ast.expr, source: ast.expr, names: Mapping[str, Any], calls: str
) -> Callable[[Sequence[Any]], str]:
    """A function of the calls' values that says why the assertion does not hold."""

    def complaint(values: Sequence[Any]) -> str:
        known = {**names, **{_place(number): value for number, value in enumerate(values)}}
        try:
            if evaluate(template, known, STEPS):
                return ""
            return difference(known, values)
        except NotPlain as error:
            return Undecided(error)
        except Exception as error:  # a value of a kind that the condition cannot take
            return f"{assertion()}: {type(error).__name__}: {error}{gave(values)}"

    def difference(known: Mapping[str, Any], values: Sequence[Any]) -> str:
        if (
            isinstance(template, ast.Compare)
            and len(template.ops) == 1
            and isinstance(template.ops[0], ast.Eq | ast.Is)
        ):
            assert isinstance(source, ast.Compare)
            sides = [(template.left, source.left), (template.comparators[0], source.comparators[0])]
            if _has_place(template.comparators[0]) and not _has_place(template.left):
                sides.reverse()
            (left, written), (right, _) = sides
            call = calls if isinstance(left, ast.Name) else shortened(ast.unparse(written), 300)
            return f"{call}: expected {shown(evaluate(right, known))}, got {shown(evaluate(left, known))}"
        return f"{assertion()} does not hold{gave(values)}"

    def assertion() -> str:
        return f"assert {shortened(ast.unparse(source), 240)}"

    def gave(values: Sequence[Any]) -> str:
        return f"; {calls} gave {', '.join(map(shown, values))}"

    return complaint


def _has_place(node: ast.expr) -> bool:
    return any(isinstance(part, ast.Name) and part.id.startswith("<") for part in parts_of(node))
