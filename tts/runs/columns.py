"""What tables and curves need of a cell's candidates and charges, side by side, so that a report reads cells."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import blake2b
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tts.base import answer_classes
from tts.curves.estimators import all_missed
from tts.types import USAGE_FIELDS, Usage, Verdict, sum_usage

Floats = NDArray[np.float64]

NUMBERS = ("score", "passed", "correct", "elapsed", "cut_off", "answered", "text", "weight")
"""Of each candidate, NaN where unknown: `cut_off` by the budget, `answered` where the strategy has noted an answer, be
it that there is none, a digest of its `text`, and what its verdict weighs in a vote (`Verdict.weight`)."""
CHARGES = ("place", "role", *USAGE_FIELDS)
"""Of each charge: the candidate that it stands at (see `Track.cost`), NaN in a cell without any, and which of
`Columns.roles` it is."""

PLACE = "MAX(charges.position, ~charges.position)"
"""Where a charge stands, in SQL; NULL in a cell without candidates."""

CANDIDATE = "elapsed, score, passed, correct, content, details"
CHARGE = f"position, role, {', '.join(USAGE_FIELDS)}"
"""What columns are made of."""


@dataclass(frozen=True)
class Columns:
    """The candidates of a cell in spawned order, and its charges."""

    numbers: Floats
    """Candidates x `NUMBERS`."""
    charges: Floats
    """Charges x `CHARGES`."""
    roles: list[str] = field(default_factory=list)
    characters: int = 0
    """Of all contents and details."""
    answers: list[str | None] | None = None
    """The class of each candidate's answer among those of the cell (`tts.base.answer_classes`); None: there is none."""
    votes: bool = False
    """Whether a weighted vote follows from `answers` and weights: none are alike, and no score lacks its scale."""
    lacks: dict[str, int] = field(default_factory=dict)
    """How many candidates lack what (`tts.lacks.Lack`)."""
    unrated: int = 0
    """How many candidates a verifier should have rated and could not."""
    verifying: dict[str, float] = field(default_factory=dict)
    """`Usage` of all verdicts, each charge counted once."""
    saved: dict[str, float] = field(default_factory=dict)
    """`Usage` of the verdicts that composed verifiers reused or skipped."""
    parts: list[list[dict[str, Any]]] | None = None
    """What the parts of a verifier made of verifiers said of each candidate."""

    @classmethod
    def of(cls, candidates: Iterable[Sequence[Any]], charges: Iterable[Sequence[Any]]) -> Columns:
        """From the stored `CANDIDATE`s of a cell, in spawned order, and its `CHARGE`s."""
        told: list[dict[str, Any]] = []
        numbers, characters = list[tuple[Any, ...]](), 0
        for elapsed, score, passed, correct, content, details in candidates:
            more = json.loads(details)
            told.append(more)
            characters += len(content) + len(details)
            cut, answered = more.get("finish_reason") == "budget", "answer" in more.get("notes", ())
            digest = int.from_bytes(blake2b(content.encode(errors="surrogatepass"), digest_size=6).digest())
            weight = Verdict(score, scale=more.get("scale")).weight
            numbers.append((score, passed, correct, elapsed, cut, answered, digest, weight))
        roles: dict[str, int] = {}
        paid = [
            (None if position is None else max(position, ~position), roles.setdefault(role, len(roles)), *usage)
            for position, role, *usage in charges
        ]
        notes = [_noted(more.get("notes", {})) for more in told]
        answers = answer_classes(notes)
        parts = [more.get("verdict", {}).get("parts") or [] for more in told]
        return cls(
            _matrix(numbers, NUMBERS),
            _matrix(paid, CHARGES),
            list(roles),
            characters,
            answers if any(answer is not None for answer in answers) else None,
            not any("alike" in one for one in notes)
            and all(one[0] is None or "scale" in more for one, more in zip(numbers, told, strict=True)),
            Counter(more["lack"] for more in told if more.get("lack")),
            sum(one[:2] == (None, None) and bool(more.get("verdict")) for one, more in zip(numbers, told, strict=True)),
            _sum(more.get("verifying") for more in told),
            _sum(more.get("verdict", {}).get("saved") for more in told),
            parts if any(parts) else None,
        )

    def pack(self) -> tuple[bytes, bytes, str]:
        """As the store keeps them."""
        names = ("roles", "characters", "answers", "votes", "lacks", "unrated", "verifying", "saved", "parts")
        told = {name: value for name in names if (value := getattr(self, name))}
        return self.numbers.tobytes(), self.charges.tobytes(), json.dumps(told)

    @classmethod
    def unpack(cls, numbers: bytes, charges: bytes, told: str) -> Columns:
        """What `pack` gave."""
        return cls(
            np.frombuffer(numbers, "<f8").reshape(-1, len(NUMBERS)),
            np.frombuffer(charges, "<f8").reshape(-1, len(CHARGES)),
            **json.loads(told),
        )

    @staticmethod
    def charges_by_role(columns: Sequence[Columns]) -> dict[str, tuple[NDArray[np.int64], Floats, Charges]]:
        """By role: for each charge the index of its cell, its position (NaN where it has none), and its usage."""
        names = sorted({role for part in columns for role in part.roles})
        if not names:
            return {}
        number = {name: place for place, name in enumerate(names)}
        flat = np.concatenate([part.charges for part in columns])
        index = np.repeat(np.arange(len(columns)), [len(part.charges) for part in columns])
        known = np.array([number[role] for part in columns for role in part.roles])
        before = np.cumsum([0, *(len(part.roles) for part in columns[:-1])])
        role_of = known[before[index] + flat[:, 1].astype(np.int64)]
        found = {}
        for role, place in number.items():
            mine = role_of == place
            rows = flat[mine]
            found[role] = index[mine], rows[:, 0], Charges(rows[:, 2:])
        return found

    @staticmethod
    def verdicts_of_parts(columns: Sequence[Columns]) -> dict[str, tuple[Floats, Floats]]:
        """Score and decision of every candidate, flat, by each part of a verifier made of verifiers."""
        found: dict[str, tuple[Floats, Floats]] = {}
        bounds = np.cumsum([0, *(len(one.numbers) for one in columns)]).tolist()
        for start, one in zip(bounds, columns, strict=False):
            for i, said in enumerate(one.parts or (), start):
                for part in said:
                    unknown = (np.full(bounds[-1], np.nan), np.full(bounds[-1], np.nan))
                    score, passed = found.setdefault(part["verifier"], unknown)
                    score[i] = np.nan if part["score"] is None else part["score"]
                    passed[i] = np.nan if part["passed"] is None else part["passed"]
        return found


