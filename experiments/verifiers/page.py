"""Measures verifiers on the lab tasks and writes the tables of docs/verifiers.md: one command, again at any time.

python -m experiments.verifiers.page [--out runs/verifiers] [--into docs/verifiers.md]

Runs that are there already are continued; strategies whose model does not come with the library are left out.
"""

from __future__ import annotations

import argparse
import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from time import process_time

import numpy as np

from experiments.confidence.table import table as confidence_table
from tts.base import Verifier
from tts.curves import Interval
from tts.lab.engine.models import bundled_models
from tts.registry import make
from tts.resources import Resources
from tts.runs import Experiment, Run
from tts.runs.config import load
from tts.runs.run import Track
from tts.session import Session
from tts.solving import open_models
from tts.studies.verifiers import VerifierReport, verifier_report
from tts.types import Usage
from tts.verifiers.agreement import Agreement

HERE = Path(__file__).parent
CONFIGS = {
    "lab_math": HERE / "lab_math.toml",
    "lab_code": HERE / "lab_code.toml",
    "confidence": HERE.parent / "confidence" / "lab_math.toml",
}
NO_BETTER = {"no different": "no", "worse": "no, worse", "better": "yes"}


def experiment(config: Path) -> tuple[Experiment, list[Verifier]]:
    """An experiment without the roles whose model is not there, and the verifiers left out for want of it."""
    table, there = load(config), {folder.name for folder in bundled_models()}
    roles = next(iter(table["models"].values()))
    missing = {role for role, one in roles.items() if isinstance(one, dict) and one["model"] not in there}
    for role in missing:
        del roles[role]
    made = [make("strategies", spec) for spec in table["strategies"]]
    left_out = [one.verifier for one in made if one.verifier is not None and one.verifier.roles & missing]
    table["strategies"] = [one for one in made if one.verifier not in left_out]
    return Experiment.parse(table), left_out


TIMED = 4
"""Problems whose candidates are verified again, one problem after the other, to see what that takes."""


async def verifier_table(run: Run, grid: Experiment) -> str:
    """One row for each verifier, and below in words which of them are not worth selecting by."""
    tracks = {track.label: track for track in run.tracks}
    reports = [report for report in verifier_report(run) if report.cost is not None]
    seconds = [await cpu_seconds(tracks[report.track], report.cost, grid) for report in reports]
    found = [(report, tracks[report.track].verifier) for report in reports]
    return "\n".join(lines(found, seconds, knowing_nothing(tracks[reports[0].track])))


def knowing_nothing(track: Track) -> float:
    """How often the best-rated candidate is right where a score has nothing to do with the truth, one for each text.

    That is not chance where right candidates repeat one text and wrong ones differ: each text wins equally often.
    """
    shares = []
    for row, correct in zip(track.rows, track.correct, strict=True):
        texts = dict(zip((candidate.content for candidate in track.candidates(row)), correct, strict=True))
        shares.append(np.mean([*texts.values()]))
    return float(np.mean(shares))


async def cpu_seconds(track: Track, cost: Usage | None, grid: Experiment) -> float:
    """CPU seconds of a verdict, the model's (it runs in this process) and those of programs.

    They do not depend on how busy the machine is, as the durations of calls do.
    """
    assert cost is not None
    assert track.verifier is not None
    if not cost.requests:
        return cost.verifier_seconds
    problems = {example.problem.id: example.problem for example in grid.task.examples()}
    verdicts, spent = 0, 0.0
    async with open_models(grid.endpoints(track.model)) as models, Resources() as resources:
        for timed, row in enumerate(track.rows[: TIMED + 1]):
            session = Session(problems[row.problem], models, verifier=track.verifier, resources=resources)
            candidates = [session.candidate(stored.content) for stored in track.candidates(row)]
            begin = process_time()
            found = await asyncio.gather(*map(session.verify, candidates))
            if timed:  # the first may have loaded the model
                verdicts += len(found)
                spent += process_time() - begin
    return spent / verdicts + cost.verifier_seconds


