"""mini-swe-agent, as it is installed, as the policy under best-of-8: tests choose among its runs.

Needs an environment of its own at `TTS_MINI_SWE_AGENT`: see `test_mini_swe_agent.py`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_mini_swe_agent import PLACE
from tests.support.acting import acting, policy
from tts import Experiment
from tts.tasks.repair_tasks import RepairTasks, solution

EXAMPLE = next(iter(RepairTasks().examples()))
N = 8


def moves(turns: list[dict[str, Any]], number: int) -> Any:
    """Repairs the fault in every fourth run, and writes a note in the others; looks first and submits last."""
    patch = solution(EXAMPLE.problem)
    work = "echo seen > note.txt" if number % 4 else f"git apply - <<'END'\n{patch}END"
    done = sum(turn["role"] == "assistant" for turn in turns)
    return ("bash", {"command": ["ls", work, "echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT"][done]})


@pytest.mark.skipif(not PLACE.exists(), reason=f"mini-swe-agent is not installed at {PLACE} (TTS_MINI_SWE_AGENT)")
async def test_best_of_eight_runs_of_mini_swe_agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MSWEA_CONFIGURED", "true")
    monkeypatch.setenv("MSWEA_COST_TRACKING", "ignore_errors")
    monkeypatch.setenv("MSWEA_GLOBAL_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "true")
    async with acting(moves) as server:
        table = {
            "task": "repair_tasks",
            "limit": 1,
            "strategies": [f"best_of_n:n={N}"],
            "models": {"coder": policy(server, model="coder")},
            "agent": f"{PLACE}/bin/mini -m openai/{{model}} -t {{problem}} -y --exit-immediately -o /dev/null",
        }
        run = await Experiment.parse(table).run(tmp_path / "run")
        asked = len(server.seen)
    (track,) = run.tracks
    (row,) = track.rows
    candidates = list(track.candidates(row))
    assert not row.failures
    assert len(candidates) == N
    assert track.correct[0].astype(bool).sum() == 2
    assert candidates[row.selected or 0].content == solution(EXAMPLE.problem)
    assert asked == N * 3
    assert track.usage().completion_tokens == N * 3 * 5
    assert EXAMPLE.problem.turns[-1]["content"] in json.dumps(server.seen[0]).encode().decode("unicode_escape")
    assert {one.notes["trajectory"]["status"] for one in candidates} == {0}
