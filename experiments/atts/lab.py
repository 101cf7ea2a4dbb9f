"""All figures of ATTS with the lab models by one command: accuracy, cost and time, and whether the rate holds.

    python -m experiments.atts.lab --out runs/atts-lab                            # both models in this process
    python -m experiments.atts.lab --out runs/atts-served --servers processes     # each in a process of its own
    python -m experiments.atts.lab --out runs/atts-vllm --servers vllm            # each behind a vLLM server

vLLM is looked for in $TTS_VLLM_PYTHON. Writes `lab.json`, `lab.md`, `lab.svg` and `drift.svg`, and a `timeline.svg`
beside the runs of each order.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from experiments.atts.drift import drift
from experiments.atts.figures import draw, draw_drift, markdown, speedups
from experiments.atts.measure import Plan, measure
from tts.lab.engine.models import model_place
from tts.local_vllm import LocalVLLM
from tts.runs.config import load

ROLES = ("draft", "target")
PLAN = Plan(draft_tokens=12, target_tokens=12, whole=160, rate=0.4, more="by=turn")
LATENCY = (
    Plan(draft_tokens=12, target_tokens=12, whole=256, rate=0.4, more="by=turn", one_at_a_time=True),
    Plan(draft_tokens=8, target_tokens=40, whole=256, rate=0.2, more="by=turn", one_at_a_time=True),
    Plan(draft_tokens=8, target_tokens=48, whole=256, rate=0.2, more="by=turn", one_at_a_time=True),
)
"""In which problems are solved one after another: the target in short turns, and in rarer and longer ones."""
LONGER = "lab_math:steps=[1,12],digits=1"
"""Their task: solutions of 10 to 150 tokens."""
VLLM = (
    *("--dtype", "bfloat16", "--enforce-eager", "--max-model-len", "512", "--max-num-seqs", "64"),
    *("--max-num-batched-tokens", "32768"),  # vLLM 0.32 on a CPU dies if a seeded request's prompt is read in parts
)


@asynccontextmanager
async def _process(model: str) -> AsyncIterator[str]:
    """The base URL of `tts embedded serve MODEL`."""
    command = (sys.executable, "-m", "tts", "embedded", "serve", model, "--port", "0")
    server = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    try:
        assert server.stdout is not None
        line = (await server.stdout.readline()).decode().strip()
        yield line.removeprefix("export OPENAI_BASE_URL=").strip("'\"")
    finally:
        server.terminate()
        await server.wait()


@contextmanager
def own_cores(place: int, places: int) -> Iterator[None]:
    """What is started inside keeps to its part of the cores, as servers on accelerators of their own would."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    cores = os.sched_getaffinity(0)
    mine = set(sorted(cores)[place::places]) or cores
    os.sched_setaffinity(0, mine)
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


@asynccontextmanager
async def served(kind: str, table: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
    """The table with the addresses of running servers."""
    async with AsyncExitStack() as stack:
        pair = dict(table["models"]["pair"])
        for place, role in enumerate(ROLES):
            model = pair[role]["model"]
            with own_cores(place, len(ROLES)):
                if kind == "processes":
                    pair[role] = {**pair[role], "base_url": await stack.enter_async_context(_process(model))}
                elif kind == "vllm":
                    server = await stack.enter_async_context(LocalVLLM(model_place(model), name=model, options=VLLM))
                    pair[role] = {**pair[role], "base_url": server.base_url}
        for role in ROLES if kind != "embedded" else ():  # where it is served this time is not what a run is about
            pair[role] = {"identity": f"{kind}://{pair[role]['model']}", **pair[role]}
        yield {**table, "models": {"pair": pair}}


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path(__file__).with_name("lab.toml"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--servers", choices=["embedded", "processes", "vllm"], default="embedded")
    parser.add_argument("--task", help="another than the configuration's")
    parser.add_argument("--problems", type=int, help="of each comparison (default: the configuration's)")
    parser.add_argument("--samples", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--slow-problems", type=int, default=20, help="of the comparisons one at a time")
    parser.add_argument("--slow-samples", type=int, nargs="+", default=[4, 16], help="of these")
    parser.add_argument("--drift-problems", type=int, default=500, help="0: leave it out")
    options = parser.parse_args()
    table, out = load(options.config), options.out
    table["task"] = options.task or table["task"]
    limit = options.problems or table["limit"]
    found: dict[str, Any] = {"servers": options.servers}
    async with served(options.servers, table) as table:
        await measure({**table, "limit": 2}, out / "warm-up", [4], PLAN)
        found["rows"] = await measure({**table, "limit": limit}, out, options.samples, PLAN)
        _write(found, out)
        slow = {**table, "task": LONGER, "limit": options.slow_problems}
        for plan in (replace(plan, early=early) for plan in LATENCY for early in (False, True)):
            found["rows"] += await measure(slow, out, options.slow_samples, plan)
            _write(found, out)
        found["rows"] += await measure(
            {**slow, "limit": limit}, out, options.slow_samples, replace(LATENCY[-1], one_at_a_time=False)
        )
        _write(found, out)
        if options.drift_problems:
            wide = {**table, "task": f"{table['task']},size={options.drift_problems}", "limit": options.drift_problems}
            found["drift"] = await drift(
                wide, f"{wide['task']},seed=1", out / "drift", f"atts:n=4,{PLAN.turns}", PLAN.rate
            )
            draw_drift(found["drift"], out / "drift.svg")
    _write(found, out)


def _write(found: dict[str, Any], out: Path) -> None:
    (out / "lab.json").write_text(json.dumps(found, indent=1))
    rows = found["rows"]
    draw([row for row in rows if row["order"] == PLAN.order], out / "lab.svg")
    (out / "lab.md").write_text("\n".join([markdown(rows), "", *speedups(rows), ""]))
    print((out / "lab.md").read_text(), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
