"""The cases of a suite: what is called in the program, and what its values must be. Made once for many programs."""

from __future__ import annotations

import ast
import asyncio
import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from tts.errors import ConfigError
from tts.files import cache_folder, write_atomically
from tts.verifiers.programs.asserts import Case, Untranslatable, foreign_names, translate_assert, translate_check
from tts.verifiers.programs.compare import call_text, shortened, shown
from tts.verifiers.programs.equality import same_as_reference, same_json
from tts.verifiers.programs.extract import parses, syntax
from tts.verifiers.programs.remote_tests import RemoteCalls, RemoteTest, Stage
from tts.verifiers.programs.suite import Interaction, TestSuite
from tts.verifiers.sandbox import Invocation, Job, ProgramLimits, Sandbox, decode, digest, encode, is_plain

OBJECT = "subject"
"""The name under which an object under test is kept beside the program."""
LARGE = 1 << 14
"""Characters of a right answer of which a digest is kept."""
REFERENCE_LIMITS = ProgramLimits(cpu_seconds=120.0, memory_mb=4096, output_kb=256 << 10, answer_kb=256 << 10)


@dataclass(frozen=True)
class SuitePlan:
    """What a suite comes to for programs that define its container, or for those that do not."""

    suite: TestSuite
    tests: tuple[tuple[Case, ...] | RemoteTest, ...]
    """All but `stdin`, in order. A test made of cases is passed when all of them are right."""
    beside: tuple[RemoteTest | RemoteCalls, ...]
    """The same tests in the form that runs in an interpreter of its own, for values that are not decided here."""
    stage: Stage
    answers_kb: int
    """The size of the right answers, as they come out of the program; of asserts, with all that is written there."""

    @cached_property
    def total(self) -> int:
        """The number of tests, `stdin` included."""
        return len(self.tests) + len(self.suite.stdin)

    @cached_property
    def compared(self) -> list[int]:
        """The numbers of the tests made of cases."""
        return [number for number, test in enumerate(self.tests) if isinstance(test, tuple)]

    @cached_property
    def cases(self) -> list[tuple[int, Case]]:
        """All cases, each with the number of its test."""
        return [(number, case) for number, test in enumerate(self.tests) if isinstance(test, tuple) for case in test]

    @cached_property
    def remote(self) -> list[tuple[int, RemoteTest]]:
        """The tests that need an interpreter, with their numbers."""
        return [(number, test) for number, test in enumerate(self.tests) if isinstance(test, RemoteTest)]


def make_plan(suite: TestSuite, expected: Sequence[Any] = (), *, in_container: bool = False) -> SuitePlan:
    """The plan of a suite; `expected` has what its reference returns for each of the inputs."""
    name = suite.entry_point or ""
    container = suite.container if in_container else None
    asked = bool(suite.checker)

    def case(args: Sequence[Any], kwargs: Mapping[str, Any], wanted: Any, same: Callable[[Any, Any], bool]) -> Case:
        """One call of the function under test: of the module, or of the container of which an object is made first."""
        calls = (_call(name, args, kwargs),)
        if container:
            calls = (_call(container, store=OBJECT), _call(f"{OBJECT}.{name}", args, kwargs))
        text = call_text(name, args, kwargs)

        def complaint(values: Sequence[Any]) -> str:
            right = same(values[-1], wanted)
            return "" if right else f"{text}: expected {shown(wanted)}, got {shown(values[-1])}"

        answer = encode(wanted)
        sizes.append(len(answer))
        right = digest(answer) if len(answer) > LARGE and not asked else ""
        return Case(calls, text, complaint, (list(args), wanted) if asked else None, right)

    sizes: list[int] = []
    tests: list[tuple[Case, ...] | RemoteTest] = []
    beside: list[RemoteTest | RemoteCalls] = []

    def add(one: Case, wanted: Mapping[int, Any], atol: float | None = None) -> None:
        tests.append((one,))
        beside.append(RemoteCalls(one.calls, wanted, atol))

    last = 1 if container else 0
    for call in suite.calls:
        add(case(call.args, call.kwargs, call.expected, same_json), {last: call.expected})
    for one in suite.interactions:
        places = enumerate(one.calls, 1)
        add(_interaction(name, one), {place: call.expected for place, call in places if call.compared})
    if suite.reference:
        atol = suite.reference.atol
        for args, value in zip(suite.reference.arguments, expected, strict=True):
            add(case(args, {}, value, lambda got, wanted: same_as_reference(got, wanted, atol)), {last: value}, atol)
    remote = {name: name, "candidate": name} if name else {}
    helpers = suite.prompt if name and parses(suite.prompt) else ""  # without a name all of it may be under test
    local = _defined(helpers, suite.setup) - remote.keys()
    tested = frozenset(remote)
    for source in suite.asserts:
        names, refused = foreign_names(source, tested, local)
        beside.append(RemoteTest(source, names=tuple(names)))
        try:
            tests.append(translate_assert(source, {name: name} if name else {}, local | refused))
        except Untranslatable:
            tests.append(RemoteTest(source, names=tuple(names)))
    if suite.check:
        names, refused = foreign_names(suite.check, tested, local)
        beside.append(RemoteTest(suite.check, calls_check=True, names=tuple(names)))
        try:
            tests.append(translate_check(suite.check, remote, local | refused))
        except Untranslatable:
            tests.append(RemoteTest(suite.check, calls_check=True, names=tuple(names)))
    stage = Stage(suite.setup, helpers, remote)
    written = sum(map(len, suite.asserts)) + len(suite.check or "")  # right answers stand in them as literals
    return SuitePlan(suite, tuple(tests), tuple(beside), stage, (sum(sizes) + written) >> 10)


