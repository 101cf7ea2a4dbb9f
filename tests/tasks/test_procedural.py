"""Procedural tasks: every truth against brute force, what is refused and accepted, and what stays hidden."""

from __future__ import annotations

import json
import re
from functools import cache
from itertools import pairwise, permutations, product
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from tts import Candidate, Problem, Verdict, registry
from tts.base import Verifier
from tts.errors import ConfigError
from tts.tasks import Example
from tts.tasks.calendar import CLOSE, OPEN, Calendar, feasible, random_meeting
from tts.tasks.competition_math import OmniMath
from tts.tasks.maze import Maze
from tts.tasks.sat3 import Kind, Sat3, random_clauses, solutions
from tts.tasks.spatial_map import SpatialMap
from tts.tasks.tsp import TSP, random_distances, shortest
from tts.verifiers.meeting_slot import DAYS, MeetingSlot, Slot, parse_slot, slot_text
from tts.verifiers.sat_assignment import SatAssignment
from tts.verifiers.tour import Tour


def judged(verifier: Verifier, problem: Problem, answer: str) -> Verdict:
    verdict = verifier.check(problem, Candidate(id=0, content=f"So.\nAnswer: {answer}", spawned=(0,)))
    assert isinstance(verdict, Verdict)
    return verdict


def truth(example: Example, answer: str) -> bool | None:
    return judged(example.truth, example.problem, answer).passed


def public(example: Example, answer: str) -> Verdict:
    assert example.problem.verifier is not None
    return judged(registry.make("verifiers", example.problem.verifier), example.problem, answer)


def asked(example: Example) -> str:
    return example.problem.messages[0]["content"]  # type: ignore[index]


TASKS = [
    "sat3:variables=[4,5],each=2",
    "tsp:cities=[5,6],each=2",
    "calendar:each=1,days=7",
    "maze:each=2",
    "spatial_map:each=2",
]


@pytest.mark.parametrize("spec", TASKS)
def test_problems_are_the_same_each_time_and_differ_by_seed(spec: str):
    examples = list(registry.make("tasks", spec).examples())
    again = list(registry.make("tasks", spec).examples())
    other = list(registry.make("tasks", f"{spec},seed=1").examples())
    assert examples == again
    assert len({example.problem.id for example in examples}) == len(examples)
    assert [example.problem.id for example in other] == [example.problem.id for example in examples]
    assert sum(a.problem != b.problem for a, b in zip(examples, other, strict=True)) > len(examples) / 2
    fewer = next(iter(registry.make("tasks", re.sub(r"each=\d", "each=1", spec)).examples()))
    assert fewer == examples[0]


@pytest.mark.parametrize("spec", TASKS)
def test_a_problem_can_be_written_down_and_does_not_hold_its_truth(spec: str):
    for example in registry.make("tasks", spec).examples():
        written = Problem.model_validate_json(example.problem.model_dump_json())
        assert written.id == example.problem.id
        for hidden in ("reference", "satisfiable", "shortest", "best"):
            assert hidden not in json.dumps(written.metadata)
            assert f"{hidden}=" not in f"{written.verifier} {written.answer}"
        assert "Answer: " in asked(example)


# -- 3-SAT ---------------------------------------------------------------------------------------------------------

DRAWN: tuple[Kind, ...] = ("under", "hard", "over")


def test_the_number_of_solutions_is_that_of_brute_force():
    rng = Random(1)
    for number in range(1000):
        n, kind = 3 + number % 4, DRAWN[number % 3]
        clauses = random_clauses(n, kind, rng)
        assert all(len({abs(literal) for literal in clause}) == 3 for clause in clauses)
        models = [
            values
            for values in product((False, True), repeat=n)
            if all(any(values[abs(literal) - 1] == (literal > 0) for literal in clause) for clause in clauses)
        ]
        assert solutions(n, clauses) == len(models)
        problem = Problem.from_prompt("?", metadata={"variables": n, "clauses": clauses})
        values = [rng.random() < 0.5 for _ in range(n)]
        assert judged(SatAssignment(), problem, ", ".join(map(str, values))).passed == (tuple(values) in models)


