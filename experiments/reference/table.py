"""The reference table, from the runs that are kept here or from those of your own.

python -m experiments.reference.table [FOLDER]     # prints it
python -m experiments.reference.table --write      # puts that of the kept runs into README.md
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.reference.kept import LEDGER, unpack
from tts.curves import mean_interval, paired_difference
from tts.runs import Run
from tts.runs.analysis import summary
from tts.runs.estimates import GradedPool, final_accuracies
from tts.runs.run import Track

TITLES = {
    "humaneval_greedy": "HumanEval+, greedy",
    "prefilled": "HumanEval+, greedy, the answer begun as EvalPlus does",
    "humaneval": "HumanEval+, temperature 0.8",
    "gsm8k": "GSM8K, temperature 0.8",
    "smollm2_gsm8k": "GSM8K, temperature 0.8, SmolLM2",
    "mbpp": "MBPP, temperature 0.8",
}
"""By run, in the order of the table."""
PAGE = Path(__file__).with_name("README.md")
ANCHORS = ("humaneval_greedy", "prefilled")
PUBLISHED = (61.6, 57.3)
PAPER = "Hui et al. 2024, arXiv 2409.12186, the table of instruct models by EvalPlus"
BASELINE = "best_of_n:n=10"


def share(mean: float, low: float | None, high: float | None) -> str:
    """A share and its interval, in percent."""
    return f"{100 * mean:.1f}" + (
        f" ({100 * low:.1f} to {100 * high:.1f})" if low is not None and high is not None else ""
    )


def results(runs: Sequence[Run]) -> Iterator[str]:
    """One row for each strategy: what it selects, what there was to select from, and what it cost a problem."""
    yield "| benchmark | strategy | n | right, % | among its answers, % | tokens written | tokens read | requests |"
    yield "|---|---|--:|--:|--:|--:|--:|--:|"
    for run in runs:
        for row in summary(run):
            n = row["problems"]
            costs = (row["completion_tokens"], row["prompt_tokens"], row["requests"])
            cells = [
                TITLES[run.path.name],
                f"`{row['strategy']}`",
                str(n),
                share(row["accuracy"], row["low"], row["high"]),
                share(row["coverage"], row["coverage_low"], row["coverage_high"]),
                *(f"{cost / n:,.0f}" if cost >= 100 * n else f"{cost / n:.1f}" for cost in costs),
            ]
            yield f"| {' | '.join(cells)} |"


def anchor() -> Iterator[str]:
    """The greedy answers by the base tests and by all, as this library and EvalPlus judge them, beside the paper's."""
    known = json.loads((PAGE.parent / "agreement.json").read_text())
    yield "| greedy pass@1 | HumanEval, % | HumanEval+, % |"
    yield "|---|--:|--:|"
    for run in (name for name in known["answers"] if name in ANCHORS):
        n = known["answers"][run]
        for judge in ("tts", "EvalPlus, extracted", "EvalPlus, sanitized"):
            cells = []
            for tests in ("base", "plus"):
                right = known["right"][f"{judge}, {tests}"][run]
                found = mean_interval((np.arange(n) < right).astype(float)[:, None])
                cells.append(share(*map(float, (found.mean[0], found.low[0], found.high[0]))))
            yield f"| {TITLES[run]}, judged by {judge} | {' | '.join(cells)} |"
    yield f"| published ({PAPER}) | {' | '.join(map(str, PUBLISHED))} |"


def agreement() -> Iterator[str]:
    """How many verdicts of EvalPlus are ours, over the answers of all runs that it has judged."""
    known = json.loads((PAGE.parent / "agreement.json").read_text())
    n = sum(known["answers"].values())
    yield f"| {n:,} answers, the same verdict | by HumanEval's tests | by HumanEval+ |"
    yield "|---|--:|--:|"
    for judge in ("EvalPlus, sanitized", "EvalPlus, extracted"):
        differ = Counter(one["tests"] for one in known["differences"] if one["by"] == judge)
        yield f"| {judge} | {n - differ['base']:,} | {n - differ['plus']:,} |"


def at_equal_tokens(run: Run) -> Iterator[str]:
    """Strategies that did not have all problems, beside best-of-N with as many samples as their tokens would buy."""
    tracks = {track.strategy: track for track in run.tracks}
    baseline = tracks[BASELINE]
    yield "| strategy | n | right, % | tokens written | best of k at these tokens, % | difference, points |"
    yield "|---|--:|--:|--:|--:|--:|"
    for name, track in tracks.items():
        if len(track.rows) < len(baseline.rows) and name.partition(":")[0] != "repeated_sampling":
            yield f"| `{name}` | {_beside(track, baseline)} |"


