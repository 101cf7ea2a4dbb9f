"""How much faster ATTS is without its barriers, and on what that depends, on a simulated clock.

    python -m experiments.atts.simulate            # writes simulated.json and simulated.png beside itself

The strategies, samplers and accounts are the library's own; only time and the servers are simulated
(`experiments/atts/simulated.py`). Every machine's figures below are assumptions, from the size of its weights, the
bandwidth and the arithmetic of the named hardware at 60 % of its peak.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from experiments.atts.simulated import Machine, Server, Workload, run
from tts import registry
from tts.resources import Resources
from tts.runs.timed_calls import calls_of
from tts.solving import drive, open_models, open_session
from tts.studies.timeline import utilisation
from tts.types import Result

HERE = Path(__file__).parent
RATE = 0.4
Row = dict[str, Any]


def machine(name: str, parameters: float, *, bandwidth: float, flops: float, kv_bytes: float, memory: float) -> Machine:
    """A server of a model in bfloat16: bytes per second, arithmetic per second, bytes of keys and values per token."""
    weights, context = 2 * parameters, 3000
    return Machine(
        name,
        parameters,
        step=weights / (0.6 * bandwidth) + 0.002,
        step_per_sequence=context * kv_bytes / (0.6 * bandwidth) + 2 * parameters / (0.6 * flops),
        prefill=0.6 * flops / (2 * parameters),
        sequences=int((memory - weights) / (kv_bytes * 2 * context)),
    )


A100 = {"bandwidth": 2.0e12, "flops": 312e12, "memory": 70e9}
TWO_A100 = {"bandwidth": 4.0e12, "flops": 624e12, "memory": 140e9}
PAIRS = {
    "Qwen2.5-1.5B / QwQ-32B": (
        machine("Qwen2.5-1.5B", 1.5e9, kv_bytes=28_672, **A100),
        machine("QwQ-32B", 32.5e9, kv_bytes=262_144, **TWO_A100),
    ),
    "Qwen2.5-7B / QwQ-32B": (
        machine("Qwen2.5-7B", 7.6e9, kv_bytes=57_344, **A100),
        machine("QwQ-32B", 32.5e9, kv_bytes=262_144, **TWO_A100),
    ),
}


@dataclass(frozen=True)
class Outcome:
    """One strategy on all problems of a workload."""

    seconds: float
    target_tokens: float
    draft_tokens: float
    rereads: float
    """Prompt tokens that scoring read again."""
    requests: float
    accuracy: float
    draft_busy: float
    rate: float
    results: list[Result]

    @property
    def figures(self) -> dict[str, float]:
        """All but the results."""
        return {name: round(value, 4) for name, value in vars(self).items() if name != "results"}


async def solve_all(
    strategy: str, pair: tuple[Machine, Machine], workload: Workload, *, at_once: int, stop_early: bool
) -> Outcome:
    """Solve all problems of the workload, `at_once` at a time."""
    method = registry.make("strategies", strategy)
    servers = dict(zip(("draft", "target"), (Server(one, workload) for one in pair), strict=True))
    clock, room = asyncio.get_running_loop(), asyncio.Semaphore(at_once)
    async with (
        open_models({role: server.endpoint() for role, server in servers.items()}) as samplers,
        Resources() as resources,
    ):

        async def one(number: int) -> Result:
            async with room:
                session = open_session(workload.problem(number), method, samplers, resources=resources)
                return await drive(method, session, stop_early=stop_early)

        results = await asyncio.gather(*map(one, range(workload.problems)))
    charges = [(None, charge) for result in results for c in result.candidates for charge in c.charges]
    charges += [(None, charge) for result in results for charge in result.loose]
    rows = {row["kind"]: row for row in utilisation(calls_of(set(charges)))}
    turns = [turn for result in results for c in result.candidates for turn in c.notes["turns"]]
    right = [result.selected is not None and result.selected.notes["answer"] == "42" for result in results]
    return Outcome(
        seconds=clock.time(),
        target_tokens=servers["target"].generated * workload.grain,
        draft_tokens=servers["draft"].generated * workload.grain,
        rereads=rows["target scoring"]["prompt_tokens"] * workload.grain if "target scoring" in rows else 0,
        requests=sum(usage.requests for result in results for usage in result.spent.values()),
        accuracy=sum(right) / len(right),
        draft_busy=rows["draft"]["busy"] if "draft" in rows else 0.0,
        rate=sum(turn["rejected"] for turn in turns) / len(turns) if turns else 0.0,
        results=results,
    )


def spec(kind: str, samples: int, workload: Workload, chunk: int) -> str:
    """The strategy called `kind` in simulated tokens: `atts`, `atts_sync`, or one model alone and in one go."""
    if kind in ("target", "draft"):
        other = {"target": "draft", "draft": "target"}[kind]
        return f"atts:n={samples},rounds=1,{kind}_tokens=1000000,{other}_tokens=0"
    by = ",by=question" if kind == "atts" else ""  # so that both hand over the same share of each problem
    tokens = chunk // workload.grain
    sizes = f"n={samples},rounds=1000,draft_tokens={tokens},target_tokens={tokens}"
    return f"{kind}:{sizes},rejection_rate={RATE},score_last=false{by}"  # simulated answers end where they are complete


ORDERS = {"one problem at a time": 1, "all problems at once": 10**6}


def compare(
    axis: str, value: float, pair: tuple[Machine, Machine], workload: Workload, samples: int, chunk: int
) -> Row:
    """All strategies in both orders under one setting."""
    runs: dict[str, dict[str, float]] = {}
    for (order, at_once), kind in product(ORDERS.items(), ("atts", "atts_sync", "target", "draft")):
        outcome = run(solve_all(spec(kind, samples, workload, chunk), pair, workload, at_once=at_once, stop_early=True))
        runs[f"{kind}, {order}"] = outcome.figures
    return {"axis": axis, "value": value, "samples": samples, "chunk": chunk, "runs": runs}


def speedups(row: Row) -> dict[str, float]:
    """How much faster ATTS is than what it is compared with."""
    alone, together = ORDERS
    seconds = {name: figures["seconds"] for name, figures in row["runs"].items()}
    return {
        f"over the synchronous baseline, {alone}": seconds[f"atts_sync, {alone}"] / seconds[f"atts, {alone}"],
        f"over the synchronous baseline, {together}": seconds[f"atts_sync, {together}"] / seconds[f"atts, {together}"],
        f"{together}, over the baseline {alone}": seconds[f"atts_sync, {alone}"] / seconds[f"atts, {together}"],
        f"over the target alone, {together}": seconds[f"target, {together}"] / seconds[f"atts, {together}"],
    }


def study(problems: int) -> Iterator[Row]:
    """The settings one after another, each changed alone."""
    workload, pair = Workload(problems=problems, mean_tokens=2500), PAIRS["Qwen2.5-7B / QwQ-32B"]
    for samples in (1, 4, 16, 64):
        yield compare("samples", samples, pair, workload, samples, 500)
    for rounds in (1, 2, 4, 8, 16):
        yield compare("rounds of a median solution", rounds, pair, workload, 16, round(2500 / rounds))
    for ratio in (1, 2, 4, 8, 16):
        draft, target = pair
        slower = replace(target, step=ratio * draft.step, step_per_sequence=ratio * draft.step_per_sequence)
        yield compare("step of the target / of the draft", ratio, (draft, slower), workload, 16, 500)
    for name, named in PAIRS.items():
        yield {**compare("pair", 0, named, workload, 16, 500), "pair": name}


def draw(rows: list[Row], path: Path) -> None:
    """The speed-ups against each axis."""
    import matplotlib
    from matplotlib.figure import Figure

    from tts.curves.plot import COLOURS, MARKERS, STYLE

    axes_names = list(dict.fromkeys(row["axis"] for row in rows if row["axis"] != "pair"))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.5, 3.4), layout="constrained")
        for panel, axis in zip(figure.subplots(1, len(axes_names), sharey=True), axes_names, strict=True):
            mine = [row for row in rows if row["axis"] == axis]
            for i, name in enumerate(speedups(mine[0])):
                values = [speedups(row)[name] for row in mine]
                panel.plot([row["value"] for row in mine], values, color=COLOURS[i], marker=MARKERS[i], label=name)
            panel.set_xscale("log", base=2)
            panel.set_xticks([row["value"] for row in mine], [f"{row['value']:g}" for row in mine])
            panel.axhline(1, color="#999999", linewidth=0.8)
            panel.set_xlabel(axis)
        figure.axes[0].set_ylabel("speed-up of ATTS")
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=2, frameon=False, fontsize=8)
        figure.savefig(path, dpi=160)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=12)
    parser.add_argument("--out", type=Path, default=HERE / "simulated.json")
    options = parser.parse_args()
    rows = []
    for row in study(options.problems):
        rows.append({**row, "speed-up": speedups(row)})
        said = ", ".join(f"{value:.2f} {name}" for name, value in speedups(row).items())
        print(f"{row['axis']} {row.get('pair', row['value'])}: {said}", flush=True)
    machines = {name: [asdict(one) for one in pair] for name, pair in PAIRS.items()}
    options.out.write_text(json.dumps({"problems": options.problems, "machines": machines, "rows": rows}, indent=1))
    draw(rows, options.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