def test_the_shares_of_satisfiable_problems_are_those_that_are_known():
    """Of 200 instances for each cell, as the known shares are: their difference has a standard error of up to .05."""
    known: dict[int, tuple[float, float, float, float]] = {
        4: (1.00, 0.84, 0.15, 0.33),
        6: (1.00, 0.83, 0.04, 0.20),
        8: (1.00, 0.83, 0.05, 0.18),
        10: (1.00, 0.72, 0.02, 0.14),
    }
    medians = {4: 5, 6: 11, 8: 26, 10: 61}
    rng = Random(0)
    for n, shares in known.items():
        counts = {kind: np.array([solutions(n, random_clauses(n, kind, rng)) for _ in range(200)]) for kind in DRAWN}
        found = [*((counts[kind] > 0).mean() for kind in DRAWN), (counts["hard"] == 1).mean()]
        for share, expected in zip(found, shares, strict=True):
            spread = np.sqrt(max(expected * (1 - expected), 0.01) * 2 / 200)
            assert abs(share - expected) < 3.5 * spread
        assert np.median(counts["under"]) == pytest.approx(medians[n], rel=0.3)


def test_3sat_refuses_what_violates_or_has_another_length_and_says_what():
    for example in Sat3(variables=(4, 6), each=5).examples():
        clauses, n = example.problem.metadata["clauses"], example.problem.metadata["variables"]
        count = solutions(n, clauses)
        assert count == 1 or example.problem.metadata["kind"] != "unique"
        assert truth(example, "unsatisfiable") == (count == 0)
        assert public(example, "Unsatisfiable").passed is None
        found = 0
        for values in product((False, True), repeat=n):
            text = ", ".join(map(str, values))
            said = public(example, text)
            assert truth(example, text) == said.passed == truth(example, f"[{text.lower()}]")
            found += bool(said.passed)
            assert bool(said.feedback) != said.passed
        assert found == count
        assert truth(example, ", ".join(["True"] * (n + 1))) is False
        assert "values found" in public(example, "True, False").feedback
        assert "no list" in public(example, "maybe").feedback
        assert f"{len(clauses)} clauses" in asked(example)


# -- TSP -----------------------------------------------------------------------------------------------------------


def length(distances: list[list[int]], stops: tuple[int, ...]) -> int:
    return sum(distances[a][b] for a, b in zip(stops, (*stops[1:], stops[0]), strict=True))


def test_the_shortest_tour_is_that_of_brute_force():
    rng = Random(2)
    for number in range(1000):
        distances = random_distances(3 + number % 4, rng)
        cities = range(1, len(distances))
        assert shortest(distances) == min(length(distances, (0, *order)) for order in permutations(cities))


def test_tours_are_as_hard_for_the_nearest_neighbour_as_is_known():
    """How often the best of its tours, one from each city, is optimal; and how many optimal tours there are."""
    known = {6: 0.67, 8: 0.53, 10: 0.23}
    rng = Random(0)

    def nearest_neighbour(distances: list[list[int]], start: int) -> int:
        left, at, length = set(range(len(distances))) - {start}, start, 0
        while left:
            nearest = min(left, key=distances[at].__getitem__)
            length, at = length + distances[at][nearest], nearest
            left.remove(nearest)
        return length + distances[at][start]

    for n, expected in known.items():
        drawn = [random_distances(n, rng) for _ in range(80)]
        optimal = [min(nearest_neighbour(one, start) for start in range(n)) == shortest(one) for one in drawn]
        assert abs(np.mean(optimal) - expected) < 3.5 * np.sqrt(expected * (1 - expected) * (1 / 80 + 1 / 200))
    lengths = [
        [sum(one[a][b] for a, b in pairwise((0, *order, 0))) for order in permutations(range(1, 6))]
        for one in (random_distances(6, rng) for _ in range(200))
    ]
    assert 2.0 <= np.mean([one.count(min(one)) for one in lengths]) <= 2.3  # both ways round, rarely another


