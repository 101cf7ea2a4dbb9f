"""Prompt redesign on texts: what is missed in common is what is rewritten, and the original request is what counts."""

from __future__ import annotations

import asyncio
import json
from itertools import combinations
from string import Template
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from tests.support.answers import question
from tests.support.double import Fault, FaultKind, ModelDouble
from tests.support.judges import roles
from tests.support.obedient import obedient
from tests.support.redesign import Writer, section
from tests.support.solving import check_exact, settle
from tts import lab, registry
from tts.errors import ConfigError
from tts.solving import solve
from tts.strategies.redesign import covering, failures
from tts.strategies.redesign.prompts import LAB
from tts.tasks import Example
from tts.types import Budget, Candidate, Problem, Result, Verdict

THINGS = ("ant", "bee", "cat", "dog", "eel")
EARLY = (1.0, 1.0, 1.0, 0.0, 0.0)


async def redesigned(
    writer: Writer, strategy: str = "prompt_redesign:n=8", double: dict[str, Any] | None = None, **options: Any
) -> Result:
    problem = options.pop("problem", Problem.from_prompt(writer.problem, id="things", system="You make things."))
    served = {"models": ("policy", "judge"), "answer": writer.answer, **(double or {})}
    before = asyncio.all_tasks()
    async with asyncio.timeout(120), ModelDouble(**served) as server:
        settings = {"stop_early": False, **options}
        result = await solve(problem, strategy, roles(server, max_attempts=2), **settings)
        await settle(before, server)
        if not result.wasted:
            check_exact(result, server.stats)
    return result


def made(candidate: Candidate) -> list[str]:
    return candidate.content.removeprefix("Made:").split()


async def test_the_prompt_is_rewritten_for_what_is_missed_in_common_and_then_it_is_met():
    writer = Writer(THINGS, EARLY)
    result = await redesigned(writer)
    first, second = ([c for c in result.candidates if c.notes["round"] == i] for i in range(2))
    assert (len(first), len(second)) == (4, 4)
    assert all(made(candidate) == ["ant", "bee", "cat"] for candidate in first)
    assert all(made(candidate) == list(THINGS) for candidate in second)
    assert result.selected is not None
    assert result.selected.passed
    assert len(writer.rewrites) == 2
    for asked in writer.rewrites:
        assert section("prompt", asked) == writer.problem
        assert section("missed", asked).splitlines() == [
            f"- there is a {thing} (met by 0 of 2; instead: absent)" for thing in ("dog", "eel")
        ]
        assert [line.split()[4] for line in section("met", asked).splitlines()] == ["ant", "bee", "cat"]


async def test_every_candidate_is_judged_by_the_original_request_however_the_prompt_is_rewritten():
    class Cheat(Writer):
        def rewriter(self, asked: str, rng: np.random.Generator) -> str:
            return "Things: ant"  # easy to please

    writer = Cheat(THINGS, (0.9, 0.9, 0.9, 0.2, 0.2))
    result = await redesigned(writer, "prompt_redesign:n=20,reuse=false", {"seed": 1})
    assert sum("<request>" in asked for asked in writer.judged) == 1
    assert not any("Things: ant\n" in asked for asked in writer.judged)
    for candidate in result.candidates:
        assert candidate.verdict is not None
        table = candidate.verdict.details["elements"]
        assert [row["text"] for row in table] == [f"there is a {thing}" for thing in THINGS]
        assert [row["met"] for row in table] == [thing in made(candidate) for thing in THINGS]


async def test_extra_elements_never_outrank_core_ones():
    writer = Writer(THINGS, (0.5,) * 5, extra=("cat", "dog", "eel"))
    result = await redesigned(writer, "prompt_redesign:n=20", {"seed": 2})

    def worth(candidate: Candidate) -> tuple[int, int]:
        core = len({"ant", "bee"} & set(made(candidate)))
        return core, len(made(candidate)) - core

    assert result.selected is not None
    assert worth(result.selected) == max(map(worth, result.candidates))


async def test_the_chosen_ones_are_used_again_as_drafts_each_with_every_rewritten_prompt():
    writer = Writer(THINGS, (0.5,) * 5, obeys=0.0)
    result = await redesigned(writer, "prompt_redesign:n=16", {"seed": 3})
    by_id = {candidate.id: candidate for candidate in result.candidates}
    again = [candidate for candidate in result.candidates if candidate.notes["round"] == 1]
    parents = [candidate.parents for candidate in again]
    assert len(set(parents)) == 4
    assert all(parents.count(parent) == 2 for parent in parents)
    for candidate in again:
        (parent,) = candidate.parents
        assert set(made(candidate)) >= set(made(by_id[parent]))
        assert section("attempt", next(p for p in writer.prompts if by_id[parent].content in p))
    told = [prompt for prompt in writer.prompts if "<attempt>" in prompt]
    assert len(told) == 8


