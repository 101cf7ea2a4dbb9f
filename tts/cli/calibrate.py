"""`tts calibrate`: from a run of atts to a calibration file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tts.cli.common import say

EPILOG = """\
\b
Examples:
  tts run calibrate.toml --out runs/calibration          # atts on problems that are set aside for it
  tts calibrate runs/calibration calibration.json
  tts run --strategy atts:calibration=calibration.json,by=turn ...
"""


def calibrate(
    run: Annotated[Path, typer.Argument(help="Directory of a run of atts.")],
    out: Annotated[Path, typer.Argument(help="The file to write; an existing one is not overwritten.")],
    strategy: Annotated[
        str | None, typer.Option(metavar="SPEC", help="Only the drafts of this strategy of the run.")
    ] = None,
) -> None:
    """Keep the scores of a run's drafts for `atts:calibration=FILE`."""
    from tts.runs import Run
    from tts.runs.calibration import calibrate as write

    count = write(Run(run), out, strategy=strategy)
    say(f"wrote {out}: {count} scores")
