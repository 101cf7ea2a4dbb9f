"""Times for a meeting, checked against everyone's free time and the rules of the meeting."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, ClassVar, Literal, TypedDict

from tts.base import Verifier
from tts.errors import ConfigError
from tts.types import Candidate, Problem, Scale, Verdict
from tts.verifiers.answers.extraction import final_answer

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
NONE = "none"
STEP = 5
"""Meetings start at multiples of this many minutes."""

Block = tuple[int, int]
"""Start and end, in minutes from midnight."""
Slot = tuple[str, int, int]
"""Day, start and end."""


class Meeting(TypedDict):
    """What is asked for: `problem.metadata["meeting"]`. Times are minutes from midnight."""

    free: dict[str, dict[str, list[Block]]]
    """For each person and day the blocks of free time; a day that is missing has none."""
    duration: int
    """Minutes."""
    buffer: int
    """Minutes before and after the meeting during which everyone must be free."""
    not_before: int | None
    not_after: int | None
    """The meeting may end then."""
    weekdays_only: bool
    forbidden: tuple[str, int, int] | None
    """A day and a block that the meeting must not overlap."""
    earliest: bool
    """Whether it must be the earliest time that fits."""


class MeetingSlot(Verifier):
    """Refuses times that break any rule of `problem.metadata["meeting"]` and names each broken rule.

    The answer is `Answer: Monday 09:00-10:30`, or `Answer: none` if no time fits. The score is the share of the rules
    that are kept. Whether a time is the earliest, or none fits, takes a search, which is left to the truth: without it,
    such answers are neither accepted nor refused.
    """

    scale: ClassVar[Scale | None] = "positive"

    best: Literal["any", "none"] | str | None = None
    """What only the task's truth knows: the earliest slot if that is asked for, else `any`, or `none` if none fits."""

    def ready(self, problem: Problem) -> None:
        if "meeting" not in problem.metadata:
            raise ConfigError(f"{problem.id} has no meeting in its metadata, unlike the problems of calendar")

    def check(self, problem: Problem, candidate: Candidate) -> Verdict:
        meeting = problem.metadata["meeting"]
        answer = final_answer(candidate.content)
        if answer.casefold() == NONE:
            right = None if self.best is None else self.best == NONE
            return Verdict(float(right or 0), right, "whether no time fits is not checked" if right is None else "")
        slot = parse_slot(answer)
        if slot is None:
            return Verdict(0.0, False, f"no time found; write `Answer: Monday 09:00-10:30`, or `Answer: {NONE}`")
        rules = rules_of(meeting)
        broken = [rule for rule, kept in rules.items() if not kept(*slot)]
        passed: bool | None = not broken
        if passed and meeting["earliest"]:
            passed = None if self.best is None else slot_text(slot) == self.best
        feedback = f"broken: {'; '.join(broken)}" if broken else ""
        return Verdict(1 - len(broken) / len(rules), passed, feedback, {"broken": broken})


def rules_of(meeting: Meeting | dict[str, Any]) -> dict[str, Callable[[str, int, int], bool]]:
    """Each rule that applies, in words, as a function of day, start and end."""
    buffer, early, late = meeting["buffer"], meeting["not_before"], meeting["not_after"]
    rest = f" from {buffer} minutes before it to {buffer} minutes after it" if buffer else ""
    rules: dict[str, Callable[[str, int, int], bool]] = {
        f"it takes {meeting['duration']} minutes": lambda day, start, end: end - start == meeting["duration"],
        f"it begins at a multiple of {STEP} minutes": lambda day, start, end: start % STEP == 0,
    }
    for person, days in meeting["free"].items():
        rules[f"{person} is free{rest}"] = lambda day, start, end, days=days: any(
            begin <= start - buffer and end + buffer <= stop for begin, stop in days.get(day, ())
        )
    if early is not None:
        rules[f"it is not before {clock(early)}"] = lambda day, start, end: start >= early
    if late is not None:
        rules[f"it is over by {clock(late)}"] = lambda day, start, end: end <= late
    if meeting["weekdays_only"]:
        rules["it is not on a weekend"] = lambda day, start, end: day in DAYS[:5]
    if meeting["forbidden"] is not None:
        blocked, begin, stop = meeting["forbidden"]
        rules[f"it does not touch {slot_text((blocked, begin, stop))}"] = lambda day, start, end: (
            day != blocked or end <= begin or start >= stop
        )
    return rules


_SLOT = re.compile(rf"({'|'.join(DAYS)}),?\s+(\d{{1,2}}):(\d\d)\s*(?:-|–|to)\s*(\d{{1,2}}):(\d\d)", re.IGNORECASE)


def parse_slot(answer: str) -> Slot | None:
    """The slot that `answer` names; None for anything else, and for times that no clock shows."""
    match = _SLOT.fullmatch(answer)
    if not match:
        return None
    hours, minutes, later, past = map(int, match.groups()[1:])
    start, end = 60 * hours + minutes, 60 * later + past
    return (match[1].title(), start, end) if max(minutes, past) < 60 and start < end <= 24 * 60 else None


def slot_text(slot: Slot) -> str:
    """The slot as `Monday 09:00-10:30`."""
    return f"{slot[0]} {clock(slot[1])}-{clock(slot[2])}"


def clock(minutes: int) -> str:
    """Minutes from midnight as 09:30."""
    return f"{minutes // 60:02}:{minutes % 60:02}"
