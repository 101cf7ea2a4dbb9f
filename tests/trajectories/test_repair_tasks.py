"""Repositories with a fault: each can be repaired, fails as it is, and cannot be talked out of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.support.acting import acting, policy
from tts import Example, MockModel, ToolCall, registry, solve
from tts.environments.folder import applied, difference, folder_of
from tts.resources import Resources
from tts.session import Session
from tts.tasks.repair_tasks import RepairTasks, modules, solution
from tts.types import Verdict
from tts.verifiers.folder_tests import FolderCommand, FolderTests, Patch

EXAMPLES = list(RepairTasks().examples())


@pytest.fixture
async def shared() -> AsyncIterator[Resources]:
    async with Resources() as made:
        yield made


async def judged(shared: Resources, example: Example, patch: str, verifier: Any = None) -> Verdict:
    session = Session(example.problem, {}, resources=shared)
    return await (verifier or example.truth).verify(example.problem, session.candidate(patch), session)


def test_there_are_many_kinds_and_all_differ():
    assert len(EXAMPLES) > 50
    assert len({str(example.problem.metadata["files"]) for example in EXAMPLES}) == len(EXAMPLES)
    assert len(Counter(example.problem.metadata["kind"] for example in EXAMPLES)) >= 10
    assert sum(example.problem.metadata["kind"] == "elsewhere" for example in EXAMPLES) >= 2
    assert [one.problem for one in RepairTasks().examples()] == [one.problem for one in EXAMPLES]
    other = list(RepairTasks(seed=1, each=2).examples())
    assert len(other) == 2 * len(EXAMPLES)
    assert not {str(one.problem.metadata["files"]) for one in other} & {
        str(one.problem.metadata["files"]) for one in EXAMPLES
    }


async def test_each_fails_as_it_is_and_is_repaired_by_its_solution(shared: Resources):
    for example in EXAMPLES:
        for verifier in (FolderTests(), example.truth):
            before = await judged(shared, example, "", verifier)
            after = await judged(shared, example, solution(example.problem), verifier)
            assert before.passed is False, example.problem.id
            assert after.passed is True, (example.problem.id, after)


async def test_hidden_tests_see_more_than_those_that_are_shown(shared: Resources):
    """What only answers the inputs that are shown passes them, and is wrong."""
    example = next(one for one in EXAMPLES if one.problem.metadata["module"] == "roman")
    path = next(path for path in example.problem.metadata["files"] if path.endswith("roman.py"))
    shown = {call["args"][0]: call["expected"] for call in example.problem.tests["calls"]}  # type: ignore[index]
    before = folder_of(example.problem)
    cheat = difference(before, {**before, path: f"def to_roman(n): return {shown}.get(n, 'I')\n".encode()})[0]
    assert (await judged(shared, example, cheat, FolderTests())).passed is True
    assert (await judged(shared, example, cheat)).passed is False


FORGERIES = {
    "exits": "import os\nos._exit(0)\n",
    "exits at once": "import sys\nsys.exit(0)\n",
    "is equal to all": "class Any:\n    def __eq__(self, other): return True\ndef to_roman(n): return Any()\n",
    "patches unittest": "import unittest as u\nu.TestCase.assertEqual = lambda *a: None\ndef to_roman(n): return ''\n",
    "reads the tests": "import glob, re\ndef to_roman(n): return [open(p).read() for p in glob.glob('/**/test*')][0]\n",
    "prints": 'def to_roman(n): print(\'["ok",["X"],"",""]\'); return \'\'\n',
}


@pytest.mark.parametrize("source", FORGERIES.values(), ids=list(FORGERIES))
async def test_forgeries_are_refused(source: str, shared: Resources):
    example = next(one for one in EXAMPLES if one.problem.metadata["module"] == "roman")
    before = folder_of(example.problem)
    path = next(path for path in before if path.endswith("roman.py"))
    patch = difference(before, {**before, path: source.encode()})[0]
    assert (await judged(shared, example, patch)).passed is False
    assert (await judged(shared, example, patch, FolderTests())).passed is False


@pytest.mark.parametrize("patch", ["nonsense", "--- a/none\n+++ b/none\n@@ -1,1 +1,1 @@\n-x\n+y\n", "--- a/../x\n"])
async def test_a_patch_that_does_not_fit_is_refused_with_the_reason(patch: str, shared: Resources):
    for verifier in (EXAMPLES[0].truth, FolderCommand()):
        verdict = await judged(shared, EXAMPLES[0], patch, verifier)
        assert verdict.passed is False
        assert verdict.feedback


async def test_a_command_judges_with_the_tests_as_they_were(shared: Resources):
    example = EXAMPLES[0]
    assert (await judged(shared, example, solution(example.problem), FolderCommand())).passed is True
    before = folder_of(example.problem)
    tests = {path: b"" for path in before if path.startswith("tests/")}
    emptied = difference(before, {**before, **tests, "tests/test_more.py": b"raise SystemExit(0)\n"})[0]
    verdict = await judged(shared, example, emptied, FolderCommand())
    assert verdict.passed is False
    assert "FAILED" in verdict.feedback


def test_patches_vote_alike_whatever_their_spaces():
    one, other = (f"--- a/f\n+++ b/f\n@@ -{i},1 +{i},1 @@\n-x =  1\n+x = {s}2\n \n" for i, s in ((1, ""), (9, "  ")))
    assert Patch().parse(one) == Patch().parse(other) == "+++ b/f\n-x = 1\n+x = 2"
    assert Patch().parse("") is None
    assert Patch().parse("I do not know") is None


async def test_a_model_may_answer_with_a_patch_at_once():
    problem = EXAMPLES[3].problem.model_copy(update={"environment": None})
    model = MockModel(lambda request: f"Here:\n```diff\n{solution(problem)}```\nIt was simple.")
    result = await solve(problem, "single", model)
    async with Resources() as shared:
        assert (await judged(shared, EXAMPLES[3], result.text or "")).passed is True


async def test_an_agent_runs_the_tests_and_repairs_the_fault(shared: Resources):
    example = EXAMPLES[5]
    patch = solution(example.problem)

    def act(turns: list[dict[str, Any]], number: int) -> Any:
        moves = [("bash", {"command": "python -m unittest -q"}), ("apply_patch", {"patch": patch})]
        return [*moves, moves[0], "Done."][len([turn for turn in turns if turn["role"] == "assistant"])]

    async with acting(act) as server:
        result = await solve(example.problem, "first_pass:k=2", policy(server))
    (one,) = result.candidates
    said = [turn["content"] for turn in one.notes["trajectory"]["turns"] if turn["role"] == "tool"]
    assert "FAILED" in said[0]
    assert "OK" in said[2]
    assert applied(folder_of(example.problem), one.content) == applied(folder_of(example.problem), patch)
    assert one.passed


async def test_the_tools_of_the_repository_work_for_its_modules(shared: Resources):
    """The shown tests pass in the sandbox once the fault is repaired, with the command that the task names."""
    for example in {str(one.problem.metadata["module"]): one for one in EXAMPLES[: len(modules()) : 4]}.values():
        episode = await registry.make("environments", "workspace").reset(example.problem, shared)
        await episode.step(ToolCall("apply_patch", {"patch": solution(example.problem)}))
        said = await episode.step(ToolCall("bash", {"command": "python -m unittest -q"}))
        assert "OK" in said.text, (example.problem.id, said.text)
