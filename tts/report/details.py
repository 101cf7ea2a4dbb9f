"""All that a report shows of one problem: what was asked, candidates with their verdicts and origins, calls, cost."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from functools import cached_property
from typing import Any

from tts.errors import TTSError
from tts.images import is_picture
from tts.registry import make
from tts.report.tracks import Comparison, ProblemKey
from tts.runs.record import fingerprint
from tts.runs.run import Row, Run, Track
from tts.studies.lineage import lineage
from tts.studies.timeline import calls_of
from tts.types import USAGE_FIELDS, Candidate, Charge, Usage

LONGEST = 20_000
"""Characters of a text that are shown."""
LARGEST_PICTURE = 400_000
"""Bytes of a picture that is shown."""
SHOWN_ELSEWHERE = {"lineage"}
"""Notes with a place of their own."""


class Details:
    """The details of each problem of a comparison, read when asked for."""

    def __init__(self, comparison: Comparison) -> None:
        self._comparison = comparison

    def of(self, problem: ProblemKey) -> dict[str, Any]:
        """Everything about `problem`."""
        return {
            "prompt": self._prompts.get(problem),
            "cells": [
                _cell(shown.track, number, row)
                for number, shown in enumerate(self._comparison.tracks)
                for row in self._rows[number].get(problem, ())
            ],
        }

    @cached_property
    def _rows(self) -> list[dict[ProblemKey, list[Row]]]:
        """For each track its rows by problem."""
        found = []
        for shown in self._comparison.tracks:
            rows: dict[ProblemKey, list[Row]] = {}
            for row in shown.track.rows:
                rows.setdefault(self._comparison.key(shown, row), []).append(row)
            found.append(rows)
        return found

    @cached_property
    def _prompts(self) -> dict[ProblemKey, list[dict[str, str]]]:
        return {key: text for run in self._comparison.runs.values() for key, text in _prompts(run)}


def _prompts(run: Run) -> Iterator[tuple[ProblemKey, list[dict[str, str]]]]:
    """What was asked, as the task says it now; a problem that reads otherwise than it did then is left out."""
    known = run.record.get("problems", {})
    missing = set(known)
    try:
        for example in make("tasks", run.record["config"]["task"]).examples():
            name = example.problem.id
            missing.discard(name)
            if known.get(name) == fingerprint(example):
                yield (name, known[name]), _messages(example.problem.messages)
            if not missing:
                return
    except TTSError:  # the task's data or package is not on this machine
        return


def _messages(messages: Any) -> list[dict[str, str]]:
    if isinstance(messages, str):
        return [{"role": "", "text": _cut(messages)}]
    return [{"role": str(one.get("role", "")), "text": _cut(_content(one.get("content")))} for one in messages]


def _content(content: Any) -> str:
    """The words of a message; of pictures, that they are there."""
    if isinstance(content, str) or content is None:
        return content or ""
    return "\n".join(part.get("text") or f"[{part.get('type', 'part')}]" for part in content)


def _cell(track: Track, number: int, row: Row) -> dict[str, Any]:
    candidates = track.candidates(row)
    query = f"SELECT position, role, started, {', '.join(USAGE_FIELDS)} FROM charges WHERE cell = ? ORDER BY started"
    charges = [
        (position, Charge("", role, Usage(*usage), started))
        for position, role, started, *usage in track.run.db.execute(query, (row.cell,))
    ]
    right = dict(track.run.db.execute("SELECT position, correct FROM candidates WHERE cell = ?", (row.cell,)))
    tokens = [0.0] * len(candidates)
    for position, charge in charges:
        if position is not None:
            tokens[position] += charge.usage.completion_tokens
    grown = any(one.parents or "lineage" in one.notes for one in candidates)
    return {
        "track": number,
        "seed": row.seed,
        "ended": row.ended,
        "selected": row.selected,
        "seconds": round(row.seconds, 3),
        "failures": row.failures,
        **{name: _usages(getattr(row, name)) for name in ("spent", "reused", "wasted")},
        "candidates": [
            _candidate(track.run, one, right[i], cost)
            for i, (one, cost) in enumerate(zip(candidates, tokens, strict=True))
        ],
        "lineage": [_shortened(asdict(node)) for node in lineage(candidates)] if grown else None,
        "calls": _calls(charges),
    }


def _candidate(run: Run, candidate: Candidate, right: int | None, tokens: float) -> dict[str, Any]:
    verdict = candidate.verdict
    notes = {name: value for name, value in candidate.notes.items() if name not in SHOWN_ELSEWHERE}
    shown = {
        "text": _cut(candidate.content),
        "right": right,
        "passed": verdict and verdict.passed,
        "score": verdict and verdict.score,
        "feedback": _cut(verdict.feedback) if verdict else "",
        "verdict": dict(verdict.details) if verdict else {},
        "notes": notes,
        "tokens": tokens,
        "elapsed": round(candidate.elapsed, 3),
        "picture": _picture(run, candidate.content) if is_picture(candidate.content) else None,
    }
    return {name: value for name, value in shown.items() if value not in (None, "", {})}


def _picture(run: Run, name: str) -> str | None:
    path = run.path / name
    if not path.is_file() or path.stat().st_size > LARGEST_PICTURE:
        return None
    return f"data:image/{path.suffix[1:]};base64,{b64encode(path.read_bytes()).decode()}"


def _calls(charges: list[tuple[int | None, Charge]]) -> list[list[Any]]:
    """Every call: lane, kind, begin and end in seconds from the first, prompt and completion tokens.

    A lane is a candidate's position; None where no candidate came of it.
    """
    calls = calls_of(charges)
    begin = min((call.start for call in calls), default=0.0)
    return [
        [
            call.lane,
            call.kind,
            round(call.start - begin, 4),
            round(call.end - begin, 4),
            call.prompt_tokens,
            call.completion_tokens,
        ]
        for call in calls
    ]


def _usages(account: Mapping[str, Usage]) -> dict[str, dict[str, float]]:
    return {role: usage.as_dict() for role, usage in account.items()}


def _shortened(node: dict[str, Any]) -> dict[str, Any]:
    return {**node, "text": _cut(node["text"]), "children": [_shortened(child) for child in node["children"]]}


def _cut(text: str) -> str:
    if len(text) <= LONGEST:
        return text
    return f"{text[:LONGEST]}\n… {len(text) - LONGEST:,} more characters are in the run and not shown here"
