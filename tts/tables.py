"""Results as tables, for a terminal and as Markdown, and as plain data for JSON."""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

from tts.errors import ConfigError
from tts.lacks import lacking
from tts.text import broken, counted, visible

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.text import Text

    from tts.curves import Curve
    from tts.types import Result

Rows = Sequence[Mapping[str, Any]]


@dataclass
class Table:
    """A titled table of text. rich prints it; `markdown` writes it."""

    title: str
    left: Sequence[str]
    """Names of the columns that are aligned left."""
    right: Sequence[str] = ()
    """Names of those after them, aligned right."""
    rows: list[tuple[str | Text, ...]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """Lines below the table."""

    def add_row(self, *cells: str | Text) -> None:
        """Append a row of one cell for each column."""
        self.rows.append(cells)

    def renamed(self, names: Mapping[str, str]) -> Table:
        """The table with each of `names` in place of the longer one that it stands for."""

        def cut(cell: Any) -> Any:
            for name in sorted(names, key=len, reverse=True) if isinstance(cell, str) else ():
                cell = cell.replace(name, names[name])
            return cell

        rows = [tuple(map(cut, row)) for row in self.rows]
        return replace(self, title=cut(self.title), rows=rows, notes=[cut(note) for note in self.notes])

    @property
    def _told(self) -> list[int]:
        """The columns that have anything to tell."""
        return [i for i in range(len(self.left) + len(self.right)) if any(str(row[i]) for row in self.rows)]

    def _longest_piece(self, column: int) -> int:
        """Characters of what cannot be broken in a column's names."""
        return max((len(line) for row in self.rows for line in broken(str(row[column]), 1).split("\n")), default=0)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        """As wide as it must be. Where that is too wide, names are broken after their commas and the like; where that
        is not enough, the numbers go on in a further table below. No number is ever cut.
        """
        from rich import box
        from rich.table import Table as RichTable
        from rich.text import Text

        names, told = [*self.left, *self.right], self._told
        left, right = [i for i in told if i < len(self.left)], [i for i in told if i >= len(self.left)]
        widths = {i: max(len(names[i]), *(len(str(row[i])) for row in self.rows)) for i in told}
        room = options.max_width - sum(widths.values()) - 3 * len(told) + 1
        for most in (24, 1):
            for i in sorted(left, key=lambda i: -widths[i]):
                least = max(most, len(names[i]), min(30, self._longest_piece(i)))
                spared = min(max(0, -room), max(0, widths[i] - least))
                widths[i], room = widths[i] - spared, room + spared
        beside = options.max_width - sum(widths[i] + 3 for i in left) + 1
        parts: list[list[int]] = [[]]
        for i in right:
            if parts[-1] and sum(widths[j] + 3 for j in (*parts[-1], i)) > beside:
                parts.append([])
            parts[-1].append(i)
        if self.title:
            yield Text(visible(self.title), "bold")
        for part in parts:
            made = RichTable(box=box.SIMPLE, pad_edge=False)
            for i in (*left, *part):
                made.add_column(names[i], justify="left" if i in left else "right", no_wrap=i in part, overflow="fold")
            for row in self.rows:
                cells = (row[i] for i in (*left, *part))
                made.add_row(
                    *(
                        Text(broken(visible(cell), widths[i])) if isinstance(cell, str) else cell
                        for i, cell in zip((*left, *part), cells, strict=True)
                    )
                )
            yield made
        width = options.max_width - 4
        for note in self.notes:
            for i, line in enumerate(Text(visible(note)).wrap(console, width)):
                yield Text("    " if i else "  - ") + line

    def html(self) -> str:
        """The table in HTML, for notebooks."""
        names, told = [*self.left, *self.right], self._told
        aligned = [f"<td style='text-align: {'left' if i < len(self.left) else 'right'}'>" for i in range(len(names))]
        lines = ["".join(f"{aligned[i]}{escape(str(row[i]))}</td>" for i in told) for row in self.rows]
        head = "".join(f"<th>{escape(names[i])}</th>" for i in told)
        body = "".join(f"<tr>{line}</tr>" for line in lines)
        notes = "".join(f"<div>{escape(note)}</div>" for note in self.notes)
        return f"<table><caption>{escape(self.title)}</caption><tr>{head}</tr>{body}</table>{notes}"

    def markdown(self) -> str:
        """The table in Markdown; names in its first column are set as code."""
        names, told = [*self.left, *self.right], self._told
        cells = [[(in_code if i == 0 else in_words)(str(row[i])) for i in told] for row in self.rows]
        rows = [[names[i] for i in told], *cells]
        text = ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in rows]
        text.insert(1, "|" + "".join("---|" if i < len(self.left) else "--:|" for i in told))
        title = [f"### {in_words(self.title)}\n"] if self.title else []
        return "\n".join([*title, *text, *(f"\n{in_words(note)}" for note in self.notes)])


