"""Prompts that can be replaced, and answers that are read strictly or not at all."""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated, Any

import pytest
from hypothesis import given
from hypothesis import strategies as some
from pydantic import BaseModel, ValidationError

from tests.support.double import Fault, FaultKind, ModelDouble
from tests.support.solving import PROBLEM, endpoint, everything
from tts.errors import ConfigError
from tts.prompting import (
    NoAnswer,
    ask,
    constrained,
    fill,
    insist,
    json_of,
    problem_text,
    prose,
    template,
    without_thoughts,
)
from tts.sampler import Sampler
from tts.sampler.mock import MockModel
from tts.session import Session
from tts.types import Problem


class Mark(BaseModel):
    """An answer's form."""

    mark: int
    why: str = ""


class Prompted(BaseModel):
    prompt: Annotated[str, template("question", "answer")] = "$question: is $answer right?"


read = json_of(Mark)


@pytest.mark.parametrize(
    "text",
    [
        '{"mark": 3}',
        'Sure! Here it is:\n```json\n{"mark": 3, "why": "a } in a text"}\n```\nGlad to help {smile}.',
        'First I thought {"mark": 1}. No: {"mark": 3}',
        'set {1, 2} and then {"mark": 3}',
    ],
)
def test_the_object_that_is_stated_counts_whatever_is_around_it(text: str):
    assert read(text).mark == 3


@pytest.mark.parametrize("text", ["", "no", '{"mark": 3', "{'mark': 3}", '{"mark": "many"}', '{"other": 3}', "[3]"])
def test_what_does_not_fit_is_never_guessed(text: str):
    with pytest.raises(ValueError, match=r"no JSON object|wrong fields"):
        read(text)


@given(some.text(alphabet='{}[]":,1a\\ ', max_size=300))
def test_no_text_breaks_the_reader(text: str):
    with suppress(ValueError):
        read(text)


def test_a_deeply_nested_text_is_refused_and_breaks_nothing():
    with pytest.raises(ValueError, match="no JSON object"):
        read('{"mark":' * 20_000)


def test_a_prompt_with_a_name_that_means_nothing_is_refused_with_those_that_do():
    with pytest.raises(ValidationError, match=r"\$reply; it can have \$question, \$answer"):
        Prompted(prompt="Is $reply right?")
    with pytest.raises(ValidationError, match=r"\$ alone"):
        Prompted(prompt="It costs 3 $")


@given(some.text(), some.text())
def test_values_are_filled_in_as_they_are(question: str, answer: str):
    assert fill(Prompted().prompt, question=question, answer=answer) == f"{question}: is {answer} right?"


async def test_answers_out_of_form_are_noted_and_paid_for_and_the_others_are_given():
    said = ['{"mark": 1}', "I would rather not say.", '{"mark": 2}']

    async with (
        ModelDouble(answer=lambda request, rng: said[rng.integers(0, 3)]) as double,
        Sampler(endpoint(double)) as model,
    ):
        session = Session(PROBLEM, {"judge": model})
        found = await everything(ask(session, "Mark it.", read, role="judge", n=24, max_tokens=64))
    assert {mark.mark for _, mark in found} == {1, 2}
    assert len(found) + len(session.ledger.failures) == 24
    assert all("not in form: there is no JSON object" in failure for failure in session.ledger.failures)
    assert session.spent.completion_tokens == double.stats.completion_tokens


async def test_a_server_is_asked_to_hold_the_model_to_the_form():
    seen: list[dict[str, Any]] = []

    def answer(request: dict[str, Any], rng: object) -> str:
        seen.append(request)
        return '{"mark": 1}'

    async with ModelDouble(answer=answer) as double, Sampler(endpoint(double)) as model:
        await everything(ask(Session(PROBLEM, {"judge": model}), "Mark it.", read, role="judge", **constrained(Mark)))
    form = seen[0]["response_format"]["json_schema"]
    assert form["schema"]["required"] == ["mark", "why"]
    assert form["schema"]["additionalProperties"] is False
    assert "default" not in form["schema"]["properties"]["why"]


@pytest.mark.parametrize("text", ["", " \n", "I'm sorry, but I can't help with that.", "I cannot do this.", "Sorry."])
def test_silence_and_refusals_are_no_prose(text: str):
    with pytest.raises(ValueError, match=r"empty|refuses"):
        prose(text)


def test_prose_that_speaks_of_sorrow_is_prose():
    assert prose(" Sort the list.\n") == "Sort the list."
    assert prose("I can sort the list.") == "I can sort the list."
    assert prose("<think>I'm sorry to say it is hard.</think>\nSort it.") == "Sort it."


async def test_what_is_cut_off_is_left_out_even_where_it_could_be_read():
    said = ModelDouble(answer=lambda request, rng: '{"mark": 1} and so on')
    async with said as double, Sampler(endpoint(double)) as model:
        session = Session(PROBLEM, {"judge": model})
        found = await everything(ask(session, "Mark it.", read, role="judge", max_tokens=14))
    assert not found
    assert "cut off" in session.ledger.failures[0]


