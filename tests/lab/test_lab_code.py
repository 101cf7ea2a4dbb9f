"""lab_code: references pass, public tests are as strong or as weak as they say, and training never sees a test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as some

from tts.lab.lab_code import PIECES, Instance, LabCode, LabProgram, prompt_for, random_input, random_instance, readings
from tts.lab.lab_math import part_of
from tts.registry import make
from tts.resources import Resources
from tts.session import Session
from tts.tasks import Example
from tts.tasks.humaneval import prompt_examples
from tts.types import Verdict
from tts.verifiers.unit_tests import UnitTests


def made(seed: int, weak: bool = False, steps: int = 3, vague: int = 1) -> Instance:
    return random_instance(Random(seed), steps=steps, vague=vague, examples=3, weak=weak, part="test")


seeds = some.integers(0, 10**9)


@pytest.fixture
async def resources() -> AsyncIterator[Resources]:
    async with Resources() as opened:
        yield opened


async def judged(example: Example, answer: str, resources: Resources, *, public: bool = False) -> Verdict:
    session = Session(example.problem, {}, resources=resources)
    verifier = UnitTests() if public else example.truth
    return await verifier.verify(example.problem, session.candidate(answer), session)


def run(program: LabProgram, source: str, given: object) -> object:
    """What the source text, rather than the pieces, returns."""
    names: dict[str, object] = {}
    exec(source, names)
    return names[program.name](given)  # type: ignore[operator]


@given(seeds, some.booleans(), some.integers(2, 4))
def test_the_source_computes_what_the_tests_expect(seed: int, weak: bool, steps: int):
    instance = made(seed, weak, steps)
    for given_value, expected in (*instance.tests.public, *instance.tests.hidden):
        assert run(instance.program, instance.program.source(), given_value) == expected


@given(seeds)
def test_every_piece_leaves_its_input_as_it_is(seed: int):
    program = made(seed).program
    argument = random_input(Random(seed), program.takes)
    before = repr(argument)
    program(argument)
    assert repr(argument) == before


@given(seeds)
def test_strong_public_tests_refute_every_near_miss_that_hidden_ones_refute(seed: int):
    instance = made(seed)
    for miss in instance.program.near_misses():
        if any(miss(value) != expected for value, expected in instance.tests.hidden):
            assert any(miss(value) != expected for value, expected in instance.tests.public)


@given(seeds)
def test_weak_public_tests_let_a_wrong_program_pass(seed: int):
    instance = made(seed, weak=True)
    assert instance.tests.survivors
    for miss in instance.tests.survivors:
        assert all(miss(value) == expected for value, expected in instance.tests.public)
        assert any(miss(value) != expected for value, expected in instance.tests.hidden)


@given(seeds, some.integers(0, 3))
def test_tests_do_not_depend_on_the_wording(seed: int, vague: int):
    precise, worded = made(seed, vague=0), made(seed, vague=vague)
    assert (precise.program, precise.tests) == (worded.program, worded.tests)
    assert len(worded.vague) == vague
    said = worded.program.says(worded.vague).lower()
    for place, piece in enumerate(worded.program.pieces):
        assert (piece.family if place in worded.vague else piece.says).lower() in said


@given(seeds)
def test_public_and_hidden_tests_have_no_input_at_the_same_place(seed: int):
    instance = made(seed)
    prompt = instance.prompt()
    assert len(instance.tests.hidden) >= 10
    assert len(prompt_examples(prompt, instance.program.name)) == len(
        {repr(value) for value, _ in instance.tests.public}
    )


async def test_references_pass_and_survivors_are_false_positives_for_the_real_verifier(resources: Resources):
    task = LabCode(size=12, weak=0.5)
    kinds = set()
    for number, example in enumerate(task.examples()):
        instance = task.instance(number)
        weak = bool(instance.tests.survivors)
        source = instance.program.source()
        assert (await judged(example, source, resources)).passed
        assert (await judged(example, source, resources, public=True)).passed
        assert example.problem.metadata["public_tests"] == ("weak" if weak else "strong")
        kinds.add(weak)
        if weak:
            survivor = instance.tests.survivors[0].source()
            assert (await judged(example, survivor, resources, public=True)).passed
            assert not (await judged(example, survivor, resources)).passed
    assert kinds == {True, False}


async def test_the_body_alone_completes_the_prompt(resources: Resources):
    task = LabCode(size=1)
    (example,) = task.examples()
    body = task.instance(0).program.source().split("\n", 1)[1]
    assert (await judged(example, body, resources)).passed


def test_hidden_tests_stay_hidden():
    for number, example in enumerate(LabCode(size=30).examples()):
        instance = LabCode().instance(number)
        shown = example.problem.model_dump_json()
        public = [value for value, _ in instance.tests.public]
        hidden = [value for value, _ in instance.tests.hidden if value not in public]
        assert not any(isinstance(value, str) and f'"{value}"' in shown for value in hidden)
        assert instance.program.source().split("\n")[-1] not in shown


@given(some.integers(0, 1000), some.integers(2, 4), some.integers(0, 2))
def test_a_seed_gives_the_same_problems_again(seed: int, steps: int, vague: int):
    task = LabCode(seed=seed, steps=steps, vague=vague, size=2)
    again = make("tasks", task.config())
    assert [one.problem for one in task.examples()] == [one.problem for one in again.examples()]
    assert [one.truth for one in task.examples()] == [one.truth for one in again.examples()]


def test_training_and_evaluation_share_no_program():
    parts = {
        part: {LabCode(part=part, steps=2).instance(number).program.says() for number in range(150)}
        for part in ("test", "train")
    }
    assert not parts["test"] & parts["train"]
    assert {part_of(says) for says in parts["test"]} == {"test"}


def test_every_vague_wording_has_readings_that_differ():
    for family in {piece.family for piece in PIECES.values()}:
        group = readings(family)
        assert len({piece.code for piece in group}) == len(group) > 1
        arguments = (
            [random_input(Random(seed), group[0].takes) for seed in range(300)]
            if group[0].takes != "words"
            else [random_input(Random(seed), "text").split() for seed in range(300)]
        )
        results = {tuple(repr(piece(value)) for value in arguments) for piece in group}
        assert len(results) == len(group), family


def test_a_prompt_without_examples_is_still_a_function():
    assert prompt_for("def f(xs: list):", "Sum them.") == 'def f(xs: list):\n    """Sum them."""'