def _beside(track: Track, baseline: Track) -> str:
    own = {row.problem: right for row, right in zip(track.rows, final_accuracies(track), strict=True)}
    spent = sum(part[-1] for part in track.cost("completion_tokens")) / len(own)
    pool = GradedPool.of(baseline, lambda row: row.problem in own)
    costs = zip(baseline.rows, baseline.cost("completion_tokens"), strict=True)
    each = float(np.mean([cost[-1] / len(cost) for row, cost in costs if row.problem in own]))
    k = int(np.clip(round(spent / each), 1, pool.sizes.min()))
    theirs = pool.selected(np.full((len(pool.kept), 1), k))[0][:, 0]
    ours = np.array([own[row.problem] for row in pool.rows[: len(pool.kept)]])
    mine, other, apart = (
        mean_interval(ours[:, None]),
        mean_interval(theirs[:, None]),
        paired_difference(ours[:, None], theirs[:, None]),
    )
    least = f"k = {k}" + (f", {k * each:,.0f} tokens" if k * each < 0.75 * spent else "")
    return " | ".join(
        [
            str(len(ours)),
            share(*map(float, (mine.mean[0], mine.low[0], mine.high[0]))),
            f"{spent:,.0f}",
            f"{share(*map(float, (other.mean[0], other.low[0], other.high[0])))} ({least})",
            f"{100 * apart.mean[0]:+.1f} ({100 * apart.low[0]:+.1f} to {100 * apart.high[0]:+.1f})",
        ]
    )


def bills(runs: Sequence[Run]) -> Iterator[str]:
    """What the runs stored of their requests beside what the server counted, and what the rest of the machine did."""
    yield (
        "| run | engine | answers, stored | server | tokens written, stored | server | tokens read, stored | server "
        "| own CPU, s | programs' CPU, s | hours | readings with no work |"
    )
    yield "|---|---|" + "--:|" * 10
    for run in (run for run in runs if (run.path / LEDGER).exists()):
        ledger = json.loads((run.path / LEDGER).read_text())
        answers, written, read = stored(run)

        def total(name: str, ledger: list[dict[str, Any]] = ledger) -> float:
            return sum(entry[name] if name in entry else entry["server"].get(name, 0.0) for entry in ledger)

        cells = [
            run.path.name,
            ", ".join(sorted({entry["engine"] for entry in ledger})),
            *(f"{value:,.0f}" for value in (answers, total("request_success"), written, total("generation_tokens"))),
            *(f"{value:,.0f}" for value in (read, total("prompt_tokens"))),
            f"{total('cpu_seconds'):,.0f}",
            f"{total('program_cpu_seconds'):,.0f}",
            f"{total('seconds') / 3600:.2f}",
            f"{100 * total('idle_readings') / total('readings'):.1f} %",
        ]
        yield f"| {' | '.join(cells)} |"


def stored(run: Run) -> tuple[int, float, float]:
    """Answers, the tokens written, and those read, counted once for each answer as vLLM does."""
    answers, written, read = 0, 0.0, 0.0
    for (data,) in run.db.execute("SELECT data FROM samples"):
        usages = [usage for _, _, _, usage in json.loads(data)["charges"]]
        answers += 1
        written += sum(usage.get("completion_tokens", 0) for usage in usages)
        read += sum(usage.get("prompt_tokens", 0) for usage in usages)
    return answers, written, read


def tables(folder: Path) -> str:
    """All of them, as Markdown."""
    runs = [Run(folder / name) for name in TITLES if (folder / name / "run.json").exists()]
    parts = [list(results(runs)), list(anchor()), list(agreement())]
    parts += [lines for run in runs if run.path.name == "humaneval" and len(lines := list(at_equal_tokens(run))) > 2]
    counted = [Run(path) for name in TITLES for path in sorted(folder.glob(f"{name}_[0-9]*"))]  # with `--limit`
    return "\n\n".join("\n".join(lines) for lines in [*parts, list(bills([*runs, *counted]))])


def written(page: str, made: str) -> str:
    """`page` with `made` between its marks."""
    begin, end = "<!-- tables: begin -->", "<!-- tables: end -->"
    return f"{page[: page.index(begin)]}{begin}\n{made}\n{page[page.index(end) :]}"


def main() -> None:
    """Print or write them."""
    write = sys.argv[1:] == ["--write"]
    with tempfile.TemporaryDirectory() as name:
        if write or not sys.argv[1:]:
            unpack(Path(name))
        made = tables(Path(sys.argv[1]).expanduser() if sys.argv[1:] and not write else Path(name))
    if write:
        PAGE.write_text(written(PAGE.read_text(), made))
    else:
        print(made)


if __name__ == "__main__":
    main()
