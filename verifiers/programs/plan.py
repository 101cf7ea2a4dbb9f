"""The cases of a suite: what is called in the program, and what its values must be. Made once for many programs."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tts.verifiers.programs.asserts import Case, Untranslatable, translate_assert, translate_check
from tts.verifiers.programs.compare import same_as_reference, same_json, shortened, shown
from tts.verifiers.programs.extract import parses, syntax
from tts.verifiers.programs.remote_tests import Dialogue, Stage
from tts.verifiers.programs.suite import Interaction, TestSuite
from tts.verifiers.sandbox import Call
from tts.verifiers.sandbox.codec import encode

Same = Callable[[Any, Any], bool]
OBJECT = "subject"
"""The name under which an object under test is kept beside the program."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a suite comes to for programs that define its container, or for those that do not."""

    suite: TestSuite
    tests: tuple[tuple[Case, ...] | Dialogue, ...] = ()
    """All but `stdin`, in order. A test made of cases is passed when all of them are right."""
    stage: Stage = field(default_factory=lambda: Stage("", "", {}))
    answers_kb: int = 0
    """The size of the right answers, as they come out of the program."""

    @property
    def cases(self) -> list[tuple[int, Case]]:
        """All cases with the number of the test that each belongs to."""
        return [(number, case) for number, test in enumerate(self.tests) if isinstance(test, tuple) for case in test]

    @property
    def dialogues(self) -> list[tuple[int, Dialogue]]:
        """The tests that need an interpreter, with their numbers."""
        return [(number, test) for number, test in enumerate(self.tests) if isinstance(test, Dialogue)]


def make_plan(suite: TestSuite, expected: Sequence[Any] = (), *, in_container: bool = False) -> Plan:
    """`expected` has what the reference returns for each of its inputs."""
    name = suite.entry_point or ""
    target = _Target(name, suite.container if in_container else None)
    asked = bool(suite.checker)
    tests: list[tuple[Case, ...] | Dialogue] = [
        (target.case(call.args, call.kwargs, call.expected, same_json, asked),) for call in suite.calls
    ]
    tests += [(_interaction(name, one),) for one in suite.interactions]
    if suite.reference:
        atol = suite.reference.atol

        def same(got: Any, wanted: Any) -> bool:
            return same_as_reference(got, wanted, atol)

        for args, value in zip(suite.reference.arguments, expected, strict=True):
            tests.append((target.case(args, {}, value, same, asked),))
    remote = {name: name, "candidate": name} if name else {}
    helpers = suite.prompt if name and parses(suite.prompt) else ""  # without a name all of it may be under test
    local = _defined(helpers, suite.setup) - remote.keys()
    tests += [_assert(source, {name: name} if name else {}, local) for source in suite.asserts]
    if suite.check:
        tests.append(_check(suite.check, remote, local))
    right = encode([*expected, *(call.expected for call in suite.calls)])
    return Plan(suite, tuple(tests), Stage(suite.setup, helpers, remote), len(right) >> 10)


@dataclass(frozen=True, slots=True)
class _Target:
    """The function under test: of the module, or of a class of which an object is made first."""

    name: str
    container: str | None

    def case(self, args: Sequence[Any], kwargs: Mapping[str, Any], expected: Any, same: Same, asked: bool) -> Case:
        calls = (_call(self.name, args, kwargs),)
        if self.container:
            calls = (_call(self.container, store=OBJECT), _call(f"{OBJECT}.{self.name}", args, kwargs))
        text = call_text(self.name, args, kwargs)
        question = (list(args), expected) if asked else None
        return Case(calls, text, _Equal(text, expected, same), question)


@dataclass(frozen=True, slots=True)
class _Equal:
    """The last call's value must be the expected one."""

    shown: str
    expected: Any
    same: Same

    def __call__(self, values: Sequence[Any]) -> str:
        if self.same(values[-1], self.expected):
            return ""
        return f"{self.shown}: expected {shown(self.expected)}, got {shown(values[-1])}"


@dataclass(frozen=True, slots=True)
class _Answers:
    """Each method must have returned what the interaction says."""

    name: str
    interaction: Interaction

    def __call__(self, values: Sequence[Any]) -> str:
        said = [call_text(self.name, self.interaction.args, self.interaction.kwargs)]
        for call, got in zip(self.interaction.calls, values[1:], strict=True):
            said.append(call_text(call.method, call.args, call.kwargs))
            if call.compared and not same_json(got, call.expected):
                return f"{shortened('; '.join(said), 300)}: expected {shown(call.expected)}, got {shown(got)}"
        return ""


def _interaction(name: str, interaction: Interaction) -> Case:
    calls = [_call(name, interaction.args, interaction.kwargs, store=OBJECT)]
    calls += [_call(f"{OBJECT}.{call.method}", call.args, call.kwargs) for call in interaction.calls]
    text = call_text(name, interaction.args, interaction.kwargs)
    steps = "; ".join([text, *(call_text(call.method, call.args, call.kwargs) for call in interaction.calls)])
    return Case(tuple(calls), shortened(steps, 300), _Answers(name, interaction))


def _assert(source: str, program: Mapping[str, str], local: frozenset[str]) -> tuple[Case, ...] | Dialogue:
    try:
        return translate_assert(source, program, local)
    except Untranslatable:
        return Dialogue(source)


def _check(source: str, program: Mapping[str, str], local: frozenset[str]) -> tuple[Case, ...] | Dialogue:
    try:
        return translate_check(source, program, local)
    except Untranslatable:
        return Dialogue(source, calls_check=True)


def _call(
    path: str, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, store: str | None = None
) -> Call:
    return Call(path, encode(tuple(args)), encode(dict(kwargs)) if kwargs else "", store)


def call_text(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """A call as it is written, in short."""
    words = [*map(shown, args), *(f"{key}={shown(value)}" for key, value in kwargs.items())]
    return f"{name}({shortened(', '.join(words), 250)})"


def _defined(*sources: str) -> frozenset[str]:
    """The names that code binds at its top level."""
    names: set[str] = set()
    for source in sources:
        tree = syntax(source)
        for node in [] if isinstance(tree, int) else tree.body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                names.add(node.name)
            elif isinstance(node, ast.Import | ast.ImportFrom):
                names |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
            else:
                stored = (part for part in ast.walk(node) if isinstance(part, ast.Name))
                names |= {part.id for part in stored if isinstance(part.ctx, ast.Store)}
    return frozenset(names)
