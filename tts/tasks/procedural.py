"""What procedural tasks share: problems without end, each the same wherever and with whatever others it is made."""

from __future__ import annotations

from random import Random

from pydantic import PositiveInt

from tts.tasks import Task


class Procedural(Task):
    """Makes its problems by a seed; the first ones, as with --limit, are of all difficulties."""

    each: PositiveInt = 20
    """Problems of each difficulty and kind."""
    seed: int = 0
    """Another seed makes other problems."""

    def random(self, id: str) -> Random:
        """Random numbers that depend on the seed and the problem alone."""
        return Random(f"{self.seed} {id}")


def options_around(right: int, rng: Random, count: int = 4) -> list[int]:
    """`count` different numbers from 0 on in random order, `right` among them and the others as near as can be."""
    low = rng.randint(max(0, right - count + 1), right)
    return rng.sample(range(low, low + count), count)
