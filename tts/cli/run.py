"""`tts run`: a grid of strategies, models and seeds over a task, stored and resumable."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import sqlite3
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout, suppress
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tts.cli.common import (
    AsJson,
    BaseUrl,
    EnvironmentSpec,
    MaxTokens,
    N,
    Temperature,
    Trackers,
    Verifier,
    choices,
    dotted,
    model_or_default,
    place,
    plugin_option,
    say,
    show_json,
    with_n,
)
from tts.cycles import look_past_what_is_there
from tts.errors import ConfigError, EndpointError, EndpointLost, StoreError, TTSError, WorkersLost
from tts.text import counted

if TYPE_CHECKING:
    from tts.runs import Experiment, Run
    from tts.runs.executors import Executor
    from tts.runs.progress import Progress

EPILOG = """\
\b
Examples:
  tts run --task gsm8k --strategy self_consistency:n=16 --strategy single --limit 100 --temperature 0.8
  tts run --task humaneval --strategy best_of_n -n 64 --out runs/he --resume
  tts run --resume --out runs/he
  tts run grid.toml --track wandb --track tensorboard
  tts run grid.toml --executor ray:address=auto
  tts run grid.toml --sampling.top_p 0.95 --budget.completion_tokens 20000

\b
The keys of a TOML file are those of the dotted options:
  task = "gsm8k"
  strategies = ["self_consistency:n=16"]
  limit = 100
  [sampling]
  temperature = 0.8
  [models."Qwen/Qwen2.5-0.5B-Instruct"]
  base_url = "http://localhost:8000/v1"

Exit code: 0 done, 1 a cell or the endpoint failed, 2 invalid usage or settings, 130 interrupted,
143 terminated.
"""


def run(
    ctx: typer.Context,
    config: Annotated[
        Path | None, typer.Argument(metavar="CONFIG.toml", help="The experiment; options override it.")
    ] = None,
    task: Annotated[
        str | None,
        plugin_option("tasks", "Problems to solve; see: tts list tasks."),
    ] = None,
    strategy: Annotated[
        list[str] | None,
        plugin_option("strategies", "Repeatable; see: tts list strategies."),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Repeatable. Default: $OPENAI_MODEL, or the only one the server has."),
    ] = None,
    base_url: BaseUrl = None,
    verifier: Verifier = None,
    environment: EnvironmentSpec = None,
    agent: Annotated[
        str | None,
        typer.Option(
            metavar="COMMAND",
            help="A program that acts there instead of the default loop: 'mini -y -m openai/{model} -t {problem}'.",
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(metavar="N", min=1, help="Use only the first N problems.")] = None,
    seed: Annotated[list[int] | None, typer.Option(metavar="S", help="Repeatable: each seed is a repetition.")] = None,
    temperature: Temperature = None,
    max_tokens: MaxTokens = None,
    n: N = None,
    total_budget: Annotated[
        str | None,
        typer.Option(
            metavar="CAP=N",
            help="One cap over all problems: completion_tokens=1e6. Samples go where they gain most for their cost; "
            "policy=thompson or policy=uniform after a comma.",
        ),
    ] = None,
    stop_early: Annotated[
        bool | None, typer.Option("--stop-early/--no-stop-early", help="Stop a search whose selection is settled.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Run directory. Default: runs/TASK-MODEL-DATE-TIME.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --out, which alone suffices.")] = False,
    executor: Annotated[
        str, typer.Option(metavar="SPEC", help="Where: local, or ray:address=auto,workers=4 (docs/scale.md).")
    ] = "local",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be done; send no request.")] = False,
    track: Annotated[
        list[Trackers] | None,
        typer.Option(
            metavar=choices(Trackers),
            help="Have a tracker follow the run, by its own settings (extra trackers); may be repeated.",
        ),
    ] = None,
    otel: Annotated[
        bool, typer.Option("--otel", help="Send OpenTelemetry spans to $OTEL_EXPORTER_OTLP_ENDPOINT (extra otel).")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run strategies over a task.

    Every answer is stored before it is used, so an interrupted run resumes without loss.
    """
    from tts.runs.executors import executor_named
    from tts.runs.progress import TracedProgress, progress_shown
    from tts.runs.record import read_record

    where = executor_named(executor)
    if resume and out is None:
        raise ConfigError("--resume continues a run directory: name it with --out DIR")
    options = {
        "task": task,
        "strategies": strategy or None,
        "verifier": verifier,
        "environment": environment,
        "agent": agent,
        "limit": limit,
        "seeds": seed or None,
        "stop_early": stop_early,
        "total_budget": total_budget,
        "sampling.temperature": temperature,
        "sampling.max_tokens": max_tokens,
    }
    given = {key: value for key, value in options.items() if value is not None}
    source, started = config, ""
    if resume and out is not None and config is None and not {"task", "strategies"} <= given.keys():
        record = read_record(out)
        source, started = record["config"], record.get("folder", "")
    with _told_where_files_are(started):
        experiment = _experiment(source, {**given, **dotted(ctx)}, model or [], base_url, n, ask=not dry_run)
        out = out or Path("runs") / _name(experiment)
        if dry_run:
            _show_plan(experiment, out, as_json)
            return
        progress = progress_shown(quiet=quiet)
        progress = TracedProgress(progress) if otel else progress
        done = _execute(experiment, out, resume, progress, where, [str(tracker) for tracker in track or ()])
    _show(done, as_json)
    failed = [row for track in done.tracks for row in track.rows if row.ended == "failed"]
    if failed:
        say(f"{counted(len(failed), 'cell')} failed: {failed[0].failures[-1]}; --resume tries them again")
        raise typer.Exit(1)


