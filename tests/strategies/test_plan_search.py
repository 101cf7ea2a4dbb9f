"""PlanSearch and IdeaSearch: exact sizes, streams, caps, lost branches, lineage, costs, and the choice at the end."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from math import comb
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from tests.support.double import Fault, FaultKind, ModelDouble
from tests.support.planning import Planner, layer_of, part_of
from tests.support.solving import check_exact, endpoint, settle
from tts import Endpoint, registry
from tts.errors import ConfigError
from tts.sampler.mock import MockModel
from tts.solving import solve
from tts.strategies.planning.prompts import CODE, GENERAL, SETS, Prompts
from tts.strategies.planning.tree import shares, subsets
from tts.types import Budget, Candidate, Problem, Result, sum_usage, total

TASK = Problem.from_prompt("Write f(x), the number after x.", id="next", tests={"entry_point": "f"})


async def planned(planner: Callable[..., str], strategy: str = "plan_search", **options: Any) -> Result:
    async with asyncio.timeout(120):
        return await solve(options.pop("problem", TASK), strategy, MockModel(planner), stop_early=False, **options)


# -- sizes -----------------------------------------------------------------------------------------------------------

SIZES = [(3, 3, 49, 375), (4, 4, 121, 895), (10, 1, 112, 1012)]
"""First and derived observations, combinations and calls, as computed from the paper's code."""


@pytest.mark.parametrize(("n1", "n2", "combinations", "calls"), SIZES)
async def test_the_tree_has_exactly_the_papers_size(n1: int, n2: int, combinations: int, calls: int):
    planner = Planner(n1, n2)
    result = await planned(planner)
    first = 1 + n1 + comb(n1, 2)
    assert combinations == first * (1 + n2 + comb(n2, 2))
    assert calls == 4 * (1 + first) + 7 * combinations
    assert (len(result.candidates), len(planner.asked)) == (2 * combinations, calls)
    assert planner.parts.count("sketch") == combinations
    assert result.usage.requests == calls
    assert not result.failures


@pytest.mark.parametrize("keep_parents", [True, False])
async def test_a_derived_combination_holds_its_parents_observations_or_only_its_own(keep_parents: bool):
    planner = Planner(2, 2)
    result = await planned(planner, f"plan_search:keep_parents={json.dumps(keep_parents)}")
    assert len(result.candidates) == 2 * 4 * 4
    shown = [
        request["messages"][1]["content"].count("- observation") for part, request in planner.asked if part == "sketch"
    ]
    assert max(shown) == (4 if keep_parents else 2)


@pytest.mark.parametrize(
    ("strategy", "codes", "calls"),
    [
        ("plan_search:layers=1", 14, 4 + 7 * 7),
        ("plan_search:subset=1", 2 * 4 * 4, 4 * 5 + 7 * 16),
        ("plan_search:subset=3,layers=1", 16, 4 + 7 * 8),
        ("plan_search:layers=1,criticise=false", 7, 4 + 3 * 7),
        ("plan_search:layers=1,pseudocode=false", 14, 4 + 5 * 7),
        ("plan_search:subset=1,layers=3", 2 * 4 * 4 * 4, 4 * (1 + 4 + 16) + 7 * 64),
    ],
)
async def test_the_parameters_shape_the_tree(strategy: str, codes: int, calls: int):
    planner = Planner(3, 3)
    assert len((await planned(planner, strategy)).candidates) == codes
    assert len(planner.asked) == calls


@pytest.mark.parametrize("keep_parents", [True, False])
async def test_what_no_further_observation_was_added_to_is_derived_from_again_in_the_next_layer(keep_parents: bool):
    """As in the paper's code, whose layers each go on from every subset, the empty one included."""
    planner = Planner(2, 2)
    result = await planned(planner, f"plan_search:layers=3,keep_parents={json.dumps(keep_parents)}")
    assert planner.parts.count("sketch") == 4 * 4 * 4
    assert planner.parts.count("form") == 1 + 4 + 4 * 4
    assert len({candidate.spawned for candidate in result.candidates}) == 2 * 64
    shown = [
        request["messages"][1]["content"].count("- observation") for part, request in planner.asked if part == "sketch"
    ]
    assert max(shown) == (6 if keep_parents else 2)