def in_words(text: str) -> str:
    """`text` as a line of Markdown that means nothing but its words: no HTML, links, pictures, headings and lists."""
    line = re.sub(r"([<\[])", r"\\\1", visible(" ".join(text.splitlines()).strip()))
    line = re.sub(r"^(?=>|#{1,6}(?:\s|$)|~~~|```|[-+*](?:\s|$)|---|\*\*\*|___)", r"\\", line)
    return re.sub(r"^(\d{1,9})(?=[.)](?:\s|$))", r"\1\\", line)


def in_code(text: str) -> str:
    """`text` as code in a line of Markdown."""
    text = visible(" ".join(text.splitlines()))
    longest = max(map(len, re.findall("`+", text)), default=0)
    marks, room = "`" * (longest + 1), " " * bool(longest)
    return f"{marks}{room}{text}{room}{marks}" if text else ""


def frame(rows: Iterable[Mapping[str, Any]], library: Literal["pandas", "polars"]) -> Any:
    """`rows` as a DataFrame of `library`. Raises `ConfigError` where that is not installed."""
    try:
        module = import_module(library)
    except ImportError:
        raise ConfigError(f"{library} is not installed: pip install {library}") from None
    options = {"infer_schema_length": None} if library == "polars" else {}
    return module.DataFrame(list(rows), **options)


def result_table(result: Result) -> Table:
    """What came of one problem: its answer, how the search ended, what it cost."""
    usage, count = result.usage, len(result.candidates)
    made = Table("", ("answer", "strategy", "ended"), ("candidates", "tokens", "requests", "seconds"))
    numbers = (f"{usage.total_tokens:,.0f}", f"{usage.requests:,.0f}", f"{result.seconds:.1f}")
    made.add_row(
        "none" if result.answer is None else result.answer, result.strategy, result.ended, str(count), *numbers
    )
    made.notes = [*result.warnings, *result.failures]
    return made


AVERAGED = (
    "accuracy by best-of-k or majority is the mean over all orders of the samples (ties averaged), as its curve is"
)

NOTES = {"oracle": "(oracle): the hidden truth was used to find or select the answer"}
COUNTED = {
    "failed": "problems without a usable candidate, which count as not solved",
    "abstained": "problems without a selected answer, which count as not solved",
    "ungraded": "problems that could not be graded, and are left out of the accuracy",
    "ungraded_candidates": "candidates not graded because what grades them failed (see their details)",
    "unrated_candidates": "candidates not rated: their verifier failed or had no tests (see their details)",
    "settled_early": "searches that ended early, when their selection was settled",
    "budget_ended": "searches that ended because their budget was spent",
    "cut_off": "candidates cut off by the budget, and left out of pass@k, best-of-k and majority@k",
    "estimated_tokens": "tokens that are estimates, since the server did not count them",
}


