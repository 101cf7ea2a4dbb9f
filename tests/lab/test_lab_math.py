"""lab_math: every reference is right, every line of a solution is judged exactly, and no instance is in both parts."""

from __future__ import annotations

import ast
from itertools import islice
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from tts.errors import ConfigError
from tts.lab.lab_math import LabMath, Operation, SteppedAnswer, part_of, random_tree, solution, step_labels, wording
from tts.registry import make
from tts.session import Session

trees = some.builds(
    lambda seed, steps, digits, chain: random_tree(Random(seed), steps, digits, chain),
    some.integers(0, 10**9),
    some.integers(1, 10),
    some.integers(1, 4),
    some.booleans(),
)
TREE = Operation(Operation(37, "+", 58), "*", Operation(9, "-", 5))


def truth_of(example: Any) -> SteppedAnswer:
    assert isinstance(example.truth, SteppedAnswer)
    return example.truth


@given(trees)
def test_the_answer_is_what_python_calculates(tree: Operation):
    assert tree.value == eval(wording(tree, "symbols").removesuffix(" = ?"))
    assert solution(tree).endswith(f"Answer: {tree.value}")


@given(trees)
def test_every_line_of_the_reference_is_right(tree: Operation):
    assert all(step_labels(tree, solution(tree)))


@given(trees, some.randoms(use_true_random=False))
def test_a_wrong_digit_is_found_where_it_is(tree: Operation, rng: Random):
    lines = solution(tree).split("\n")
    place = rng.randrange(len(lines))
    head, _, result = lines[place].rpartition(" ")
    lines[place] = f"{head} {int(result) + rng.choice([-1, 1, 10])}"
    assert step_labels(tree, "\n".join(lines)) == [True] * place + [False] * (len(lines) - place)


@given(trees)
def test_values_stay_within_the_digits_asked_for(tree: Operation):
    for line in tree.steps():
        left, right, value = (int(word) for word in (line.split()[0], line.split()[2], line.split()[4]))
        assert min(left, right, value) >= 0
        assert value < 10**5


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("9 - 5 = 4\n37 + 58 = 95\n95 * 4 = 380\nAnswer: 380", [True] * 4),  # in another order
        ("37 + 58 = 95\n\n95 * 4 = 380\nAnswer: 380", [True, False, False]),  # a number that was not calculated yet
        ("37 + 58 = 95\n37 + 58 = 95", [True, False]),  # twice
        ("58 + 37 = 95", [False]),  # not what the problem says
        ("Answer: 380", [False]),  # right, but nothing was worked out
        ("37 + 58 = 95\nso 95 * 4", [True, False]),
        ("", []),
    ],
)
def test_a_step_must_do_what_is_still_to_be_done(text: str, labels: list[bool]):
    assert step_labels(TREE, text) == labels


def test_the_truth_is_that_of_the_instance_however_it_is_worded():
    words, symbols = LabMath(style="words", size=40), LabMath(style="symbols", size=40)
    for example in [*words.examples(), *symbols.examples()]:
        tree = truth_of(example).tree
        assert example.truth.reference == str(tree.value)  # type: ignore[attr-defined]
        assert str(tree.value) not in example.problem.model_dump_json(exclude={"messages", "id"})
    chain = next(iter(words.examples()))
    assert wording(truth_of(chain).tree, "words") == chain.problem.messages[0]["content"]  # type: ignore[index]


async def test_a_graded_solution_has_the_labels_of_its_steps():
    example = next(iter(LabMath(seed=3).examples()))
    tree = truth_of(example).tree
    session = Session(example.problem, {})
    verdict = await example.truth.verify(example.problem, session.candidate(solution(tree)), session)
    assert verdict.passed
    assert verdict.details["steps"] == [True] * (len(tree.steps()) + 1)
    lucky = await example.truth.verify(example.problem, session.candidate(f"Answer: {tree.value}"), session)
    assert lucky.passed
    assert lucky.details["steps"] == [False]


@given(some.integers(0, 1000), some.integers(1, 8), some.integers(1, 3))
def test_a_seed_gives_the_same_problems_again(seed: int, steps: int, digits: int):
    task = LabMath(seed=seed, steps=steps, digits=digits, size=3)
    again = make("tasks", task.config())
    assert [one.problem for one in task.examples()] == [one.problem for one in again.examples()]
    assert [one.truth for one in task.examples()] == [one.truth for one in again.examples()]


def test_problems_go_on_without_end_and_their_prefix_does_not_depend_on_the_size():
    endless = LabMath(size=None).examples()
    few = [example.problem for example in LabMath(size=5).examples()]
    assert [example.problem for example in islice(endless, 5)] == few
    assert sum(1 for _ in islice(endless, 500)) == 500


def test_training_and_evaluation_share_no_instance():
    held_out = {str(truth_of(example).tree) for example in LabMath(size=400, steps=2, digits=1).examples()}
    trained = {str(truth_of(example).tree) for example in LabMath(size=400, steps=2, digits=1, part="train").examples()}
    assert held_out
    assert not held_out & trained
    assert {part_of(content) for content in held_out} == {"test"}


def test_difficulty_is_the_number_of_steps_and_digits():
    for steps, digits in ((1, 1), (4, 3), (8, 2)):
        for example in LabMath(steps=steps, digits=digits, size=30).examples():
            tree = truth_of(example).tree
            given_numbers = [node.value for node in ast.walk(ast.parse(str(tree))) if isinstance(node, ast.Constant)]
            assert len(tree.steps()) == steps
            assert max(given_numbers) < 10**digits  # type: ignore[type-var]


def test_a_range_of_steps_mixes_all_lengths_reproducibly():
    task = make("tasks", "lab_math:steps=[2,4],size=60")
    lengths = [len(truth_of(example).tree.steps()) for example in task.examples()]
    assert set(lengths) == {2, 3, 4}
    again = make("tasks", task.spec)
    assert [one.problem for one in task.examples()] == [one.problem for one in again.examples()]
    with pytest.raises(ConfigError, match=r"smaller number first: \[2, 4\]"):
        make("tasks", "lab_math:steps=[4,2]")
