"""Tests as plain data, what a task holds as truth and what a problem shows, and how they end, in kinds and in words."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from itertools import zip_longest
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, NonNegativeFloat, ValidationError
from pydantic import model_validator as validates

from tts.errors import ConfigError
from tts.settings import Documented
from tts.types import Problem
from tts.verifiers.programs.compare import Output, call_text, shortened, shown
from tts.verifiers.programs.extract import syntax
from tts.verifiers.sandbox import CaseResult


class PlainData(Documented):
    """What can be written as JSON."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid")


class Call(PlainData):
    """A call of the entry point and what it must return, as plain JSON values."""

    args: tuple[JsonValue, ...] = ()
    kwargs: dict[str, JsonValue] = Field(default_factory=dict)
    expected: JsonValue
    """A returned tuple counts as the list of its items, and a float may differ by 1e-6 where a float is expected."""


class MethodCall(PlainData):
    """A call of a method of an object, and what it must return."""

    method: str
    args: tuple[JsonValue, ...] = ()
    kwargs: dict[str, JsonValue] = Field(default_factory=dict)
    expected: JsonValue = None
    """As for `Call`; None by default."""
    compared: bool = True
    """Whether the value matters; if not, whatever it returns is right."""


class Interaction(PlainData):
    """An object of the class under test and the calls of its methods, in order: one test."""

    args: tuple[JsonValue, ...] = ()
    """Of the constructor."""
    kwargs: dict[str, JsonValue] = Field(default_factory=dict)
    calls: tuple[MethodCall, ...]


class Reference(PlainData):
    """Inputs on which the program must return what a reference solution returns (the form of HumanEval+ and MBPP+)."""

    program: str
    """Source that defines the entry point; it runs once, isolated like any program."""
    inputs: tuple[tuple[JsonValue, ...], ...]
    """Positional arguments; each is a test."""
    like: str = ""
    """An assertion that calls the entry point with literals: inputs take on their types where JSON has none for them
    (tuples, sets, complex numbers)."""
    atol: NonNegativeFloat = 0.0
    """Absolute tolerance of floats, which have 1e-6 at least where all are floats; integers must be exact."""

    @property
    def arguments(self) -> list[tuple[Any, ...]]:
        """The inputs, with the types that `like` shows."""
        return typed_arguments(self.inputs, self.like)


class InputOutput(PlainData):
    """What a program reads from standard input, and what it must print."""

    input: str
    output: str
    """Compared as `TestSuite.output` says."""


