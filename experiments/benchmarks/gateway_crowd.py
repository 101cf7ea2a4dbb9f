"""A crowd at the gateway: streams that are held at once, and clients that leave at any moment.

`python experiments/benchmarks/gateway_crowd.py [--clients 1000]`. The gateway and the model server are processes of
their own on this machine. First all clients have a stream open at the same time, half of a plain model and half of a
strategy, and read it to its end. Then as many leave, each at a random moment: how long the model server goes on
generating for nobody after the last has gone, what the gateway still holds, and how long the next request takes. The
figures go to `gateway_crowd.json` beside this file.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import re
import time
import urllib.request
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from gateway import GATEWAYS, QUESTION, VOTE, running, upstream

HERE = Path(__file__).parent
MODELS = ("test-model", VOTE)
PATIENT = ["--models.test-model.connect_timeout", "120"]
"""All processes share this machine: a thousand connections that are opened at once may take a while on a busy one."""


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=60) as answer:
        return answer.read().decode()


def generating(model_server: str) -> int:
    """Requests that the model server works on."""
    return json.loads(get(model_server.removesuffix("/v1") + "/stats"))["running"]


def held(gateway: str, process: int) -> dict[str, int]:
    """What the gateway holds: requests at work and waiting, and open files."""
    metrics = get(gateway.removesuffix("/v1") + "/metrics")
    found = {name: re.search(rf"^tts_requests_{name} (\S+)", metrics, re.MULTILINE) for name in ("running", "queued")}
    counts = {name: int(float(match[1])) for name, match in found.items() if match}
    return {**counts, "files": len(os.listdir(f"/proc/{process}/fd"))}


async def ask(gateway: str, model: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection on which a stream was asked for."""
    host, port = gateway.removeprefix("http://").removesuffix("/v1").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    body = json.dumps({"model": model, "messages": QUESTION, "stream": True})
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {len(body)}\r\n\r\n"
    writer.write((head + body).encode())
    return reader, writer


async def hold(gateway: str, process: int, clients: int) -> dict[str, Any]:
    """All at once, read to the end."""
    most = 0

    async def one(i: int) -> str:
        reader, writer = await ask(gateway, MODELS[i % 2])
        answer = (await reader.read()).decode()
        writer.close()
        error = re.search(r'"error": .*', answer)
        return error[0][:200] if error else "complete" if "data: [DONE]" in answer else answer[-200:]

    async def watch() -> None:
        nonlocal most
        while True:
            most = max(most, (await asyncio.to_thread(held, gateway, process))["running"])
            await asyncio.sleep(0.2)

    watching = asyncio.create_task(watch())
    ended = await asyncio.gather(*(one(i) for i in range(clients)))
    watching.cancel()
    return {"asked": clients, "held_at_once": most, "ended": dict(Counter(ended))}


async def leave(gateway: str, process: int, model_server: str, clients: int, within: float) -> dict[str, Any]:
    """As many that leave at random moments, and what is left of them."""
    chance = random.Random(0)
    before = held(gateway, process)

    async def one(i: int) -> None:
        _, writer = await ask(gateway, MODELS[i % 2])
        await asyncio.sleep(chance.random() * within)
        writer.transport.abort()

    await asyncio.gather(*(one(i) for i in range(clients)))
    gone = time.perf_counter()
    while generating(model_server):
        assert time.perf_counter() - gone < 60, "the model server still generates"
    quiet = time.perf_counter() - gone
    await asyncio.sleep(5)  # kept-alive connections to the model server are given up after 4 s
    after = held(gateway, process)
    begin = time.perf_counter()
    reader, writer = await ask(gateway, "test-model")
    good = b"data: [DONE]" in await reader.read()
    writer.close()
    return {
        "left": clients,
        "upstream_quiet_after_seconds": round(quiet, 3),
        "held_before": before,
        "held_after": after,
        "next_request_seconds_over_the_servers": round(time.perf_counter() - begin - within, 3),
        "next_request_complete": good,
    }


def main() -> None:
    """Measure and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--latency", type=float, default=10.0, help="of the model server, in seconds")
    options = parser.parse_args()
    gateway = replace(GATEWAYS["tts"], command=[*GATEWAYS["tts"].command, *PATIENT])
    with upstream(options.latency) as url, running(gateway, url) as (own, figures):
        process = figures["process"]
        crowd = asyncio.run(hold(own, process, options.clients))
        print(json.dumps(crowd))
        leaving = asyncio.run(leave(own, process, url, options.clients, options.latency))
        print(json.dumps(leaving))
    load = [round(one, 1) for one in os.getloadavg()]
    machine = f"{os.cpu_count()} CPUs, {platform.machine()}, Python {platform.python_version()}, load average {load}"
    (HERE / "gateway_crowd.json").write_text(json.dumps({**crowd, **leaving, "machine": machine}, indent=2) + "\n")


if __name__ == "__main__":
    main()
