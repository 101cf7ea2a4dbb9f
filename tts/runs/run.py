"""Reading a run: its cells, its candidates, and what they cost."""

from __future__ import annotations

import json
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, wraps
from itertools import chain, count
from pathlib import Path
from typing import Any, Concatenate, Literal, ParamSpec, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

from tts import registry
from tts.base import Estimator, Strategy, Verifier
from tts.compute import ModelCard
from tts.curves import Curve, curve_rows
from tts.errors import ConfigError, StoreError
from tts.lacks import Lack
from tts.runs.columns import CANDIDATE, CHARGE, NUMBERS, PLACE, Charges, Columns, Shares, cut, latest_of, ranked
from tts.runs.damage import check
from tts.runs.database import connect
from tts.runs.record import read_record
from tts.tables import frame, summary_table
from tts.types import USAGE_FIELDS, Candidate, Sample, Scale, Usage, Verdict, sum_usage

P = ParamSpec("P")
T = TypeVar("T")
Floats = NDArray[np.float64]
Content = Literal["candidates", "curves", "summary"]
"""What of a run is made a frame."""


class Run:
    """A run directory, finished or still going, as it is when first read; reading never disturbs the writer.

    Raises `ConfigError` when the directory holds no run, and `StoreError` when its file is damaged: every row is
    `checked`, which takes about a second for a million of them.
    """

    def __init__(self, path: Path | str, *, checked: bool = True) -> None:
        self.path: Path = Path(path)
        self.record: dict[str, Any] = read_record(self.path)
        """The resolved configuration, the command and the versions that made the run."""
        try:
            self.db.execute("SELECT 1 FROM cells LIMIT 1")
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                raise StoreError(f"{self.path / 'run.sqlite'} is locked by another program; close it") from None
            raise ConfigError(f"{path} has no results yet ({error})") from None
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:  # the latter of a message that quotes the schema
            raise StoreError(f"{self.path / 'run.sqlite'} is damaged: {error}") from None
        if checked:
            check(self.db, self.path / "run.sqlite")

    def __repr__(self) -> str:
        config = self.record["config"]
        names = ", ".join(dict.fromkeys(strategy["name"] for strategy in config.get("strategies", ())))
        return f"Run({str(self.path)!r}: {names} with {', '.join(config['models'])} on {config['task']['name']})"

    @cached_property
    def db(self) -> sqlite3.Connection:
        """A read-only connection to the run's file; its schema is `tts.runs.store.SCHEMA`."""
        connection = connect(self.path / "run.sqlite", read_only=True)
        if connection.execute("PRAGMA journal_mode").fetchone() == ("wal",):  # which a writer may have open
            connection.execute("BEGIN")  # so that what is read later belongs to what was read before
        return connection

    @cached_property
    def made(self) -> dict[Hashable, Any]:
        """What was made of it and may be asked for again, whichever track asks."""
        return {}

    @cached_property
    def numbers(self) -> Mapping[str | None, int]:
        """The numbers by which `Track.classes` knows the answers; a new one has the next."""
        return defaultdict(count().__next__, {None: -1})

    @cached_property
    def tracks(self) -> list[Track]:
        """Every strategy and model with finished cells, model by model as named, in the order they first finished."""
        query = "SELECT strategy, model FROM cells GROUP BY strategy, model ORDER BY MIN(id)"
        named = list(self.record["config"]["models"])
        return [Track(self, *pair) for pair in sorted(self.db.execute(query), key=lambda pair: named.index(pair[1]))]

    def columns(self, cell: int) -> Columns:
        """The candidates and charges of a cell side by side, be it a cell that was stored without its `columns`."""
        query = "SELECT numbers, charges, told FROM columns WHERE cell = ?"
        if self._has_columns and (stored := self.db.execute(query, (cell,)).fetchone()):
            return Columns.unpack(*stored)
        query = f"SELECT {CANDIDATE} FROM candidates WHERE cell = ? ORDER BY position"
        return Columns.of(
            self.db.execute(query, (cell,)), self.db.execute(f"SELECT {CHARGE} FROM charges WHERE cell = ?", (cell,))
        )

    @cached_property
    def _has_columns(self) -> bool:
        return bool(self.db.execute("SELECT 1 FROM sqlite_master WHERE name = 'columns'").fetchone())

    def roles(self, model: str) -> dict[str, Any]:
        """The endpoints of a model by role."""
        return self.record["config"]["models"].get(model, {})

    def card(self, model: str, role: str) -> ModelCard:
        """Size and price of the model in a role."""
        endpoint = self.roles(model).get(role) or {}
        known = {name: value for name, value in endpoint.get("card", {}).items() if name in ModelCard.model_fields}
        return ModelCard(**known)

    def curves(self, x: str | None = None, **options: Any) -> list[Curve]:
        """Its curves against `x`; see `tts.runs.analysis.curves`."""
        from tts.runs.analysis import curves

        return curves(self, x, **options)

    def summary(self) -> list[dict[str, Any]]:
        """A row for each strategy and model; see `tts.runs.analysis.summary`."""
        from tts.runs.analysis import summary

        return summary(self)

    def to_pandas(self, what: Content = "candidates") -> Any:
        """The candidates (`export`), the points of the curves, or the summary as a DataFrame of pandas."""
        return frame(self._rows(what), "pandas")

    def to_polars(self, what: Content = "candidates") -> Any:
        """The candidates (`export`), the points of the curves, or the summary as a DataFrame of polars."""
        return frame(self._rows(what), "polars")

    def _rows(self, what: Content) -> Iterable[Mapping[str, Any]]:
        tables = {"candidates": self.export, "curves": lambda: curve_rows(self.curves()), "summary": self.summary}
        return tables[what]()

    def _repr_html_(self) -> str:
        return summary_table({"": self.summary()}).html()

    def export(self) -> Iterator[dict[str, Any]]:
        """One flat row for each candidate, with its marginal cost: the whole run as a table, track by track.

        `answer` is the final answer that was read in it, if any, `feedback` what the verifier said; `graded` and
        `expected` tell of wrong ones what grading said and the right answer.
        """
        places = {
            "finish_reason": ("$.finish_reason",),
            "answer": ("$.notes.said", "$.notes.answer", "$.graded.answer"),
            "feedback": ("$.feedback",),
            "graded": ("$.graded.feedback",),
            "expected": ("$.graded.expected",),
        }
        texts = ", ".join(
            f"COALESCE({', '.join(f'json_extract(details, {place!r})' for place in found)}, NULL) AS {name}"
            for name, found in places.items()
        )
        sums = ", ".join(f"COALESCE(SUM(charges.{name}), 0) AS {name}" for name in USAGE_FIELDS)
        query = f"""
            SELECT problem, strategy, model, seed, candidates.position AS position, arrived, elapsed, score, passed,
                   correct, candidates.position IS selected AS chosen, content, {texts}, {sums}
            FROM cells JOIN candidates ON candidates.cell = cells.id
            LEFT JOIN charges ON charges.cell = cells.id AND {PLACE} = candidates.position
            WHERE cells.id = ? GROUP BY candidates.position ORDER BY candidates.position"""
        for cell in (row.cell for track in self.tracks for row in track.rows):
            found = self.db.execute(query, (cell,))
            columns = [column[0] for column in found.description]
            yield from (dict(zip(columns, row, strict=True)) for row in found)


