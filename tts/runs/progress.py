"""What a run reports while it goes: nothing, a table on a terminal, or a line now and then."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import monotonic, time
from typing import TYPE_CHECKING, Any

from tts.runs.config import Grid
from tts.runs.store import Cell
from tts.sampler import Sampler
from tts.text import counted, visible
from tts.tracing import Tracer, nanoseconds, usage_attributes
from tts.types import Result, sum_usage

if TYPE_CHECKING:
    from rich.table import Table

Models = dict[str, dict[str, Sampler]]
"""Samplers by model and role."""

Left = Mapping[tuple[str, str], int]
"""Cells left to do by strategy and model."""

INTERVAL = 10.0
"""Seconds between two lines of `LineProgress`."""


MANY = 100
"""Problems from which on it is said how to take fewer."""


class Progress:
    """Takes the events of a run; this one is silent."""

    nodes: Callable[[], list[str]] = staticmethod(list)
    """A line for each process that a run is spread over, if that is to be shown."""

    def begin(self, grid: Grid, problems: int, *, left: Left, models: Models) -> None:
        """The run starts, over so many problems, with so many cells left to do."""

    def cell(self, cell: Cell, result: Result, correct: dict[int, bool | None]) -> None:
        """A cell is finished and stored; `correct` is the truth of each candidate by id."""

    def beat(self) -> None:
        """A second has passed."""

    def end(self) -> None:
        """The run is over, for whatever reason."""


def progress_shown(*, quiet: bool = False) -> Progress:
    """A table in a notebook, and on stderr where that is a terminal; else a line now and then."""
    if quiet:
        return Progress()
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is not None and hasattr(shell, "kernel"):
        return NotebookProgress()
    return LiveProgress() if sys.stderr.isatty() else LineProgress()


def planned_samples(grid: Grid, problems: int) -> tuple[int | None, str]:
    """The most samples of the policies that a grid draws for so many problems; None, and the strategies at fault, where
    parameters do not tell."""
    known = {strategy.spec: strategy.most_samples for strategy in grid.strategies}
    unknown = ", ".join(spec for spec, count in known.items() if count is None)
    most = sum(count or 0 for count in known.values()) * problems * len(grid.models) * len(grid.seeds)
    return None if unknown else most, unknown


@dataclass
class _Tally:
    done: int = 0
    right: int = 0
    lost: int = 0
    generated: float = 0.0
    money: float = 0.0


class _Counting(Progress):
    """Counts the finished cells, in all and for each strategy and model."""

    def begin(self, grid: Grid, problems: int, *, left: Left, models: Models) -> None:
        self.cells: int = problems * len(grid.seeds)
        """Of one strategy with one model."""
        self.left: int = sum(left.values())
        self.models: Models = models
        self.started: float = monotonic()
        pairs = [(strategy.spec, model) for model in grid.models for strategy in grid.strategies]
        self.tallies: dict[tuple[str, str], _Tally] = {pair: _Tally() for pair in pairs}
        self.stored: dict[tuple[str, str], int] = {pair: self.cells - left.get(pair, 0) for pair in pairs}
        """Cells that an earlier start has finished."""
        self.all: _Tally = _Tally()
        cells, (samples, _) = self.cells * len(pairs), planned_samples(grid, problems)
        parts = [f"{counted(cells, 'cell')} over {counted(problems, 'problem')}"]
        parts += [f"{counted(samples, 'sample')} at most"] if samples is not None else []
        parts += [f"{cells - self.left:,} stored already"] if self.left < cells else []
        few = "; --limit N takes the first N problems" if grid.limit is None and problems >= MANY else ""
        self.extent: str = ", ".join(parts) + few
        """What there is to do."""

    def cell(self, cell: Cell, result: Result, correct: dict[int, bool | None]) -> None:
        samplers = self.models[cell.model]
        priced = [(samplers[role], usage) for role, usage in result.spent.items() if role in samplers]
        for tally in (self.all, self.tallies[cell.strategy, cell.model]):
            tally.done += 1
            tally.right += bool(result.selected and correct.get(result.selected.id))
            tally.lost += len(result.failures)
            tally.generated += result.usage.completion_tokens
            tally.money += sum(sampler.endpoint.money(usage) for sampler, usage in priced)

    def trouble(self) -> str:
        """What goes wrong: attempts that failed, and endpoints that answer nothing now; empty where all is well."""
        samplers = {sampler for roles in self.models.values() for sampler in roles.values()}
        failed = sum(sampler.connection.pool.failed for sampler in samplers)
        latest = max((sampler.connection.pool for sampler in samplers), key=lambda pool: pool.failed_at)
        now = [words[:300] for sampler in samplers if (words := sampler.connection.health.trouble())]
        if not failed:
            return "; ".join(now)
        said = now or [f"last: {latest.failure[:200]}"]
        return "; ".join([f"{counted(failed, 'attempt')} failed", *said])

    def pace(self) -> str:
        """Tokens generated a second, and the time left."""
        seconds = max(monotonic() - self.started, 1e-9)
        speed = f"{self.all.generated / seconds:,.0f} tokens/s"
        if not self.all.done:
            return speed
        return f"{speed}, {(self.left - self.all.done) * seconds / self.all.done:,.0f} s left"


class LineProgress(_Counting):
    """A line now and then, for logs: how much is done, how much of it is right, how fast, what was lost."""

    def begin(self, grid: Grid, problems: int, *, left: Left, models: Models) -> None:
        super().begin(grid, problems, left=left, models=models)
        print(self.extent, file=sys.stderr)
        self.spoke: float = self.started
        self.told: str = ""

    def cell(self, cell: Cell, result: Result, correct: dict[int, bool | None]) -> None:
        super().cell(cell, result, correct)
        if monotonic() - self.spoke >= INTERVAL or self.all.done == self.left:
            self._say()

    def beat(self) -> None:
        trouble = self.trouble()
        since = monotonic() - self.spoke
        news = trouble != self.told and (not self.told or since >= INTERVAL / 2)
        if news or since >= INTERVAL:
            self._say()

    def _say(self) -> None:
        self.spoke, self.told, done = monotonic(), self.trouble(), self.all.done
        right = f", {self.all.right / done:.1%} right" if done else ""
        lost = f", {self.all.lost} lost" if self.all.lost else ""
        trouble = f"; {self.told}" if self.told else ""
        told = f"{done}/{self.left} done{right}, {self.pace()}{lost}{trouble}"
        print(visible("\n  ".join([told, *self.nodes()])), file=sys.stderr, flush=True)


class LiveProgress(_Counting):
    """A table, redrawn in place, with a row for each strategy and model."""

    def begin(self, grid: Grid, problems: int, *, left: Left, models: Models) -> None:
        from rich.console import Console
        from rich.live import Live

        super().begin(grid, problems, left=left, models=models)
        console = Console(stderr=True)  # stdout is for results
        console.print(self.extent, highlight=False, markup=False)
        self._live = Live(get_renderable=self._table, auto_refresh=False, console=console)
        self._live.start(refresh=True)

    def beat(self) -> None:
        self._live.refresh()  # here and not in a thread of rich's: what is shown belongs to the event loop

    def end(self) -> None:
        if hasattr(self, "_live"):
            self._live.stop()

    def _table(self) -> Table:
        from rich.table import Table
        from rich.text import Text

        below = Text(visible("\n".join(filter(None, [self.trouble(), *self.nodes()]))))
        table = Table(title=self.pace(), title_justify="left", caption=below or None, caption_justify="left")
        for column in ("strategy", "model", "done", "accuracy", "tokens", "money", "lost"):
            table.add_column(column, justify="left" if column in ("strategy", "model") else "right")
        for (strategy, model), tally in self.tallies.items():
            accuracy = f"{tally.right / tally.done:.1%}" if tally.done else ""
            money = f"{tally.money:.4g}" if tally.money else ""
            done = f"{self.stored[strategy, model] + tally.done}/{self.cells}"
            names = [Text(visible(name)) for name in (strategy, model)]  # no markup of rich's: what they say is shown
            table.add_row(*names, done, accuracy, f"{tally.generated:,.0f}", money, str(tally.lost or ""))
        return table


class NotebookProgress(LiveProgress):
    """The same table below a notebook's cell."""

    def begin(self, grid: Grid, problems: int, *, left: Left, models: Models) -> None:
        from IPython.display import display

        _Counting.begin(self, grid, problems, left=left, models=models)
        self._shown: Any = display(self._table(), display_id=True)

    def beat(self) -> None:
        self._shown.update(self._table())

    def end(self) -> None:
        if hasattr(self, "_shown"):
            self.beat()


