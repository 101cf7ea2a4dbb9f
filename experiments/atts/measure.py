"""Measures ATTS beside its synchronous baseline and either model alone, on the servers of a configuration.

    python -m experiments.atts.measure experiments/atts/math500.toml --out runs/atts-math500

Each strategy has a run directory of its own, so that none is quicker for the answers of another, and all have the
same problems, budget per round and, where `params.seed` is set, seeds. All problems are worked on at once and all
samples are drawn, unless `--one-at-a-time` solves one after another, so that latency is compared, and `--early` ends a
problem when its vote is settled. An interrupted measurement continues, but what was resumed is left out of the times.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic, process_time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.atts.figures import markdown
from tts import Experiment
from tts.curves import majority_at_k, mean_interval, paired_difference
from tts.curves.plot import save_figure
from tts.runs import Run
from tts.runs.config import load
from tts.runs.run import Track
from tts.runs.timed_calls import calls
from tts.studies.timeline import draw_timeline, utilisation, waiting

Row = dict[str, Any]

CONTROLS = {"target": "draft", "draft": "target"}
REFERENCE = "target alone"


@dataclass(frozen=True)
class Plan:
    """What is the same for all strategies."""

    draft_tokens: int
    """Most tokens of a draft."""
    target_tokens: int
    """Most tokens of what the target writes in a turn."""
    whole: int
    """Most tokens of a sample."""
    rate: float
    more: str
    """Further parameters of atts."""
    one_at_a_time: bool = False
    early: bool = False
    """Whether a problem ends when its vote is settled."""

    @property
    def order(self) -> str:
        """How the problems are gone through, and in what turns."""
        order = ("one at a time" if self.one_at_a_time else "all at once") + ", early end" * self.early
        return f"{order}, {self.draft_tokens}+{self.target_tokens} tokens at {self.rate}"

    @property
    def rounds(self) -> int:
        """Turns of a sample."""
        return -(-self.whole // self.draft_tokens)

    @property
    def turns(self) -> str:
        """What a strategy is told of them."""
        return f"rounds={self.rounds},draft_tokens={self.draft_tokens},target_tokens={self.target_tokens}"

    def strategies(self, samples: int) -> Iterator[tuple[str, str]]:
        """Name and spec of everything that is compared."""
        for name, more in (("atts", self.more), ("atts_sync", "")):
            spec = ",".join(filter(None, (f"{name}:n={samples},{self.turns},rejection_rate={self.rate}", more)))
            yield name, spec
            yield f"{name}, rewriting", f"{spec},rewrite=true"
        for role, other in CONTROLS.items():
            yield f"{role} alone", f"atts:n={samples},rounds=1,{role}_tokens={self.whole},{other}_tokens=0"


async def compare(table: dict[str, Any], out: Path, samples: int, plan: Plan) -> list[Row]:
    """A row for every strategy with so many samples."""
    rows, found = [], dict[str, dict[str, NDArray[np.float64]]]()
    for name, spec in plan.strategies(samples):
        folder = _folder(out, name, samples, plan)
        resumed, begin, used = (folder / "run.sqlite").exists(), monotonic(), process_time()
        grid = {**table, "strategies": [spec], "stop_early": plan.early}
        run = await (_one_at_a_time if plan.one_at_a_time else _at_once)(grid, folder)
        seconds = None if resumed else monotonic() - begin
        used = None if resumed else round(process_time() - used, 2)
        [track] = run.tracks
        found[name] = accuracies(track, samples)
        row = {"name": name, "samples": samples, "order": plan.order, "strategy": spec, "cpu seconds": used}
        row |= timing(track, seconds, plan)
        rows.append(row | read_off(track) | {"accuracy": {key: interval(v) for key, v in found[name].items()}})
        print(f"{samples:3d} {name}: {row['seconds']} s, {used} s of this process's CPU", flush=True)
    for row in rows:
        pairs = (
            (key, paired_difference(v[:, None], found[REFERENCE][key][:, None]))
            for key, v in found[row["name"]].items()
        )
        row["difference"] = {key: [float(one[0]) for one in (d.mean, d.low, d.high)] for key, d in pairs}
    return rows


def _folder(out: Path, name: str, samples: int, plan: Plan) -> Path:
    return out / plan.order.replace(", ", "-").replace(" ", "-") / f"{name.replace(' ', '-')}-{samples}"


async def _at_once(table: dict[str, Any], out: Path) -> Run:
    return await Experiment.parse(table).run(out, resume=True)


async def _one_at_a_time(table: dict[str, Any], out: Path) -> Run:
    """Grow the run problem by problem: what is finished is kept."""
    size = len(list(Experiment.parse(table).task.examples()))
    for limit in range(1, min(size, table.get("limit") or size) + 1):
        await _at_once({**table, "limit": limit}, out)
    return Run(out)


def accuracies(track: Track, samples: int) -> dict[str, NDArray[np.float64]]:
    """For each problem in the order of their names: of a sample, of the vote among all, and of any.

    Where problems ended early only the vote means what it says.
    """
    order = np.argsort([row.problem for row in track.rows])
    flags, answers = [track.correct[i] for i in order], [track.answers[i] for i in order]
    return {
        "pass@1": np.array([flag.sum() / samples for flag in flags]),
        "majority": np.array([_vote(answer, flag) for answer, flag in zip(answers, flags, strict=True)]),
        "coverage": np.array([float(flag.any()) for flag in flags]),
    }


def _vote(answers: list[str | None], flags: NDArray[np.float64]) -> float:
    return float(majority_at_k([answers], [flags], [len(flags)]).values[0, 0]) if len(flags) else 0.0


def interval(values: NDArray[np.float64]) -> list[float]:
    """Mean over problems with its 95 % interval."""
    found = mean_interval(values[:, None])
    return [float(found.mean[0]), float(found.low[0]), float(found.high[0])]


def timing(track: Track, seconds: float | None, plan: Plan) -> Row:
    """Seconds of the whole run, without the start of each where problems came one at a time, and tokens in them."""
    if seconds is not None and plan.one_at_a_time:
        seconds = sum(row.seconds for row in track.rows)
    tokens = track.usage().completion_tokens
    timed = seconds is not None
    return {
        "seconds": round(seconds, 2) if timed else None,
        "tokens per second": round(tokens / seconds, 1) if timed else None,
        "seconds by problem": [round(row.seconds, 3) for row in track.rows] if timed and plan.one_at_a_time else None,
    }


def read_off(track: Track) -> Row:
    """Cost by role, and how the time was used."""
    every = calls(track)
    turns = [turn for cell in track.rows for one in track.candidates(cell) for turn in one.notes.get("turns", ())]
    return {
        "problems": len(track.rows),
        "tokens": {role: usage.completion_tokens for role, usage in track.by_role().items()},
        "prompt tokens": {role: usage.prompt_tokens for role, usage in track.by_role().items()},
        "rejected": sum(turn["rejected"] for turn in turns) / len(turns) if turns else None,
        "utilisation": utilisation(every),
        "waiting": waiting(every)[1],
        "failures": sum(len(cell.failures) for cell in track.rows),
        "settled": sum(cell.ended == "settled" for cell in track.rows),
    }


async def measure(table: dict[str, Any], out: Path, samples: Sequence[int], plan: Plan) -> list[Row]:
    """All rows; schedules of the first problem are drawn beside the runs."""
    rows = [row for count in samples for row in await compare(table, out, count, plan)]
    shown = {}
    for name in ("atts", "atts_sync"):
        for count in samples[:3]:
            [track] = Run(_folder(out, name, count, plan)).tracks
            shown[f"{name}, {count} samples"] = calls(track, track.rows[0].problem)
    save_figure(draw_timeline(shown), _folder(out, "timeline", 0, plan).with_name("timeline.svg"))
    return rows


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--samples", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--draft-tokens", type=int, default=500)
    parser.add_argument("--target-tokens", type=int, default=500)
    parser.add_argument("--whole", type=int, default=8192)
    parser.add_argument("--rate", type=float, default=0.4)
    parser.add_argument("--more", default="by=turn", help="further parameters of atts")
    parser.add_argument("--one-at-a-time", action="store_true")
    parser.add_argument("--early", action="store_true", help="stop a problem when its vote is settled")
    options = parser.parse_args()
    plan = Plan(options.draft_tokens, options.target_tokens, options.whole, options.rate, options.more)
    plan = replace(plan, one_at_a_time=options.one_at_a_time, early=options.early)
    rows = await measure(load(options.config), options.out, options.samples, plan)
    (options.out / "measured.json").write_text(json.dumps(rows, indent=1))
    print(markdown(rows))


if __name__ == "__main__":
    asyncio.run(main())