def lines(whole: list[tuple[VerifierReport, Verifier | None]], seconds: list[float], nothing: float) -> Iterator[str]:
    """The table and what it comes to."""
    chosen = next(report.selection for report, _ in whole if report.selection is not None)
    n, majority = chosen.n[-1], chosen.majority
    yield (
        f"A random sample is right {percent(chosen.random)} of the time"
        + (f", the majority of {n} {percent(majority)}" if majority else "")
        + f"; of all {n}, a score that knows nothing would choose a right one {100 * nothing:.1f} % of the time. "
        f"{whole[0][0].candidates:,} candidates."
    )
    yield ""
    columns = ["verifier", "AUROC", f"right, best of {n}", "beats random", "beats majority", "tokens", "CPU s"]
    if majority is None:
        columns.remove("beats majority")
    yield line(columns)
    yield line(["---", *["---:"] * (len(columns) - 1)])
    for (report, verifier), taken in zip(whole, seconds, strict=True):
        assert verifier is not None
        yield line(row(report, verifier, taken))
    yield ""
    yield from sentences(whole)


def row(report: VerifierReport, verifier: Verifier, seconds: float) -> list[str]:
    """The cells of a verifier; AUROC is the mean over problems that have right and wrong candidates."""
    selection, cost = report.selection, report.cost
    assert selection is not None
    assert cost is not None
    beaten = [f"{NO_BETTER[selection.against_random]} ({signed(selection.over_random)})"]
    if selection.over_majority is not None and selection.against_majority is not None:
        beaten.append(f"{NO_BETTER[selection.against_majority]} ({signed(selection.over_majority)})")
    return [
        f"`{named(verifier)}`",
        "?" if report.auroc_within is None else f"{report.auroc_within:.3f}",
        percent(selection.verifier),
        *beaten,
        f"{cost.total_tokens:,.1f}",
        f"{seconds:.2g}",
    ]


def sentences(whole: list[tuple[VerifierReport, Verifier | None]]) -> Iterator[str]:
    """Which verifiers do not beat a random sample, or the majority; and which left candidates unrated."""

    def listed(found: list[Verifier | None]) -> str:
        return ", ".join(f"`{named(one)}`" for one in found if one is not None)

    of = [(report, report.selection, verifier) for report, verifier in whole if report.selection is not None]
    if useless := [verifier for _, one, verifier in of if one.against_random != "better"]:
        yield f"- No better than a random sample, as far as this can tell: {listed(useless)}."
    if beaten := [verifier for _, one, verifier in of if _loses(one.against_majority, verifier)]:
        yield f"- Not better than the majority, which costs nothing: {listed(beaten)}."
    for report, _, verifier in of:
        if report.rated < report.candidates:
            yield f"- {listed([verifier])} rated {report.rated:,} of {report.candidates:,} candidates."


def _loses(against_majority: str | None, verifier: Verifier | None) -> bool:
    return against_majority not in (None, "better") and not isinstance(verifier, Agreement)  # which is the majority


def named(verifier: Verifier) -> str:
    """Its spec without prompts."""
    spec = re.sub(r',?prompt="(?:[^"\\]|\\.)*"', "", verifier.spec)
    return spec.replace("(,", "(").replace(":,", ":").replace("()", "").removesuffix(":")


def percent(of: Interval) -> str:
    """A share and its interval, at the largest N."""
    return f"{100 * of.mean[-1]:.1f} % ({100 * of.low[-1]:.0f} to {100 * of.high[-1]:.0f})"


def signed(of: Interval) -> str:
    """A difference in points and its interval, at the largest N."""
    return f"{100 * of.mean[-1]:+.1f}; {100 * of.low[-1]:+.1f} to {100 * of.high[-1]:+.1f}"


def line(cells: list[str]) -> str:
    """A row of a table in Markdown."""
    return f"| {' | '.join(cells)} |"


def rewritten(page: str, name: str, content: str) -> str:
    """`page` with what stands between the marks of `name` replaced."""
    begin, end = (f"<!-- {name}: {word} -->" for word in ("begin", "end"))
    before, _, rest = page.partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise ValueError(f"the page has no marks {begin} and {end}")
    return f"{before}{begin}\n{content.strip()}\n{end}{after}"


async def main() -> None:
    """Run what is missing, and write the tables into the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/verifiers"), help="where the runs are kept")
    parser.add_argument("--into", type=Path, default=Path("docs/verifiers.md"))
    options = parser.parse_args()
    for name, config in CONFIGS.items():
        grid, left_out = experiment(config)
        run = await grid.run(options.out / name, resume=True)
        content = confidence_table(run) if name == "confidence" else await verifier_table(run, grid)
        if left_out:
            content += f"\n- Not measured, for want of a model: {', '.join(f'`{named(one)}`' for one in left_out)}."
        page = rewritten(options.into.read_text(encoding="utf-8"), name, content)
        options.into.write_text(page, encoding="utf-8")
        print(content, flush=True)


if __name__ == "__main__":
    asyncio.run(main())