@pytest.mark.parametrize("strategy", ["plan_search:codes=1", "idea_search:n=1", "repeated_sampling:n=1"])
async def test_programs_are_asked_for_with_examples_that_are_programs(strategy: str):
    planner = Planner(2, 2)
    await planned(planner, strategy, verifier="regex:pattern=def")
    (asked,) = [request for part, request in planner.asked if part in ("answer", "direct")]
    blocks = re.findall(r"```python\n(.*?)\n```", asked["messages"][-1]["content"], re.DOTALL)
    assert len(blocks) == 2
    scope: dict[str, Any] = {}
    exec(blocks[0], scope)
    assert [scope["longest_run"](text) for text in ("", "a", "abbbaa")] == [0, 1, 3]
    lines, printed = iter(["4", "1 2 3 10"]), []
    exec(blocks[1], {"input": lambda: next(lines), "print": printed.append})
    assert printed == [1]


async def test_observations_of_equal_text_are_one():
    said = {"form": lambda request: json.dumps({"observations": ["x is  a number", "x is a number", "f adds"]})}
    planner = Planner(0, 0, said)
    result = await planned(planner)
    assert len(result.candidates) == 2 * 4  # the derived ones are not new
    assert planner.parts.count("form") == 1 + 4


# -- the stream ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("part", "delayed"),
    [("observe", 96), ("sketch", 2), ("criticise", 1), ("fix", 1), ("pseudocode", 1), ("answer", 1)],
)
async def test_a_call_that_does_not_end_delays_no_other_branch(part: str, delayed: int):
    """One branch waits until every candidate of the others is there: a barrier anywhere would never end."""
    others_done = asyncio.Event()
    stuck: list[str] = []

    planner, had = Planner(3, 3), 0

    async def slowly(request: dict[str, Any]) -> str:
        said = planner(request)
        if part_of(request) == part and not stuck:
            stuck.append(said)
            await others_done.wait()
        return said

    def arrived(candidate: Candidate) -> None:
        nonlocal had
        had += 1
        if had == 98 - delayed:
            others_done.set()

    async with asyncio.timeout(120):
        result = await solve(TASK, "plan_search", MockModel(slowly), stop_early=False, on_candidate=arrived)
    assert len(result.candidates) == 98
    assert len(stuck) == 1


async def test_a_slow_derivation_holds_back_only_what_is_derived_from_it():
    waiting = asyncio.Event()
    held: list[str] = []
    planner = Planner(3, 3)

    async def answer(request: dict[str, Any]) -> str:
        if part_of(request) == "derive" and (not held or request["messages"][1]["content"] in held):
            held.append(request["messages"][1]["content"])
            await waiting.wait()
        return planner(request)

    had = 0

    def arrived(candidate: Candidate) -> None:
        nonlocal had
        had += 1
        if had == 98 - 2 * 6:
            waiting.set()

    async with asyncio.timeout(120):
        result = await solve(TASK, "plan_search", MockModel(answer), stop_early=False, on_candidate=arrived)
    assert len(result.candidates) == 98


async def test_candidates_come_out_while_others_are_still_planned():
    planner = Planner(3, 3)
    sketched: list[int] = []
    await planned(planner, on_candidate=lambda _: sketched.append(planner.parts.count("sketch")))
    assert sketched[0] < 49


async def test_the_order_of_the_answers_changes_neither_positions_nor_texts():
    """Deterministic answers, whatever the server's delays: the same candidates at the same positions."""

    def deterministic(request: dict[str, Any], rng: Any) -> str:
        words = json.dumps(request["messages"])
        mark = f"{hash_of(words):x}"
        if part_of(request) == "form":
            return json.dumps({"observations": [f"{mark}-{i}" for i in range(3)]})
        return f"```python\ndef f(x): return '{mark}'\n```" if part_of(request) == "answer" else f"Words {mark}."

    found = []
    for latency in (0.0, lambda body, index: (hash_of(json.dumps(body["messages"])) % 5) * 0.002):
        async with ModelDouble(answer=deterministic, latency=latency) as double:
            model = endpoint(double, params={"max_tokens": 500})
            result = await solve(TASK, "plan_search", model, stop_early=False)
            check_exact(result, double.stats)
        found.append({candidate.spawned: candidate.content for candidate in result.candidates})
    assert len(found[0]) == 98
    assert found[0] == found[1]


