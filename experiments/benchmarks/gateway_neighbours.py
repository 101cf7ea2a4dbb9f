"""How long a well-behaved client waits beside one that sends the worst it can.

`python experiments/benchmarks/gateway_neighbours.py [--seconds 10]`. The gateway and the model server are processes of
their own. A client asks a plain model and a strategy in turn, alone and beside an attacker, for the same time each; the
attacker sends every kind of hostile request below, one after the other. What counts is the ratio of the two 99th
percentiles, which should be at most 2. The figures go to `gateway_neighbours.json` beside this file.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import platform
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import httpx
from gateway import GATEWAYS, QUESTION, VOTE, running, upstream

HERE = Path(__file__).parent
LATENCY = 0.05
MODELS = ("test-model", VOTE)

DEEP = "best_of_n:verifier=" + "cached(verifier=" * 14 + "regex(pattern=x)" + ")" * 14
ATTACKS: dict[str, dict[str, Any]] = {
    "a pattern that backtracks": {"tts": {"strategy": "best_of_n:n=16", "format": "(a|aa)+$b"}},
    "a pattern that takes memory": {"tts": {"strategy": "best_of_n:n=1", "format": "(?:" * 40 + "a" + "{1,99})" * 40}},
    "a nested spec": {"model": f"{DEEP}@test-model"},
    "a large schema": {
        "tts": {
            "strategy": "best_of_n:n=4",
            "schema": {"properties": {f"p{i}": {"pattern": "^(a+)+$"} for i in range(900)}},
        }
    },
    "a long name": {"model": "x@" * 200_000},
    "many values": {"messages": [[]] * 2_000_000},
    "a long message": {"messages": [{"role": "user", "content": "x" * 2**23}]},
    "a long message for a strategy": {"model": VOTE, "messages": [{"role": "user", "content": "\n" * 2**20}]},
    "a bad field": {"model": VOTE, "temperature": "hot", "pictures": "p"},
}


async def patient(client: httpx.AsyncClient, seconds: float) -> list[float]:
    """Seconds that each request of the well-behaved client took."""
    took, end = list[float](), time.perf_counter() + seconds
    for model in itertools.cycle(MODELS):
        if (began := time.perf_counter()) > end:
            return took
        answer = await client.post("/chat/completions", json={"model": model, "messages": QUESTION})
        answer.raise_for_status()
        took.append(time.perf_counter() - began)
        await asyncio.sleep(0.005)
    return took


@asynccontextmanager
async def attacker(url: str, sent: dict[str, int]) -> AsyncIterator[None]:
    """A process sends the attacks, over and over; its own work does not hold up the patient client."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, __file__, "--attack", url), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    await process.stdout.readline()
    try:
        yield
    finally:
        process.terminate()
        rest = await process.stdout.read()
        await process.wait()
        sent["attacks"] = rest.count(b"\n") + 1


async def attack(url: str) -> None:
    """Send the attacks until this process is ended, with a line for each."""
    bodies = [
        json.dumps({"model": "test-model", "messages": QUESTION, **attack}).encode() for attack in ATTACKS.values()
    ]
    async with httpx.AsyncClient(base_url=url, timeout=60) as client:
        for body in itertools.cycle(bodies):
            with suppress(httpx.HTTPError):
                await client.post("/chat/completions", content=body)
            print("sent", flush=True)


async def measure(url: str, seconds: float) -> dict[str, Any]:
    """The patient client's times, alone and beside the attacker."""
    sent: dict[str, int] = {}
    async with httpx.AsyncClient(base_url=url, timeout=60) as client:
        await patient(client, 2)  # what starts once has started
        alone = await patient(client, seconds)
        async with attacker(url, sent):
            beside = await patient(client, seconds)
    figures: dict[str, Any] = {**sent}
    for name, took in (("alone", alone), ("beside", beside)):
        p99 = quantiles(took, n=100)[98]
        figures[name] = {"requests": len(took), "median_seconds": round(median(took), 4), "p99_seconds": round(p99, 4)}
    return {**figures, "ratio": round(figures["beside"]["p99_seconds"] / figures["alone"]["p99_seconds"], 2)}


def main() -> None:
    """Measure and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--attack", metavar="URL", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.attack:
        asyncio.run(attack(options.attack))
        return
    with upstream(LATENCY) as url, running(GATEWAYS["tts"], url) as (own, _):
        figures = asyncio.run(measure(own, options.seconds))
    load = [round(one, 1) for one in os.getloadavg()]
    machine = f"{os.cpu_count()} CPUs, {platform.machine()}, Python {platform.python_version()}, load average {load}"
    (HERE / "gateway_neighbours.json").write_text(json.dumps({**figures, "machine": machine}, indent=2) + "\n")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
