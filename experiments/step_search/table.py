"""Searches over steps beside best of N and a weighted vote with the same reward, at equal tokens.

python -m experiments.step_search.table RUN [--answer numeric_answer] [--out lab_math.json] [--plot lab_math.svg]

Each search is set beside the least number of whole samples that cost at least as many tokens as it did, over the
problems that all strategies have finished. Differences are paired by problem, with 95 % intervals. With `--answer`, how
answers are read, it also tells what a weighted vote would have chosen of each search's answers.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from tts.base import AnswerVerifier, by_verdict, majority, selectable
from tts.curves import mean_interval, paired_difference
from tts.registry import make
from tts.runs import Run
from tts.runs.estimates import GradedPool, final_accuracies
from tts.runs.run import Track

BASELINES = {"best of N": "best_of_n", "weighted vote": "self_consistency"}


def ends(track: Track, shared: list[str]) -> tuple[NDArray[np.float64], float]:
    """Whether each problem was solved in the end, and the mean of what that cost in tokens."""
    places = {row.problem: i for i, row in enumerate(track.rows)}
    solved, costs = final_accuracies(track), track.cost("completion_tokens")
    chosen = [places[problem] for problem in shared]
    return np.array([solved[i] for i in chosen]), float(np.mean([costs[i][-1] for i in chosen]))


def prefixes(track: Track, shared: list[str]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Problems x numbers of samples: accuracies; and what so many samples cost on average."""
    pool = GradedPool.of(track, lambda row: row.problem in shared)
    most = int(pool.sizes.min())
    values = pool.estimates[0].values(np.tile(np.arange(1, most + 1), (len(pool.kept), 1)))[0]
    order = np.argsort([pool.rows[i].problem for i in range(len(pool.kept))])
    costs = track.mean_cost("completion_tokens")
    return values[order], np.mean([costs[i][:most] for i in pool.kept], axis=0)


def by_vote(track: Track, shared: list[str], reader: AnswerVerifier) -> NDArray[np.float64]:
    """Whether each problem is solved by the answer that a vote weighted by verdicts chooses."""
    solved = dict[str, float]()
    for row, correct in zip(track.rows, track.correct, strict=True):
        read = [replace(one, notes={"answer": reader.parse(one.content)}) for one in track.candidates(row)]
        chosen = majority(selectable(read), by_verdict)
        solved[row.problem] = 0.0 if chosen is None else float(correct[chosen.spawned[0]])
    return np.array([solved[problem] for problem in shared])


def measured(run: Run, reader: AnswerVerifier | None = None) -> dict[str, Any]:
    """By strategy: accuracy, tokens, and the difference from each baseline at equal tokens."""
    tracks = list(run.tracks)
    shared = sorted(set.intersection(*({row.problem for row in track.rows} for track in tracks)))
    known = {
        label: prefixes(next(t for t in tracks if t.strategy.startswith(name)), shared)
        for label, name in BASELINES.items()
    }
    found: dict[str, Any] = {"problems": len(shared), "baselines": {}, "searches": {}}
    for label, (values, costs) in known.items():
        found["baselines"][label] = {"tokens": np.round(costs, 1).tolist(), **told(mean_interval(values))}
    for track in tracks:
        if track.strategy.startswith(tuple(BASELINES.values())):
            continue
        solved, tokens = ends(track, shared)
        row: dict[str, Any] = {"tokens": round(tokens, 1), **told(mean_interval(solved[:, np.newaxis]))}
        for label, (values, costs) in known.items():
            k = min(int(np.searchsorted(costs, tokens)), len(costs) - 1)
            row[label] = {"n": k + 1, **told(paired_difference(solved[:, np.newaxis], values[:, k : k + 1]))}
            if reader is not None and label == "weighted vote":
                voted = by_vote(track, shared, reader)[:, np.newaxis]
                row["voted"] = told(mean_interval(voted))
                row["voted over weighted vote"] = told(paired_difference(voted, values[:, k : k + 1]))
        found["searches"][track.strategy] = row
    return found


def told(interval: Any) -> dict[str, list[float]]:
    return {name: np.round(getattr(interval, name), 4).tolist() for name in ("mean", "low", "high")}


def words(row: dict[str, Any], i: int = 0) -> str:
    """An interval in percent."""
    mean, low, high = (100 * row[name][i] for name in ("mean", "low", "high"))
    return f"{mean:.1f} ({low:.1f} to {high:.1f})"


def show(found: dict[str, Any]) -> None:
    """The figures as a table in Markdown."""
    print(f"{found['problems']} problems\n")
    voted = any("voted" in row for row in found["searches"].values())
    heads = ["strategy", "tokens a problem", "accuracy, %", "over best of N", "over the weighted vote"]
    heads += ["by a vote, over the weighted vote"] * voted
    print(f"| {' | '.join(heads)} |\n|---|--:{'|---' * (len(heads) - 2)}|")
    for label, row in found["baselines"].items():
        most = len(row["tokens"])
        for k in sorted({*(k for k in (1, 4, 16, 64) if k < most), most}):
            cells = [f"{label}, N = {k}", f"{row['tokens'][k - 1]:.0f}", words(row, k - 1)]
            print(f"| {' | '.join(cells)} {' '.join('|' * (len(heads) - 2))}")
    for spec, row in found["searches"].items():
        against = [f"{words(row[label])}, N = {row[label]['n']}" for label in BASELINES]
        if voted:
            against.append(f"{words(row['voted'])}: {words(row['voted over weighted vote'])}")
        print(f"| `{spec}` | {row['tokens']:.0f} | {words(row)} | {' | '.join(against)} |")


def draw(found: dict[str, Any], path: Path) -> None:
    """Accuracy over tokens: whole samples as curves, searches as points, joined where they differ in size alone."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5), layout="constrained")
    for label, row in found["baselines"].items():
        (line,) = axes.plot(row["tokens"], row["mean"], label=label)
        axes.fill_between(row["tokens"], row["low"], row["high"], color=line.get_color(), alpha=0.1, lw=0)
    families: dict[str, list[dict[str, Any]]] = {}
    for spec, row in found["searches"].items():
        families.setdefault(spec.partition(":")[0], []).append(row)
    for name, rows in families.items():
        rows.sort(key=lambda row: row["tokens"])
        mean = [row["mean"][0] for row in rows]
        bars = [[row["mean"][0] - row["low"][0] for row in rows], [row["high"][0] - row["mean"][0] for row in rows]]
        axes.errorbar([row["tokens"] for row in rows], mean, bars, label=name, marker="o", capsize=2, lw=1)
    axes.set(xscale="log", xlabel="completion tokens a problem", ylabel="accuracy")
    axes.legend(fontsize=8)
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--answer", help="the verifier that reads answers, for votes among each search's own")
    parser.add_argument("--out", type=Path, help="write everything as JSON")
    parser.add_argument("--plot", type=Path, help="draw it: .png or .svg")
    options = parser.parse_args()
    reader = make("verifiers", options.answer) if options.answer else None
    found = measured(Run(options.run), cast(AnswerVerifier | None, reader))
    show(found)
    if options.out:
        options.out.write_text(json.dumps(found) + "\n")
    if options.plot:
        draw(found, options.plot)


if __name__ == "__main__":
    main()