def hash_of(text: str) -> int:
    return sum(i * ord(letter) for i, letter in enumerate(text, 1)) % 1_000_003


async def test_a_search_that_is_settled_leaves_nothing_running():
    """The first accepted answer ends it, while some calls would never be answered."""
    suite = {"entry_point": "f", "calls": [{"args": [1], "expected": 2}]}
    problem = TASK.model_copy(update={"tests": suite, "verifier": "unit_tests:isolation=best_effort"})
    planner = Planner(3, 3, {"answer": "```python\ndef f(x):\n    return x + 1\n```"})

    def faults(number: int, body: dict[str, Any]) -> Fault | None:
        return Fault(FaultKind.HANG) if part_of(body) in ("criticise", "derive") else None

    before = asyncio.all_tasks()
    async with ModelDouble(answer=planner, faults=faults, max_model_len=100_000) as double:
        async with asyncio.timeout(120):
            result = await solve(problem, "plan_search:vote=false", endpoint(double, params={"max_tokens": 1000}))
        await settle(before, double)
        assert result.ended == "settled"
        assert result.selected is not None
        assert double.stats.cancelled > 0


# -- caps ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("codes", [1, 2, 5, 13, 14, 15, 20, 40, 97, 98, 500])
async def test_a_cap_on_codes_is_met_exactly_and_without_duplicates(codes: int):
    planner = Planner(3, 3)
    result = await planned(planner, f"plan_search:codes={codes}")
    assert len(result.candidates) == min(codes, 98)
    assert len({candidate.content for candidate in result.candidates}) == len(result.candidates)
    assert planner.parts.count("answer") == len(result.candidates)
    sketches = [request["messages"][1]["content"] for part, request in planner.asked if part == "sketch"]
    assert len(set(sketches)) == len(sketches)


async def test_a_small_cap_takes_upper_layers_first_and_then_as_much_from_each_parent():
    upper = await planned(Planner(3, 3), "plan_search:codes=14")
    assert {candidate.spawned[0] for candidate in upper.candidates} == {1}
    deeper = await planned(Planner(3, 3), "plan_search:codes=42")
    parents = [candidate.spawned[2] for candidate in deeper.candidates if candidate.spawned[0] == 2]
    assert {parent: parents.count(parent) for parent in parents} == dict.fromkeys(range(7), 4)


async def test_no_observation_is_asked_for_that_a_cap_leaves_no_use_for():
    planner = Planner(3, 3)
    await planned(planner, "plan_search:codes=14")
    assert planner.parts.count("form") == 1
    planner = Planner(3, 3)
    await planned(planner, "plan_search:codes=18")
    assert planner.parts.count("form") == 1 + 4  # four codes are left: one for each of four parents


async def test_what_a_poor_branch_leaves_of_a_cap_goes_to_the_others():
    poor: list[str] = []
    names = iter(range(1000))

    def form(request: dict[str, Any]) -> str:
        if layer_of(request) == 2:
            poor.append(request["messages"][1]["content"])
        if poor and request["messages"][1]["content"] in poor[:2]:
            return "There is nothing more to observe."
        return json.dumps({"observations": [f"number {next(names)}" for _ in range(3)]})

    result = await planned(Planner(0, 0, {"form": form}), "plan_search:codes=62")
    assert len(result.candidates) == 62  # with equal shares alone it would be 49


@pytest.mark.parametrize("budget", [Budget(requests=60), Budget(completion_tokens=700), Budget(total_tokens=15_000)])
async def test_a_small_budget_is_spent_on_answers_to_different_plans_not_on_beginnings(budget: Budget):
    planner = Planner(4, 4)
    model = MockModel(planner, params={"max_tokens": 40})
    async with asyncio.timeout(120):
        result = await solve(TASK, "plan_search", model, budget=budget, stop_early=False)
    assert result.ended == "budget"
    begun = planner.parts.count("sketch")
    nodes = {candidate.spawned[:-1] for candidate in result.candidates}
    assert len(result.candidates) >= begun  # at least half of what the plans begun could have given
    assert len(nodes) >= 4
    assert {candidate.spawned[0] for candidate in result.candidates} == {1}