def test_tours_may_be_turned_and_reversed_and_the_longer_are_wrong():
    for example in TSP(cities=(6,), each=10).examples():
        distances = example.problem.metadata["distances"]
        lengths = {order: length(distances, (0, *order)) for order in permutations(range(1, 6))}
        best = min(lengths.values())
        for order, walked in lengths.items():
            tour = (0, *order)
            for start in range(6):
                turned = (*tour[start:], *tour[: start + 1])
                for way in (turned, turned[::-1]):
                    assert truth(example, " -> ".join(map(str, way))) == (walked == best)
        worst = max(lengths, key=lambda order: lengths[order])
        said = public(example, "->".join(map(str, (0, *worst, 0))))
        assert (said.passed, said.score) == (None, -lengths[worst])
        assert str(lengths[worst]) in said.feedback
        assert str(best) not in said.feedback


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        ("0 -> 1 -> 2 -> 3", "not where it began"),
        ("0 -> 1 -> 2 -> 0", "not visited: 3"),
        ("0 -> 1 -> 2 -> 1 -> 3 -> 0", "more than once: 1"),
        ("0 -> 1 -> 2 -> 4 -> 3 -> 0", "no city 4"),
        ("I do not know", "no tour found"),
        ("0 -> one -> 0", "no tour found"),
        ("0", "not where it began"),
    ],
)
def test_what_is_no_tour_is_refused_with_the_reason(answer: str, complaint: str):
    problem = Problem.from_prompt("?", metadata={"distances": random_distances(4, Random(0))})
    said = judged(Tour(), problem, answer)
    assert said.passed is False
    assert complaint in said.feedback


# -- calendar ------------------------------------------------------------------------------------------------------


def enumerated(meeting: Any) -> list[Slot]:
    """The slots that fit, found by looking at every minute of the week."""
    week = {(name, day): np.zeros(24 * 60, dtype=bool) for name in meeting["free"] for day in DAYS}
    for name, days in meeting["free"].items():
        for day, blocks in days.items():
            for start, stop in blocks:
                week[name, day][start:stop] = True
    fits = {day: np.all([week[name, day] for name in meeting["free"]], axis=0) for day in DAYS}
    found = []
    for day, begin in product(DAYS, range(OPEN, CLOSE, 5)):
        end = begin + meeting["duration"]
        if not fits[day][begin - meeting["buffer"] : end + meeting["buffer"]].all():
            continue
        fine = meeting["not_before"] is None or begin >= meeting["not_before"]
        fine &= meeting["not_after"] is None or end <= meeting["not_after"]
        fine &= not (meeting["weekdays_only"] and day in ("Saturday", "Sunday"))
        if meeting["forbidden"] is not None:
            blocked, start, stop = meeting["forbidden"]
            fine &= day != blocked or not set(range(start, stop)) & set(range(begin, end))
        if fine:
            found.append((day, begin, end))
    return found


def test_the_slots_that_fit_are_those_of_an_enumeration():
    rng, some = Random(3), 0
    for number in range(1000):
        meeting = random_meeting(1 + number % 3, 1 + number % 7, rng)
        expected = enumerated(meeting)
        assert feasible(meeting) == expected
        some += bool(expected)
    assert 300 < some < 950


def test_calendar_accepts_every_time_that_fits_or_the_earliest_where_asked_and_none_where_none_does():
    seen = set()
    for example in Calendar(each=3, days=7).examples():
        meeting, tenth = example.problem.metadata["meeting"], int(example.problem.id.split("/")[1].split("-")[0])
        fitting = enumerated(meeting)
        share = example.problem.metadata["constrainedness"]
        assert tenth == int(10 * share + 1e-9)
        assert (tenth == 10) == (not fitting) == truth(example, "none")
        assert public(example, "None").passed is None
        for slot in fitting:
            wanted = slot == fitting[0] or not meeting["earliest"]
            assert truth(example, slot_text(slot)) == wanted
            assert public(example, slot_text(slot)).passed is (None if meeting["earliest"] else True)
        late = ("Sunday", 23 * 60, 23 * 60 + meeting["duration"])
        if late not in fitting and parse_slot(slot_text(late)):
            assert public(example, slot_text(late)).passed is truth(example, slot_text(late)) is False
            assert "is free" in public(example, slot_text(late)).feedback
        seen |= {meeting["earliest"], tenth}
    assert seen == {True, False, *range(11)}


