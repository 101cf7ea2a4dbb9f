"""Tasks of Inspect, by the real package: their prompts, their scorers, and what cannot be had."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tts import Experiment, MockModel, registry, solve
from tts.errors import ConfigError
from tts.resources import Resources
from tts.session import Session
from tts.tasks import Example
from tts.types import Verdict

TASKS = """
from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import ChatMessageSystem, ChatMessageUser
from inspect_ai.scorer import Score, choice, includes, match, mean, scorer
from inspect_ai.solver import (
    chain_of_thought, generate, multiple_choice, prompt_template, self_critique, solver, system_message, use_tools
)
from inspect_ai.tool import bash

SUMS = MemoryDataset([Sample(id=f"{a}+{a}", input=f"What is {a} + {a}?", target=str(2 * a)) for a in (2, 3)])

@task
def sums(suffix="Be brief."):
    steps = [system_message("You add."), prompt_template("{prompt} " + suffix), generate()]
    return Task(dataset=SUMS, solver=steps, scorer=[match(numeric=True), includes()])

@task
def choices():
    sample = Sample(input="Which is a fruit?", choices=["stone", "apple", "chair"], target="B")
    return Task(dataset=[sample], solver=[chain_of_thought(), multiple_choice()], scorer=choice())

@task
def talks():
    said = [ChatMessageSystem(content="Hello."), ChatMessageUser(content="Say yes.")]
    return Task(dataset=[Sample(input=said, target="yes")], scorer=includes())

@scorer(metrics=[mean()])
def length():
    async def score(state, target):
        return Score(value=len(state.output.completion) / 10, explanation="its length", answer="x")
    return score

@task
def graded():
    return Task(dataset=[Sample(input="Write.", target="")], scorer=length())

@task
def twice():
    return Task(dataset=SUMS, solver=[generate(), generate()], scorer=match())

@solver
def doubts():
    async def solve(state, generate):
        state = await generate(state)
        while "sure" not in state.output.completion:
            state.messages.append(ChatMessageUser(content="Are you sure?"))
            state.messages.append(ChatMessageUser(content=f"You said {len(state.messages)} things."))
            state = await generate(state)
        return state
    return solve

@task
def doubted():
    return Task(dataset=SUMS, solver=[system_message("You add."), doubts()], scorer=match(numeric=True))

@solver
def forgets():
    async def solve(state, generate):
        state = await generate(state)
        state.messages[:] = [ChatMessageUser(content="Again.")]
        return await generate(state)
    return solve

@task
def forgetful():
    return Task(dataset=SUMS, solver=forgets(), scorer=match())

@task
def critical():
    return Task(dataset=SUMS, solver=[generate(), self_critique()], scorer=match())

@task
def tools():
    return Task(dataset=SUMS, solver=[use_tools(bash()), generate()], scorer=match())

@solver
def silent():
    async def solve(state, generate):
        return state
    return solve

@task
def nothing():
    return Task(dataset=SUMS, solver=silent(), scorer=match())

@task
def boxed():
    return Task(dataset=SUMS, scorer=match(), sandbox="local")

@task
def bare():
    return Task(dataset=SUMS)

def other():
    return 3
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("inspect_ai")  # which takes two seconds
    path = tmp_path_factory.mktemp("inspect") / "tasks.py"
    path.write_text(TASKS)
    return path


def examples(place: Path, name: str, **fields: Any) -> list[Example]:
    return list(registry.make("tasks", {"name": "inspect_task", "task": f"{place}@{name}", **fields}).examples())


async def graded(example: Example, answer: str) -> Verdict:
    async with Resources() as shared:
        session = Session(example.problem, {}, resources=shared)
        return await session.verify(session.candidate(answer), example.truth)


async def test_the_solver_makes_the_prompt_and_the_scorer_grades(place: Path):
    first, second = examples(place, "sums")
    assert (first.problem.id, second.problem.id) == ("2+2", "3+3")
    assert first.problem.messages == [
        {"role": "system", "content": "You add."},
        {"role": "user", "content": "What is 2 + 2? Be brief."},
    ]
    assert [(await graded(first, answer)).passed for answer in ("It is 4", "4 or 5", "four")] == [True, False, False]
    assert (await graded(second, "It is 6")).score == 1.0
    (other, _) = examples(place, "sums", args={"suffix": "Hurry."}, scorer=1)
    assert other.problem.messages[-1] == {"role": "user", "content": "What is 2 + 2? Hurry."}
    assert (await graded(other, "4 or 5")).passed is True