def summary_table(runs: Mapping[str, Rows], *, details: bool = False) -> Table:
    """The summaries (`tts.runs.analysis.summary`) of runs by their labels, which stand before the strategies.

    What all rows share stands in the title; the cost in candidates and requests, and intervals of the coverage, are
    `details`.
    """
    every = [row for rows in runs.values() for row in rows]
    models, counts = {row["model"] for row in every}, {row["problems"] for row in every}
    title = [counted(counts.pop(), "problem")] if len(counts) == 1 and not details else []
    title += [*models] if len(models) == 1 and not details else []
    columns = ("problems", "accuracy", "95 %", "coverage", "its 95 %", "candidates", "tokens", "requests", "money")
    made = Table(", ".join(title), ("strategy", "model"), (*columns, "lost"))
    notes = set()
    for label, rows in runs.items():
        for row in rows:
            name = (f"{label}/" if label else "") + row["strategy"]
            made.add_row(
                name + (" (oracle)" if row["oracle"] else ""),
                row["model"] if details or len(models) > 1 else "",
                f"{row['problems']:,}" if details or counts else "",
                percent(row["accuracy"]),
                interval(row["low"], row["high"]),
                percent(row["coverage"]),
                interval(row.get("coverage_low"), row.get("coverage_high")) if details else "",
                f"{row['candidates']:,}" if details else "",
                f"{row['completion_tokens']:,.0f}",
                f"{row['requests']:,.0f}" if details else "",
                "" if row["money"] is None else f"{row['money']:.4g} {row['currency']}",
                f"{row['lost_samples']:,}" if row["lost_samples"] else "",
            )
            notes |= {AVERAGED} if row["estimator"] != "replay" else set()
            notes |= {words for key, words in NOTES.items() if row[key]}
            full = name if len(models) == 1 else f"{name} · {row['model']}"
            whose = f" ({full})" if len(every) > 1 else ""
            notes |= {f"{words}: {row[key]:,}{whose}" for key, words in COUNTED.items() if row[key]}
            notes |= {f"answers: {words}{whose}" for words in lacking(row)}
            notes |= {f"{full}: {words}" for words in _paid_in_vain(row)}
            if row.get("warning"):
                notes.add(f"{name}: {row['warning']}")
    made.notes = sorted(notes) + [f"{label}: {words}" if label else words for label, words in _unlike(runs)]
    return made


def _paid_in_vain(row: Mapping[str, Any]) -> Iterator[str]:
    """Where more compute makes a strategy worse, and where it buys nothing over the best cheaper one."""
    if falls := row.get("falls"):
        few = counted(falls["from_k"], "candidate")
        yield (
            f"accuracy falls with more compute, from {percent(falls['from'])} with {few} to "
            f"{percent(falls['to'])} with {falls['to_k']:.0f} ({points_between(falls['low'], falls['high'])} points)"
        )
    if cheaper := row.get("outdone"):
        model = "" if cheaper["model"] == row["model"] else f" · {cheaper['model']}"
        worth = "is less accurate" if cheaper["high"] < 0 else "is not shown to be better"
        so_many = f"{cheaper['times']:.3g} times {SO_MANY[cheaper['measure']]}"
        yield (
            f"costs {so_many} as {cheaper['strategy']}{model} and {worth} "
            f"({points(cheaper['difference'])}, 95 % {points_between(cheaper['low'], cheaper['high'])} points)"
        )


SO_MANY = {"total_tokens": "as many tokens, prompts included,", "money": "as much money", "flops": "as many FLOPs"}


def _unlike(runs: Mapping[str, Rows]) -> Iterator[tuple[str, str]]:
    """For each run whose strategies have finished different problems or seeds: how they compare over those of all."""
    for label, rows in runs.items():
        count = next((row["shared_problems"] for row in rows if row.get("shared_problems") is not None), None)
        if count is not None:
            each = ", ".join(
                f"{row['strategy']} {percent(row['shared_accuracy'])}"
                + (f" ({interval(row['shared_low'], row['shared_high'])})" if row.get("shared_low") is not None else "")
                for row in rows
            )
            shared = f"over the {counted(count, 'problem')} that all have: {each}"
            yield (
                label,
                "strategies have finished different problems or seeds, and rows are over their own; "
                + (shared if count else "they have none in common"),
            )


FILTERED = "Filtered pass@k"
"""The title of the curves of `tts.runs.coverage.filtered_curve`."""
ESTIMATED = {
    "replay": "replay: candidates in the one order in which they were asked for, not averaged over orders",
    "filtered pass@k": "k of the candidates that the verifier accepted are submitted (all, where it accepted fewer), "
    "over all their subsets; the candidates of one search with a tree or a plan depend on each other",
}


def curve_table(curves: Sequence[Curve], title: str = "Accuracy against compute") -> Table:
    """The points of curves over the same x axis."""
    capped = any(curve.cap is not None for curve in curves)
    columns = ("k", *(["at most"] if capped else []), curves[0].x_label, "accuracy", "95 %")
    made = Table(title, ("curve", "estimator"), columns)
    for curve in curves:
        names = (curve.label, curve.estimator)
        caps = [None] * len(curve.k) if curve.cap is None else curve.cap
        for k, cap, x, y, low, high in zip(curve.k, caps, curve.x, curve.y, curve.low, curve.high, strict=True):
            limit = [number(cap)] if capped else []
            made.add_row(*names, str(k), *limit, number(x), percent(y), interval(low, high))
            names = ("", "")
    made.notes = _curve_notes(curves)
    return made


