"""`tts calibrate`: from a run of atts to the file that its drafts' scores calibrate later runs with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tts.cli.common import say
from tts.errors import ConfigError

if TYPE_CHECKING:
    from tts.runs import Run

EPILOG = """\
\b
Examples:
  tts run calibrate.toml --out runs/calibration          # atts on problems that are set aside for it
  tts calibrate runs/calibration calibration.json
  tts run --strategy atts:calibration=calibration.json,by=turn ...
"""


def calibrate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Directory of a run of atts.")],
    out: Annotated[Path, typer.Argument(metavar="FILE", help="File to write; must not exist.")],
    strategy: Annotated[
        str | None, typer.Option(metavar="SPEC", help="Use only the drafts of this strategy of the run.")
    ] = None,
) -> None:
    """Write the scores of a run's drafts to a file for `atts:calibration=FILE`."""
    from tts.runs import Run

    count = write_calibration(Run(run), out, strategy=strategy)
    say(f"wrote {out}: {count} scores")


def write_calibration(run: Run, path: Path, *, strategy: str | None = None) -> int:
    """Write the scores of all drafts of a run, of one `strategy` or of all, to `path`; returns how many there are.

    The drafts of later turns follow on what was rejected before, so run the problems set aside for calibration at the
    rejection rate it is for. Raises `ConfigError` when there are no scores, when the drafts were made with different
    models or settings, and when `path` exists.
    """
    from tts.strategies.speculation.conformal import Scored, save

    query = """SELECT problem, json_extract(details, '$.notes') FROM cells JOIN candidates ON candidates.cell = cells.id
               WHERE ? IS NULL OR strategy = ? ORDER BY cells.id, position"""
    scored, settings = [], {}
    for problem, text in run.db.execute(query, (strategy, strategy)):
        notes = json.loads(text or "{}")
        if made_with := notes.get("made_with"):
            settings[json.dumps(made_with, sort_keys=True)] = made_with
        scored += [
            Scored(turn["score"], problem, number, turn["tokens"])
            for number, turn in enumerate(notes.get("turns", ()))
            if "score" in turn
        ]
    if not scored or not settings:
        raise ConfigError(f"{run.path} has no scored drafts; run atts on the problems to calibrate with")
    if len(settings) > 1:
        raise ConfigError(f"{run.path} has drafts made with different models or chunk sizes; choose one --strategy")
    save(path, scored, better="higher", made_with=next(iter(settings.values())))
    return len(scored)
