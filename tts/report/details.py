"""All that a report shows of one problem: its prompt, candidates with their verdicts and origins, calls, cost."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cached_property
from typing import Any

from tts.errors import TTSError
from tts.files import pictures_in
from tts.registry import make
from tts.report.tracks import ProblemKey, RunComparison
from tts.runs.record import fingerprint
from tts.runs.run import Row, Run, Track
from tts.runs.timed_calls import calls_of
from tts.studies.contact_sheet import inline
from tts.studies.search_trees import search_tree
from tts.types import USAGE_FIELDS, Charge, Usage

LONGEST = 20_000
"""Characters of a text that are shown."""
TREES = {"tree", "lineage"}
"""Notes that tell of the search: they are drawn, and not shown beside its candidates."""
LARGEST_IMAGE = 400_000
"""Bytes of an image that is shown."""


class Details:
    """The details of each problem of a comparison, read when asked for."""

    def __init__(self, comparison: RunComparison) -> None:
        self._comparison = comparison

    def of(self, problem: ProblemKey) -> dict[str, Any]:
        """The prompt of `problem`, and all that each track made of it."""
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
        """The rows of each track by problem."""
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
    """The prompts as the task gives them now, without the problems whose text has changed since."""
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
    """The text of a message; other parts are named by their type."""
    if isinstance(content, str) or content is None:
        return content or ""
    return "\n".join(part.get("text") or f"[{part.get('type', 'part')}]" for part in content)


def _cell(track: Track, number: int, row: Row) -> dict[str, Any]:
    query = f"SELECT position, role, started, {', '.join(USAGE_FIELDS)} FROM charges WHERE cell = ? ORDER BY started"
    charges = [
        (position if position is not None and position >= 0 else None, Charge("", role, Usage(*usage), started))
        for position, role, started, *usage in track.run.db.execute(query, (row.cell,))
    ]
    query = "SELECT elapsed, score, passed, correct, content, details FROM candidates WHERE cell = ? ORDER BY position"
    candidates = [
        (elapsed, score, passed, right, content, json.loads(details))
        for elapsed, score, passed, right, content, details in track.run.db.execute(query, (row.cell,))
    ]
    tokens = [0.0] * len(candidates)
    for position, charge in charges:
        if position is not None:
            tokens[position] += charge.usage.completion_tokens
    grown = any(more.get("parents") or more.get("notes", {}).keys() & TREES for *_, more in candidates)
    return {
        "track": number,
        "seed": row.seed,
        "ended": row.ended,
        "selected": row.selected,
        "seconds": round(row.seconds, 3),
        "failures": row.failures,
        **{
            name: {role: usage.as_dict() for role, usage in account.items()}
            for name, account in (("spent", row.spent), ("reused", row.reused), ("wasted", row.wasted))
        },
        "candidates": [_candidate(track.run, *one, cost) for one, cost in zip(candidates, tokens, strict=True)],
        "tree": [
            {**node.as_dict(), "text": _cut(node.text)}
            for node in search_tree(track.candidates(row), row.selected, tokens)
        ]
        if grown
        else None,
        "calls": _calls(charges),
    }


def _candidate(
    run: Run,
    elapsed: float,
    score: float | None,
    passed: int | None,
    right: int | None,
    content: str,
    more: dict[str, Any],
    tokens: float,
) -> dict[str, Any]:
    pictures = pictures_in(content)
    shown = {
        "text": _cut(content),
        "right": right,
        "passed": None if passed is None else bool(passed),
        "score": score,
        "feedback": _cut(more.get("feedback", "")),
        "verdict": more.get("verdict"),
        "notes": {name: value for name, value in more.get("notes", {}).items() if name not in TREES},
        "graded": more.get("graded"),
        "finish": more.get("finish_reason"),
        "tokens": tokens,
        "elapsed": round(elapsed, 3),
        "image": inline(run.path / pictures[-1], LARGEST_IMAGE) if pictures else None,
    }
    return {name: value for name, value in shown.items() if value not in (None, "", {})}


def _calls(charges: list[tuple[int | None, Charge]]) -> list[list[Any]]:
    """Every call: lane, kind, start and end in seconds from the first start, prompt and completion tokens.

    A lane is a candidate's position; None where the call led to no candidate.
    """
    calls = calls_of(charges)
    first = min((call.start for call in calls), default=0.0)
    times = ((round(call.start - first, 4), round(call.end - first, 4)) for call in calls)
    return [
        [call.lane, call.kind, *span, call.prompt_tokens, call.completion_tokens]
        for call, span in zip(calls, times, strict=True)
    ]


def _cut(text: str) -> str:
    if len(text) <= LONGEST:
        return text
    return f"{text[:LONGEST]}\n… {len(text) - LONGEST:,} more of its characters in the run, not shown here"
