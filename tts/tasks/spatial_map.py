"""Spatial map: questions about places, given only some of their relations.

After the map task of SpatialEval (Wang et al. 2024, arXiv 2406.14852) as used by Balachandran et al. 2025 (arXiv
2504.00294). The answer follows from the given relations without being one of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from random import Random
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from tts.tasks import Example
from tts.tasks.building import Procedural, choice_example, lettered, options_around

Question = Literal["direction", "which", "how_many"]
Relation = NDArray[np.int8]
"""places x places: 1 where the row is known to lie further east (or north) than the column, -1 the other way round,
else 0."""
Told = tuple[int, int]
"""The place whose direction is given, and the place it is seen from."""

CORNERS = {(1, 1): "northeast", (-1, 1): "northwest", (1, -1): "southeast", (-1, -1): "southwest"}
"""By east and north."""
FIRST = ("Amber", "Birch", "Copper", "Dune", "Ember", "Fern")
FIRST += ("Granite", "Heron", "Indigo", "Juniper", "Kestrel", "Lotus")
SECOND = ("Bakery", "Library", "Museum", "Market", "Theatre", "Garden", "Harbour", "Station", "School", "Tower")
PROMPT = """\
On a map, no two places have the same longitude or the same latitude. This is known of them:

{told}

{question}

{options}

Think step by step. Then write the letter of the right option, and nothing else, on a last line of the form
Answer: x"""


class SpatialMap(Procedural):
    """Places with two-word names; answers are letters, and follow from the given relations by transitivity alone."""

    varied: ClassVar[tuple[str, ...]] = ("objects", "questions")

    objects: tuple[Annotated[int, Field(ge=6, le=12)], ...] = (6, 8, 10, 12)
    """The numbers of places."""
    questions: tuple[Question, ...] = ("direction", "which", "how_many")
    """The questions asked: the direction of a place from another, which place lies in a direction, or how many do."""

    def make(self, id: str, rng: Random, difficulty: tuple[Any, ...]) -> Example:
        count, question = difficulty
        while True:  # until the given relations settle a question
            east, north = ([*rng.sample(range(count), count)] for _ in range(2))
            pairs = [(a, b) if rng.random() < 0.5 else (b, a) for a, b in combinations(range(count), 2)]
            told = rng.sample(pairs, rng.randint(len(pairs) // 2, len(pairs) - 1))
            known = closure(told, east, count), closure(told, north, count)
            if (asked := _asked(question, told, known, rng)) is not None:
                break
        second = rng.sample(SECOND, min(count, len(SECOND)))
        names = [f"{one} {second[i % len(second)]}" for i, one in enumerate(rng.sample(FIRST, count))]
        words, options, right = asked
        shown = [option if isinstance(option, str) else names[option] for option in options]
        directions = [CORNERS[_sign(east[a] - east[b]), _sign(north[a] - north[b])] for a, b in told]
        facts = [f"{names[a]} is {where} of {names[b]}." for (a, b), where in zip(told, directions, strict=True)]
        text = PROMPT.format(told="\n".join(facts), question=words.format(*names), options=lettered(shown))
        return choice_example(id, text, shown, right, {"objects": count, "question": question, "told": len(told)})


def closure(told: Sequence[Told], place: Sequence[int], count: int) -> Relation:
    """All that follows along one axis from the given pairs by transitivity; `place` is the true order."""
    further = np.zeros((count, count), dtype=bool)
    for a, b in told:
        further[(a, b) if place[a] > place[b] else (b, a)] = True
    for middle in range(count):
        further |= further[:, [middle]] & further[[middle], :]
    return further.astype(np.int8) - further.T.astype(np.int8)


def corner(known: tuple[Relation, Relation], a: int, b: int, wanted: tuple[int, int]) -> bool | None:
    """Whether a lies in the `wanted` direction (east, north) of b; None if that does not follow."""
    east, north = int(known[0][a, b]), int(known[1][a, b])
    if east == -wanted[0] or north == -wanted[1]:
        return False
    return True if (east, north) == wanted else None


Asked = tuple[str, Sequence[int | str], int]
"""The question with places by number, the options (numbers are places), and the index of the right one."""


def _asked(question: Question, told: Sequence[Told], known: tuple[Relation, Relation], rng: Random) -> Asked | None:
    """A question with a single answer; None if none was found."""
    count = len(known[0])
    if question == "direction":
        silent = {frozenset(pair) for pair in combinations(range(count), 2)} - {frozenset(pair) for pair in told}
        settled = [(a, b) for a, b in map(sorted, silent) if all(axis[a, b] for axis in known)]
        if not settled:
            return None
        a, b = rng.sample(rng.choice(sorted(settled)), 2)
        options = rng.sample(sorted(CORNERS.values()), 4)
        right = CORNERS[int(known[0][a, b]), int(known[1][a, b])]
        return f"In which direction of {{{b}}} is {{{a}}}?", options, options.index(right)
    centre, wanted = rng.randrange(count), rng.choice(sorted(CORNERS))
    lies = {other: corner(known, other, centre, wanted) for other in range(count) if other != centre}
    inside, outside = ([other for other, there in lies.items() if there is flag] for flag in (True, False))
    mentioned = {frozenset(pair) for pair in told}
    if question == "which":
        inside = [other for other in inside if frozenset((other, centre)) not in mentioned]
        if not inside or len(outside) < 3:
            return None
        places = [rng.choice(inside), *rng.sample(outside, 3)]
        options = rng.sample(places, 4)
        return f"Which of these places is {CORNERS[wanted]} of {{{centre}}}?", options, options.index(places[0])
    if None in lies.values() or all(frozenset((other, centre)) in mentioned for other in lies):
        return None
    numbers = options_around(len(inside), rng)
    right = numbers.index(len(inside))
    return f"How many of the places are {CORNERS[wanted]} of {{{centre}}}?", [str(number) for number in numbers], right


def _sign(value: int) -> int:
    return 1 if value > 0 else -1
