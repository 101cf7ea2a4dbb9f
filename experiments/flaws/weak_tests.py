"""When more samples harm: easy and hard programs, verified by the first of their public tests alone.

python -m experiments.flaws.weak_tests [--out runs/flaws] [--each 80] [-n 32]

Runs lab-target on as many easy problems of lab_code (two operations, plain words) as hard ones (four, all worded
vaguely), and remakes README.md and weak_tests.svg beside this file. What is drawn and told is of one half of the
problems; the K at which to stop is predicted from the other half. A run that is there already is used again.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tts.curves import paired_difference
from tts.curves.plot import COLOURS, GREY, STYLE, save_figure
from tts.lab.lab_code import LabCode
from tts.runs import Experiment, Run
from tts.studies.imperfect_verifier import counts_of
from tts.studies.imperfect_verifier.counts import Counts, best_k, critical_ratio, reward_interval
from tts.tasks import Example
from tts.verifiers.unit_tests import UnitTests

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HERE = Path(__file__).parent
RATIOS = (0.0, 1.0, 2.0, 4.0, 8.0)
"""What an accepted wrong answer costs, an accepted right one gaining 1."""
README = """\
# More samples against a weak verifier

lab-target on {each} easy and {each} hard programs of `lab_code`, {n} samples each, verified by the first public test
alone; the truth is the hidden tests. Samples are drawn until one is accepted, at most K times (Stroebl et al. 2024,
arXiv 2411.17501). The K at which to stop is predicted from one half of the problems ({pilot}); all else is measured on
the other half ({rest}).

![what K samples come to](weak_tests.svg)

- One sample is right {accuracy:.1%} of the time; of what is accepted, {conditional:.1%} is right (mean over problems).
  Completeness {completeness:.1%}, soundness {soundness:.1%}.
- The pilot half says that more samples harm {limit}.

| λ | K* predicted | worth there | worth of all {n} samples | stopping gains (95 %) | best K in hindsight, worth |
|---|---|---|---|---|---|
{rows}

Made by `python -m experiments.flaws.weak_tests`; the same run in tables and as a page:
`tts report runs/flaws --study imperfect_verifier --format html`.
"""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=Path("runs/flaws"))
    parser.add_argument("--each", type=int, default=80, help="easy problems, and hard ones")
    parser.add_argument("-n", type=int, default=32, help="samples of each problem")
    options = parser.parse_args()
    run = asyncio.run(sampled(options.out, options.each, options.n))
    (track,) = run.tracks
    counts = counts_of(track)
    halves = np.arange(len(counts)) % 2 == 0  # ids alternate within each kind
    pilot, rest = counts[np.flatnonzero(halves)], counts[np.flatnonzero(~halves)]
    save_figure(figure(pilot, rest), HERE / "weak_tests.svg")
    (HERE / "README.md").write_text(report(pilot, rest, options.each, options.n))
    print((HERE / "README.md").read_text())


async def sampled(out: Path, each: int, n: int) -> Run:
    """The run; its problems are in a file beside its directory."""
    out.parent.mkdir(parents=True, exist_ok=True)
    easy = LabCode(size=each, steps=2, vague=0, public=3, weak=0)
    hard = LabCode(size=each, steps=4, vague=4, public=5, weak=0, seed=1)
    kinds = (("easy", easy), ("hard", hard))
    lines = (line(f"{kind}-{i:03d}", example) for kind, task in kinds for i, example in enumerate(task.examples()))
    problems = out.with_suffix(".jsonl")
    problems.write_text("\n".join(lines))
    experiment = Experiment.parse(
        {
            "task": {"name": "jsonl", "path": str(problems)},
            "strategies": f"best_of_n:n={n},verifier=unit_tests(first=1)",
            "models": {"lab-target": {"base_url": "embedded://lab-target"}},
            "sampling": {"temperature": 1.0, "max_tokens": 160},
        }
    )
    return await experiment.run(out, resume=True)


def line(id: str, example: Example) -> str:
    """A problem with its public and hidden tests, as the task `jsonl` reads it."""
    problem, truth, _ = example
    assert isinstance(truth, UnitTests)
    assert truth.tests is not None
    hidden = truth.tests.model_dump(mode="json", exclude_defaults=True)
    return json.dumps({"id": id, "prompt": problem.messages, "public_tests": problem.tests, "tests": hidden})


def figure(pilot: Counts, rest: Counts) -> Figure:
    """What K samples come to: on the left by outcome, on the right by worth, with the K that the pilot predicts."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullLocator, StrMethodFormatter

    ks = np.unique(np.geomspace(1, rest.most, 24).astype(int))
    with matplotlib.rc_context(STYLE):
        drawn = Figure(figsize=(9.2, 3.6), layout="constrained")
        left, right = drawn.subplots(1, 2)
        found = rest.resampled(ks)
        for name, values, colour in (
            ("accepted and right", found.correct.mean(axis=0), COLOURS[0]),
            ("accepted, but wrong", found.false_accept.mean(axis=0), COLOURS[1]),
        ):
            left.plot(ks, values, color=colour, linewidth=2)
            left.annotate(name, (ks[-1], values[-1]), (-4, 6), textcoords="offset points", ha="right", color=colour)
        left.set_ylim(0, 1)
        left.set_ylabel("share of problems")
        left.set_title("What K samples at most end in", loc="left", fontsize=9)
        for ratio, colour in zip(RATIOS, COLOURS, strict=False):
            worth = reward_interval(rest, ks, ratio)
            right.plot(ks, worth.mean, color=colour, linewidth=2, label=f"λ = {ratio:g}")
            right.fill_between(ks, worth.low, worth.high, color=colour, alpha=0.1, linewidth=0)
            if k := int(best_k(pilot, ratio).k):
                right.plot(k, rest.rewards(k, ratio).mean(), "o", color=colour, markersize=7, markeredgecolor="white")
        right.plot([], [], "o", color=GREY, label="K* predicted")
        right.axhline(0, color=GREY, linewidth=0.8)
        right.set_ylabel("worth R(K, λ)")
        right.set_title("Worth, where an accepted wrong answer costs λ", loc="left", fontsize=9)
        right.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
        for axes in (left, right):
            axes.set_xscale("log", base=2)
            axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axes.xaxis.set_minor_locator(NullLocator())
            axes.set_xlabel("K, samples at most")
    return drawn


def report(pilot: Counts, rest: Counts, each: int, n: int) -> str:
    """README.md."""
    rows = []
    for ratio in RATIOS:
        k, best = int(best_k(pilot, ratio).k), best_k(rest, ratio)
        every = rest.rewards([rest.most], ratio)
        stopped = rest.rewards([k], ratio) if k else np.zeros_like(every)
        gain = paired_difference(stopped, every)
        interval = f"{gain.mean[0]:+.3f} ({gain.low[0]:+.3f} to {gain.high[0]:+.3f})"
        words = (k or "abstain", f"{stopped.mean():.3f}", f"{every.mean():.3f}", interval)
        rows.append(
            f"| {' | '.join(map(str, (f'{ratio:g}', *words)))} | {int(best.k) or 'abstain'}, {best.reward:.3f} |"
        )
    harmful, rates = critical_ratio(pilot), rest.decisions
    return README.format(
        each=each,
        n=n,
        pilot=len(pilot),
        rest=len(rest),
        accuracy=rest.accuracy,
        conditional=rest.conditional_accuracy,
        completeness=rates.completeness,
        soundness=rates.soundness,
        limit="at no λ" if harmful == np.inf else f"where λ is over {harmful:.2f}",
        rows="\n".join(rows),
    )


if __name__ == "__main__":
    main()
