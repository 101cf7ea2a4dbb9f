"""The gateway beside its-hub's `its-iaas` and optillm, in front of the same server in one run.

`python experiments/benchmarks/gateway.py [--rounds N] [GATEWAY ...]`. Each round runs every gateway once, in turn; the
median round counts. Measured: a plain request with one client and with 32, of ours also one that is translated from
Anthropic's API and back, best-of-8 with 200 at once, the CPU time that each takes, the time and the CPU time from start
to the first answer, and the resident memory at the end. The figures go to `gateway.json` beside this file, with the
load average of the machine: above the number of CPUs only ratios mean something, and best those of CPU time.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from peer_envs import PeerError, peer_python

from tts.local_vllm import held_port

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
DOUBLE = [sys.executable, "-m", "tests.support.double", "--latency"]
QUESTION = [{"role": "user", "content": "What is six times seven? End with `Answer: `."}]
VOTE = "self_consistency:n=8,answer=numeric_answer@test-model"


@dataclass(frozen=True)
class Gateway:
    """How one gateway is started and asked; URL and PORT are replaced in the command."""

    peer: str | None
    command: list[str]
    plain: str = "test-model"
    vote: dict[str, Any] | None = None
    configure: dict[str, Any] | None = None
    translates: bool = False
    """Whether it speaks Anthropic's API as well."""
    health: str = "/v1/models"
    environment: dict[str, str] = field(default_factory=dict)


GATEWAYS = {
    "tts": Gateway(
        None,
        [sys.executable, "-m", "tts", "serve", "--base-url", "URL", "--model", "test-model", "--port", "PORT"],
        vote={"model": VOTE},
        translates=True,
        health="/healthz",
    ),
    "its-iaas": Gateway(
        "its-hub-iaas",
        ["BIN/its-iaas", "--port", "PORT", "--log-level", "ERROR"],
        vote={"model": "test-model", "budget": 8},
        configure={
            "endpoint": "URL",
            "api_key": "none",
            "model": "test-model",
            "alg": "self-consistency",
            "regex_patterns": ["Answer: (.*)"],
            "budget": 1,
        },
    ),
    "optillm": Gateway(
        "optillm",
        ["BIN/optillm", "--base-url", "URL", "--port", "PORT", "--approach", "none", "--log", "warning"],
        health="/health",
        environment={"OPENAI_API_KEY": "none", "HF_HUB_OFFLINE": "1"},
    ),
}


