"""Round trips through all cities, checked for validity and length."""

from __future__ import annotations

import itertools
import re

from tts.base import Verifier
from tts.errors import ConfigError
from tts.types import Candidate, Problem, Verdict
from tts.verifiers.answers.extraction import final_answers


class Tour(Verifier):
    """Refuses what is no round trip through all cities of `problem.metadata["distances"]`, and rates the others.

    The answer is `Answer: 0 -> 3 -> ... -> 0`; it may begin in any city and go round either way. The score is minus
    the length, infinitely low where there is no valid tour. Feedback says what is wrong, or how long the tour is.
    """

    shortest: int | None = None
    """The length of a shortest tour, which only the task's truth knows: with it, only such tours are accepted; without
    it, no valid tour is accepted or refused."""

    def ready(self, problem: Problem) -> None:
        """There must be distances."""
        if "distances" not in problem.metadata:
            raise ConfigError(f"{problem.id} has no distances in its metadata, as those of tsp have")

    def check(self, problem: Problem, candidate: Candidate) -> Verdict:
        """Walk the tour."""
        distances = problem.metadata["distances"]
        stops = tour(candidate.content)
        if complaint := wrong_with(stops, len(distances)):
            return Verdict(float("-inf"), False, complaint)
        length = sum(distances[a][b] for a, b in itertools.pairwise(stops))
        passed = None if self.shortest is None else length == self.shortest
        feedback = "" if passed else f"the tour is valid and has the length {length}; a shorter one may exist"
        return Verdict(-float(length), passed, feedback, {"length": length})


def tour(text: str) -> list[int]:
    """The numbers of the final answer; nothing where there is anything but numbers, arrows and commas."""
    answer = (final_answers(text) or [""])[0]
    return (
        [int(word) for word in re.findall(r"\d+", answer)]
        if re.fullmatch(r"(?:\d{1,4}|[\s\->→,\[\]])+", answer)
        else []
    )


def wrong_with(stops: list[int], cities: int) -> str:
    """Why `stops` are no round trip through all cities; nothing where they are."""
    if not stops:
        return "no tour found; write `Answer: 0 -> ... -> 0`"
    if unknown := [stop for stop in stops if stop >= cities]:
        return f"there is no city {unknown[0]}: they are 0 to {cities - 1}"
    if stops[0] != stops[-1] or len(stops) < 2:
        return f"the tour begins in {stops[0]} and ends in {stops[-1]}, not where it began"
    if missing := sorted(set(range(cities)) - set(stops)):
        return f"cities that are not visited: {', '.join(map(str, missing))}"
    twice = sorted({stop for stop in stops[1:] if stops[1:].count(stop) > 1})
    return f"cities that are visited more than once: {', '.join(map(str, twice))}" if twice else ""
