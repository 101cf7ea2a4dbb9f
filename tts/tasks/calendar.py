"""Calendar: find a time for a meeting that suits everyone and keeps all rules.

After BA-Calendar of Balachandran et al. 2025 (arXiv 2504.00294), whose problems a model wrote; these are random. The
measure of difficulty is the same: constrainedness, the share of all slots that do not fit. A slot is a day and a start
at a multiple of five minutes such that the meeting lies between 08:00 and 18:00.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Annotated, Any, ClassVar

from pydantic import Field

from tts.errors import ConfigError
from tts.tasks import Example
from tts.tasks.building import Procedural
from tts.types import Problem
from tts.verifiers.exact_answer import ExactAnswer
from tts.verifiers.meeting_slot import DAYS, NONE, STEP, Block, Meeting, MeetingSlot, Slot, clock, rules_of, slot_text

OPEN, CLOSE = 8 * 60, 18 * 60
PEOPLE = ("Amara", "Bilal", "Chiyo", "Dario", "Elif", "Farid", "Greta", "Hana", "Ivo", "Jun")
TRIES = 20_000
PROMPT = """\
Find a time for a meeting of {people}. This is when each of them is free; at all other times they are not:

{free}

The meeting must keep these rules:
{rules}

Times are those of one week, which begins on Monday. Think step by step. Then end with a last line of the form
Answer: Monday 09:00-10:30
If no time keeps all the rules, end with
Answer: {none}"""


class Calendar(Procedural):
    """Right is any time that keeps all rules, the earliest one if that is asked for, or `none` if there is none.

    Strategies may check a time (`meeting_slot`, which says which rules it breaks); only the truth knows, by
    enumeration, which time is the earliest and whether there is any.
    """

    varied: ClassVar[tuple[str, ...]] = ("tenths",)

    tenths: tuple[Annotated[int, Field(ge=0, le=10)], ...] = tuple(range(11))
    """Constrainedness: 7 means at least 0.7 and below 0.8; 10 means 1, no slot fits."""
    people: Annotated[int, Field(ge=1, le=len(PEOPLE))] = 3
    """The number of participants."""
    days: Annotated[int, Field(ge=1, le=7)] = 5
    """The number of days, from Monday on, on which they have free time."""

    def make(self, id: str, rng: Random, difficulty: tuple[Any, ...]) -> Example:
        (tenth,) = difficulty
        for _ in range(TRIES):
            meeting = random_meeting(self.people, self.days, rng)
            slots, fitting = all_slots(meeting), feasible(meeting)
            if 10 * (len(slots) - len(fitting)) // len(slots) == tenth:
                break
        else:
            raise ConfigError(f"no meeting of {self.people} people in {self.days} days is {tenth} tenths constrained")
        problem = Problem.from_prompt(
            _prompt(meeting),
            id=id,
            verifier=MeetingSlot.name,
            answer=ExactAnswer.name,
            metadata={"meeting": meeting, "constrainedness": 1 - len(fitting) / len(slots)},
        )
        best = NONE if not fitting else slot_text(fitting[0]) if meeting["earliest"] else "any"
        return Example(problem, MeetingSlot(best=best))


def random_meeting(people: int, days: int, rng: Random) -> Meeting:
    """A meeting with some of the rules; how busy people are, and how many rules there are, varies widely."""
    week, busy = DAYS[:days], rng.random()
    free: dict[str, dict[str, list[Block]]] = {
        name: {day: _blocks(busy, rng) for day in week if rng.random() > busy / 3}
        for name in rng.sample(PEOPLE, people)
    }
    start = rng.randrange(OPEN, CLOSE - 60, 30)
    return Meeting(
        free=free,
        duration=rng.choice((30, 45, 60, 90)),
        buffer=rng.choice((5, 10, 15)) if rng.random() < busy else 0,
        not_before=rng.choice((9, 10, 11)) * 60 if rng.random() < busy / 2 else None,
        not_after=rng.choice((15, 16, 17)) * 60 if rng.random() < busy / 2 else None,
        weekdays_only=days > 5 and rng.random() < busy,
        forbidden=(rng.choice(week), start, start + 60) if rng.random() < busy else None,
        earliest=rng.random() < 0.3,
    )


def _blocks(busy: float, rng: Random) -> list[Block]:
    """The free time that up to eight appointments leave of a day."""
    blocks, start = [], OPEN
    for busy_from in sorted(rng.randrange(OPEN, CLOSE, 15) for _ in range(round(8 * busy * rng.random()))):
        if busy_from > start:
            blocks.append((start, busy_from))
        start = max(start, min(busy_from + rng.randrange(15, 91, 15), CLOSE))
    return [*blocks, (start, CLOSE)] if start < CLOSE else blocks


def all_slots(meeting: Meeting) -> list[Slot]:
    """Every slot of every day on which anyone has free time, earliest first."""
    week = [day for day in DAYS if any(day in days for days in meeting["free"].values())] or [DAYS[0]]
    starts = range(OPEN, CLOSE - meeting["duration"] + 1, STEP)
    return [(day, start, start + meeting["duration"]) for day in week for start in starts]


def feasible(meeting: Meeting) -> list[Slot]:
    """The slots that keep all rules, earliest first."""
    rules = rules_of(meeting).values()
    return [slot for slot in all_slots(meeting) if all(kept(*slot) for kept in rules)]


def _prompt(meeting: Meeting) -> str:
    lines = [
        f"{name}: " + ("; ".join(f"{day} {_times(blocks)}" for day, blocks in days.items() if blocks) or "never")
        for name, days in meeting["free"].items()
    ]
    *others, last = meeting["free"]
    people = f"{', '.join(others)} and {last}" if others else last
    rules = "\n".join(f"- {rule}" for rule in _rules(meeting))
    return PROMPT.format(people=people, free="\n".join(lines), rules=rules, none=NONE)


def _times(blocks: list[Block]) -> str:
    return ", ".join(f"{clock(start)}-{clock(end)}" for start, end in blocks)


def _rules(meeting: Meeting) -> Iterator[str]:
    yield from (f"{words}." for words in rules_of(meeting))
    if meeting["earliest"]:
        yield "it is the earliest time of the week that keeps all other rules."
