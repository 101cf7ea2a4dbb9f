"""What the lab models are trained on: right answers, never an instance of the evaluation."""

from __future__ import annotations

import ast
import json
import sys
from itertools import islice
from pathlib import Path
from random import Random

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "experiments" / "lab_models"))

import corpus  # pyright: ignore[reportMissingImports]

from tts.lab.lab_code import PIECES, LabCode
from tts.lab.lab_math import LabMath, step_labels


def test_no_problem_of_the_evaluation_is_trained_on():
    held_out = {
        example.problem.messages[0]["content"]  # type: ignore[index]
        for steps in (1, 2, 3)
        for example in LabMath(steps=steps, digits=1, size=150).examples()
    }
    programs = {LabCode(steps=2).instance(number).program.source().split("\n", 1)[1] for number in range(150)}
    for dialogue in islice(corpus.dialogues("test"), 3000):
        assert dialogue.prompt.split("\n")[0] not in held_out
        assert dialogue.answer.split("\n", 1)[-1] not in programs


def test_a_slip_makes_the_solution_wrong_from_one_line_on():
    rng = Random(0)
    for _ in range(100):
        tree, _ = corpus.random_question(rng)
        labels = step_labels(tree, corpus.slipped(rng, tree))
        assert len(labels) == len(tree.steps()) + 1
        assert not labels[-1]


@pytest.mark.parametrize("role", corpus.MIXTURE, ids=lambda role: role.__name__)
def test_every_role_answers_in_its_form(role: corpus.Role):
    for seed in range(30):
        prompt, answer, weight = role(Random(seed))
        assert "$" not in prompt
        assert role(Random(seed)) == (prompt, answer, weight)
        if role in (corpus.solve_code, corpus.code, corpus.repair, corpus.write_tests):
            ast.parse(answer)
        elif role is corpus.rewrite:
            ast.parse(answer)
            assert all(piece.lower() in answer.lower() for piece in PIECES if f", then {piece}," in answer)
        elif role in (corpus.observe, corpus.derive):
            assert all(said in PIECES for said in json.loads(answer)["observations"])
        elif role in (corpus.idea, corpus.plan, corpus.replan):
            assert all(line.partition(". ")[2] in PIECES for line in answer.split("\n"))
        elif role in (corpus.judge_math, corpus.judge_code):
            assert answer in ("Yes", "No")


def test_repairs_pass_the_test_that_failed():
    for seed in range(40):
        prompt, answer, _ = corpus.repair(Random(seed))
        call, _, rest = prompt.rpartition("\n\n")[0].rpartition("\n\n")[2].partition(": expected ")
        expected, _, got = rest.rpartition(", got ")
        names: dict[str, object] = {}
        exec(answer, names)
        assert eval(call, names) == ast.literal_eval(expected) != ast.literal_eval(got)


def test_the_shares_of_the_roles_add_up():
    assert sum(corpus.MIXTURE.values()) == pytest.approx(1)
