"""How a run reports itself where there is no terminal to draw on."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING

from tts.cli.common import say
from tts.runs.progress import Progress
from tts.types import Result

if TYPE_CHECKING:
    from tts.runs.config import Experiment
    from tts.runs.store import Cell
    from tts.sampler import Sampler

INTERVAL = 10.0
"""Seconds between two lines."""


class LineProgress(Progress):
    """A line now and then, for logs: how much is done, how much of it is right, how fast, what was lost."""

    def begin(
        self, experiment: Experiment, problems: int, *, rows_left: int, models: dict[str, dict[str, Sampler]]
    ) -> None:
        """Say what lies ahead."""
        cells = problems * len(experiment.strategies) * len(experiment.models) * len(experiment.seeds)
        stored = f", {cells - rows_left} stored already" if rows_left < cells else ""
        say(f"{cells} cells over {problems} problems{stored}")
        self._left, self._done, self._right, self._lost, self._tokens = rows_left, 0, 0, 0, 0.0
        self._begin = self._said = monotonic()

    def cell(self, cell: Cell, result: Result, correct: dict[int, bool | None]) -> None:
        """Count a finished cell; speak when it is time, and after the last."""
        self._done += 1
        self._right += bool(result.selected and correct.get(result.selected.id))
        self._lost += len(result.failures)
        self._tokens += result.usage.completion_tokens
        now = monotonic()
        if now - self._said >= INTERVAL or self._done == self._left:
            self._said = now
            say(self._line(now - self._begin))

    def _line(self, seconds: float) -> str:
        left = (self._left - self._done) * seconds / self._done
        lost = f", {self._lost} samples lost" if self._lost else ""
        speed = self._tokens / max(seconds, 1e-9)
        right = self._right / self._done
        return f"{self._done}/{self._left} done, {right:.1%} right, {speed:,.0f} tokens/s, {left:,.0f} s left{lost}"