@dataclass(frozen=True)
class Row:
    """A finished cell without its candidates."""

    cell: int
    problem: str
    seed: int
    ended: str
    selected: int | None
    """Position of the selected candidate."""
    oracle: bool
    seconds: float
    failures: list[str]
    spent: dict[str, Usage]
    reused: dict[str, Usage]
    wasted: dict[str, Usage]

    @property
    def by_budget(self) -> bool:
        """Whether a budget ended the search, be it one of seconds."""
        return self.ended in ("budget", "deadline")


def once(work: Callable[Concatenate[Track, P], T]) -> Callable[Concatenate[Track, P], T]:
    """`work` on a track, done once for the same arguments: reports ask for the same things in many places."""

    @wraps(work)
    def found(track: Track, /, *args: P.args, **kwargs: P.kwargs) -> T:
        asked = (work, args, *kwargs.items())
        if asked not in track.made:
            track.made[asked] = work(track, *args, **kwargs)
        return track.made[asked]

    return found


@dataclass(frozen=True)
class Track:
    """One strategy with one model over all problems and seeds. Arrays are flat over candidates, cell by cell."""

    run: Run
    strategy: str
    model: str

    @cached_property
    def made(self) -> dict[Hashable, Any]:
        """What was made of it and may be asked for again (`once`)."""
        return {}

    @cached_property
    def rows(self) -> list[Row]:
        """Its finished cells: problem by problem as in the task, seed by seed, whichever was finished first."""
        query = """SELECT id, problem, seed, ended, selected, oracle, seconds, failures, spent, reused, wasted
                   FROM cells WHERE strategy = ? AND model = ?"""
        rows = self.run.db.execute(query, (self.strategy, self.model))
        places = {problem: place for place, problem in enumerate(self.run.record.get("problems", ()))}
        found = [Row(*[*row[:7], json.loads(row[7]), *map(_account, row[8:])]) for row in rows]
        return sorted(found, key=lambda row: (places.get(row.problem, len(places)), row.seed))

    def read(self, columns: str, *, holding: str = "") -> sqlite3.Cursor:
        """`columns` of every candidate, or of those whose details may have the name `holding`, in spawned order."""
        only = f"""AND instr(details, '"{holding}"')""" if holding else ""
        query = f"SELECT {columns} FROM candidates WHERE {_MINE} {only} ORDER BY cell, position"
        return self.run.db.execute(query, (self.strategy, self.model))

    @cached_property
    def method(self) -> Strategy:
        """The strategy itself, to select with. Raises `ConfigError` when its package is not installed."""
        return registry.make("strategies", self.strategy)

    @cached_property
    def verifier(self) -> Verifier | None:
        """What rated its candidates, if the strategy or the run names it."""
        named = self.method.verifier or self.run.record["config"].get("verifier")
        return registry.make("verifiers", named) if isinstance(named, dict) else named

    @property
    def estimator(self) -> Estimator:
        """The strategy's, but `replay` where ratings depend on which other candidates there are."""
        relative = self.verifier is not None and self.verifier.relative
        return "replay" if relative else self.method.estimator

    @cached_property
    def independent(self) -> bool:
        """Whether candidates were drawn independently of each other, and what they were did not say how many."""
        counted = self.run.record["config"].get("total_budget") is None or self.method.gains is None
        return self.method.independent and counted and not any(row.ended == "settled" for row in self.rows)

    @cached_property
    def oracle(self) -> bool:
        """Whether the hidden truth was used to find or select an answer."""
        return any(row.oracle for row in self.rows)

    @cached_property
    def warning(self) -> str:
        """What its strategy warns of (`Strategy.warning`); empty where there is nothing, or its package is missing."""
        try:
            if type(self.method).warning is Strategy.warning and not (self._flat("score") < 0).any():
                return ""  # which is of negative scores alone
            return self.method.warning(one for row in self.rows for one in self.candidates(row))
        except ConfigError:
            return ""

    @property
    def label(self) -> str:
        """What legends and tables call it; results that used the hidden truth say so."""
        return f"{self.strategy} · {self.model}" + (" (oracle)" if self.oracle else "")

    @cached_property
    def columns(self) -> list[Columns]:
        """What tables and curves need of the candidates and charges of each of `rows`."""
        return [self.run.columns(row.cell) for row in self.rows]

    @cached_property
    def _table(self) -> Floats:
        """The `NUMBERS` of every candidate."""
        return np.concatenate([np.empty((0, len(NUMBERS))), *(part.numbers for part in self.columns)])

    def _flat(self, name: str) -> Floats:
        """One of the `NUMBERS` of every candidate; unknown is NaN."""
        return self._table[:, NUMBERS.index(name)]

    @cached_property
    def _bounds(self) -> NDArray[np.int64]:
        """Where each cell's candidates start in the flat arrays, and where the last one ends."""
        return np.cumsum([0, *(len(part.numbers) for part in self.columns)])

    @cached_property
    def cells(self) -> NDArray[np.int64]:
        """Which of `rows` each candidate belongs to; flat."""
        return np.repeat(np.arange(len(self.rows)), np.diff(self._bounds))

    def split(self, flat: NDArray[Any]) -> list[NDArray[Any]]:
        """A flat array cut into one array for each of `rows`."""
        return cut(flat, self._bounds)

    @cached_property
    def correct(self) -> list[Floats]:
        """Truth of each candidate in spawned order: 1, 0, or NaN where it could not be graded."""
        return self.split(self._flat("correct"))

    @cached_property
    def passed(self) -> list[Floats]:
        """The verifier's decision on each candidate in spawned order: 1, 0, or NaN where it made none."""
        return self.split(self._flat("passed"))

    @cached_property
    def ranks(self) -> list[Floats]:
        """A number for each candidate that sorts as its verdict does (`tts.base.rank`), higher is better."""
        return self.split(ranked(*self.verdicts))

    @property
    def weights(self) -> list[Floats]:
        """What each candidate's verdict weighs in a vote, NaN where it does not vote (`Verdict.weight`)."""
        return self.split(self._flat("weight"))

    @property
    def verdicts(self) -> tuple[Floats, Floats]:
        """Score and decision (1 accepted, 0 refused) of every candidate, flat; NaN where there is none."""
        return self._flat("score"), self._flat("passed")

    @cached_property
    def part_verdicts(self) -> dict[str, tuple[Floats, Floats]]:
        """The same for each part of a verifier made of verifiers, by its spec."""
        return Columns.verdicts_of_parts(self.columns)

    @cached_property
    def lacks(self) -> dict[Lack, int]:
        """How many candidates lack what (`tts.lacks.Lack`)."""
        return {name: sum(part.lacks.get(name, 0) for part in self.columns) for name in get_args(Lack)}

    @property
    def unrated(self) -> int:
        """How many candidates a verifier should have rated and could not."""
        return sum(part.unrated for part in self.columns)

    @property
    def verification(self) -> Usage:
        """The cost of all verdicts, each charge counted once."""
        return sum_usage(Usage(**part.verifying) for part in self.columns)

    @property
    def saved(self) -> Usage:
        """The cost of the verdicts that composed verifiers reused or skipped."""
        return sum_usage(Usage(**part.saved) for part in self.columns)

    @cached_property
    def answers(self) -> list[list[str | None]]:
        """The class of each candidate's answer among those of its cell, where the strategy noted one."""
        return [part.answers or [None] * len(part.numbers) for part in self.columns]

    @cached_property
    def classes(self) -> NDArray[np.int64]:
        """The same as numbers, flat: equal ones are of equal answers anywhere in the run, -1 is of none."""
        said = map(self.run.numbers.__getitem__, chain.from_iterable(self.answers))
        return np.fromiter(said, np.int64, len(self._table))

    @property
    def answered(self) -> NDArray[np.bool_]:
        """Of which candidates the strategy has noted an answer, be it that there is none; flat."""
        return self._flat("answered") == 1

    @property
    def digests(self) -> Floats:
        """A number for the text of each candidate, by which texts of a problem are told apart; flat."""
        return self._flat("text")

    def texts(self, row: Row) -> list[str]:
        """The contents of a cell's candidates in spawned order."""
        query = "SELECT content FROM candidates WHERE cell = ? ORDER BY position"
        return [content for (content,) in self.run.db.execute(query, (row.cell,))]

    def candidates(self, row: Row) -> list[Candidate]:
        """The candidates of a cell in spawned order, with the fields that selection and display need."""
        query = """SELECT position, arrived, elapsed, score, passed, content, details
                   FROM candidates WHERE cell = ? ORDER BY position"""
        scale = self.verifier.scale if self.verifier is not None else None
        found = self.run.db.execute(query, (row.cell,)).fetchall()
        details = json.loads(f"[{','.join(stored[-1] for stored in found)}]")
        return [_candidate(scale, (*stored[:-1], more)) for stored, more in zip(found, details, strict=True)]

    @once
    def cost(self, measure: str) -> list[Floats]:
        """Cumulative compute of every prefix in spawned order, one array for each of `rows`.

        Every charge of a cell has a place: that of the first candidate that descends from it. What no candidate
        descends from, such as a plan that was cut off, stands at the first candidate that was spawned where its own
        would have been or later, or else at the last. So the largest prefix costs all that the strategy would have cost
        alone (`by_role`). A cell without candidates has one entry, which is that.

        `measure` is `samples`, `seconds` (elapsed until the prefix was complete), `flops`, `money`, `total_tokens` or a
        field of `Usage`. Raises `ConfigError` for any other name, and where a model card lacks what is needed.
        """
        if measure == "samples":
            return [np.arange(1.0, len(part) + 1) if len(part) else np.zeros(1) for part in self.correct]
        if measure == "seconds":
            parts = zip(self.rows, self.split(self._flat("elapsed")), strict=True)
            return [np.maximum.accumulate(part) if len(part) else np.array([row.seconds]) for row, part in parts]
        fields = _SUMMANDS.get(measure, (measure,))
        if not set(fields) <= set(USAGE_FIELDS):
            known = ["samples", "seconds", "flops", "money", "total_tokens", *USAGE_FIELDS]
            raise ConfigError(f"no measure of compute '{measure}'; there are: {', '.join(dict.fromkeys(known))}")
        sizes = np.maximum(np.diff(self._bounds), 1)
        first = np.cumsum(sizes) - sizes
        marginal = np.zeros(int(sizes.sum()))
        for role, (index, places, charges) in self._charges.items():
            at = first[index] + np.fmin(places, sizes[index] - 1).astype(np.int64)
            marginal += np.bincount(at, self._measure(measure, role, charges[fields]), len(marginal))
        return [np.cumsum(part) for part in cut(marginal, np.append(first, len(marginal)))]

    @cached_property
    def _charges(self) -> dict[str, tuple[NDArray[np.int64], Floats, Charges]]:
        """By role: for each charge the index of its row, its position (NaN where it has none), and its usage."""
        return Columns.charges_by_role(self.columns)

    def _measure(self, measure: str, role: str, values: Floats) -> Floats:
        if measure not in ("flops", "money"):
            return values.sum(axis=1)
        if not values.any():  # a verifier that is a program has no model card
            return np.zeros(len(values))
        card = self.run.card(self.model, role)
        prompt, completion, cached = values.T
        return (card.flops if measure == "flops" else card.price)(prompt, completion, cached)

    @once
    def by_role(self) -> dict[str, Usage]:
        """What the strategy would have cost alone, by role: the sum of all charges, and the end of `cost`."""
        return {role: Usage(*charges.sum()) for role, (_, _, charges) in self._charges.items()}

    def usage(self) -> Usage:
        return sum_usage(self.by_role().values())

    def paid(self) -> dict[str, Usage]:
        """What was answered and paid for in its cells, by role: without what the store had, and what failed."""
        roles: dict[str, Usage] = {}
        for role, usage in (item for row in self.rows for item in row.spent.items()):
            roles[role] = roles.get(role, Usage()) + usage
        return roles

    def wasted(self) -> Usage:
        """Failed and cancelled requests."""
        return sum_usage(usage for row in self.rows for usage in row.wasted.values())

    @cached_property
    def whole(self) -> list[NDArray[np.bool_]]:
        """For each of `rows`, which candidates are in the pool of closed forms: not those that the budget cut off,
        unless it cut off all (`tts.base.selectable`).

        Where candidates depend on each other all of them are: a prefix holds what the strategy had.
        """
        if not self.independent:
            return [np.ones(len(part), dtype=np.bool_) for part in self.correct]
        return [~cut if not cut.all() else cut for cut in self.cut_off]

    @cached_property
    def cut_off(self) -> list[NDArray[np.bool_]]:
        """For each of `rows`, which candidates the budget cut off."""
        return self.split(self._flat("cut_off") == 1)

    @once
    def mean_cost(self, measure: str) -> list[Floats]:
        """Mean compute of k of a cell's candidates drawn at random, for k = 1, 2, ... `whole` ones; see `cost`.

        What belongs to one candidate (its completion, its verdict) is averaged: k of n cost k/n of the sum. What
        candidates of one request share (its prompt) is paid as often as requests are needed: as k candidates drawn
        alone would be batched, which is how the first k were, each at the mean price. For `seconds` it is the mean of
        the latest arrival. At the largest k it is all that the cell cost.
        """
        kept = [int(whole.sum()) for whole in self.whole]
        if measure == "samples":
            return [np.arange(1.0, n + 1) for n in kept]
        if measure == "seconds":
            parts = zip(self.split(self._flat("elapsed")), self.whole, strict=True)
            return [latest_of(elapsed[whole]) for elapsed, whole in parts]
        fields = _SUMMANDS.get(measure, (measure,))
        if not set(fields) <= set(USAGE_FIELDS):
            return self.cost(measure)  # which says what there is
        shares = Shares(self._bounds, np.concatenate([np.empty(0, bool), *self.whole]))
        found = np.zeros(sum(kept))
        for role, (index, places, charges) in self._charges.items():
            values, placed = self._measure(measure, role, charges[fields]), ~np.isnan(places)
            at = self._bounds[index[placed]] + places[placed].astype(np.int64)
            for part in shares.costs(at, values[placed], charges.asked[placed]):
                found += part
        return cut(found, np.cumsum([0, *kept]))


_MINE = "cell IN (SELECT id FROM cells WHERE strategy = ? AND model = ?)"
_PRICED = ("prompt_tokens", "completion_tokens", "cached_tokens")
_SUMMANDS = {"total_tokens": ("prompt_tokens", "completion_tokens"), "flops": _PRICED, "money": _PRICED}


def _account(text: str) -> dict[str, Usage]:
    return {role: Usage(**usage) for role, usage in json.loads(text).items()}


def _candidate(scale: Scale | None, stored: tuple[Any, ...]) -> Candidate:
    position, arrived, elapsed, score, passed, content, more = stored
    accepted = None if passed is None else bool(passed)
    found = more.get("verdict", {})
    return Candidate(
        id=more.get("id", position),
        content=content,
        spawned=(position,),
        parents=tuple(more.get("parents", ())),
        verdict=Verdict(score, accepted, more.get("feedback", ""), found, scale=more.get("scale", scale)),
        arrived=arrived,
        elapsed=elapsed,
        notes=more.get("notes", {}),
        samples=(Sample(content, more.get("finish_reason"), tool_calls=tuple(more.get("tool_calls", ()))),),
    )
