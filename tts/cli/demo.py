"""`tts demo`: compares strategies with a model that runs in this process, on tasks that it gets partly right."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
  tts demo --model smollm2

It needs no server, no key and, with the models that come with the library, no download. smollm2 is a real model: it is
fetched once (98 MB), runs with the extra 'gguf', and takes about three minutes. With a model of your own:
tts run --task lab_math --base-url URL ...
"""


@dataclass(frozen=True)
class Plan:
    """What a kind of model is shown with."""

    strategies: Mapping[str, Sequence[str]]
    """What is compared on each task; `{n}` is the number of samples."""
    limit: int
    """Problems per task."""
    n: int
    max_tokens: int


LAB = Plan(
    {
        "lab_math": (
            "single",
            "self_consistency:n={n}",
            "best_of_n:n={n},verifier=oracle",
            "first_pass:k={n},verifier=oracle",
        ),
        "lab_code": ("single", "best_of_n:n={n}", "first_pass:k={n}"),
    },
    limit=40,
    n=32,
    max_tokens=256,
)
"""Programs are verified with the tests in their prompts. Sums come with no tests, so there the (labelled) truth shows
what a perfect verifier would reach."""
REAL = Plan(
    {"instructions:constraints=1": ("single", "best_of_n:n={n},verifier=oracle", "first_pass:k={n},verifier=oracle")},
    limit=20,
    n=8,
    max_tokens=96,
)
"""Texts under a constraint that stands in the prompt and that a program checks: what a small model gets partly right,
in short answers, and what a verifier may truly know."""
TEMPERATURE = 0.8


def demo(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for run directories, curves and tables.")] = Path(
        "runs/demo"
    ),
    model: Annotated[
        str, typer.Option(metavar="MODEL", help="Model to sample from; see: tts embedded list.")
    ] = "lab-target",
    limit: Annotated[
        int | None, typer.Option(metavar="N", min=1, help=f"Problems per task. [default: {LAB.limit}, or {REAL.limit}]")
    ] = None,
    n: Annotated[
        int | None, typer.Option("-n", metavar="N", min=1, help=f"Samples per problem. [default: {LAB.n}, or {REAL.n}]")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")] = False,
    as_json: AsJson = False,
) -> None:
    """Compare strategies with a small model that runs right here.

    Takes about a minute, with a real model about three. Run again, it shows the stored results and computes only what
    is new.
    """
    from tts.cli.common import console
    from tts.runs.analysis import curves, summary
    from tts.runs.progress import progress_shown
    from tts.tables import growth_table, summary_table

    plan = fetched(model)
    grids = {task: [spec.format(n=n or plan.n) for spec in specs] for task, specs in plan.strategies.items()}
    sampling = {"temperature": TEMPERATURE, "max_tokens": plan.max_tokens}
    progress = progress_shown(quiet=quiet)
    runs = asyncio.run(compare(grids, model, out, limit or plan.limit, sampling, progress))
    if as_json:
        show_json({task: {"run": str(run.path), "summary": summary(run)} for task, run in runs.items()})
    else:
        console().print(summary_table({task: summary(run) for task, run in runs.items()}))
        for task, run in runs.items():
            console().print(growth_table(curves(run), f"{task}: accuracy"))
    for task, run in runs.items():
        _write(run, out / f"{task}.csv", out / f"{task}.png")
    say(f"more: tts report {shlex.join(str(run.path) for run in runs.values())}")


def fetched(model: str) -> Plan:
    """What to show `model` with; a public model is fetched if need be, and it is said what it is."""
    from tts.lab.engine.models import GGUF, model_place
    from tts.lab.public_models import MODELS, located, public_name

    if name := public_name(model):
        known = MODELS[name]
        located(name, say)
        say(f"{known.title}: {known.parameters / 1e6:.0f} M parameters, {known.quantisation}, licence {known.licence}")
        say("the task: short texts under one constraint, which the prompt tells and a program checks")
    return REAL if model_place(model).suffix == GGUF else LAB


async def compare(
    grids: Mapping[str, Sequence[str]],
    model: str,
    out: Path,
    limit: int,
    sampling: Mapping[str, Any],
    progress: Progress | None = None,
) -> dict[str, Run]:
    """Run the `grids`, `{task: [strategy, ...]}`, each task into a run directory below `out`."""
    from tts.lab.engine.models import SCHEME, model_name, parameters_of
    from tts.runs import Experiment

    name = model_name(model)
    card = {"parameters": parameters_of(model)}
    endpoint = {"base_url": SCHEME + model.removeprefix(SCHEME), "params": sampling, "card": card}
    return {
        task.partition(":")[0]: await Experiment.parse(
            {"task": task, "strategies": strategies, "models": {name: endpoint}, "limit": limit}
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
        plot_curves(curves(run), figure, title=figure.stem)
    except MissingExtra as missing:
        say(f"wrote {table}; no figure: {missing}")
    else:
        say(f"wrote {figure} and {table}")
