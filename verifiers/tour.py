"""Round trips through all cities, checked for validity and length."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from typing import ClassVar

from tts.base import Verifier
from tts.errors import ConfigError
from tts.types import Candidate, Problem, Scale, Verdict
from tts.verifiers.answers.extraction import final_answer


class Tour(Verifier):
    """Refuses anything but a round trip through all cities of `problem.metadata["distances"]`, and rates round trips.

    The answer is `Answer: 0 -> 3 -> ... -> 0`; it may start in any city and go in either direction. The score is minus
    the length; without a valid tour there is none. Feedback says what is wrong, or how long the tour is.
    """

    scale: ClassVar[Scale | None] = "order"

    shortest: int | None = None
    """The length of a shortest tour, known only to the task's truth. With it, only shortest tours are accepted; without
    it, valid tours are neither accepted nor refused."""

    def ready(self, problem: Problem) -> None:
        if "distances" not in problem.metadata:
            raise ConfigError(f"{problem.id} has no distances in its metadata, unlike the problems of tsp")

    def check(self, problem: Problem, candidate: Candidate) -> Verdict:
        distances = problem.metadata["distances"]
        stops = tour(candidate.content)
        if complaint := wrong_with(stops, len(distances)):
            return Verdict(None, False, complaint)
        length = sum(distances[a][b] for a, b in itertools.pairwise(stops))
        passed = None if self.shortest is None else length == self.shortest
        feedback = "" if passed else f"the tour is valid and has the length {length}; a shorter one may exist"
        return Verdict(-float(length), passed, feedback, {"length": length})


def tour(text: str) -> list[int]:
    """The numbers of the final answer; empty if it has anything but numbers, arrows and commas."""
    answer = final_answer(text)
    valid = re.fullmatch(r"(?:\d{1,4}(?!\d)|[\s\->→,\[\]])++", answer)
    return [int(word) for word in re.findall(r"\d+", answer)] if valid else []


def wrong_with(stops: list[int], cities: int) -> str:
    """Why `stops` are not a round trip through all cities; empty if they are."""
    if not stops:
        return "no tour found; write `Answer: 0 -> ... -> 0`"
    if unknown := [stop for stop in stops if stop >= cities]:
        return f"there is no city {unknown[0]}: they are 0 to {cities - 1}"
    if stops[0] != stops[-1] or len(stops) < 2:
        return f"the tour begins in {stops[0]} and ends in {stops[-1]}, not where it began"
    if missing := sorted(set(range(cities)) - set(stops)):
        return f"cities that are not visited: {', '.join(map(str, missing))}"
    twice = sorted(stop for stop, times in Counter(stops[1:]).items() if times > 1)
    return f"cities that are visited more than once: {', '.join(map(str, twice))}" if twice else ""