def _noted(notes: Mapping[str, Any]) -> dict[str, Any]:
    """What `answer_classes` reads of a candidate's notes."""
    kept = {name: notes[name] for name in ("answer", "said", "alike") if notes.get(name) is not None}
    return {name: one if name == "alike" or isinstance(one, str) else json.dumps(one) for name, one in kept.items()}


def _matrix(rows: Sequence[tuple[Any, ...]], names: Sequence[str]) -> Floats:
    return np.array(rows, dtype="<f8").reshape(-1, len(names))


def _sum(usages: Iterable[Mapping[str, float] | None]) -> dict[str, float]:
    return sum_usage(Usage(**usage) for usage in usages if usage).as_dict()


class Charges:
    """The usage of many charges."""

    def __init__(self, usage: Floats) -> None:
        self._usage = usage
        self.asked: NDArray[np.bool_] = usage[:, USAGE_FIELDS.index("requests")] > 0
        """Which of them paid for a request."""

    def sum(self) -> list[float]:
        return self._usage.sum(axis=0).tolist()

    def __getitem__(self, fields: tuple[str, ...]) -> Floats:
        return self._usage[:, [USAGE_FIELDS.index(name) for name in fields]]


def cut(flat: NDArray[Any], bounds: NDArray[np.int64]) -> list[NDArray[Any]]:
    """The parts of a flat array between `bounds`."""
    return [flat[start:end] for start, end in pairwise(bounds.tolist())]


class Shares:
    """What k of the `whole` candidates of a cell, drawn at random, share of its cost; see `Track.mean_cost`."""

    def __init__(self, bounds: NDArray[np.int64], whole: NDArray[np.bool_]) -> None:
        """`bounds` are those of the cells among the candidates, of which `whole` are drawn."""
        self._bounds, self._whole = bounds, whole
        self._cell = np.repeat(np.arange(len(bounds) - 1), np.diff(bounds))
        self._row = self._cell[whole]
        kept = np.bincount(self._row, minlength=len(bounds) - 1)
        first = np.cumsum(kept) - kept
        self._evenly = (np.arange(1, len(self._row) + 1) - first[self._row]) / kept[self._row]
        self._last = np.diff(self._row, append=-1) != 0

    def costs(self, at: NDArray[np.int64], values: Floats, asked: NDArray[np.bool_]) -> tuple[Floats, Floats]:
        """The mean cost of one, of two, ... candidates of each cell, flat: what belongs to one, and what those of a
        request share. Given charges: the candidates that they stand at, what they cost, which paid for a request.
        """
        asking, using = np.zeros(len(self._cell), bool), np.zeros(len(self._cell), bool)
        using[at] = True
        asking[at[asked]] = True
        cells = len(self._bounds) - 1
        own, shared = (np.bincount(self._cell[at[part]], values[part], cells) for part in (~asked, asked))
        asked_by, used_by = (np.append(0, np.cumsum(flags)) for flags in (asking, using))
        asks, uses = np.diff(asked_by[self._bounds]), np.diff(used_by[self._bounds])
        so_far = (asked_by[1:] - asked_by[self._bounds[:-1]][self._cell])[self._whole]
        so_far[self._last] = asks[self._row[self._last]]
        batched = ((asks > 0) & (asks < uses))[self._row]
        share: Floats = np.where(batched, so_far / np.maximum(asks, 1)[self._row], self._evenly)
        return own[self._row] * self._evenly, shared[self._row] * share


def ranked(score: Floats, passed: Floats) -> Floats:
    """A number for each verdict that sorts as `tts.base.standing` does."""
    level = np.where(np.isnan(passed), 1.0, passed * 2)
    level[np.isnan(passed) & np.isnan(score)] = -1.0
    score = np.where(np.isnan(score), -np.inf, score)
    order = np.lexsort((score, level))
    level, score = level[order], score[order]
    dense = np.empty(len(order))
    dense[order] = np.cumsum(np.append(False, (level[1:] != level[:-1]) | (score[1:] != score[:-1]))[: len(order)])
    return dense


def latest_of(elapsed: Floats) -> Floats:
    """The mean of the latest of k of these, for every k."""
    return np.sort(elapsed)[::-1] @ _places(len(elapsed))


@lru_cache(maxsize=2)
def _places(n: int) -> Floats:
    """The probability that the latest of k of n is the first, the second, ... of all from the end (places x ks)."""
    missed = all_missed(n, np.arange(n + 1), np.arange(1, n + 1))
    return missed[:-1] - missed[1:]
