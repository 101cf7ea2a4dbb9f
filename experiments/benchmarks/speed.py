"""Speed beside the named peers, on one server in one run: `python experiments/benchmarks/speed.py [GROUP ...]`.

Each round runs every client of a group once, in turn, so that a machine whose speed drifts treats them alike; the
median round counts, and ratios are taken within rounds. Peers are installed into environments of their own. The
table goes to standard output, the figures to `speed.json` beside this file.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from peer_envs import PeerError, peer_python

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
DOUBLE = [sys.executable, "-m", "tests.support.double", "--latency", "0.02", "--says", 'judge={"score": 7}']

STEPS = 'step="\\n",depth=8,select_by=best'

GROUPS: dict[str, list[tuple[str, str | None, str, list[str]]]] = {
    "1,600 single samples, 64 in flight": [
        ("tts", None, "tts_single.py", ["URL"]),
        ("tts, every sample stored", None, "tts_single.py", ["URL", "stored"]),
        ("tts, as in tts run", None, "tts_single.py", ["URL", "seldom"]),
        ("tts, as in tts run, every sample stored", None, "tts_single.py", ["URL", "seldom", "stored"]),
        ("bare aiohttp", None, "bare_aiohttp.py", ["URL"]),
        ("openai", "openai", "openai_client.py", ["URL"]),
    ],
    "200 prompts x 8 samples": [
        ("tts", None, "tts_batch.py", ["URL"]),
        ("its-hub", "its-hub", "its_hub_batch.py", ["URL"]),
        ("its-hub, 128 at once", "its-hub", "its_hub_batch.py", ["URL", "128"]),
    ],
    "best of 64 with a judge": [
        ("tts", None, "tts_judge.py", ["URL"]),
        ("its-hub", "its-hub", "its_hub_judge.py", ["URL"]),
        ("optillm", "optillm", "optillm_bon.py", ["URL"]),
    ],
    "beam search, 64 branches of 8 steps": [
        ("tts", None, "tts_steps.py", ["URL", f"beam_search:n=64,width=4,{STEPS}"]),
        ("its-hub", "its-hub", "its_hub_steps.py", ["URL", "beam"]),
    ],
    "particle filter, 64 particles of 8 steps": [
        ("tts", None, "tts_steps.py", ["URL", f"particle_filter:n=64,{STEPS}"]),
        ("its-hub", "its-hub", "its_hub_steps.py", ["URL", "particles"]),
    ],
    "beam search, 64 branches, at most 8 at once": [
        ("tts", None, "tts_steps.py", ["URL", f"beam_search:n=64,width=4,{STEPS}"]),
        ("its-hub", "its-hub", "its_hub_steps.py", ["URL", "beam"]),
        ("its-hub, told so", "its-hub", "its_hub_steps.py", ["URL", "beam", "8"]),
    ],
    "particle filter, 64 particles, at most 8 at once": [
        ("tts", None, "tts_steps.py", ["URL", f"particle_filter:n=64,{STEPS}"]),
        ("its-hub", "its-hub", "its_hub_steps.py", ["URL", "particles"]),
        ("its-hub, told so", "its-hub", "its_hub_steps.py", ["URL", "particles", "8"]),
    ],
    "AB-MCTS-A, 256 answers, 8 at once": [
        ("tts", None, "tts_steps.py", ["URL", "ab_mcts:n=256,in_flight=8"]),
        ("treequest", "treequest", "treequest_answers.py", ["URL", "8", "A", "256"]),
    ],
    "AB-MCTS-A, 256 answers, 64 at once": [
        ("tts", None, "tts_steps.py", ["URL", "ab_mcts:n=256,in_flight=64"]),
        ("treequest", "treequest", "treequest_answers.py", ["URL", "64", "A", "256"]),
    ],
    "AB-MCTS-M, 8 answers": [
        ("tts", None, "tts_steps.py", ["URL", "ab_mcts:n=8,model=mixed"]),
        ("treequest", "treequest-m", "treequest_answers.py", ["URL", "1", "M", "8"]),
    ],
    "mock samples through the whole runner": [
        ("tts", None, "tts_runner.py", ["2000"]),
        ("inspect", "inspect-ai", "inspect_runner.py", ["500"]),
    ],
    "200,000 samples into the store": [("tts", None, "tts_store.py", ["200000"])],
    "200,000 stored samples in one run": [("tts", None, "tts_runner.py", ["2000", "100"])],
}
"""For each group its clients: label, peer (None: ours), script, arguments. What a search rates is a sample."""


FEW = ["--max-running", "8"]
"""Of the server that refuses a ninth request at once with 429, in groups that say so."""


@contextmanager
def double(*options: str) -> Iterator[str]:
    """A fresh server in a process of its own; gives its base URL."""
    with subprocess.Popen([*DOUBLE, *options], stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().split()[1]
        finally:
            process.terminate()


class ClientError(RuntimeError):
    """A client ended with an error, whose words are the last."""


def run_client(peer: str | None, script: str, arguments: list[str], url: str) -> dict[str, Any]:
    """One run of a client in its environment: the JSON line that it prints."""
    python = sys.executable if peer is None else str(peer_python(peer))
    command = [python, str(HERE / "clients" / script), *(url if word == "URL" else word for word in arguments)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=os.environ | {"PYTHONPATH": ""})
    except subprocess.TimeoutExpired:
        raise ClientError("not done within 300 s") from None
    if done.returncode:
        raise ClientError(f"{script} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def measure(clients: list[tuple[str, str | None, str, list[str]]], rounds: int, *server: str) -> dict[str, Any]:
    """Median figures of each client, and the median over rounds of ours over the peer's wall time.

    A peer's failure is its figure; ours ends the benchmark.
    """
    figures: dict[str, list[dict[str, Any]]] = {}
    failed: dict[str, str] = {}
    for _ in range(rounds):
        with double(*server) as url:
            for label, peer, script, arguments in clients:
                if label in failed:
                    continue
                try:
                    figures.setdefault(label, []).append(run_client(peer, script, arguments, url))
                except PeerError as error:
                    print(f"left out {label}: {error}", file=sys.stderr)
                except ClientError as error:
                    if peer is None:
                        raise
                    failed[label] = str(error).strip().splitlines()[-1]
    figures = {label: runs for label, runs in figures.items() if label not in failed}
    ours = [one["wall_seconds"] / one["samples"] for one in figures["tts"]]
    report: dict[str, Any] = {label: {"failed": words} for label, words in failed.items()}
    for label, runs in figures.items():
        each = [one["wall_seconds"] / one["samples"] for one in runs]
        report[label] = {
            "wall_seconds": median(one["wall_seconds"] for one in runs),
            "samples_per_second": round(1 / median(each)),
            "cpu_ms_per_sample": round(median(one["cpu_seconds"] / one["samples"] for one in runs) * 1e3, 3),
            "times_as_fast_as_tts": round(median(mine / theirs for mine, theirs in zip(ours, each, strict=True)), 2),
            **{key: runs[-1][key] for key in runs[-1] if key.startswith("resident")},
        }
    return report


def main() -> None:
    """Run the groups asked for and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("groups", nargs="*", help="words that the groups' names contain; all by default")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    path = HERE / "speed.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    for group, clients in GROUPS.items():
        if options.groups and not any(word in group for word in options.groups):
            continue
        server = FEW if "at most 8" in group else []
        results[group] = measure(clients, 1 if "200,000" in group else options.rounds, *server)
        print(f"\n{group}")
        for label, figures in results[group].items():
            print(f"  {label:28}", *(f"{name.replace('_', ' ')} {value}" for name, value in figures.items()), sep="  ")
    results["machine"] = f"{os.cpu_count()} CPUs, {platform.machine()}, Python {platform.python_version()}"
    path.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
