"""What a run tells while it goes."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from time import monotonic
from typing import TYPE_CHECKING

from tts.types import Result, Usage

if TYPE_CHECKING:
    from rich.table import Table

    from tts.runs.config import Experiment
    from tts.runs.store import Cell
    from tts.sampler import Sampler


class Progress:
    """Takes the events of a run; this one is silent."""

    def begin(
        self, experiment: Experiment, problems: int, *, rows_left: int, models: dict[str, dict[str, Sampler]]
    ) -> None:
        """The run begins, with so many cells left to do."""

    def cell(self, cell: Cell, result: Result, correct: dict[int, bool | None]) -> None:
        """A cell is finished and stored; `correct` is the truth of each candidate by id."""

    def end(self) -> None:
        """The run is over, in whatever way."""


@dataclass
class _Tally:
    done: int = 0
    right: int = 0
    failures: int = 0
    tokens: float = 0.0
    money: float = 0.0


@dataclass
class LiveProgress(Progress):
    """A table that is redrawn in place: for each strategy and model done/total, accuracy, tokens, money, time left."""

    tallies: dict[tuple[str, str], _Tally] = field(default_factory=lambda: defaultdict(_Tally))

    def begin(
        self, experiment: Experiment, problems: int, *, rows_left: int, models: dict[str, dict[str, Sampler]]
    ) -> None:
        """Start drawing."""
        from rich.console import Console
        from rich.live import Live

        self._left, self._begin, self._finished, self._models = rows_left, monotonic(), 0, models
        self._new_tokens = 0.0
        self._total = problems * len(experiment.seeds)
        self._grid = [(s.spec, model) for model in experiment.models for s in experiment.strategies]
        console = Console(stderr=True)  # stdout is for results
        self._live = Live(get_renderable=self._table, refresh_per_second=4, transient=False, console=console)
        self._live.start()

    def cell(self, cell: Cell, result: Result, correct: dict[int, bool | None]) -> None:
        """Count a finished cell."""
        tally = self.tallies[cell.strategy, cell.model]
        tally.done += 1
        tally.right += bool(result.selected and correct.get(result.selected.id))
        tally.failures += len(result.failures)
        tally.tokens += result.usage.total_tokens
        tally.money += sum(self._money(cell.model, role, usage) for role, usage in result.spent.items())
        self._new_tokens += result.usage.completion_tokens
        self._finished += 1

    def end(self) -> None:
        """Leave the last state on the screen."""
        if hasattr(self, "_live"):
            self._live.stop()

    def _money(self, model: str, role: str, usage: Usage) -> float:
        sampler = self._models[model].get(role)
        return sampler.endpoint.money(usage) if sampler else 0.0

    def _table(self) -> Table:
        from rich.table import Table

        seconds = monotonic() - self._begin
        left = (self._left - self._finished) * seconds / self._finished if self._finished else None
        title = f"{self._new_tokens / max(seconds, 1e-9):.0f} tokens/s"
        title += f", {left:.0f} s left" if left is not None else ""
        table = Table(title=title, title_justify="left")
        for column in ("strategy", "model", "done", "accuracy", "tokens", "money", "failures"):
            table.add_column(column, justify="left" if column in ("strategy", "model") else "right")
        for strategy, model in self._grid:
            tally = self.tallies[strategy, model]
            accuracy = f"{tally.right / tally.done:.1%}" if tally.done else ""
            money = f"{tally.money:.4f}" if tally.money else ""
            failures = str(tally.failures) if tally.failures else ""
            done = f"{tally.done}/{self._total}"
            table.add_row(strategy, model, done, accuracy, f"{tally.tokens:,.0f}", money, failures)
        return table
