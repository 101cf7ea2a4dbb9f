"""What the lab models are trained on: questions and answers of every role, generated from a seed.

Only instances of the part `train` are used. Wrong programs and plans are near misses of the right ones; wrong
calculations have a slip in one step, which the rest builds on.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from random import Random
from string import Template
from typing import NamedTuple

from tts import lab
from tts.lab.lab_code import Instance, LabProgram, Piece, prompt_for, random_instance, readings
from tts.lab.lab_math import OPERATIONS, Operation, part_of, random_tree, solution, wording


class Dialogue(NamedTuple):
    """One turn: what the user says and what the model should answer."""

    prompt: str
    answer: str
    weight: float = 1.0
    """Of the answer's tokens in the loss."""


VERDICT_WEIGHT = 10.0
"""A verdict is one token, which would count for little among the hundreds in an answer."""


def fill(template: str, **values: str) -> str:
    return Template(template).substitute(values)


# -- arithmetic ----------------------------------------------------------------------------------------------------


def random_question(rng: Random, steps: int | None = None, digits: int | None = None) -> tuple[Operation, str]:
    """A calculation of the part `train` and its question; one to seven steps by default."""
    style = rng.choice(("words", "symbols"))
    while True:
        size = steps or rng.randint(1, 7)
        tree = random_tree(rng, size, digits or rng.choice((1, 1, 1, 2, 2, 3)), chain=style == "words")
        if isinstance(tree, Operation) and part_of(str(tree)) == "train":
            return tree, wording(tree, style)


def slipped(rng: Random, tree: Operation) -> str:
    """The solution with a slip in one step."""

    def slip(value: int) -> int:
        return value + rng.choice([slip for slip in (-10, -2, -1, 1, 2, 10, 100) if value + slip >= 0])

    return gone_wrong(tree, rng.randrange(len(tree.steps())), slip)


def gone_wrong(tree: Operation, place: int, slip: Callable[[int], int]) -> str:
    """The solution with `slip` applied to the result of step number `place`; the rest builds on it."""
    lines: list[str] = []

    def calculate(side: Operation | int) -> int:
        if isinstance(side, int):
            return side
        left, right = calculate(side.left), calculate(side.right)
        value = OPERATIONS[side.sign](left, right)
        if len(lines) == place:
            value = slip(value)
        lines.append(f"{left} {side.sign} {right} = {value}")
        return value

    value = calculate(tree)
    return "\n".join([*lines, f"Answer: {value}"])


def solve_math(rng: Random) -> Dialogue:
    tree, question = random_question(rng)
    return Dialogue(question, solution(tree))


def judge_math(rng: Random) -> Dialogue:
    tree, question = random_question(rng)
    right = rng.random() < 0.5
    answer = solution(tree) if right else slipped(rng, tree)
    return Dialogue(fill(lab.JUDGE, problem=question, answer=answer), "Yes" if right else "No", VERDICT_WEIGHT)


# -- programs ------------------------------------------------------------------------------------------------------


def instance(rng: Random) -> Instance:
    """A program of the part `train` with its tests, of any difficulty."""
    return random_instance(
        rng,
        steps=rng.choice((2, 3, 3, 4)),
        vague=rng.choice((0, 1, 1, 2, 2, 3)),
        examples=rng.choice((2, 3, 3, 3)),
        weak=rng.random() < 0.2,
        part="train",
    )


def solve_code(rng: Random) -> Dialogue:
    made = instance(rng)
    examples = made.tests.public
    if rng.random() < 0.1:  # what a rewritten prompt looks like
        return Dialogue(prompt_for(made.program.signature, made.program.says()), made.program.source())
    return Dialogue(prompt_for(made.program.signature, made.program.says(made.vague), examples), made.program.source())


def observe(rng: Random) -> Dialogue:
    made = instance(rng)
    said = _observations(rng, made)
    return Dialogue(fill(lab.OBSERVE, problem=made.prompt()), json.dumps({"observations": said}))