class TracedProgress(Progress):
    """A progress like another one, which sends an OpenTelemetry span for each cell, and one for each call below it.

    Its calls are those that the cell would have needed alone, whoever made them first in this run or an earlier one.
    """

    def __init__(self, shown: Progress) -> None:
        """Raises `MissingExtra` without the extra `otel`."""
        self._shown, self._tracer = shown, Tracer("tts.runs", "--otel")

    def begin(self, grid: Grid, problems: int, *, left: Left, models: Models) -> None:
        self._shown.nodes = lambda: self.nodes()
        self._shown.begin(grid, problems, left=left, models=models)

    def cell(self, cell: Cell, result: Result, correct: dict[int, bool | None]) -> None:
        self._shown.cell(cell, result, correct)
        charges = {*result.loose, *(charge for one in result.candidates for charge in one.charges)}
        ended = time()
        began = min([ended - result.seconds, *(charge.started for charge in charges)])
        attributes = {
            "gen_ai.operation.name": "chat",
            "gen_ai.request.model": cell.model,
            "tts.strategy": cell.strategy,
            "tts.problem": cell.problem,
            "tts.seed": cell.seed,
            "tts.ended": result.ended,
            "tts.correct": bool(result.selected and correct.get(result.selected.id)),
            **usage_attributes(sum_usage(result.needed.values())),
        }
        span = self._tracer.start(f"cell {cell.strategy}", attributes=attributes, start_time=nanoseconds(began))
        self._tracer.calls(span, charges)
        if result.ended == "failed":
            span.set_status(self._tracer.trace.StatusCode.ERROR)
        span.end(nanoseconds(ended))

    def beat(self) -> None:
        self._shown.beat()

    def end(self) -> None:
        self._shown.end()
        self._tracer.close()