@contextmanager
def _told_where_files_are(started: str) -> Iterator[None]:
    """Tells with what is wrong that the run was `started` in another folder, to which its paths may be relative."""
    try:
        yield
    except ConfigError:
        if started not in ("", str(Path.cwd())):
            say(f"the run was started in {started}: the files that its settings name may be there")
        raise


def _experiment(
    source: Path | dict[str, Any] | None,
    options: Mapping[str, Any],
    models: list[str],
    base_url: str | None,
    n: int | None,
    *,
    ask: bool,
) -> Experiment:
    """The configuration, of a file or a run. With `ask`, the endpoint is asked for its model if none is named."""
    from tts.runs import Experiment
    from tts.runs.config import load

    table = load(source, options)
    if not {"task", "strategies"} <= table.keys():
        raise ConfigError("nothing to run: give --task and --strategy, or a TOML file that has task and strategies")
    known = table.get("models", {})
    if isinstance(known, dict):
        if not models and not known:
            if not ask and not os.environ.get("OPENAI_MODEL"):
                raise ConfigError("--dry-run asks no server for its model: name one with --model or OPENAI_MODEL")
            models = [asyncio.run(model_or_default(None, base_url))]
        if known and (unknown := [name for name in models if name not in known]):
            raise ConfigError(f"the file has no model '{unknown[0]}'; it has: {', '.join(known)}")
        chosen = {name: known.get(name, {}) for name in models} or known
        table["models"] = {name: _at(entry, base_url) for name, entry in chosen.items()}
    experiment = Experiment.parse(table)
    return experiment.model_copy(update={"strategies": with_n(experiment.strategies, n)})


def _at(entry: Any, base_url: str | None) -> Any:
    """The table of a model with the policy's base URL set."""
    if base_url is None or not isinstance(entry, dict):
        return entry
    if isinstance(entry.get("policies"), dict):
        return {**entry, "policies": {name: {**one, **place(base_url)} for name, one in entry["policies"].items()}}
    if isinstance(entry.get("policy"), dict):
        return {**entry, "policy": {**entry["policy"], **place(base_url)}}
    return {**entry, **place(base_url)}


def _name(experiment: Experiment) -> str:
    models = "+".join(experiment.models)
    words = f"{experiment.task.name}-{models}-{datetime.now():%Y%m%d-%H%M%S}"
    return re.sub(r"[^\w.+-]+", "-", words)


def _execute(
    experiment: Experiment, out: Path, resume: bool, progress: Progress, executor: Executor, track: list[str]
) -> Run:
    """Run it; if it breaks off, tell how to continue."""
    look_past_what_is_there()
    try:
        with redirect_stdout(sys.stderr):  # Ray prints what becomes of nodes, trackers where their runs are
            return asyncio.run(experiment.run(out, resume=resume, progress=progress, executor=executor, track=track))
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"all answers so far are stored. {_how_to_resume(out)}") from None
    except (EndpointError, StoreError, WorkersLost) as error:
        if isinstance(error, EndpointLost):
            _show_what_there_is(out)
        if _holds_answers(out):
            say(f"broken off; all answers so far are stored. {_how_to_resume(out)}")
        raise


def _holds_answers(out: Path) -> bool:
    from tts.runs import Run

    with suppress(TTSError, sqlite3.Error):
        return bool(Run(out, checked=False).db.execute("SELECT EXISTS (SELECT 1 FROM samples)").fetchone()[0])
    return False


def _show_what_there_is(out: Path) -> None:
    """The summary of the finished cells, if there are any, to stderr."""
    from tts.cli.common import console
    from tts.runs import Run
    from tts.runs.analysis import summary
    from tts.tables import summary_table

    with suppress(TTSError):
        if rows := summary(Run(out)):
            console(stderr=True).print(summary_table({"so far": rows}))


def _how_to_resume(out: Path) -> str:
    from tts.runs.record import redacted

    words = [word for word in redacted(sys.argv[1:]) if word != "--resume"]
    if not any(word == "--out" or word.startswith("--out=") for word in words):
        words += ["--out", str(out)]
    return f"To continue:\n  {shlex.join(['tts', *words, '--resume'])}"


def _show(done: Run, as_json: bool) -> None:
    from tts.cli.common import console
    from tts.registry import short_names
    from tts.runs.analysis import summary
    from tts.tables import summary_table

    rows = summary(done)
    if as_json:
        show_json({"run": str(done.path), "summary": rows})
    else:
        console().print(summary_table({"": rows}).renamed(short_names(row["strategy"] for row in rows)))
    say(f"stored in {done.path}; curves: tts report {shlex.quote(str(done.path))}")


# -- dry run -----------------------------------------------------------------------------------------------------------


def _show_plan(experiment: Experiment, out: Path, as_json: bool) -> None:
    from tts.runs.progress import planned_samples

    problems = sum(1 for _ in islice(experiment.task.examples(), experiment.limit))
    samples, unknown = planned_samples(experiment, problems)
    cells = problems * len(experiment.models) * len(experiment.seeds) * len(experiment.strategies)
    plan = {"problems": problems, "cells": cells, "samples_at_most": samples}
    config = experiment.model_dump(mode="json", exclude_defaults=True)
    if as_json:
        show_json({"config": config, "out": str(out), **plan})
        return
    show_json(config)
    most = f"an unknown number of samples ({unknown})" if samples is None else f"{counted(samples, 'sample')} at most"
    size = f"{counted(problems, 'problem')}, {counted(cells, 'cell')}, {most}"
    typer.echo(f"\n{size}; would be stored in {out}. Nothing was sent.")