async def test_choices_are_put_into_letters_and_read_from_the_answer(place: Path):
    (one,) = examples(place, "choices")
    asked = one.problem.messages[-1]["content"]  # type: ignore[index]
    assert all(words in asked for words in ("Which is a fruit?", "A) stone", "B) apple", "C) chair"))
    assert [(await graded(one, f"ANSWER: {letter}")).passed for letter in "ABC"] == [False, True, False]


async def test_conversations_and_scores_that_are_numbers(place: Path):
    (one,) = examples(place, "talks")
    assert [message["role"] for message in one.problem.messages] == ["system", "user"]  # type: ignore[index]
    assert (await graded(one, "Oh yes.")).passed is True
    (one,) = examples(place, "graded", accept=0.5)
    verdict = await graded(one, "seven..")
    assert (verdict.score, verdict.passed, verdict.feedback) == (0.7, True, "its length")
    assert verdict.details == {"value": 0.7, "answer": "x"}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("twice", "more than once, and not by going on"),
        ("forgetful", "more than once, and not by going on"),
        ("critical", "No model specified"),
        ("tools", "gives the model tools"),
        ("nothing", "asks the model nothing"),
        ("boxed", "needs a sandbox"),
        ("bare", "has 0 scorers"),
        ("none", "cannot load .*AttributeError"),
        ("other", "no task of Inspect but int"),
    ],
)
def test_what_cannot_be_had_is_told(place: Path, name: str, words: str):
    with pytest.raises(ConfigError, match=words):
        examples(place, name)


async def test_a_solver_that_asks_again_is_an_environment_and_what_it_ends_with_is_scored(place: Path, tmp_path: Path):
    """It asks until the answer is sure; both the run's account and its score are of the whole conversation."""
    asked: list[Any] = []

    def answer(request: dict[str, Any]) -> str:
        asked.append(request["messages"])
        return "I am sure: 4" if len(asked[-1]) > 3 else "It is 5"

    first, _ = examples(place, "doubted")
    assert first.problem.messages[-1] == {"role": "user", "content": "What is 2 + 2?"}  # type: ignore[index]
    assert first.problem.model_dump(mode="json")["environment"].startswith("inspect_solver:task=")
    assert "inspect_solver" not in registry.names("environments")  # tasks alone make it
    table = {
        "task": {"name": "inspect_task", "task": f"{place}@doubted"},
        "strategies": [
            "self_consistency:n=2,answer=numeric_answer",
            "best_of_n:n=3,verifier=numeric_answer(reference=4)",
        ],
        "models": {"m": MockModel(answer)},
        "stop_early": False,
    }
    run = await Experiment.parse(table).run(tmp_path / "run")
    assert [message["content"] for message in asked[-1][1:]] == [
        asked[-1][1]["content"],
        "It is 5",
        "Are you sure?\n\nYou said 4 things.",
    ]
    for track, n in zip(run.tracks, (2, 3), strict=True):
        assert sorted(flags.tolist() for flags in track.correct) == [[0.0] * n, [1.0] * n]
        assert track.usage().requests == 2 * (1 + n)  # first answers come together
    before = len(asked)
    await Experiment.parse(table).run(tmp_path / "run", resume=True)
    assert len(asked) == before


async def test_a_search_over_turns_branches_in_a_solver(place: Path):
    first, _ = examples(place, "doubted")
    said = MockModel(lambda request: "I am sure: 4" if len(request["messages"]) > 3 else "It is 5")
    spec = "beam_search:n=4,width=2,verifier=judge"
    judge = MockModel(lambda request: "Score: 7")
    result = await solve(first.problem, spec, {"policy": said, "judge": judge}, stop_early=False)
    assert {one.content for one in result.candidates} == {"I am sure: 4"}
    assert len(result.candidates) == 4


def test_a_stranger_names_no_code(place: Path):
    spec = f'many_shot:examples=inspect_task(task="{place}@sums")'
    with registry.from_stranger(), pytest.raises(ConfigError, match="may not name code"):
        registry.make("strategies", spec)


async def test_a_run_over_a_task_of_inspect(place: Path, tmp_path: Path):
    said = iter(["It is 4", "5", "It is 6", "7"] * 2)
    table = {
        "task": {"name": "inspect_task", "task": f"{place}@sums"},
        "strategies": ["self_consistency:n=2,answer=numeric_answer"],
        "models": {"m": MockModel(lambda request: next(said), max_concurrency=1, max_n=4)},
    }
    run = await Experiment.parse(table).run(tmp_path / "run")
    (track,) = run.tracks
    assert sorted(float(flags.sum()) for flags in track.correct) == [1.0, 1.0]