def test_a_broken_rule_is_named_and_the_score_is_the_share_of_those_that_are_kept():
    meeting = {
        "free": {"Ivo": {"Monday": [(540, 720)]}},
        "duration": 60,
        "buffer": 10,
        "not_before": 600,
        "not_after": 700,
        "weekdays_only": False,
        "forbidden": ("Monday", 600, 615),
        "earliest": False,
    }
    problem = Problem.from_prompt("?", metadata={"meeting": meeting})
    assert feasible(meeting) == [("Monday", begin, begin + 60) for begin in (615, 620, 625, 630, 635, 640)]  # type: ignore[arg-type]
    assert judged(MeetingSlot(), problem, "Monday 10:40-11:40").passed
    assert judged(MeetingSlot(), problem, "monday 10:15 to 11:15").passed
    late = judged(MeetingSlot(), problem, "Monday 10:50-11:50")
    assert (late.passed, late.score) == (False, pytest.approx(5 / 6))
    assert late.feedback == "broken: it is over by 11:40"
    assert "Ivo is free from 10 minutes before" in judged(MeetingSlot(), problem, "Tuesday 10:40-11:40").feedback
    for wrong in ("Monday 10:40", "Monday 11:40-10:40", "Monday 10:72-11:40", "tomorrow"):
        assert "no time found" in judged(MeetingSlot(), problem, wrong).feedback


# -- maze and map ----------------------------------------------------------------------------------------------------


async def letters(example: Example) -> list[bool | None]:
    """Whether each letter is right."""
    from tts.session import Session

    session = Session(example.problem, {})
    return [(await session.verify(session.candidate(f"Answer: {x}"), example.truth)).passed for x in "ABCD"]


def options(example: Example) -> list[str]:
    return re.findall(r"^\([A-D]\) (.+)$", asked(example), re.MULTILINE)


async def test_answers_about_mazes_are_those_of_walking_the_drawing():
    """The picture alone is read: neighbours are walked from S to E, with a compass in hand."""
    compass = [(-1, 0), (0, 1), (1, 0), (0, -1)]
    for example in Maze(each=84).examples():  # 1,008 mazes
        lines = re.findall(r"^#.*#$", asked(example), re.MULTILINE)
        cells = {(i, j): mark for i, line in enumerate(lines) for j, mark in enumerate(line)}
        place = {mark: cell for cell, mark in cells.items() if mark in "SE"}
        free = {cell for cell, mark in cells.items() if mark != "#"}
        edges = sum((i + a, j + b) in free for i, j in free for a, b in compass[1:3])
        assert edges == len(free) - 1  # no loops, one way
        marked = {cell for cell, mark in cells.items() if mark in "SXE"}
        at, heading, right, left, steps = place["S"], None, 0, 0, 0
        before = None
        while at != place["E"]:
            (step,) = [s for s in compass if (to := (at[0] + s[0], at[1] + s[1])) in marked and to != before]
            turned = 0 if heading is None else (compass.index(step) - compass.index(heading)) % 4
            right, left = right + (turned == 1), left + (turned == 3)
            before, at, heading, steps = at, (at[0] + step[0], at[1] + step[1]), step, steps + 1
        assert steps == len(marked) - 1 == example.problem.metadata["way"]
        (y, x), (v, u) = place["S"], place["E"]
        words = ("north" if v < y else "south" if v > y else "") + ("east" if u > x else "west" if u < x else "")
        answer = {"right_turns": str(right), "turns": str(right + left), "direction": words}
        wanted = answer[example.problem.metadata["question"]]
        shown = options(example)
        assert len(set(shown)) == 4
        assert await letters(example) == [option == wanted for option in shown]