@given(quota=some.integers(0, 500), count=some.integers(1, 50))
def test_shares_add_up_and_differ_by_one_at_most(quota: int, count: int):
    parts = shares(quota, count)
    assert sum(parts) == quota
    assert len(parts) == count
    assert max(parts) - min(parts) <= 1


@settings(max_examples=50)
@given(n=some.integers(0, 8), size=some.integers(1, 4))
def test_subsets_are_all_there_once_small_ones_first(n: int, size: int):
    found = list(subsets([str(i) for i in range(n)], size))
    assert len(found) == len(set(found)) == sum(comb(n, k) for k in range(1, size + 1))
    assert [len(one) for one in found] == sorted(len(one) for one in found)


# -- lost branches ---------------------------------------------------------------------------------------------------

BROKEN = {"empty": "", "refusal": "I'm sorry, but I cannot help with that."}
PROSE = "Surely there is much to observe here, is there not?"
LOST = {"derive": 12, "list": 12, "filter": 12, "sketch": 2, "criticise": 1, "fix": 1, "pseudocode": 1}
"""Codes that go with a part. A first-layer node that derives nothing loses 6 derived combinations of 2 codes each."""


@pytest.mark.parametrize(
    ("part", "broken", "lost"),
    [
        *(pytest.param(part, BROKEN[kind], LOST[part], id=f"{part}-{kind}") for kind in BROKEN for part in LOST),
        pytest.param("form", PROSE, 12, id="form-prose without a list"),  # in the other parts it is an answer like any
    ],
)
async def test_an_answer_of_no_use_loses_its_branch_alone_and_enters_no_prompt(part: str, lost: int, broken: str):
    hit = []

    def once(request: dict[str, Any]) -> str:
        first = layer_of(request) == 1 and part in ("derive", "list", "filter", "form")
        key = json.dumps(request["messages"])
        if first or (hit and (part != "form" or key != hit[0])):
            return getattr(planner, f"_{part}", planner._words)(request)
        hit.append(key)
        return broken

    planner = Planner(3, 3, {part: once})
    result = await planned(planner)
    assert len(result.candidates) == 98 - lost
    assert len(result.failures) == (3 if part == "form" else 1)
    if broken:
        assert not any(broken in json.dumps(request["messages"]) for _, request in planner.asked)


@pytest.mark.parametrize("part", ["observe", "list", "filter", "form"])
async def test_without_first_observations_the_plan_without_any_remains(part: str):
    result = await planned(Planner(3, 3, {part: lambda request: "Sorry." if layer_of(request) == 1 else "{}"}))
    assert {candidate.spawned for candidate in result.candidates} >= {(1, 0, 0), (1, 0, 1)}


async def test_observations_in_the_wrong_form_are_asked_for_again_at_other_temperatures():
    texts = iter(["- first\n- second", 'Here: ```json\n{"observations": ["first", "second"]}\n```'])
    planner = Planner(2, 2, {"form": lambda request: next(texts)})
    result = await planned(planner, "plan_search:layers=1")
    assert len(result.candidates) == 2 * 4
    forms = [request for part, request in planner.asked if part == "form"]
    assert [request["temperature"] for request in forms] == [0.0, 0.2]
    first = next(candidate for candidate in result.candidates if candidate.spawned == (1, 1, 0))
    assert first.usage.requests == 3 + 2 + 3  # the try that failed is part of what the candidate cost