class TestSuite(PlainData):
    """Tests of one program, of any kinds together. `Problem.tests` has this form as plain data."""

    __test__ = False  # pytest collects what is called Test...
    language: str = "python"
    """What the program is written in; languages other than Python can have tests of `stdin` only."""
    entry_point: str | None = None
    """The function or class that the program must define; all kinds but `asserts` and `stdin` need it."""
    container: str | None = None
    """A class such as `Solution`: where the program defines it, the entry point is its method."""
    prompt: str = ""
    """Code that a completion continues; it also gives imports and helpers to complete programs."""
    setup: str = ""
    """Code that runs before the program, in the same module."""
    calls: tuple[Call, ...] = ()
    interactions: tuple[Interaction, ...] = ()
    reference: Reference | None = None
    asserts: tuple[str, ...] = ()
    """Statements, each a test: `assert f(1) == 2`."""
    check: str | None = None
    """Code that defines `check(candidate)`, which is called with the entry point: one test."""
    stdin: tuple[InputOutput, ...] = ()
    """Each runs the program anew as a script."""
    output: Output = "lines"
    """How outputs are compared: by `lines`, `exact`, by `tokens`, or by lines of tokens with `numbers` near enough."""
    tolerance: NonNegativeFloat = 1e-6
    """Relative and absolute, for `numbers`; a whole number that is expected must be met exactly."""
    checker: str | None = None
    """Code that defines `accepts(given, got, expected)`, which replaces the comparison in `calls`, `reference` and
    `stdin`, for tests with several right answers. `given` is the list of arguments, or the input's text."""

    @validates(mode="after")
    def _fits_together(self) -> TestSuite:
        if (self.calls or self.interactions or self.reference or self.check) and not self.entry_point:
            raise ValueError("calls, interactions, reference and check need entry_point, the name of what is tested")
        if self.language != "python" and len(self) > len(self.stdin):
            raise ValueError(f"a program in {self.language} can have tests of stdin only")
        return self

    @cached_property
    def fingerprint(self) -> str:
        """A digest of the whole suite. That of a large one takes a while: ask for it in a thread first.

        It is written piece by piece: another thread gets no turn within one.
        """
        whole = hashlib.blake2b(digest_size=16)
        for name, value in self:
            parts = value if isinstance(value, tuple) else (value,)
            whole.update(f"{name} {len(parts)} ".encode())
            for part in parts:
                text = part.model_dump_json() if isinstance(part, BaseModel) else str(part)
                data = text.encode(errors="surrogatepass")
                whole.update(f"{len(data)} ".encode())
                whole.update(data)
        return whole.hexdigest()

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy with some fields replaced, and a fingerprint of its own."""
        copied = super().model_copy(update=update, deep=deep)
        vars(copied).pop("fingerprint", None)
        return copied

    def first(self, most: int) -> TestSuite:
        """The suite with the first `most` of its tests, in the order calls, interactions, reference, asserts, check,
        stdin."""
        left, kept = most, {}
        for kind in ("calls", "interactions", "reference", "asserts", "check", "stdin"):
            tests = getattr(self, kind)
            if not tests:
                continue
            if isinstance(tests, Reference):
                inputs = tests.inputs[:left]
                kept[kind], used = (tests.model_copy(update={"inputs": inputs}) if inputs else None), len(inputs)
            elif isinstance(tests, str):
                kept[kind], used = (tests if left else None), 1
            else:
                kept[kind], used = tests[:left], len(tests)
            left = max(0, left - used)
        return self.model_copy(update=kept)

    def __len__(self) -> int:
        inputs = len(self.reference.inputs) if self.reference else 0
        return (
            len(self.calls) + len(self.interactions) + inputs + len(self.asserts) + bool(self.check) + len(self.stdin)
        )


# -- arguments that JSON cannot tell apart: tuples, sets, complex numbers ------------------------------------------


def typed_arguments(inputs: Sequence[Sequence[Any]], like: str) -> list[tuple[Any, ...]]:
    """`inputs` with the types of the literal arguments of the first call in `like`, by position."""
    examples = _literals(like) if like else []
    return [
        tuple(_typed(value, examples[i] if i < len(examples) else None) for i, value in enumerate(args))
        for args in inputs
    ]


def _literals(source: str) -> list[Any]:
    """The arguments of the first call; None for one that is not a literal."""
    tree = syntax(source)
    calls = [] if isinstance(tree, int) else [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    named = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id != "set"]
    found = []
    for argument in named[0].args if named else ():
        try:
            found.append(ast.literal_eval(argument))
        except ValueError:
            found.append(None)
    return found


def _typed(value: Any, example: Any) -> Any:
    if isinstance(value, list) and isinstance(example, list | tuple | set):
        inner = next((item for item in example if isinstance(item, list | tuple | set | dict)), example)
        return type(example)(_typed(item, inner) for item in value)
    if isinstance(value, dict) and isinstance(example, dict):
        inner = next(iter(example.values()), None)
        return {key: _typed(item, inner) for key, item in value.items()}
    if isinstance(value, str) and isinstance(example, int | float | complex) and not isinstance(example, bool):
        with suppress(ValueError):
            return complex(value) if "j" in value else float(value)
    return value


class Kind(StrEnum):
    """How a test ended, and by its first failure a program."""

    passed = "passed"
    wrong = "wrong"
    """It ran, but what it gave is not right."""
    error = "error"
    """It raised an exception, is not Python, or does not define what it should."""
    cpu = "cpu"
    """It exceeded the limit of CPU time."""
    wall = "wall"
    """It used little CPU time and did not end."""
    memory = "memory"
    output = "output"
    crashed = "crashed"
    """It ended itself, or was ended by a signal."""
    infra = "infra"
    """The machinery failed, not the program: no verdict."""
    untested = "untested"
    """There are no tests: no verdict."""


EXPLAINED = {
    Kind.cpu: "the limit of CPU time was exceeded",
    Kind.wall: "it did not come to an end",
    Kind.memory: "the memory limit was exceeded",
    Kind.output: "too much output",
    Kind.crashed: "the program ended itself or crashed",
    Kind.infra: "the program could not be run",
}


TOLD = 16
"""Tests whose feedback is kept in `said`; of the others only the kind is kept."""


@dataclass(frozen=True, slots=True)
class TestOutcome:
    """How one test ended, with words for the model."""

    __test__ = False  # pytest collects what is called Test...

    kind: Kind
    feedback: str = ""

    @classmethod
    def of(cls, result: CaseResult, doing: str = "") -> TestOutcome:
        """The outcome of a run that did not end by itself, or that said more than is read here."""
        kind = Kind.output if result.status == "large" else Kind(result.status)
        words = [EXPLAINED.get(kind, ""), result.error]
        if kind is Kind.error or (kind is Kind.memory and result.error):
            words = [result.error]
        return cls(kind, ": ".join(filter(None, [shortened(doing, 250), *words])))


def public_tests(problem: Problem) -> TestSuite | None:
    """The tests that the problem shows. Raises `ConfigError` when they do not have the right form."""
    if problem.tests is None:
        return None
    try:
        return TestSuite.model_validate(problem.tests)
    except ValidationError as error:
        raise ConfigError(f"the tests of {problem.id} do not have the form of a TestSuite: {error}") from error


# -- tests as elements of what is asked for ------------------------------------------------------------------------


def as_elements(suite: TestSuite, outcomes: Sequence[str], said: Sequence[str]) -> list[dict[str, Any]]:
    """The first tests of `suite` as `details["elements"]`, all of them core: what each demands, whether it is met,
    and what happened instead. A test that was not run is not met."""
    rows = zip_longest(demands(suite)[:TOLD], outcomes[:TOLD], said)
    return [
        {"text": text, "kind": "core", "met": kind == Kind.passed, "why": "it was not run" if why is None else why}
        for text, kind, why in rows
    ]


def demands(suite: TestSuite) -> list[str]:
    """What each test demands, in order."""
    name = suite.entry_point or ""
    texts = [f"{call_text(name, call.args, call.kwargs)} gives {shown(call.expected)}" for call in suite.calls]
    for one in suite.interactions:
        calls = "; ".join(
            f"{call_text(call.method, call.args, call.kwargs)}" + f" gives {shown(call.expected)}" * call.compared
            for call in one.calls
        )
        texts.append(f"of {call_text(name, one.args, one.kwargs)}: {calls}")
    inputs = suite.reference.inputs if suite.reference else ()
    texts += [f"{call_text(name, args, {})} gives what is right" for args in inputs]
    texts += [f"`{source}` holds" for source in suite.asserts]
    texts += ["all checks pass"] * bool(suite.check)
    texts += [f"on the input {shown(test.input)} it prints {shown(test.output)}" for test in suite.stdin]
    return texts