@pytest.mark.parametrize(("variants", "reuse", "rewritten"), [(8, "false", 8), (20, "false", 8), (8, "true", 2)])
async def test_no_prompt_is_rewritten_that_nothing_is_made_from(variants: int, reuse: str, rewritten: int):
    class Numbering(Writer):
        def rewriter(self, asked: str, rng: np.random.Generator) -> str:
            return f"{super().rewriter(asked, rng)} (version {len(self.rewrites)})"

    writer = Numbering(THINGS, EARLY)
    await redesigned(writer, f"prompt_redesign:n=16,variants={variants},reuse={reuse}")
    assert len(writer.rewrites) == rewritten
    assert all(any(f"(version {i + 1})" in prompt for prompt in writer.prompts) for i in range(rewritten))


async def test_where_nothing_is_missed_in_common_the_prompt_is_said_in_other_words():
    writer = Writer(THINGS, (1.0,) * 5)
    result = await redesigned(writer)
    assert len(result.candidates) == 8
    assert all("in other words and another order" in asked for asked in writer.rewrites)


async def test_a_failure_that_shows_only_after_the_first_is_mended_takes_another_round():
    class Hasty(Writer):
        """Forgets the eel until the dog is stressed in a prompt, and then only if both are."""

        def policy(self, asked: str, rng: np.random.Generator) -> str:
            said = super().policy(asked, rng)
            return said if "the eel" not in asked or "the dog" in asked else said.replace("eel", "")

        def rewriter(self, asked: str, rng: np.random.Generator) -> str:
            missed = section("missed", asked).splitlines()
            said = super().rewriter(asked.replace("\n".join(missed), missed[0]) if missed else asked, rng)
            return said

    results = [await redesigned(Hasty(THINGS, EARLY), f"prompt_redesign:n=12,rounds={rounds}") for rounds in (1, 2)]
    assert [result.selected is not None and result.selected.passed for result in results] == [False, True]
    last = results[1].candidates[-1]
    assert last.notes["round"] == 2
    assert "do not forget the dog" in last.notes["lineage"][-1][1], "what was mended before stays in the prompt"


async def test_per_sample_rewriting_has_each_chosen_candidate_mended_for_itself():
    class Changing(Writer):
        count = 0

        def policy(self, asked: str, rng: np.random.Generator) -> str:
            if "<prompt>" in asked:
                return super().policy(asked, rng)
            self.count += 1
            return f"Made: {' '.join(t for i, t in enumerate(THINGS) if i != self.count % 5)}"

    common, each = Changing(THINGS, (1.0,) * 5), Changing(THINGS, (1.0,) * 5)
    await redesigned(common, "prompt_redesign:n=12")
    await redesigned(each, "prompt_redesign:n=12,per_sample=true")
    assert all("in other words" in asked for asked in common.rewrites)
    assert len(each.rewrites) == 2 * 3
    assert all(len(section("missed", asked).splitlines()) == 1 for asked in each.rewrites)


async def test_without_redesigns_it_is_best_of_n_with_the_prompt_expanded_where_asked():
    plain, expanded = Writer(THINGS, EARLY), Writer(THINGS, EARLY)
    result = await redesigned(plain, "prompt_redesign:n=6,rounds=0")
    assert plain.prompts == [plain.problem] * 6
    assert not plain.rewrites
    other = await redesigned(plain, "best_of_n:n=6,verifier=element_check")
    assert result.usage.requests == other.usage.requests
    await redesigned(expanded, "prompt_redesign:n=6,rounds=0,expand=true")
    assert len(expanded.rewrites) == 1
    assert "Expand this prompt" in expanded.rewrites[0]


async def test_a_candidate_of_a_later_round_carries_what_led_to_it():
    result = await redesigned(Writer(THINGS, EARLY))
    first = [c for c in result.candidates if c.notes["round"] == 0]
    for candidate in result.candidates:
        if candidate.notes["round"] == 1:
            assert all(one.charges <= candidate.charges for one in first)
            assert len(candidate.samples) == 2
    assert result.usage == sum(result.spent.values(), start=type(result.usage)())


