"""Longer inputs: solved examples and passages before the question, and what they cost and buy."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.calibration import corpus
from tests.support.double import ModelDouble
from tests.support.rewards import RewardDouble
from tests.support.solving import endpoint
from tts import Candidate, Endpoint, Experiment, MockModel, Problem, Result, Verifier, registry, solve
from tts.errors import ConfigError
from tts.lab.lab_math import LabMath
from tts.strategies.many_shot import ManyShot, solution_of
from tts.studies.sweep import Sweep
from tts.tasks.gsm8k import GSM8K
from tts.tasks.jsonl import Jsonl

POOL = "lab_math(part=train,size=30,steps=2)"
PROBLEM = Problem.from_prompt("What is 6 times 7?", system="Be brief.", answer="numeric_answer")


def many_shot(k: int, examples: str = POOL) -> ManyShot:
    made = registry.make("strategies", f"many_shot:k={k},examples={examples}")
    assert isinstance(made, ManyShot)
    return made


async def sent(spec: str, problem: Problem = PROBLEM, **settings: Any) -> tuple[Any, Result]:
    """The messages, or the raw text, of the only request, and the result."""
    bodies: list[dict[str, Any]] = []

    def answer(body: dict[str, Any]) -> str:
        bodies.append(body)
        return "Answer: 42"

    result = await solve(problem, spec, MockModel(answer), **settings)
    (body,) = bodies
    return body.get("messages", body.get("prompt")), result


# -- many_shot ---------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 5), st.integers(0, 29), st.integers(0, 28), st.booleans())
def test_examples_are_nested_in_k_the_seeds_and_never_the_problem_itself(seed: int, place: int, k: int, shouts: bool):
    pool = list(registry.make("tasks", POOL).examples())
    text = str(pool[place].problem.turns[0]["content"])
    problem = Problem.from_prompt(f" {text.upper()}\n" if shouts else text)
    shown = many_shot(k).shown(problem, seed)
    assert shown == many_shot(k + 1).shown(problem, seed)[:k] == many_shot(k).shown(problem, seed)
    assert len(shown) == k
    assert pool[place].problem.id not in {one.problem.id for one in shown}
    assert len({one.problem.id for one in shown}) == k


def test_another_seed_shows_other_examples_and_another_problem_the_same():
    other = Problem.from_prompt("Another one?")
    assert many_shot(4).shown(PROBLEM, 0) == many_shot(4).shown(other, 0) != many_shot(4).shown(PROBLEM, 1)


async def test_examples_are_turns_between_the_system_message_and_the_question():
    said, result = await sent(f"many_shot:k=2,examples={POOL}")
    shown = many_shot(2).shown(PROBLEM, 0)
    assert [turn["role"] for turn in said] == ["system", "user", "assistant", "user", "assistant", "user"]
    assert [turn["content"] for turn in said[2::2]] == [one.solution for one in shown]
    assert [*said[:1], *said[-1:]] == PROBLEM.turns
    assert result.text == "Answer: 42"
    plain, _ = await sent("many_shot:k=0")
    assert list(plain) == PROBLEM.turns


async def test_examples_of_a_raw_text_are_texts_before_it():
    said, _ = await sent(f"many_shot:k=1,examples={POOL}", Problem(id="raw", messages="6 * 7 = ?\n"))
    (one,) = many_shot(1).shown(PROBLEM, 0)
    assert said == f"{one.problem.turns[0]['content']}\n{one.solution}\n\n6 * 7 = ?\n"


async def test_verifiers_see_the_question_alone():
    seen: list[Any] = []

    class Watching(Verifier):
        def check(self, problem: Problem, candidate: Candidate) -> bool:
            seen.append(problem)
            return True

    passages = corpus("Seven times six is asked for often.")
    for spec in (f"many_shot:k=2,examples={POOL}", f'retrieve:k=1,corpus="{passages}"'):
        said, _ = await sent(f"{spec},strategy=best_of_n(n=1)", verifier=Watching())
        assert list(said) != PROBLEM.turns
    assert seen == [PROBLEM, PROBLEM]


def test_a_solution_is_the_worked_one_else_the_answer_alone(tmp_path: Path):
    path = tmp_path / "solved.jsonl"
    lines = [
        {"prompt": "1 + 1?", "answer": 2, "solution": "One more than one.\nAnswer: 2"},
        {"prompt": "1 + 2?", "answer": 3},
        {"prompt": "Write f.", "tests": {"asserts": ["assert f() == 1"]}},
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    examples = list(registry.make("tasks", f'jsonl:path="{path}"').examples())
    assert [solution_of(one) for one in examples] == ["One more than one.\nAnswer: 2", "Answer: 3", ""]
    with pytest.raises(ConfigError, match="has 2 examples besides"):
        many_shot(3, f'jsonl(path="{path}")').ready(PROBLEM)
    train = tmp_path / "train.jsonl"
    train.write_text(json.dumps({"question": "Half of 48?", "answer": "It is 48/2 = <<48/2=24>>24.\n#### 24"}))
    (one,) = GSM8K(path=train, split="train").examples()
    assert (one.problem.id, one.solution) == ("gsm8k/train/0", "It is 48/2 = 24.\nAnswer: 24")


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("many_shot:k=2", "has no training split: examples=TASK"),
        (f"many_shot:k=31,examples={POOL}", "lower k=31"),
        ("many_shot:k=1,examples=humaneval(path=/none)", "no file /none"),
        ("retrieve:k=2", "needs passages: corpus=FILE"),
        ("retrieve:k=2,corpus=/none", "there is no file /none"),
        ("many_shot:strategy=best_of_n(verifier=judge)", "give verifier= and policies= to many_shot"),
    ],
)
async def test_what_cannot_be_shown_is_said_before_anything_is_sent(spec: str, words: str):
    async with ModelDouble() as double:
        with pytest.raises(ConfigError, match=words):
            await solve(PROBLEM, spec, endpoint(double))
        assert not double.stats.received


@pytest.mark.parametrize("spec", [f"many_shot:examples={POOL}", "retrieve:corpus=/etc/passwd"])
def test_a_request_may_not_name_what_is_read(spec: str):
    with registry.from_stranger(), pytest.raises(ConfigError, match=r"a request may not name (files|tasks)"):
        registry.make("strategies", spec)


@pytest.mark.parametrize("nested", ["{}", "retrieve:k=0,strategy={}"])
async def test_a_runs_examples_come_from_its_tasks_training_split_never_from_its_test(nested: str, tmp_path: Path):
    seen: list[str] = []

    def answer(body: dict[str, Any]) -> str:
        seen.extend(turn["content"] for turn in body["messages"][:-1])
        return "Answer: 42"

    inner = "many_shot:k=3" if nested == "{}" else "many_shot(k=3)"
    table = {
        "task": "lab_math:size=6,steps=2",
        "strategies": [nested.format(inner)],
        "models": {"m": MockModel(answer)},
    }
    experiment = Experiment.parse(table)
    run = await experiment.run(tmp_path / "run")
    assert "lab_math(size=1000,steps=2,part=train)" in run.tracks[0].method.spec
    tested = {str(one.problem.turns[-1]["content"]) for one in LabMath(size=400, steps=2).examples()}
    assert seen
    assert tested.isdisjoint(seen)
    named = Experiment.parse({**table, "strategies": [f"many_shot:k=2,examples={POOL}"]})
    assert named.strategies == (registry.make("strategies", f"many_shot:k=2,examples={POOL}"),)
    assert GSM8K().training == GSM8K(split="train")
    assert GSM8K(split="train").training is LabMath(part="train").training is None
    hub = [Jsonl(path=Path("hf:some/set"), split=split) for split in ("validation", "train", "train[:50%]")]
    assert [one.training for one in hub] == [hub[1], None, None]
    assert Jsonl(path=tmp_path / "problems.jsonl").training is None
    with pytest.raises(ConfigError, match="has no training split: examples=TASK"):
        await Experiment.parse({**table, "task": "maze:each=1"}).run(tmp_path / "none")


# -- retrieve ----------------------------------------------------------------------------------------------------------

PASSAGES = (
    "Bread needs 220 degrees.",
    "Six and seven: their product is one less than 43.",
    "They asked: what is 6 times 7? Nobody knew.",
    "Times change, and six months later nobody knew what a bakery is.",
)


@pytest.mark.parametrize("lines", [True, False])
async def test_the_best_passages_stand_before_the_question_nested_in_k(lines: bool, tmp_path: Path):
    path = corpus(*PASSAGES, folder=tmp_path)
    if not lines:
        path = tmp_path / "corpus.txt"
        path.write_text("\n\n".join(PASSAGES) + "\n\n\n")
    question = Problem.from_prompt("What is the product of six and seven?", system="Be brief.")
    texts = []
    for k in range(5):
        said, _ = await sent(f'retrieve:k={k},corpus="{path}"', question)
        assert said[0] == question.turns[0]
        assert said[-1]["content"].endswith("What is the product of six and seven?")
        texts.append([one for one in PASSAGES if one in said[-1]["content"]])
    assert [len(one) for one in texts] == [0, 1, 2, 3, 3]  # one shares no word with it
    assert texts[1] == [PASSAGES[1]]
    assert all(set(few) <= set(more) for few, more in pairwise(texts))


async def test_a_passage_that_has_the_question_itself_is_passed_over():
    problem = Problem.from_prompt("What is  6 times 7?")
    said, _ = await sent(f'retrieve:k=9,corpus="{corpus(*PASSAGES)}"', problem)
    assert "Nobody knew." not in said[-1]["content"]
    assert "Times change" in said[-1]["content"]
    alone, _ = await sent(f'retrieve:k=9,corpus="{corpus("Bread.")}"', problem)
    assert list(alone) == problem.turns


async def test_pictures_stay_where_they_are_and_an_empty_corpus_is_refused(tmp_path: Path):
    (tmp_path / "empty.txt").write_text("\n \n")
    with pytest.raises(ConfigError, match="has no passages"):
        await sent(f'retrieve:corpus="{tmp_path}/empty.txt"')
    parts = [{"type": "text", "text": "six"}, {"type": "image_url", "image_url": {"url": "data:,"}}]
    with pytest.raises(ConfigError, match="more than text"):
        await sent("retrieve:k=1", Problem(id="p", messages=[{"role": "user", "content": parts}]))


def meaning(text: str) -> list[float]:
    """How much of a text is about kitchens, and how much about anything else."""
    kitchen = sum(text.count(word) for word in ("Bread", "oven", "bak"))
    return [kitchen + 0.1, len(text) / 100]


@pytest.mark.parametrize("lists", [True, False])
async def test_passages_are_ranked_by_what_they_mean_and_the_problem_pays_for_that(lists: bool):
    question = Problem.from_prompt("How hot is an oven?")
    path, models = corpus(*PASSAGES), {"policy": MockModel(lambda body: said.append(body) or "Answer: 42")}
    said: list[Any] = []
    texts: list[list[str]] = []
    async with RewardDouble(embed=meaning, lists=lists) as server:
        models["embed"] = Endpoint(model="reward", base_url=server.base_url)
        for k in range(5):
            before, tokens = len(server.asked), server.prompt_tokens
            result = await solve(question, f'retrieve:k={k},embed=true,corpus="{path}"', models)
            shown = said[-1]["messages"][-1]["content"]
            texts.append(sorted((one for one in PASSAGES if one in shown), key=shown.index))
            (selected,) = result.candidates
            paid = [charge.usage for charge in selected.charges if charge.role == "embed"]
            assert sum(one.prompt_tokens for one in paid) == server.prompt_tokens - tokens
            assert len(server.asked) - before == (0 if not k else 1 if lists else 2 + len(PASSAGES))
    assert texts[1] == [PASSAGES[0]]  # no word of it is in the question
    assert all(more[: len(few)] == few for few, more in pairwise(texts))
    assert len(texts[4]) == 4


async def test_only_what_words_rank_highest_is_embedded_and_no_embedding_loses_the_problem_alone():
    path, question = corpus(*PASSAGES), Problem.from_prompt("The product of six and seven?")
    async with RewardDouble(embed=lambda text: [0.0]) as server:
        embed = Endpoint(model="reward", base_url=server.base_url)
        models = {"policy": MockModel(lambda body: "Answer: 42"), "embed": embed}
        result = await solve(question, f'retrieve:k=1,embed=true,among=2,corpus="{path}"', models)
        ((_, body),) = server.asked
        assert body["input"][:2] == ["The product of six and seven?", PASSAGES[1]]
        assert len(body["input"]) == 3
        assert result.selected is None
        assert "has no embedding" in result.failures[0]
    with pytest.raises(ConfigError, match="embed"):
        await solve(question, f'retrieve:k=1,embed=true,corpus="{path}"', MockModel(str))


# -- the sweep ---------------------------------------------------------------------------------------------------------


@pytest.fixture
async def swept(tmp_path: Path) -> Any:
    """A run of a model that is right iff it has seen two examples or more."""

    def learner(request: dict[str, Any], rng: np.random.Generator) -> str:
        return "Answer: 42" if len(request["messages"]) >= 5 else "Answer: 0"

    path = tmp_path / "problems.jsonl"
    path.write_text("\n".join(json.dumps({"prompt": f"Problem {i}?", "answer": 42}) for i in range(12)))
    specs = [f"many_shot:k={k},examples={POOL},strategy=self_consistency(n=2)" for k in (4, 0, 2, 1)]
    async with ModelDouble(answer=learner) as double:
        table = {"task": f'jsonl:path="{path}"', "models": endpoint(double), "strategies": [*specs, "single"]}
        yield await Experiment.parse({**table, "seeds": [0, 1]}).run(tmp_path / "run")


async def test_a_sweep_shows_what_each_value_costs_and_gains_over_the_lowest(swept: Any, tmp_path: Path):
    figure = tmp_path / "sweep.svg"
    found = Sweep(plot=figure).findings({"": swept})
    assert isinstance(found.data, list)
    assert [row["value"] for row in found.data] == [0, 1, 2, 4]
    assert [row["accuracy"] for row in found.data] == [0, 0, 1, 1]
    assert [row["gain"] for row in found.data] == [None, 0, 1, 1]
    costs = [row["cost"] for row in found.data]
    assert costs == sorted(costs)
    assert len(set(costs)) == 4
    track = next(one for one in swept.tracks if one.method.name == "many_shot" and one.method.k == 4)
    assert costs[3] == pytest.approx(np.mean([part[-1] for part in track.cost("prompt_tokens")]))
    assert "prompt tokens" in figure.read_text()
    with pytest.raises(ConfigError, match="differ in n alone"):
        Sweep(of="n").findings({"": swept})
