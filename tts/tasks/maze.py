"""Maze: questions about the path through a maze of characters.

After the maze task of SpatialEval (Wang et al. 2024, arXiv 2406.14852) as used by Balachandran et al. 2025 (arXiv
2504.00294): the path is marked, and the model must follow it.
"""

from __future__ import annotations

from itertools import pairwise
from random import Random
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from tts.tasks import Example
from tts.tasks.building import Procedural, choice_example, lettered, options_around

Question = Literal["right_turns", "turns", "direction"]
Cell = tuple[int, int]
"""Row, from the top, and column."""
ASKED: dict[Question, str] = {
    "right_turns": "How many right turns are there on the way from S to E?",
    "turns": "How many turns, left and right, are there on the way from S to E?",
    "direction": "Where is E, as seen from S? North is up.",
}
PROMPT = """\
This is a maze. # is wall, S the start, E the end, and X marks the way from S to E; other free cells are blank.

{maze}

{question}

{options}

Think step by step. Then write the letter of the right option, and nothing else, on a last line of the form
Answer: x"""


class Maze(Procedural):
    """Mazes without loops, so that there is only one path; answers are letters."""

    varied: ClassVar[tuple[str, ...]] = ("sizes", "questions")

    sizes: tuple[Annotated[int, Field(ge=2, le=50)], ...] = (3, 4, 5, 6)
    """Rooms per side; with its walls, a maze of n rooms per side has 2n + 1 characters per side."""
    questions: tuple[Question, ...] = ("right_turns", "turns", "direction")
    """The questions asked."""

    def make(self, id: str, rng: Random, difficulty: tuple[Any, ...]) -> Example:
        size, question = difficulty
        free = carve(size, rng)
        start, end = rng.sample([cell for cell in sorted(free) if cell[0] % 2 and cell[1] % 2], 2)
        way = path(free, start, end)
        if question == "direction":
            right = direction(start, end)
            options = [right, *rng.sample(sorted(set(DIRECTIONS.values()) - {right}), 3)]
            rng.shuffle(options)
        else:
            right = str(sum(turn > 0 if question == "right_turns" else turn != 0 for turn in turns(way)))
            options = [str(number) for number in options_around(int(right), rng)]
        text = PROMPT.format(maze=drawn(size, free, way), question=ASKED[question], options=lettered(options))
        metadata = {"size": size, "question": question, "way": len(way) - 1}
        return choice_example(id, text, options, options.index(right), metadata)


def carve(size: int, rng: Random) -> set[Cell]:
    """The free cells of a maze without loops, carved depth first; rooms have odd coordinates."""
    free, stack = {(1, 1)}, [(1, 1)]
    while stack:
        row, column = stack[-1]
        steps = [(row + 2 * a, column + 2 * b, row + a, column + b) for a, b in HEADINGS]
        closed = [s for s in steps if 0 < s[0] < 2 * size and 0 < s[1] < 2 * size and s[:2] not in free]
        if not closed:
            stack.pop()
            continue
        *room, wall_row, wall_column = rng.choice(closed)
        free |= {(room[0], room[1]), (wall_row, wall_column)}
        stack.append((room[0], room[1]))
    return free


HEADINGS = ((-1, 0), (0, 1), (1, 0), (0, -1))
"""North, east, south, west."""


def path(free: set[Cell], start: Cell, end: Cell) -> list[Cell]:
    """The cells from `start` to `end`."""
    came_from, queue = {start: start}, [start]
    for cell in queue:
        for a, b in HEADINGS:
            further = (cell[0] + a, cell[1] + b)
            if further in free and further not in came_from:
                came_from[further] = cell
                queue.append(further)
    way = [end]
    while way[-1] != start:
        way.append(came_from[way[-1]])
    return way[::-1]


def turns(way: list[Cell]) -> list[int]:
    """For each step after the first: 1 for a right turn, -1 for a left turn, 0 for straight on."""
    steps = [(b[0] - a[0], b[1] - a[1]) for a, b in pairwise(way)]
    headings = [HEADINGS.index(step) for step in steps]
    return [{0: 0, 1: 1, 3: -1}[(b - a) % 4] for a, b in pairwise(headings)]


DIRECTIONS = {
    (-1, 0): "north", (-1, 1): "northeast", (0, 1): "east", (1, 1): "southeast",
    (1, 0): "south", (1, -1): "southwest", (0, -1): "west", (-1, -1): "northwest",
}  # fmt: skip


def direction(start: Cell, end: Cell) -> str:
    """The direction of `end` as seen from `start`; north is up."""
    down, along = end[0] - start[0], end[1] - start[1]
    return DIRECTIONS[(down > 0) - (down < 0), (along > 0) - (along < 0)]


def drawn(size: int, free: set[Cell], way: list[Cell]) -> str:
    """The maze as text."""
    marks = {**dict.fromkeys(free, " "), **dict.fromkeys(way, "X"), way[0]: "S", way[-1]: "E"}
    side = range(2 * size + 1)
    return "\n".join("".join(marks.get((row, column), "#") for column in side) for row in side)