async def test_an_answer_is_asked_for_until_it_can_be_read_and_all_tries_are_paid():
    said = iter(["no", '{"mark": 7}', '{"mark": 8}'])
    asked: list[float] = []

    def answer(request: dict[str, Any]) -> str:
        asked.append(request["temperature"])
        return next(said)

    tries = [{"temperature": 0.0}, {"temperature": 0.2}, {"temperature": 0.4}]
    async with Sampler(MockModel(answer)) as model:
        session = Session(PROBLEM, {"judge": model})
        samples, mark = await insist(session, "Mark it.", read, role="judge", tries=tries)
    assert mark.mark == 7
    assert asked == [0.0, 0.2]
    assert {charge for sample in samples for charge in sample.charges} == session.ledger.paid


@pytest.mark.parametrize("faults", [None, Fault(FaultKind.BAD_REQUEST)], ids=["unreadable", "rejected"])
async def test_no_usable_answer_is_one_error_with_the_reasons_noted(faults: Fault | None):
    said = ModelDouble(answer=lambda request, rng: "no", faults=faults)
    async with said as double, Sampler(endpoint(double)) as model:
        session = Session(PROBLEM, {"judge": model})
        with pytest.raises(NoAnswer):
            await insist(session, "Mark it.", read, role="judge", tries=[{}, {}])
    assert len(session.ledger.failures) == 2


def test_the_text_of_a_problem_is_that_of_all_its_messages():
    assert problem_text(Problem.from_prompt("What?", system="Be brief.")) == "Be brief.\n\nWhat?"
    assert problem_text(Problem(id="p", messages="def f():")) == "def f():"
    with pytest.raises(ConfigError, match="more than text"):
        problem_text(Problem(id="p", messages=[{"role": "user", "content": [{"type": "image_url"}]}]))


# -- what is a model's own, and what it quotes or only thinks --------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        '{"mark": 1}\nThe answer itself says {"mark": 10}, which counts for nothing.',
        '{"mark": 1, "why": "bad"} although it asks for {"mark": 10}',
        'I give {"mark": 1}; it wants `{"mark": 10}`.',
        'I give {"mark": 1}; it wants “{"mark": 10}”.',
        '```json\n{"mark": 1}\n```\nIt tried {"mark": 10} on me.',
        '<think>{"mark": 10}\n</think>\n{"mark": 1}',
    ],
)
def test_an_object_that_is_quoted_or_thought_does_not_count(text: str):
    assert read(text).mark == 1


def test_two_objects_that_differ_are_not_chosen_from():
    with pytest.raises(ValueError, match="several JSON objects that differ"):
        read('{"mark": 1}\n{"mark": 10}')
    assert read('{"mark": 1}\n{"mark": 1}').mark == 1


class Reply(BaseModel):
    sure: bool
    marks: list[int] = []


def test_true_is_no_number():
    with pytest.raises(ValueError, match="true or false"):
        read('{"mark": true}')
    with pytest.raises(ValueError, match="true or false"):
        json_of(Reply)('{"sure": true, "marks": [1, false]}')
    assert json_of(Reply)('{"sure": true, "marks": [1]}').sure is True


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("<think>maybe 24</think>72", "72"),
        ("the prompt began it</think>72", "72"),
        ("72<think>it has no end", "72"),
        ("<THINKING>a</thinking>72", "72"),
        ("<thought>a</thought>72", "72"),
        ("<reasoning><think>a</think>24</reasoning>72", "72"),
        ("<think>a <think> b</think>72", "72"),
        ("<seed:think>a</seed:think>72", "72"),
        ("[THINK]a[/THINK]72", "72"),
        ("◁think▷a◁/think▷72", "72"),
        ("<|begin_of_thought|>a<|end_of_thought|>72", "72"),
        ("<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>72", "72"),
        ("<think>" + "a" * 300_000 + "</think>72", "72"),
        ("<think>a</think>72" + "b" * 300_000, "72" + "b" * 300_000),
        ("<think>" + "a" * 300_000, ""),
        ("if a < b, and a think > b", "if a < b, and a think > b"),
    ],
)
def test_thoughts_are_left_out(text: str, said: str):
    assert without_thoughts(text) == said


@pytest.mark.parametrize(
    "text",
    [
        'The mark: {"mark": 1} (the text says {"mark": 10})',
        '{"mark": 1} is mine, although the text says {"mark": 10}',
        '{"mark": 1} // {"mark": 10}',
        '{"mark": 1}\n> {"mark": 10}',
        'I would not say {"mark": 10}. {"mark": 1}',
    ],
)
def test_what_is_only_mentioned_does_not_count(text: str):
    assert read(text).mark == 1


@pytest.mark.parametrize(
    "text",
    [
        'Mine: {"mark": 1}\nTheirs: {"mark": 10}',
        '[{"mark": 1}, {"mark": 10}]',
        '{"mark": 1, "mark": 10}',
        '<think>{"mark": 10}',
    ],
)
def test_what_may_be_either_is_no_answer(text: str):
    with pytest.raises(ValueError, match="JSON object"):
        read(text)
