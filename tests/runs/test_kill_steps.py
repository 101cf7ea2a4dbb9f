"""Searches over steps that are killed go on where they were: nothing is paid twice, and the same is found."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.double import ModelDouble
from tests.support.killing import killed, paid, stored
from tests.support.rewards import RewardDouble
from tests.support.steps import worth
from tts import Experiment, Run

ALONE = (
    "beam_search:n=6,width=2",
    "dvts:n=6,width=2",
    "rebase:n=6,lookahead=1",
    "particle_filter:n=6,filters=2",
    "mcts:simulations=5,branching=2",
    "tree_of_thoughts:branching=3,keep=2",
    "tree_of_frames:n=4",
    "staged_resampling:n=1",
)
RACING = ("particle_filter:n=6,wait_for=0.5", "mcts:simulations=6,branching=2,in_flight=3", "ab_mcts:n=6,in_flight=2")
"""In which whoever is first decides what is done next."""


def line(body: dict[str, Any], rng: np.random.Generator) -> str:
    """A step, or the answer, of the model's free choice."""
    return f"{rng.integers(10**6)}\n" if rng.random() < 0.7 else f"Answer: {rng.integers(40, 44)}"


def found(run: Run) -> list[Any]:
    """By strategy and problem: which answer was chosen, all of them, and what each prefix cost."""
    return sorted(
        (track.strategy, row.problem, row.selected, [one.content for one in track.candidates(row)], list(costs))
        for track in run.tracks
        for row, costs in zip(track.rows, track.cost("total_tokens"), strict=True)
    )


@pytest.mark.parametrize("racing", [False, True])
async def test_killed_at_random_moments_they_end_as_if_they_had_not_been(
    racing: bool, task: str, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    async with (
        ModelDouble(answer=line, latency=(0.005, 0.03)) as double,
        RewardDouble(reward=worth) as rewards,
    ):
        roles = {
            "policy": {"model": "test-model", "base_url": double.base_url, "params": {"seed": 3}},
            "reward": {"model": "reward", "base_url": rewards.base_url},
        }
        rated = 'verifier=process_reward(step="\\n")'
        stepwise = f'step="\\n",depth=5,{rated}'
        specs = [f"{one},{rated if 'ab_mcts' in one else stepwise}" for one in (RACING if racing else ALONE)]
        table = {"task": task, "strategies": specs, "limit": 3, "models": {"m": roles}, "stop_early": False}
        survived = await killed(table, out, double, times=3, requests=(5, 40))
        assert survived
        before, known = double.stats.choices + len(rewards.asked), len(paid(out))
        run = await Experiment.parse(table).run(out, resume=True)
        assert double.stats.choices + len(rewards.asked) - before == len(paid(out)) - known, "nothing is asked again"
        again = tmp_path / "again"
        if racing:  # what is stored, decisions included, makes the same search
            shutil.copytree(out, again)
            with closing(sqlite3.connect(again / "run.sqlite", isolation_level=None)) as db:
                db.execute("PRAGMA foreign_keys = ON")
                db.execute("DELETE FROM cells")
            before = double.stats.choices + len(rewards.asked)
        whole = await Experiment.parse(table).run(again, resume=racing)
        assert not racing or double.stats.choices + len(rewards.asked) == before
        assert stored(out) == stored(again)
        assert found(run) == found(whole)
        texts = [text for *_, texts, _ in found(run) for text in texts]
        assert any(text.strip().count("\n") > 1 for text in texts)