def growth_table(curves: Sequence[Curve], title: str = "Accuracy") -> Table:
    """How curves rise, in one row each: a column for each k, or for each cap of the first curve; at most seven."""
    capped = curves[0].cap is not None
    paths = [(curve.k if curve.cap is None else curve.cap, curve.y) for curve in curves]
    steps = sorted({float(step) for path, _ in (paths[:1] if capped else paths) for step in path})
    steps = steps[:: -max(1, -(-len(steps) // 7))][::-1]
    along = f"cap on {curves[0].x_label}" if capped else "number of candidates"
    made = Table(f"{title} by {along}", ("",), [number(step) for step in steps])
    for curve, (path, heights) in zip(curves, paths, strict=True):
        places = [bisect_right(path, step) - 1 for step in steps]
        known = [i >= 0 and (capped or path[i] == step) for i, step in zip(places, steps, strict=True)]
        made.add_row(
            curve.label, *(percent(heights[i]) if is_known else "" for i, is_known in zip(places, known, strict=True))
        )
    made.notes = _curve_notes(curves, named=True)
    return made


def _curve_notes(curves: Sequence[Curve], *, named: bool = False) -> list[str]:
    """What is to be said of the curves; `named` says which ones are replayed, where no column does."""
    notes = {name: words for name, words in ESTIMATED.items() if any(curve.estimator == name for curve in curves)}
    if named and "replay" in notes:
        replayed = ", ".join(curve.label for curve in curves if curve.estimator == "replay" and len(curve.k) > 1)
        notes = {**notes, "replay": f"{notes['replay']} ({replayed})"} if replayed else notes
        if not replayed:  # one candidate has one order
            del notes["replay"]
    return [
        *notes.values(),
        *dict.fromkeys(
            f"{curve.label.removesuffix(' coverage')}: {words}" for curve in curves if (words := uneven(curve))
        ),
    ]


def uneven(curve: Curve) -> str:
    """How a curve is over problems with unequal numbers of candidates; empty where they have equally many."""
    fewer = f"{counted(curve.short, 'problem has', 'problems have')} fewer candidates than the largest k"
    if curve.cap is not None:
        return (
            (f"{fewer}; " if curve.short else "")
            + f"at each point all problems stand at the candidates that a cap on their {curve.x_name} affords, and the "
            "axis is what these cost on average"
        )
    return f"{fewer}, and stand at what was reached with them" if curve.short else ""


def law_table(laws: Rows) -> Table:
    """The fits of the coverage law (`tts.runs.coverage.coverage_laws`)."""
    made = Table("Coverage law c = exp(a k^b)", ("curve",), ("a", "b", "r²", "fitted to k"))
    for law in laws:
        made.add_row(law["curve"], f"{law['a']:.4g}", f"{law['b']:.4g}", f"{law['r_squared']:.3f}", f"1 to {law['k']}")
        if law["most"] > law["k"]:
            made.notes.append(f"{law['curve']}: not all problems have the {law['most']} samples that some have")
    return made


def readout_table(title: str, rows: Rows, column: str, show: Callable[[float], str]) -> Table:
    """What was read off each curve, or why there is nothing to read."""
    made = Table(title, ("curve", "estimator"), (column,))
    for row in rows:
        bounds = f" ({interval(row['low'], row['high'])})" if row.get("low") is not None else ""
        made.add_row(row["curve"], row["estimator"], row["why_not"] or show(row["value"]) + bounds)
    return made


def percent(value: float | None) -> str:
    """A share as text; `?` where it is unknown. The last digits of two ways to the same share do not show."""
    return "?" if value is None else f"{round(value, 9):.1%}"


def interval(low: float | None, high: float | None) -> str:
    """The bounds of a share as text; empty where they are unknown."""
    return "" if low is None else f"{percent(low)[:-1]} to {percent(high)}"


def points(value: float) -> str:
    """A difference of shares as text, in points of a hundred."""
    return f"{100 * value:+.1f}"


def points_between(low: float, high: float) -> str:
    """The bounds of a difference of shares as text, in points of a hundred."""
    return f"{points(low)} to {points(high)}"


def number(value: float | None) -> str:
    """An amount as text, whole where it is large, else with four digits; empty where it is unknown."""
    if value is None:
        return ""
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e9 else f"{value:.4g}"


def plain(value: Any) -> Any:
    """`value` as JSON knows it: lists for arrays, null for what is infinite or not a number."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):  # an array or a number of numpy's
        return plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value
