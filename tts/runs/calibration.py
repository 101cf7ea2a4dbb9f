"""From a finished run to the file that its drafts' scores calibrate later runs with."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tts.errors import ConfigError
from tts.runs.run import Run
from tts.strategies.speculation.conformal import Scored, save


def calibrate(run: Run, path: Path, *, strategy: str | None = None) -> int:
    """Write the scores of all drafts of a run, of one `strategy` or of all, into the calibration file `path`.

    The drafts of later turns follow on what was rejected before: run the problems set aside for it at the rate that
    the calibration is for. Returns how many scores there are. Raises `ConfigError` when there are none, when they were
    not all made with the same models and settings, and when `path` exists.
    """
    scored, made_with = [], {}
    for problem, notes in _notes(run, strategy):
        if made := notes.get("made_with"):
            made_with[json.dumps(made, sort_keys=True)] = made
        scored += [
            Scored(turn["score"], problem, number, turn["tokens"])
            for number, turn in enumerate(notes.get("turns", ()))
            if "score" in turn
        ]
    if not scored or not made_with:
        raise ConfigError(f"{run.path} has no scored drafts; run atts on the problems to calibrate with")
    if len(made_with) > 1:
        raise ConfigError(f"{run.path} has drafts made with different models or chunk sizes; choose one --strategy")
    save(path, scored, better="higher", made_with=next(iter(made_with.values())))
    return len(scored)


def _notes(run: Run, strategy: str | None) -> Iterator[tuple[str, dict[str, Any]]]:
    """Problem and notes of every candidate."""
    query = """SELECT problem, json_extract(details, '$.notes') FROM cells JOIN candidates ON candidates.cell = cells.id
               WHERE ? IS NULL OR strategy = ? ORDER BY cells.id, position"""
    for problem, notes in run.db.execute(query, (strategy, strategy)):
        yield problem, json.loads(notes or "{}")