@pytest.mark.parametrize("kind", [None, FaultKind.BAD_REQUEST, FaultKind.SERVER_ERROR])
async def test_a_call_that_fails_or_is_cut_off_costs_its_branch_alone(kind: FaultKind | None):
    """Cut off where there is no fault: one sketch is longer than a sample may be."""
    hit: list[Any] = []

    def first_sketch(request: dict[str, Any]) -> bool:
        if part_of(request) == "sketch" and not hit:
            hit.append(request["messages"])
        return part_of(request) == "sketch" and hit[0] == request["messages"]

    def faults(number: int, body: dict[str, Any]) -> Fault | None:
        return Fault(kind) if kind and first_sketch(body) else None

    planner = Planner(3, 3, {"sketch": lambda request: "long " * (500 if not kind and first_sketch(request) else 1)})
    async with ModelDouble(answer=planner, faults=faults, max_model_len=100_000) as double:
        model = endpoint(double, params={"max_tokens": 1000}, max_attempts=2)
        result = await solve(TASK, "plan_search", model, stop_early=False)
    assert len(result.candidates) == 96
    assert len(result.failures) == 1
    assert result.ended == "complete"


async def test_a_server_that_cannot_hold_a_model_to_a_form_is_asked_without():
    planner = Planner(2, 2)

    def faults(number: int, body: dict[str, Any]) -> Fault | None:
        return Fault(FaultKind.BAD_REQUEST) if "response_format" in body else None

    async with ModelDouble(answer=planner, faults=faults, max_model_len=100_000) as double:
        result = await solve(
            TASK, "plan_search:layers=1", endpoint(double, params={"max_tokens": 1000}), stop_early=False
        )
    assert len(result.candidates) == 2 * 4


# -- lineage and cost ------------------------------------------------------------------------------------------------


async def test_a_candidate_tells_how_it_came_about():
    result = await planned(Planner(2, 2))
    deep = max(result.candidates, key=lambda candidate: candidate.spawned)
    kinds = [kind for kind, _ in deep.notes["lineage"]]
    assert kinds == ["observations", "observations", "plan", "criticism", "fix", "pseudocode"]
    assert deep.notes["lineage"][0][1].count("observation") == 2
    plain = min(result.candidates, key=lambda candidate: candidate.spawned)
    assert tuple(plain.notes["lineage"][0]) == ("observations", "none")


async def test_a_candidate_costs_what_it_descends_from_and_shared_calls_count_once():
    result = await planned(Planner(3, 3))
    by_place = {candidate.spawned: candidate for candidate in result.candidates}
    assert by_place[1, 0, 0].usage.requests == 3  # sketch, pseudocode, code
    assert by_place[1, 0, 1].usage.requests == 5  # sketch, criticism, fix, pseudocode, code
    assert by_place[1, 1, 0].usage.requests == 4 + 3
    assert by_place[2, 1, 1, 1].usage.requests == 4 + 4 + 5
    together = by_place[1, 1, 0].charges | by_place[1, 1, 1].charges | by_place[1, 2, 0].charges
    assert total(together).requests == 4 + 7 + 3
    assert total(frozenset().union(*(c.charges for c in result.candidates))) == result.usage


# -- models and prompts ----------------------------------------------------------------------------------------------


async def test_one_model_plans_and_another_writes():
    thinker, writer = Planner(2, 2), Planner(2, 2)
    models = {"policy": MockModel(writer, model="writer"), "thinker": MockModel(thinker, model="thinker")}
    result = await solve(TASK, "plan_search:layers=1,idea_role=thinker", models, stop_early=False)
    assert set(writer.parts) == {"pseudocode", "answer"}
    assert not {"pseudocode", "answer"} & set(thinker.parts)
    assert result.spent["thinker"].requests == len(thinker.asked)
    with pytest.raises(ConfigError, match="thinker"):
        await solve(TASK, "plan_search:idea_role=thinker", models["policy"])


@pytest.mark.parametrize(
    ("strategy", "params", "planning", "writing"),
    [
        ("plan_search:layers=1", {}, 0.9, 0.9),
        ("plan_search:layers=1", {"temperature": 0.5}, 0.5, 0.5),
        ("plan_search:layers=1,idea_temperature=0.7", {"temperature": 0.5}, 0.7, 0.5),
        ("plan_search:layers=1,code_temperature=0.2", {}, 0.9, 0.2),
    ],
)
async def test_temperatures_are_the_users_before_the_papers(
    strategy: str, params: dict[str, float], planning: float, writing: float
):
    planner = Planner(1, 1)
    await solve(TASK, strategy, MockModel(planner, params=params), stop_early=False)
    heat = {part: request["temperature"] for part, request in planner.asked if part != "form"}
    assert {heat[part] for part in heat if part in ("pseudocode", "answer")} == {writing}
    assert {heat[part] for part in heat if part not in ("pseudocode", "answer")} == {planning}


