"""How well a lab model plays the roles that strategies and verifiers give it: held-out problems, greedy answers."""

from __future__ import annotations

import json
from ast import literal_eval
from collections.abc import Sequence
from contextlib import suppress
from random import Random
from string import Template

import torch
from corpus import plan_of, refutation, slipped
from evaluate import graded
from model import LanguageModel
from sampling import sample
from transformers import PreTrainedTokenizerFast

from tts import lab
from tts.lab.lab_code import Instance, LabCode
from tts.lab.lab_math import LabMath, SteppedAnswer, solution
from tts.resources import Resources
from tts.tasks import Example

GREEDY = 0.01  # the temperature


class Player:
    """A model that answers greedily."""

    def __init__(self, model: LanguageModel, tokenizer: PreTrainedTokenizerFast) -> None:
        self._model, self._tokenizer = model, tokenizer

    def __call__(self, prompts: Sequence[str]) -> list[str]:
        """An answer to each prompt."""
        generator = torch.Generator().manual_seed(0)
        return [text for (text,) in sample(self._model, self._tokenizer, list(prompts), 1, GREEDY, generator)]

    def filled(self, template: str, *values: dict[str, str]) -> list[str]:
        """An answer to the template filled with each set of values."""
        return self([Template(template).substitute(one) for one in values])


async def evaluate_roles(model: LanguageModel, tokenizer: PreTrainedTokenizerFast, problems: int) -> dict[str, float]:
    """The fraction of `problems` that each role gets right: programs pass the hidden tests, verdicts are true.

    Plans and rewritten prompts count by the program that the model then writes from them.
    """
    player, task = Player(model, tokenizer), LabCode(size=problems)
    examples, made = list(task.examples()), [task.instance(number) for number in range(problems)]
    asked = [{"problem": one.prompt()} for one in made]

    async def right(programs: Sequence[str], which: Sequence[Example] = examples) -> float:
        async with Resources() as resources:
            verdicts = [await graded(one, text, resources) for one, text in zip(which, programs, strict=True)]
        return round(sum(verdicts) / len(verdicts), 4)

    def coded(plans: Sequence[str]) -> list[str]:
        return player.filled(lab.CODE, *({**one, "plan": plan} for one, plan in zip(asked, plans, strict=True)))

    observed = [_bullets(text) for text in player.filled(lab.OBSERVE, *asked)]
    plans = player.filled(lab.PLAN, *({**one, "observations": said} for one, said in zip(asked, observed, strict=True)))
    rng = Random("roles")
    refuted = [(number, *found) for number, one in enumerate(made) if (found := refutation(rng, one))]
    wrong = [{**asked[number], "answer": miss.source(), "feedback": said} for number, miss, said in refuted]
    failing = [{**asked[number], "failures": f"- {said}"} for number, _, said in refuted]
    failed = [examples[number] for number, *_ in refuted]
    return {
        "problem, code": await right(player([one["problem"] for one in asked])),
        "idea, code": await right(coded(player.filled(lab.IDEA, *asked))),
        "observations, plan, code": await right(coded(plans)),
        "right plan, code": await right(coded([plan_of(one.program) for one in made])),
        "repair of a wrong program": await right(player.filled(lab.REPAIR, *wrong), failed),
        "rewrite after a failure, code": await right(player(player.filled(lab.REWRITE, *failing)), failed),
        "verdicts on programs": _judged(player, [(p, a, ok) for one in made for p, a, ok in _programs(rng, one)]),
        "verdicts on calculations": _judged(player, _calculations(rng, problems)),
        "asserts that hold": _holding(made, player.filled(lab.TESTS, *asked)),
    }


def _bullets(text: str) -> str:
    with suppress(ValueError, KeyError, TypeError):
        return "\n".join(f"- {line}" for line in json.loads(text)["observations"])
    return ""


def _programs(rng: Random, made: Instance) -> list[tuple[str, str, bool]]:
    """Each problem with its right program and a wrong one."""
    found = refutation(rng, made)
    pairs = [(made.prompt(), made.program.source(), True)]
    return [*pairs, (made.prompt(), found[0].source(), False)] if found else []


def _calculations(rng: Random, problems: int) -> list[tuple[str, str, bool]]:
    """Each problem with a right solution and a wrong one."""
    found = []
    for example in LabMath(size=problems).examples():
        assert isinstance(example.truth, SteppedAnswer)
        question, tree = example.problem.messages[0]["content"], example.truth.tree  # type: ignore[index]
        found += [(question, solution(tree), True), (question, slipped(rng, tree), False)]
    return found


def _judged(player: Player, asked: Sequence[tuple[str, str, bool]]) -> float:
    """The fraction of right verdicts on (problem, answer, whether it is right)."""
    said = player.filled(lab.JUDGE, *({"problem": problem, "answer": answer} for problem, answer, _ in asked))
    hits = [text.startswith("Yes") == right for text, (*_, right) in zip(said, asked, strict=True)]
    return round(sum(hits) / len(hits), 4)


def _holding(made: Sequence[Instance], answers: Sequence[str]) -> float:
    """The fraction of the written asserts that hold for the right program; an unreadable one does not."""
    held: list[bool] = []
    for one, text in zip(made, answers, strict=True):
        for line in filter(None, text.splitlines()):
            held.append(False)
            with suppress(Exception):  # a model wrote it
                call, expected = line.removeprefix("assert ").rsplit(" == ", 1)
                given = call.removeprefix(f"{one.program.name}(").removesuffix(")")
                held[-1] = one.program(literal_eval(given)) == literal_eval(expected)
    return round(sum(held) / max(1, len(held)), 4)