def derive(rng: Random) -> Dialogue:
    made = instance(rng)
    said = _observations(rng, made)
    known, new = said[: len(said) // 2], said[len(said) // 2 :]
    prompt = fill(lab.DERIVE, problem=made.prompt(), observations=_bullets(known))
    return Dialogue(prompt, json.dumps({"observations": new}))


def idea(rng: Random) -> Dialogue:
    made = instance(rng)
    return Dialogue(fill(lab.IDEA, problem=made.prompt()), plan_of(made.program))


def plan(rng: Random) -> Dialogue:
    """A plan follows its observations, right or wrong, and is right about everything else."""
    made = instance(rng)
    observed, program = _misread(rng, made)
    prompt = fill(lab.PLAN, problem=made.prompt(), observations=_bullets([piece.says for piece in observed]))
    return Dialogue(prompt, plan_of(program))


def replan(rng: Random) -> Dialogue:
    made = instance(rng)
    wrong = rng.choice(made.program.near_misses())
    return Dialogue(fill(lab.REPLAN, problem=made.prompt(), plan=plan_of(wrong)), plan_of(made.program))


def code(rng: Random) -> Dialogue:
    """A program follows its plan, right or wrong."""
    made = instance(rng)
    _, program = _misread(rng, made)
    return Dialogue(fill(lab.CODE, problem=made.prompt(), plan=plan_of(program)), program.source())


def repair(rng: Random) -> Dialogue:
    made = instance(rng)
    found = refutation(rng, made)
    if found is None:
        return repair(rng)
    wrong, feedback = found
    prompt = fill(lab.REPAIR, problem=made.prompt(), answer=wrong.source(), feedback=feedback)
    return Dialogue(prompt, made.program.source())


def rewrite(rng: Random) -> Dialogue:
    made = instance(rng)
    failures = [found[1] for _ in range(rng.randint(0, 2)) if (found := refutation(rng, made))]
    prompt = fill(lab.REWRITE, problem=made.prompt(), failures=_bullets(failures))
    return Dialogue(prompt, prompt_for(made.program.signature, made.program.says()))


def judge_code(rng: Random) -> Dialogue:
    made = instance(rng)
    right = rng.random() < 0.5
    program = made.program if right else rng.choice(made.program.near_misses())
    prompt = fill(lab.JUDGE, problem=made.prompt(), answer=program.source())
    return Dialogue(prompt, "Yes" if right or _same(program, made) else "No", VERDICT_WEIGHT)


def write_tests(rng: Random) -> Dialogue:
    made = instance(rng)
    chosen = [test for test in made.tests.hidden if len(repr(test)) < 40][:3]
    name = made.program.name
    answer = "\n".join(f"assert {name}({given!r}) == {expected!r}" for given, expected in chosen)
    return Dialogue(fill(lab.TESTS, problem=made.prompt()), answer) if chosen else write_tests(rng)


def plan_of(program: LabProgram) -> str:
    return "\n".join(f"{i}. {piece.says}" for i, piece in enumerate(program.pieces, 1))


def _observations(rng: Random, made: Instance) -> list[str]:
    """Two to four readings: right ones of vague pieces, others that may be meant, and exact pieces restated."""
    pieces = [made.program.pieces[i] for i in sorted(made.vague)]
    others = [rng.choice(readings(piece.family)) for piece in pieces]
    exact = [piece for i, piece in enumerate(made.program.pieces) if i not in made.vague]
    found = list(dict.fromkeys(piece.says for piece in [*pieces, *others, *exact]))[: rng.choice((2, 3, 4))]
    return rng.sample(found, len(found))


def _misread(rng: Random, made: Instance) -> tuple[list[Piece], LabProgram]:
    """Some observations, each a reading of a piece, and the program that follows them."""
    while True:
        pieces, observed = list(made.program.pieces), []
        for i in rng.sample(range(len(pieces)), rng.choice((1, 1, 2))):
            if i in made.vague and rng.random() < 0.5:
                pieces[i] = rng.choice(readings(pieces[i].family))
            observed.append(pieces[i])
        program = LabProgram(made.program.name, tuple(pieces))
        if part_of(program.says()) == "train":
            return observed, program


def refutation(rng: Random, made: Instance) -> tuple[LabProgram, str] | None:
    """A near miss that fails a public test, and the feedback on it; None if all pass."""
    wrong = [miss for miss in made.program.near_misses() if not _same(miss, made, public=True)]
    if not wrong:
        return None
    miss = rng.choice(wrong)
    given, expected = next(test for test in made.tests.public if miss(test[0]) != test[1])
    return miss, f"{made.program.name}({given!r}): expected {expected!r}, got {miss(given)!r}"


def _same(program: LabProgram, made: Instance, public: bool = False) -> bool:
    tests = made.tests.public if public else made.tests.public + made.tests.hidden
    return all(program(given) == expected for given, expected in tests)


def _bullets(lines: list[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


# -- the mixture ---------------------------------------------------------------------------------------------------

Role = Callable[[Random], Dialogue]
MIXTURE: dict[Role, float] = {
    solve_math: 0.40,
    solve_code: 0.215,
    judge_math: 0.10,
    observe: 0.025,
    derive: 0.01,
    idea: 0.025,
    plan: 0.03,
    replan: 0.01,
    code: 0.04,
    repair: 0.03,
    rewrite: 0.025,
    judge_code: 0.08,
    write_tests: 0.01,
}
"""Fraction of the dialogues by role."""


def dialogues(seed: str) -> Iterator[Dialogue]:
    """Endless dialogues of all roles."""
    rng = Random(f"lab corpus {seed}")
    roles, weights = list(MIXTURE), list(MIXTURE.values())
    while True:
        yield rng.choices(roles, weights)[0](rng)
