"""`tts demo`: compares strategies on the lab tasks with a model that runs in this process."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tts.cli.common import AsJson, say, show_json

if TYPE_CHECKING:
    from tts.runs import Run
    from tts.runs.progress import Progress

EPILOG = """\
\b
Examples:
  tts demo
  tts demo --model lab-draft --out runs/draft
  tts demo --limit 20 -n 64

It needs no server, no key and no download. With a model of your own: tts run --task lab_math --base-url URL ...
"""

SAMPLING = {"temperature": 0.8, "max_tokens": 256}

STRATEGIES = {
    "lab_math": (
        "single",
        "self_consistency:n={n}",
        "best_of_n:n={n},verifier=oracle",
        "first_pass:k={n},verifier=oracle",
    ),
    "lab_code": ("single", "best_of_n:n={n}", "first_pass:k={n}"),
}
"""What is compared on each task. Programs are verified with the tests in their prompts. Sums come with no tests, so
there the (labelled) truth shows what a perfect verifier would reach."""


def demo(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for run directories, curves and tables.")] = Path(
        "runs/demo"
    ),
    model: Annotated[
        str, typer.Option(metavar="MODEL", help="Model to sample from; see: tts embedded list.")
    ] = "lab-target",
    limit: Annotated[int, typer.Option(metavar="N", min=1, help="Problems per task.")] = 40,
    n: Annotated[int, typer.Option("-n", metavar="N", min=1, help="Samples per problem.")] = 32,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")] = False,
    as_json: AsJson = False,
) -> None:
    """Compare strategies on two tasks, with a small model that runs in this process.

    Takes about a minute. Run again, it shows the stored results and computes only what is new.
    """
    from tts.cli.common import console
    from tts.runs.analysis import curves, summary
    from tts.runs.progress import progress_on_stderr
    from tts.tables import curve_table, summary_table

    grids = {task: [spec.format(n=n) for spec in specs] for task, specs in STRATEGIES.items()}
    runs = asyncio.run(compare(grids, model, out, limit, progress_on_stderr(quiet=quiet)))
    if as_json:
        show_json({task: {"run": str(run.path), "summary": summary(run)} for task, run in runs.items()})
    else:
        console().print(summary_table({task: summary(run) for task, run in runs.items()}))
        for run in runs.values():
            console().print(curve_table(curves(run)))
    for task, run in runs.items():
        _write(run, out / f"{task}.csv", out / f"{task}.png")
    say(f"more: tts report {shlex.join(str(run.path) for run in runs.values())}")


async def compare(
    grids: Mapping[str, Sequence[str]], model: str, out: Path, limit: int, progress: Progress | None = None
) -> dict[str, Run]:
    """Run the `grids`, `{task: [strategy, ...]}`, each task into a run directory below `out`."""
    from tts.lab.engine.models import SCHEME, model_folder
    from tts.runs import Experiment

    folder = model_folder(model)
    parameters = (folder / "model.safetensors").stat().st_size / 2  # stored with two bytes each
    endpoint = {"base_url": SCHEME + model, "params": SAMPLING, "card": {"parameters": parameters}}
    return {
        task.partition(":")[0]: await Experiment.parse(
            {"task": task, "strategies": strategies, "models": {folder.name: endpoint}, "limit": limit}
        ).run(out / task.partition(":")[0], resume=True, progress=progress)
        for task, strategies in grids.items()
    }


def _write(run: Run, table: Path, figure: Path) -> None:
    """Write the curves of a run as a table, and as a figure where matplotlib is installed."""
    from tts.curves import plot_curves, write_csv
    from tts.errors import MissingExtra
    from tts.runs.analysis import curves

    write_csv(curves(run), table)
    try:
        plot_curves(curves(run), figure)
    except MissingExtra as missing:
        say(f"wrote {table}; no figure: {missing}")
    else:
        say(f"wrote {figure} and {table}")