async def test_answers_about_maps_hold_in_every_map_that_fits_what_is_told():
    """Brute force over all orders of the places along each axis that agree with what is told."""
    for example in SpatialMap(objects=(6,), each=334).examples():  # 1,002 maps
        text, question = asked(example), example.problem.metadata["question"]
        told = re.findall(r"^(\w+ \w+) is (north|south)(east|west) of (\w+ \w+)\.$", text, re.MULTILINE)
        names = sorted({name for a, _, _, b in told for name in (a, b)})
        line = next(line for line in text.splitlines() if line.endswith("?"))
        named = [name for name in re.findall(r"[A-Z]\w+ [A-Z]\w+", line) if name in names]
        norths, easts = (
            _orders(names, [(a, b) if word == wanted else (b, a) for a, *words, b in told for word in [words[axis]]])
            for axis, wanted in ((0, "north"), (1, "east"))
        )
        right = set()
        for shown in options(example):
            if question == "direction":
                a, b = line.split(" is ")[1].rstrip("?"), named[0]
                holds = _always(norths, a, b, shown[:5] == "north") and _always(easts, a, b, shown[5:] == "east")
                assert frozenset((a, b)) not in {frozenset((c, d)) for c, _, _, d in told}
            else:
                word = re.search(r"(north|south)(east|west) of", line)
                assert word
                wanted = word[1] == "north", word[2] == "east"
                inside = [
                    n for n in names if n != named[-1]
                    and _always(norths, n, named[-1], wanted[0]) and _always(easts, n, named[-1], wanted[1])
                ]  # fmt: skip
                holds = shown in inside if question == "which" else str(len(inside)) == shown
            if holds:
                right.add(shown)
        assert len(right) == 1
        assert await letters(example) == [shown in right for shown in options(example)]


Orders = dict[str, np.ndarray]
"""The rank of each place in every order."""


def _orders(names: list[str], above: list[tuple[str, str]]) -> Orders:
    """Every order of the places in which each first of `above` is beyond the second."""
    ranks = dict(zip(names, _all_orders(len(names)), strict=True))
    fine = np.all([ranks[a] > ranks[b] for a, b in above], axis=0)
    return {name: rank[fine] for name, rank in ranks.items()}


@cache
def _all_orders(places: int) -> np.ndarray:
    return np.array(list(permutations(range(places)))).T


def _always(orders: Orders, one: str, other: str, beyond: bool) -> bool:
    return one != other and bool(np.all((orders[one] > orders[other]) == beyond))


# -- Omni-MATH and errors ------------------------------------------------------------------------------------------


def test_omni_math_keeps_domain_and_difficulty_and_chooses_by_it(tmp_path: Path):
    records = [
        {"problem": f"What is {d}?", "answer": str(d), "difficulty": d, "domain": ["A"], "source": "x", "solution": "s"}
        for d in (2.0, 5.5, 9.0)
    ]  # fmt: skip
    path = tmp_path / "omni.jsonl"
    path.write_text("\n".join(map(json.dumps, records)))
    first, *_ = examples = list(OmniMath(path=path).examples())
    assert len(examples) == 3
    assert first.problem.metadata == {"domain": ["A"], "difficulty": 2.0, "source": "x"}
    assert first.problem.id == "omni_math/0"
    assert "solution" not in first.problem.model_dump_json()
    (middle,) = OmniMath(path=path, easiest=3, hardest=8).examples()
    assert middle.problem.id == "omni_math/1"


@pytest.mark.parametrize("verifier", [SatAssignment(), Tour(), MeetingSlot()])
def test_a_problem_of_another_kind_is_refused_before_anything_is_spent(verifier: Verifier):
    with pytest.raises(ConfigError, match="metadata"):
        verifier.ready(Problem.from_prompt("?"))
