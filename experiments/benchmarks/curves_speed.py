"""Time the curves of 1,000 problems x 1,000 samples on one core; prints one JSON line of seconds.

Usage: python experiments/benchmarks/curves_speed.py [problems] [samples]
"""

import json
import os
import sys
import time

import numpy as np

from tts.curves import best_of_k, majority_at_k, mean_interval, pass_at_k, powers_of_two


def simulate(problems: int, samples: int, answers: int = 50) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Answer classes (0 correct, -1 abstains, wrong ones Zipf-like in popularity), correctness, scores."""
    rng = np.random.default_rng(0)
    solve_rate = rng.beta(0.6, 0.8, size=(problems, 1))
    popularity = 1 / np.arange(1, answers + 1) ** 1.2
    wrong = 1 + rng.choice(answers, size=(problems, samples), p=popularity / popularity.sum())
    classes = np.where(rng.random((problems, samples)) < solve_rate, 0, wrong)
    classes[rng.random((problems, samples)) < 0.03] = -1
    correct = classes == 0
    return classes, correct, rng.normal(size=(problems, samples)) + correct


def main(problems: int = 1000, samples: int = 1000) -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
    classes, correct, scores = simulate(problems, samples)
    ks = powers_of_two(samples)
    seconds: dict[str, float] = {}
    began = time.perf_counter()

    def lap(name: str) -> None:
        seconds[name] = round(time.perf_counter() - began - sum(seconds.values()), 3)

    coverage = pass_at_k(np.full(problems, samples), correct.sum(axis=1), ks)
    lap("pass_at_k")
    best = best_of_k(scores, correct, ks)
    lap("best_of_k")
    majority = majority_at_k(classes, correct, ks)
    lap("majority_at_k")
    for values in (coverage, best, majority.values):
        mean_interval(values)
    lap("intervals x 3")
    print(
        json.dumps(
            {
                "problems": problems,
                "samples_per_problem": samples,
                "ks": ks.tolist(),
                "majority": majority.method,
                "majority_exact_share": round(float(majority.exact.mean()), 3),
                "seconds": seconds,
                "total_seconds": round(time.perf_counter() - began, 3),
            }
        )
    )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3]))
