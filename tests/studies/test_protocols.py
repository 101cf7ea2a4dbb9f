"""The parallel protocol and heterogeneity from stored runs, against the run's own candidates."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from tts import Endpoint, Experiment
from tts.curves import mean_interval
from tts.errors import ConfigError
from tts.studies.diversity import diversity
from tts.studies.repeats import gap, heterogeneity_report, parallel_report


async def test_the_statistics_are_those_of_the_stored_candidates(task: str, endpoint: Endpoint, tmp_path: Path):
    table = {"task": task, "models": endpoint, "strategies": ["self_consistency:n=4,answer=exact_answer"]}
    run = await Experiment.parse({**table, "seeds": [0, 1]}).run(tmp_path / "run")
    (found,) = parallel_report(run)
    rows = list(run.export())
    problems = sorted({row["problem"] for row in rows})
    flags = np.array([[row["correct"] for row in rows if row["problem"] == problem] for problem in problems])
    tokens = np.array([[row["completion_tokens"] for row in rows if row["problem"] == problem] for problem in problems])
    assert flags.shape == (20, 8)
    assert (found.problems, found.repeats.n) == (20, 8)
    assert found.repeats.average == pytest.approx(flags.mean())
    assert found.repeats.deviation == pytest.approx(flags.mean(axis=0).std(ddof=1))
    assert (found.repeats.best, found.repeats.worst) == (flags.max(axis=1).mean(), flags.min(axis=1).mean())
    assert found.repeats.majority is not None
    assert found.repeats.majority >= found.repeats.average  # the wrong answers of this model are all different
    assert found.tokens.mean == pytest.approx(tokens.mean())
    assert found.tokens.deviation == pytest.approx(tokens.std(axis=1, ddof=1).mean())
    assert gap([found]) is None
    (report,) = heterogeneity_report(run)
    assert report.problems["p0"].mean == flags[problems.index("p0")].mean()
    assert report.summary.prompts == 20
    assert report.problems["p19"].advice in ("majority", "verifier")


async def test_the_seeds_of_a_problem_count_as_one_in_the_interval_of_diversity(
    task: str, endpoint: Endpoint, tmp_path: Path
):
    table = {"task": task, "models": endpoint, "strategies": ["self_consistency:n=3,answer=exact_answer"]}
    run = await Experiment.parse({**table, "seeds": [0, 1, 2]}).run(tmp_path / "run")
    (track,) = run.tracks
    problems: dict[str, list[float]] = {}
    for row, answers in zip(track.rows, track.answers, strict=True):
        problems.setdefault(row.problem, []).append(float(np.mean([a != b for a, b in combinations(answers, 2)])))
    expected = mean_interval(np.array([[np.mean(seeds)] for seeds in problems.values()]))
    found = diversity(track)
    assert found["behaviours"] == pytest.approx(expected.mean[0])
    assert found["behaviours_interval"] == pytest.approx([expected.low[0], expected.high[0]])


async def test_a_run_without_independent_attempts_says_what_it_takes(task: str, endpoint: Endpoint, tmp_path: Path):
    table = {"task": task, "models": endpoint, "strategies": ["first_pass:k=2,verifier=oracle"]}
    run = await Experiment.parse(table).run(tmp_path / "run")
    for report in (parallel_report, heterogeneity_report):
        with pytest.raises(ConfigError, match="independent"):
            report(run)
