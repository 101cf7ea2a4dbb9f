"""Runs rows of the table, and keeps beside each run what the server counted meanwhile.

python -m experiments.reference.run --base-url http://127.0.0.1:8000/v1                    # all rows of its model
python -m experiments.reference.run humaneval_greedy humaneval --base-url ...

A row is an experiment in `rows/`, which `tts run` takes as well. One that was interrupted goes on where it was; a row
`X-Y` goes on with the run of `X`, whose samples it shares. A server that is restarted is waited for. `--limit 2` asks
the first two problems alone, in runs of their own: enough to compare what is stored with what the server counts.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import resource
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from experiments.reference.kept import LEDGER
from experiments.reference.prefilled import Prefilled
from tts import Experiment
from tts.files import write_atomically
from tts.registry import register
from tts.runs.config import load

ROWS = Path(__file__).parent / "rows"
FOLDER = Path("~/.cache/ttscale/reference").expanduser()
COUNTERS = ("prompt_tokens", "generation_tokens", "request_success", "prefix_cache_hits")
"""Of vLLM; those of requests are counted for each of `n` choices, and so are their prompts."""
READ_SECONDS = 5.0


def counters(metrics: str) -> dict[str, float]:
    """`COUNTERS` since the server was started, and on how many sequences it works now."""
    sums: dict[str, float] = {}
    for name, value in re.findall(r"^vllm:(\w+?)(?:_total)?(?:\{[^}]*\})? (\S+)$", metrics, re.MULTILINE):
        if name in (*COUNTERS, "num_requests_running"):
            sums[name] = sums.get(name, 0.0) + float(value)
    return sums


class Meter:
    """What a server has counted since the first reading, restarts of the server included."""

    def __init__(self, client: httpx.AsyncClient, server: str) -> None:
        self._client, self._server = client, server
        self._last: dict[str, float] = {}
        self.counted = dict.fromkeys(COUNTERS, 0.0)
        self.running: list[float] = []
        """Sequences in work at each reading; 0 also where nobody answered."""

    async def read(self) -> None:
        """Raises `httpx.HTTPError` where the server does not answer."""
        now = counters((await self._client.get(f"{self._server}/metrics")).raise_for_status().text)
        for name in COUNTERS if self._last else ():
            before, after = self._last.get(name, 0.0), now.get(name, 0.0)
            self.counted[name] += after - before if after >= before else after
        self._last = now
        self.running.append(now.get("num_requests_running", 0.0))

    async def watch(self, each: Callable[[], None]) -> None:
        """Read now and then, until cancelled, and call `each` every time."""
        while True:
            await asyncio.sleep(READ_SECONDS)
            try:
                await self.read()
            except httpx.HTTPError:
                self.running.append(0.0)
            each()


def served_at(base_url: str, table: dict[str, Any]) -> dict[str, Any]:
    """`table`, a row, with all its models' roles at one server."""
    for model in table["models"].values():
        for role in (model, *(role for role in model.values() if isinstance(role, dict) and "model" in role)):
            role["base_url"] = base_url
    return table


def rows_of(model: str) -> list[str]:
    """The names of the rows that ask `model`."""
    asked = {path.stem: load(path)["models"].values() for path in ROWS.glob("*.toml")}
    return sorted(row for row, models in asked.items() if any(one["model"] == model for one in models))


async def run_row(row: str, base_url: str, folder: Path, limit: int | None = None) -> dict[str, Any]:
    """Run `row` as far as it is not done; returns what that took, which is in the run's ledger too."""
    table, name = served_at(base_url, load(ROWS / f"{row}.toml")), row.partition("-")[0]
    if limit:
        table["limit"], name = limit, f"{name}_{limit}"
    experiment = Experiment.parse(table)
    out, server = folder / name, base_url.removesuffix("/v1")
    earlier = json.loads((out / LEDGER).read_text()) if (out / LEDGER).exists() else []
    began, cpu, programs = time.monotonic(), time.process_time(), child_seconds()
    async with httpx.AsyncClient(timeout=60) as client:
        version = (await client.get(f"{server}/version")).raise_for_status().json()["version"]
        meter = Meter(client, server)
        await meter.read()

        def session() -> dict[str, Any]:
            return {
                "row": row,
                "until": datetime.now(UTC).isoformat(timespec="seconds"),
                "engine": f"vLLM {version}",
                "seconds": round(time.monotonic() - began, 1),
                "cpu_seconds": round(time.process_time() - cpu, 1),
                "program_cpu_seconds": round(child_seconds() - programs, 1),
                "server": meter.counted,
                "readings": len(meter.running),
                "idle_readings": sum(number == 0 for number in meter.running),
                "mean_running": round(sum(meter.running) / len(meter.running), 1),
            }

        def note() -> None:
            if out.exists():
                write_atomically(out / LEDGER, json.dumps([*earlier, session()], indent=1))

        watcher = asyncio.create_task(meter.watch(note))
        try:
            await experiment.run(out, resume=True)
            await meter.read()
        finally:
            watcher.cancel()
            note()
    return session()


def child_seconds() -> float:
    """CPU seconds of the processes that were started and have ended: the programs that were judged."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Run what the command line names."""
    parser = argparse.ArgumentParser(description="Runs rows of the reference table; each is resumed if need be.")
    parser.add_argument("rows", nargs="*", help="names in rows/ (default: all)")
    parser.add_argument("--base-url", default=os.environ.get("OPENAI_BASE_URL"), help="a vLLM server, with /v1")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where runs are kept")
    parser.add_argument("--limit", type=int, help="problems (default: the row's)")
    chosen = parser.parse_args()
    register("tasks", Prefilled)
    served = httpx.get(f"{chosen.base_url}/models").raise_for_status().json()["data"][0]["id"]
    for row in chosen.rows or rows_of(served):
        print(json.dumps(asyncio.run(run_row(row, chosen.base_url, chosen.folder, chosen.limit))), flush=True)


if __name__ == "__main__":
    main()