def test_a_set_of_prompts_is_named_or_changed_and_survives_its_configuration():
    for spec in ("plan_search", "plan_search:prompts=general", 'plan_search:prompts=code(sketch="Plan $problem.")'):
        made = registry.make("strategies", spec)
        assert registry.make("strategies", made.spec) == made
        assert registry.make("strategies", made.config()) == made
    assert registry.make("strategies", "plan_search:prompts=general").spec == "plan_search:prompts=general"
    assert (
        registry.make("strategies", 'plan_search:prompts=code(sketch="Plan $problem.")').prompts.observe == CODE.observe
    )
    with pytest.raises(ConfigError, match="there are: code, general, lab"):
        registry.make("strategies", "plan_search:prompts=poetry")
    with pytest.raises(ConfigError, match=r"\$problem, \$plan"):
        registry.make("strategies", 'plan_search:prompts=code(answer="$observations")')


@pytest.mark.parametrize(
    ("text", "read"),
    [("- one\n2. two\n\n* one", ["one", "two"]), ("(3) a = b - c", ["a = b - c"]), ("plain", ["plain"])],
)
def test_observations_may_be_lines(text: str, read: list[str]):
    assert CODE.model_copy(update={"form": "lines"}).reader(text) == read


def test_observations_that_are_none_are_no_answer():
    for prompts, text in ((CODE, '{"observations": [" "]}'), (CODE.model_copy(update={"form": "lines"}), "\n- \n")):
        with pytest.raises(ValueError, match="no observations"):
            prompts.reader(text)


async def test_a_short_set_of_prompts_leaves_steps_out():
    """Observations at once in their form, no criticism, no pseudocode: as the lab models were trained."""
    asked: list[str] = []
    found = iter(range(100))

    def answer(request: dict[str, Any]) -> str:
        (message,) = request["messages"]
        asked.append(message["content"].removeprefix("Write f.").strip().splitlines()[-1])
        if "Observe" in asked[-1]:
            return json.dumps({"observations": [f"piece {next(found)}", f"piece {next(found)}"]})
        return "1. step" if asked[-1] == "Plan." else "def f(x): return x"

    result = await planned(answer, "plan_search:prompts=lab,codes=32", problem=Problem.from_prompt("Write f."))
    assert len(result.candidates) == 32
    assert {words: asked.count(words) for words in asked} == {
        "Observe.": 2,
        "Observe more.": 3,
        "Plan.": 32,
        "Write the code.": 32,
    }


async def test_other_problems_are_planned_in_other_words_and_voted_on():
    answers = iter(["Answer: 41", "Answer: 42", "It is so. Answer: 42", "Answer: 43"])

    def answer(request: dict[str, Any]) -> str:
        last = request["messages"][-1]["content"]
        if "as JSON" in last:
            return '{"observations": ["six is even"]}'
        return next(answers) if "Follow this plan" in last else "Multiply."

    problem = Problem.from_prompt("What is 6 * 7?", answer="numeric_answer")
    result = await planned(answer, "plan_search:prompts=general,layers=1", problem=problem)
    assert len(result.candidates) == 4
    assert result.selected is not None
    assert result.selected.notes["answer"] == "42"


async def test_a_problem_that_is_more_than_text_is_refused_before_anything_is_spent():
    pictured = Problem(id="p", messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}])
    with pytest.raises(ConfigError, match="more than text"):
        await solve(pictured, "idea_search", MockModel(lambda request: "no"))


def test_every_set_fills_its_prompts():
    for prompts in SETS.values():
        assert isinstance(prompts, Prompts)
        assert "$problem" in prompts.observe
        assert "$problem" in prompts.answer
    assert GENERAL.form == CODE.form


# -- the other ways --------------------------------------------------------------------------------------------------