@pytest.mark.parametrize("spoilt", ["I'm sorry, I can't help with that.", ""])
async def test_a_refused_rewriting_leaves_the_prompt_as_it_was_and_is_noted(spoilt: str):
    class Refusing(Writer):
        def rewriter(self, asked: str, rng: np.random.Generator) -> str:
            return spoilt

    result = await redesigned(Refusing(THINGS, EARLY))
    assert len(result.candidates) == 8
    assert result.selected is not None
    assert len(result.failures) == 4


async def test_a_judge_that_fails_leaves_repeated_sampling():
    class Mute(Writer):
        def judge(self, asked: str, rng: np.random.Generator) -> str:
            return "What?"

    writer = Mute(THINGS, EARLY)
    result = await redesigned(writer)
    assert len(result.candidates) == 8
    assert not writer.rewrites
    assert any("the prompt is not redesigned" in reason for reason in result.failures)


@pytest.mark.parametrize("verifier", ["exact_answer(reference=x)", "null", "cached(verifier=judge)", "unit_tests"])
async def test_a_verifier_that_knows_no_elements_is_refused_before_anything_is_asked(verifier: str):
    writer = Writer(THINGS, EARLY)
    with pytest.raises(ConfigError, match="verifier=element_check"):
        await redesigned(writer, f"prompt_redesign:verifier={verifier}")
    assert not writer.prompts + writer.judged


async def test_a_truth_that_knows_no_elements_cannot_lead_a_redesign():
    truth = registry.make("verifiers", "exact_answer:reference=x")
    with pytest.raises(ConfigError, match="which elements are met"):
        await redesigned(Writer(THINGS, EARLY), "prompt_redesign:n=4,verifier=oracle", truth=truth)


async def test_faults_lose_only_what_they_hit():
    faults = {Fault(FaultKind.DROPPED): 0.1, Fault(FaultKind.BAD_REQUEST): 0.05}
    result = await redesigned(Writer(THINGS, (0.7,) * 5), "prompt_redesign:n=20", {"faults": faults, "seed": 5})
    assert len(result.candidates) >= 10
    assert result.selected is not None


@pytest.mark.parametrize("requests", [3, 8, 16])
async def test_a_budget_ends_it_with_the_best_so_far(requests: int):
    result = await redesigned(Writer(THINGS, EARLY), budget=Budget(requests=requests))
    assert result.ended == "budget"
    assert result.selected is not None
    assert result.usage.requests <= requests


async def test_it_ends_as_soon_as_a_candidate_meets_everything():
    writer = Writer(THINGS, (1.0,) * 5)
    result = await redesigned(writer, stop_early=True)
    assert result.ended == "settled"
    assert not writer.rewrites


async def test_the_prompts_can_be_replaced():
    writer = Writer(THINGS, EARLY)
    own = json.dumps({"rewrite": "MINE\n<prompt>\n$prompt\n</prompt>\n<missed>\n$missed\n</missed>"})
    result = await redesigned(writer, f"prompt_redesign:n=8,prompts={own}")
    assert all(asked.startswith("MINE") for asked in writer.rewrites)
    assert result.selected is not None
    assert result.selected.passed


# -- instructions and programs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "example", list(registry.make("tasks", "instructions:count=4").examples()), ids=lambda e: e.problem.id
)
async def test_an_instruction_that_is_commonly_overlooked_is_made_explicit(example: Example):
    """A writer who overlooks the last two constraints of a list, unless a prompt comes back to them."""
    constraints = example.truth.constraints  # type: ignore[attr-defined]

    def answer(request: dict[str, Any], rng: np.random.Generator) -> str:
        asked = question(request)
        if missed := section("missed", asked):
            lines = [line.removeprefix("- ").partition(" (met by")[0] for line in missed.splitlines()]
            return "\n".join([section("prompt", asked), *(f"Mind: {line}" for line in lines)])
        wording = asked.partition("Start from this earlier attempt")[0]
        return obedient([one for one in constraints if one in constraints[:3] or f"Mind: {one.text}" in wording])

    async with ModelDouble(models=("policy",), answer=answer) as double:
        spec = "prompt_redesign:n=8,verifier=oracle"
        redesigned = await solve(example.problem, spec, roles(double), truth=example.truth)
        repeated = await solve(example.problem, f"{spec},rounds=0", roles(double), truth=example.truth)
    assert redesigned.oracle
    assert repeated.selected is not None
    assert not repeated.selected.passed
    assert redesigned.selected is not None
    assert redesigned.selected.passed
    assert redesigned.selected.notes["round"] == 1
    assert constraints[4].text in redesigned.selected.notes["lineage"][0][1]