@contextmanager
def upstream(latency: float) -> Iterator[str]:
    """A fresh model server in a process of its own; gives its base URL."""
    with subprocess.Popen([*DOUBLE, str(latency)], stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().split()[1]
        finally:
            process.terminate()


@contextmanager
def running(gateway: Gateway, url: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """A gateway in a process of its own; gives its base URL, and figures to which its memory is added at the end."""
    bin_ = str(peer_python(gateway.peer).parent) if gateway.peer else ""
    environment = os.environ | {"PYTHONPATH": "" if gateway.peer else str(ROOT)} | gateway.environment
    with held_port(0) as held, tempfile.TemporaryDirectory() as empty:  # optillm runs any plugin in its folder
        words = {"URL": url, "PORT": str(held.getsockname()[1])}
        command = [words.get(word, word.replace("BIN", bin_)) for word in gateway.command]
        own, begin = f"http://127.0.0.1:{words['PORT']}", time.perf_counter()
        sink = subprocess.DEVNULL
        process = subprocess.Popen(command, cwd=empty, env=environment, stdout=sink, stderr=sink)
        try:
            while True:
                with suppress(urllib.error.URLError, ConnectionError):
                    urllib.request.urlopen(own + gateway.health, timeout=60).close()
                    break
                if process.poll() is not None or time.perf_counter() - begin > 180:
                    raise PeerError(f"it did not start: {' '.join(command)}")
                time.sleep(0.02)
            figures: dict[str, Any] = {"start_seconds": round(time.perf_counter() - begin, 2)}
            figures |= {"start_cpu_seconds": cpu_seconds(process.pid), "process": process.pid}
            if gateway.configure:
                settings = {
                    key: words.get(value, value) if isinstance(value, str) else value
                    for key, value in gateway.configure.items()
                }
                request = urllib.request.Request(
                    f"{own}/configure", json.dumps(settings).encode(), {"content-type": "application/json"}
                )
                urllib.request.urlopen(request, timeout=30).close()
            yield f"{own}/v1", figures
            status = Path(f"/proc/{figures.pop('process')}/status")
            if status.exists():
                resident = next(line for line in status.read_text().splitlines() if line.startswith("VmRSS"))
                figures["resident_mb"] = round(int(resident.split()[1]) / 1024)
        finally:
            process.terminate()
            process.wait(30)


def cpu_seconds(process: int) -> float:
    """What a process has used; nothing where there is no /proc."""
    stat = Path(f"/proc/{process}/stat")
    if not stat.exists():
        return 0.0
    fields = stat.read_text().rpartition(")")[2].split()
    return round((int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"), 2)


def load(url: str, body: dict[str, Any], requests: int, at_once: int, *headers: str) -> dict[str, Any]:
    """One run of the load."""
    words = [url, json.dumps({"messages": QUESTION, **body}), str(requests), str(at_once), *headers]
    command = [sys.executable, str(HERE / "clients" / "gateway_load.py"), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    return json.loads(done.stdout)


def measure(url: str, gateway: Gateway, slow: bool, process: int = 0) -> dict[str, Any]:
    """The figures of one gateway (or of the server itself) at `url`; `process` is whose CPU time counts."""
    plain, crowd = {"model": gateway.plain}, 100 if slow else 3000
    load(url, plain, 20, 1)
    one = load(url, plain, 40 if slow else 300, 1)
    before = cpu_seconds(process)
    many = load(url, plain, crowd, 32)
    figures = {"p50_ms": one["p50_ms"], "per_second": many["per_second"], "failed": one["failed"] + many["failed"]}
    figures["cpu_ms"] = round((cpu_seconds(process) - before) / crowd * 1e3, 3)
    if gateway.translates:
        turn, asked = {**plain, "max_tokens": 300}, "path=messages"
        load(url, turn, 20, 1, asked)
        alternated = [(load(url, turn, 100, 1), load(url, turn, 100, 1, asked)) for _ in range(3)]
        added = [translated["p50_ms"] - passed["p50_ms"] for passed, translated in alternated]
        before = cpu_seconds(process)
        translated = load(url, turn, crowd, 32, asked)
        figures["translation_p50_ms"] = round(median(added), 2)
        figures["translated_cpu_ms"] = round((cpu_seconds(process) - before) / crowd * 1e3, 3)
        figures["failed"] += translated["failed"]
    if gateway.vote:
        load(url, gateway.vote, 200, 200)
        before = cpu_seconds(process)
        vote = load(url, gateway.vote, 600, 200)
        figures |= {
            "votes_per_second": vote["per_second"],
            "votes_cpu_ms": round((cpu_seconds(process) - before) / 600 * 1e3, 3),
            "votes_p99_ms": vote["p99_ms"],
            "votes_failed": vote["failed"],
        }
    return figures


def main() -> None:
    """Run the gateways asked for and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("gateways", nargs="*", help=f"by default {', '.join(GATEWAYS)}")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--latency", type=float, default=0.0, help="of the server, in seconds")
    options = parser.parse_args()
    rounds: dict[str, list[dict[str, Any]]] = {}
    for _ in range(options.rounds):
        with upstream(options.latency) as url:
            bare = measure(url, Gateway(None, []), slow=False)
            rounds.setdefault("no gateway", []).append(bare)
            for name in options.gateways or GATEWAYS:
                try:
                    with running(GATEWAYS[name], url) as (own, figures):
                        figures |= measure(own, GATEWAYS[name], name == "optillm", figures["process"])
                except (PeerError, OSError, subprocess.SubprocessError) as error:
                    print(f"left out {name}: {error}", file=sys.stderr)
                    continue
                figures["added_p50_ms"] = round(figures["p50_ms"] - bare["p50_ms"], 2)
                rounds.setdefault(name, []).append(figures)
    table = {name: {key: median(one[key] for one in runs) for key in runs[0]} for name, runs in rounds.items()}
    for name, figures in table.items():
        print(f"{name:12}", *(f"{key} {value}" for key, value in figures.items()), sep="  ")
    busy = [round(one, 1) for one in os.getloadavg()]
    machine = f"{os.cpu_count()} CPUs, {platform.machine()}, Python {platform.python_version()}, load average {busy}"
    (HERE / "gateway.json").write_text(json.dumps({**table, "machine": machine}, indent=2) + "\n")


if __name__ == "__main__":
    main()