async def test_idea_search_writes_each_idea_as_soon_as_it_is_there():
    last, had = asyncio.Event(), []
    planner = Planner(0, 0)
    ideas = 0

    async def answer(request: dict[str, Any]) -> str:
        nonlocal ideas
        if part_of(request) == "idea":
            ideas += 1
            if ideas == 6:
                await last.wait()
        return planner(request)

    def arrived(candidate: Candidate) -> None:
        had.append(candidate)
        if len(had) == 5:
            last.set()

    async with asyncio.timeout(120):
        model = MockModel(answer, max_n=1)
        result = await solve(TASK, "idea_search:n=6", model, stop_early=False, on_candidate=arrived)
    assert len(result.candidates) == 6
    assert planner.parts.count("idea") == planner.parts.count("answer") == 6
    assert sorted(candidate.spawned for candidate in result.candidates) == [(i,) for i in range(6)]
    assert all(candidate.notes["lineage"][0][0] == "plan" for candidate in result.candidates)


async def test_ideas_that_are_refused_lose_themselves_alone():
    said = iter(["I cannot do that.", "", "Sort.", "Count."])
    result = await planned(Planner(0, 0, {"idea": lambda request: next(said)}), "idea_search:n=4")
    assert len(result.candidates) == 2
    assert len(result.failures) == 2


async def test_repeated_sampling_may_ask_in_the_same_words():
    planner = Planner(0, 0)
    problem = TASK.model_copy(update={"verifier": "exact_answer:reference=x"})
    result = await planned(planner, "repeated_sampling:n=3", problem=problem)
    assert planner.parts == ["direct"] * 3
    assert planner.asked[0][1]["messages"][0]["content"] == CODE.system
    assert len(result.candidates) == 3


# -- the choice ------------------------------------------------------------------------------------------------------

SUITE = {"entry_point": "f", "calls": [{"args": [1], "expected": 2}]}
PROGRAMS = ["return x * 2", "return x - 1", "return 7", "return x + 1", "return  x+1 # next", "return 7"]


@pytest.mark.parametrize(("vote", "wins"), [("true", "x + 1"), ("false", "x * 2")])
async def test_public_tests_come_first_and_the_vote_second(vote: str, wins: str):
    texts = iter(f"```python\ndef f(x):\n    {program}\n```" for program in PROGRAMS)
    planner = Planner(0, 0, {"answer": lambda request: next(texts)})
    problem = TASK.model_copy(update={"tests": SUITE, "verifier": "unit_tests:isolation=best_effort"})
    result = await planned(planner, f"idea_search:n=6,vote={vote}", problem=problem)
    assert [candidate.passed for candidate in sorted(result.candidates, key=lambda c: c.spawned)].count(True) == 3
    assert result.text is not None
    assert wins in result.text


BUDGETS = [Budget(requests=45), Budget(completion_tokens=900), Budget(total_tokens=15_000)]


@pytest.mark.parametrize("budget", BUDGETS, ids=repr)
@pytest.mark.parametrize("codes", ["", ":codes=9"])
async def test_what_fits_into_a_budget_does_not_depend_on_which_call_is_answered_first(budget: Budget, codes: str):
    found = []
    for seed in range(3):
        noise = np.random.default_rng(seed)

        def latency(body: dict[str, Any], index: int, noise: np.random.Generator = noise) -> float:
            return float(noise.uniform(0, 0.01))

        def answer(request: dict[str, Any], rng: np.random.Generator) -> str:
            asked = json.dumps(request["messages"])
            if "JSON" in asked or "list" in asked:
                return json.dumps({"observations": [f"it is {rng.integers(10**6)}" for _ in range(3)]})
            return f"{rng.integers(10**6)} " + "and so on " * int(rng.integers(1, 6))

        async with asyncio.timeout(120), ModelDouble(answer=answer, latency=latency) as double:
            model = Endpoint(model="test-model", base_url=double.base_url, params={"max_tokens": 80, "seed": 1})
            spec = f"plan_search{codes}" + (",prompts=general" if codes else ":prompts=general")
            result = await solve(TASK, spec, model, budget=budget, stop_early=False)
        found.append(
            (
                sorted((one.spawned, one.content) for one in result.candidates),
                sum_usage(result.needed.values()).completion_tokens,
                sum_usage(result.needed.values()).requests,
                result.ended,
            )
        )
    assert found[0][0]
    assert found == [found[0]] * 3