async def test_a_requirement_of_a_program_that_its_tests_show_to_be_missed_is_made_explicit():
    elements = [
        {
            "text": "mean of the numbers",
            "kind": "core",
            "question": "What is returned?",
            "test": "assert f([1, 3]) == 2",
        },
        {"text": "0 for none", "kind": "core", "question": "And for none?", "test": "assert f([]) == 0"},
    ]

    def answer(request: dict[str, Any], rng: np.random.Generator) -> str:
        asked = question(request)
        if section("missed", asked):
            return section("prompt", asked) + " Give " + section("missed", asked).removeprefix("- ").partition(" (")[0]
        if request["model"] == "judge":
            return json.dumps({"elements": elements})
        empty = " if xs else 0" if "0 for none" in asked else " if xs else 1"
        return f"```python\ndef f(xs):\n    return sum(xs) / len(xs){empty}\n```"

    async with ModelDouble(models=("policy", "judge"), answer=answer) as double:
        problem = Problem.from_prompt("Write f(xs), the mean.", id="mean", tests={"entry_point": "f"})
        check = "element_check(tests=true)"
        result = await solve(problem, f"prompt_redesign:n=8,verifier={check}", roles(double))
    assert result.selected is not None
    assert result.selected.notes["round"] == 1
    assert "0 for none" in result.selected.notes["lineage"][-1][1]
    assert result.spent["verifier"].verifier_seconds > 0


async def test_public_tests_are_elements_and_the_lab_models_are_asked_in_their_own_words():
    """The first half misreads the specification, as its examples show; what is rewritten says it precisely."""
    asked: list[str] = []
    given = [{"args": [[3, 5]], "expected": 34}, {"args": [[-2, 1]], "expected": 5}]
    prompt = 'def f(xs: list):\n    """Scale each number, then return the sum."""'
    precise = 'def f(xs: list):\n    """Square each, then return the sum."""'

    def answer(request: dict[str, Any], rng: np.random.Generator) -> str:
        asked.append(question(request))
        if asked[-1].endswith("Rewrite."):
            return precise
        return f"def f(xs: list):\n    return sum(x * {'x' if asked[-1] == precise else '2'} for x in xs)"

    async with ModelDouble(models=("policy",), answer=answer) as double:
        problem = Problem.from_prompt(prompt, id="sum", tests={"entry_point": "f", "calls": given})
        spec = "prompt_redesign:n=4,prompts=lab,verifier=unit_tests(elements=true)"
        result = await solve(problem, spec, roles(double), stop_early=False)
    failures = "- f([3, 5]): expected 34, got 16\n- f([-2, 1]): expected 5, got -2"
    rewriting = Template(lab.REWRITE).substitute(problem=prompt, failures=failures)
    assert sorted(asked) == sorted([prompt] * (len(asked) - 4) + [rewriting] * 2 + [precise] * 2)
    assert [c.passed for c in sorted(result.candidates, key=lambda c: c.spawned)] == [False, False, True, True]
    table = result.candidates[0].verdict.details["elements"]  # type: ignore[union-attr]
    assert [row["text"] for row in table] == ["f([3, 5]) gives 34", "f([-2, 1]) gives 5"]
    nothing = Template(lab.REWRITE).substitute(problem="$prompt", failures="")
    assert {LAB.paraphrase, LAB.expand} == {nothing}


def rated(i: int, hits: list[bool], kinds: list[str]) -> Candidate:
    table = [
        {"text": str(j), "kind": kind, "met": hit, "why": ""}
        for j, (hit, kind) in enumerate(zip(hits, kinds, strict=True))
    ]
    return Candidate(id=i, content="", spawned=(i,), verdict=Verdict(float(sum(hits)), None, "", {"elements": table}))


tables = some.integers(1, 5).flatmap(
    lambda width: some.lists(some.lists(some.booleans(), min_size=width, max_size=width), min_size=1, max_size=7)
)


@given(tables, some.integers(1, 4))
def test_the_chosen_cover_nearly_as_much_as_the_best_choice_and_failures_are_what_most_miss(
    hits: list[list[bool]], k: int
):
    candidates = [rated(i, row, ["core"] * len(row)) for i, row in enumerate(hits)]
    chosen = covering(candidates, k)
    assert len({one.id for one in chosen}) == len(chosen) == min(k, len(hits))

    def cover(rows: list[list[bool]]) -> int:
        return sum(any(column) for column in zip(*rows, strict=True))

    best = max(cover(list(rows)) for rows in combinations(hits, min(k, len(hits))))
    assert cover([hits[one.id] for one in chosen]) >= (1 - 1 / np.e) * best
    columns = list(zip(*(hits[one.id] for one in chosen), strict=True))
    assert failures(chosen) == [i for i, column in enumerate(columns) if np.mean(column) < 0.5]