def _interaction(name: str, interaction: Interaction) -> Case:
    calls = [_call(name, interaction.args, interaction.kwargs, store=OBJECT)]
    calls += [_call(f"{OBJECT}.{call.method}", call.args, call.kwargs) for call in interaction.calls]
    texts = [call_text(name, interaction.args, interaction.kwargs)]
    texts += [call_text(call.method, call.args, call.kwargs) for call in interaction.calls]

    def complaint(values: Sequence[Any]) -> str:
        for number, (call, got) in enumerate(zip(interaction.calls, values[1:], strict=True), 1):
            if call.compared and not same_json(got, call.expected):
                made = shortened("; ".join(texts[: number + 1]), 300)
                return f"{made}: expected {shown(call.expected)}, got {shown(got)}"
        return ""

    return Case(tuple(calls), shortened("; ".join(texts), 300), complaint)


def _call(
    path: str, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, store: str | None = None
) -> Invocation:
    return Invocation(path, encode(tuple(args)), encode(dict(kwargs)) if kwargs else "", store)


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


# -- what a reference solution returns -----------------------------------------------------------------------------


async def expected_values(
    sandbox: Sandbox, suite: TestSuite, isolation: Literal["required", "best_effort"] = "required"
) -> Sequence[Any]:
    """The reference's value for each of its inputs; nothing for a suite without one.

    The values are computed once, isolated as any program, and kept on disk. Raises `ConfigError` when the reference
    fails on one of the inputs.
    """
    reference = suite.reference
    if reference is None:
        return ()
    name = suite.entry_point or ""
    arguments = [encode(args) for args in reference.arguments]
    content = "\0".join([sandbox.version, suite.setup, reference.program, name, *arguments])
    file = cache_folder() / "expected" / f"{hashlib.blake2b(content.encode(), digest_size=16).hexdigest()}.json"
    with suppress(OSError, ValueError):
        kept = await asyncio.to_thread(lambda: decode(file.read_text()))
        if isinstance(kept, list) and len(kept) == len(arguments):
            return kept
    cases = tuple((Invocation(name, text),) for text in arguments)
    program = f"{suite.setup}\n{reference.program}"
    result = await sandbox.run(Job(program, cases, limits=REFERENCE_LIMITS, isolation=isolation))
    failed = next((one for one in (result.loaded, *result.cases) if one.status != "ok"), None)
    values = [one.values[-1] for one in result.cases if one.values]
    if failed or len(values) != len(arguments):
        why = f"{failed.status}: {failed.error}" if failed else "it did not finish"
        raise ConfigError(f"the reference solution of {name} cannot be used: {why}")
    if not is_plain(values):
        raise ConfigError(f"the reference solution of {name} returns values that are not plain data; use other tests")
    with suppress(OSError):  # a folder that cannot be written costs time, nothing else
        await asyncio.to_thread(lambda: write_atomically(file, encode(values)))
    return values
