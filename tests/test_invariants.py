"""What holds for every strategy: its compute is what it would have cost alone, to the token, whatever ran beside it."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pytest

from tests.support.calibration import calibration, corpus
from tests.support.double import Fault, FaultKind, ModelDouble, Stats, solvable
from tests.support.solving import PROBLEM, account, check_account, endpoint
from tts import Endpoint, Experiment, Run, Strategy, registry, solve
from tts.runs.analysis import curves, summary
from tts.strategies.speculation.steps import WORDS
from tts.tables import summary_table
from tts.types import sum_usage

PROBED = WORDS.encode()
RIGHT = "numeric_answer(reference=42)"
JUDGE = "judge"
STEPS = f'step="\\n",depth=4,step_tokens=80,verifier={JUDGE}'
NAMES = ("policy", "large")
"""The set of policies: what draws from one alone draws from the first."""
SPECS = {
    "single": "single",
    "best_of_n": f"best_of_n:n=11,verifier={JUDGE}",
    "repeated_sampling": f"repeated_sampling:n=5,prompts=general,verifier={RIGHT}",
    "self_consistency": "self_consistency:n=13",
    "first_pass": f"first_pass:k=9,batch=3,verifier={RIGHT}",
    "probe": "probe:first=3,then=self_consistency(n=6)",
    "pass_until": f"pass_until:passes=2,n=9,batch=3,verifier={RIGHT}",
    "plan_search": "plan_search:asked=3,codes=6,prompts=general",
    "idea_search": "idea_search:n=5,prompts=general",
    "prompt_redesign": "prompt_redesign:n=4,rounds=2,verifier=element_check",
    "deepconf": "deepconf:n=6,warmup=2,window=8",
    "tournament": "tournament:n=4",
    "atts": "atts:n=3,draft_tokens=30,target_tokens=30,rounds=3,rejection_rate=1",
    "atts_best": f"atts_best:n=3,draft_tokens=30,target_tokens=30,rounds=3,rejection_rate=1,verifier={RIGHT}",
    "atts_sync": "atts_sync:n=3,draft_tokens=30,target_tokens=30,rounds=3,rejection_rate=0.5",
    "spec_reason": "spec_reason:n=3,rounds=3,draft_tokens=30,target_tokens=30",
    "sequential_feedback": f"sequential_feedback:rounds=3,chains=3,verifier={RIGHT}",
    "self_refine": f"self_refine:rounds=3,chains=2,verifier={RIGHT}",
    "budget_forcing": "budget_forcing:waits=2,thinking_tokens=60,answer_tokens=20",
    "tool_vote": "tool_vote:n=5",
    "beam_search": f"beam_search:n=6,width=2,{STEPS}",
    "dvts": f"dvts:n=4,width=2,select_by=weighted,{STEPS}",
    "rebase": f"rebase:n=4,lookahead=1,{STEPS}",
    "particle_filter": f"particle_filter:n=6,filters=2,{STEPS}",
    "mcts": f"mcts:simulations=4,branching=2,{STEPS}",
    "tree_of_thoughts": f"tree_of_thoughts:branching=3,keep=2,{STEPS}",
    "ab_mcts": f"ab_mcts:n=6,verifier={JUDGE}",
    "tree_of_frames": f"tree_of_frames:n=4,{STEPS}",
    "staged_resampling": f"staged_resampling:n=1,{STEPS}",
    "cascade": "cascade:strategy=self_consistency(n=4),by=agreement,accuracy=0.9,"
    f"calibration={calibration('self_consistency:n=4', NAMES)}",
    "route": f"route:strategy=best_of_n(n=5),k=3,verifier={JUDGE},calibration={calibration('best_of_n:n=5', NAMES)}",
    "fuse": "fuse:n=5,rounds=3",
    "write_in_parts": "write_in_parts:n=3,parts=3",
    "aggregate": f"aggregate:n=4,k=2,verifier={RIGHT}",
    "debate": "debate:n=3",
    "many_shot": "many_shot:k=2,strategy=self_consistency(n=5),examples=lab_math(part=train,size=20)",
    "retrieve": f'retrieve:k=2,strategy=best_of_n(n=4),verifier={JUDGE},corpus="{corpus()}"',
    "format_spread": "format_spread:n=6",
    "thinksum": "thinksum:n=4,options=[41,42,43],prior=true",
    "gen_select": "gen_select:n=5,window=3,runs=2,summarise=true",
    "universal_self_consistency": "universal_self_consistency:n=4",
}
"""One of each, small. Where a draft is rejected by those that came before, all are."""


RACING = {
    "best_of_n", "retrieve", "tournament", "prompt_redesign", "atts", "atts_best", "atts_sync", "spec_reason",
    "sequential_feedback", "self_refine", "beam_search", "dvts", "rebase", "particle_filter",
    "mcts", "tree_of_thoughts", "ab_mcts", "tree_of_frames", "staged_resampling", "route", "fuse", "aggregate",
    "write_in_parts",
    "debate", "gen_select", "universal_self_consistency",
}  # fmt: skip
"""Their branches, or their judges beside their samples, ask for the same few requests side by side: who asks first
gets them."""


def spoken(request: dict[str, Any], rng: np.random.Generator) -> str:
    """Something for every part that a model plays; some answers never end, and some cannot be used."""
    asked = json.dumps(request.get("messages", request.get("prompt")))
    if request["model"] == "judge":
        mark = crc32(asked.encode())  # the same of the same, whoever asks first
        better = ("first", "second", "tie")[mark % 3]
        return json.dumps({"reasons": "so", "grade": mark % 10 + 1, "better": better})
    if "JSON" in asked or "list" in asked:
        return json.dumps({"observations": [f"it is {rng.integers(10**6)}" for _ in range(3)]})
    if rng.random() < 0.2:
        return "and so on " * 60
    return solvable({}, otherwise=0.3)(request, rng)


@pytest.fixture
def task(tmp_path: Path) -> str:
    path = tmp_path / "problems.jsonl"
    lines = [{"id": name, "prompt": f"[[{name}]] six times seven?", "answer": "42"} for name in ("a", "b", "c")]
    path.write_text("\n".join(map(json.dumps, lines)))
    return f'jsonl:path="{path}"'


def placed(spec: str) -> Strategy:
    """The strategy, which draws from the first policy alone unless it can draw from several."""
    made = registry.make("strategies", spec)
    return made if made.several else made.model_copy(update={"policies": NAMES[:1]})


async def run(
    task: str,
    specs: Sequence[str],
    out: Path,
    faults: Any = None,
    *,
    resume: bool = False,
    max_n: int = 4,
    limit: int = 2,
    answer: Any = spoken,
    latency: Any = 0.0,
    **settings: Any,
) -> tuple[Run, Stats]:
    """A run of the strategies over a double of its own, whose answers depend on the requests alone."""
    options = {"retry_wait": 0.005, "max_n": max_n, "params": {"max_tokens": 300, "seed": 5}}
    roles = {**{f"policy.{name}": name for name in NAMES}, **{role: role for role in ("draft", "target", "judge")}}
    async with (
        asyncio.timeout(120),
        ModelDouble(models=tuple(roles.values()), answer=answer, faults=faults, latency=latency, log=0) as double,
    ):
        models = {
            role: Endpoint(model=name, base_url=double.base_url, identity=name, **options)
            for role, name in roles.items()
        }
        grid = Experiment.parse(
            {"task": task, "models": {"m": models}, "strategies": list(map(placed, specs)), "limit": limit, **settings}
        )
        return await grid.run(out, resume=resume), double.stats


def ends(found: Run, spec: str) -> dict[str, float]:
    """The compute of a track at its largest prefix, over all cells; seconds of verifiers vary from run to run."""
    wanted = placed(spec).spec
    (track,) = [track for track in found.tracks if track.strategy == wanted]
    names = ("requests", "prompt_tokens", "completion_tokens", "total_tokens")
    return {name: sum(float(part[-1]) for part in track.cost(name)) for name in names}


def differ(found: Run, alone: dict[str, dict[str, float]]) -> None:
    """Nothing does."""
    other = {spec: ends(found, spec) for spec in alone}
    assert not {spec: (alone[spec], other[spec]) for spec in alone if other[spec] != alone[spec]}


def test_every_strategy_of_the_registry_is_here() -> None:
    names = registry.names("strategies")  # with those of other tests
    assert set(SPECS) == {name for name in names if registry.load("strategies", name).__module__.startswith("tts.")}


@pytest.mark.parametrize("fault", [None, FaultKind.FEWER_CHOICES, FaultKind.SERVER_ERROR, FaultKind.N_IGNORED])
@pytest.mark.parametrize("name", SPECS)
async def test_the_axis_ends_at_what_the_strategy_needed_and_the_server_billed(
    name: str, fault: FaultKind | None, task: str, tmp_path: Path
) -> None:
    found, stats = await run(task, [SPECS[name]], tmp_path / "run", fault and {Fault(fault): 0.2}, stop_early=False)
    for track in found.tracks:
        assert fault or f"verifier={JUDGE}" not in SPECS[name] or not track.unrated  # what the judge says can be read
        needed = sum_usage(track.by_role().values())
        for measure in ("requests", "prompt_tokens", "completion_tokens", "verifier_seconds", "cached_tokens"):
            costs = [part[-1] for part in track.cost(measure)]
            assert sum(costs) == pytest.approx(getattr(needed, measure))
        spent = sum_usage(track.paid().values())
        probes = len(PROBED) if name.startswith("atts") else 0  # the run asks once whether it can score
        assert needed.requests + bool(probes) == spent.requests == stats.served
        assert needed.completion_tokens + bool(probes) == spent.completion_tokens
        assert needed.prompt_tokens + probes == spent.prompt_tokens == stats.prompt_tokens
        if name != "deepconf":  # which leaves answers that this server has written to the end by then
            assert spent.completion_tokens == stats.completion_tokens


@pytest.mark.parametrize("settings", [{}, {"budget": {"completion_tokens": 900}}, {"budget": {"requests": 6}}], ids=str)
@pytest.mark.parametrize("name", SPECS)
async def test_the_axis_ends_at_what_was_needed_and_the_bill_is_the_servers_where_a_search_is_cut_short(
    name: str, settings: dict[str, Any], task: str, tmp_path: Path
) -> None:
    """By an early end, a budget, or both: what was cancelled is waste, with its prompts."""
    found, stats = await run(task, [SPECS[name]], tmp_path / "run", latency=(0.0, 0.02), stop_early=True, **settings)
    for track in found.tracks:
        needed, wasted = sum_usage(track.by_role().values()), track.wasted()
        for measure in ("requests", "prompt_tokens", "completion_tokens", "verifier_seconds", "cached_tokens"):
            assert sum(part[-1] for part in track.cost(measure)) == pytest.approx(getattr(needed, measure))
        spent = sum_usage(track.paid().values())
        probes = len(PROBED) if name.startswith("atts") else 0
        assert needed.requests + bool(probes) == spent.requests <= stats.served
        assert needed.completion_tokens + bool(probes) == spent.completion_tokens
        assert needed.prompt_tokens + probes == spent.prompt_tokens <= stats.prompt_tokens
        assert spent.requests + wasted.requests >= stats.received
        if not wasted.estimated_tokens:
            assert spent.prompt_tokens + wasted.prompt_tokens >= stats.prompt_tokens + stats.wasted_prompt_tokens
        for costs, means in zip(track.cost("completion_tokens"), track.mean_cost("completion_tokens"), strict=True):
            assert not len(means) or means[-1] == pytest.approx(costs[-1])


BUDGETS: list[dict[str, Any]] = [{}, {"completion_tokens": 1500}, {"requests": 7}, {"total_tokens": 6000}]
LOSSES = {Fault(FaultKind.SERVER_ERROR): 0.1, Fault(FaultKind.RESET): 0.1}


async def ends_alone(
    spec: str,
    budget: dict[str, int],
    task: str,
    out: Path,
    known: dict[str, dict[str, float]] = {},  # noqa: B006
) -> dict[str, float]:
    """The compute of a strategy that has a sound server to itself, found out once."""
    if (key := f"{spec} {budget}") not in known:
        found, _ = await run(task, [spec], out / str(len(known)), stop_early=False, budget=budget)
        known[key] = ends(found, spec)
    return known[key]


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize(("faults", "turn"), [(None, 1), (LOSSES, -1)], ids=["sound", "failing"])
async def test_the_axis_does_not_depend_on_what_ran_beside_in_which_order_what_failed_or_on_a_kill(
    budget: dict[str, int], faults: Any, turn: int, task: str, tmp_path: Path
) -> None:
    """Of searches that run to their end: what has been sent when one is settled depends on which answer came first."""
    specs = [spec for name, spec in SPECS.items() if name not in RACING or not budget][::turn]
    alone = {spec: await ends_alone(spec, budget, task, tmp_path) for spec in specs}
    settings: dict[str, Any] = {"stop_early": False, "budget": budget, "faults": faults, "latency": (0.0, 0.01)}
    found, _ = await run(task, specs, tmp_path / "run", **settings)
    differ(found, alone)
    with closing(sqlite3.connect(tmp_path / "run" / "run.sqlite", isolation_level=None)) as database:
        database.execute("PRAGMA foreign_keys = ON")
        database.execute("DELETE FROM cells")
        database.execute("DELETE FROM samples WHERE rowid % 3 = 0")
    found, _ = await run(task, specs, tmp_path / "run", resume=True, **settings)
    differ(found, alone)


async def test_what_led_to_no_candidate_is_on_the_axis_and_problems_without_any_are_in_the_mean(
    task: str, tmp_path: Path
) -> None:
    def half_lost(request: dict[str, Any], rng: np.random.Generator) -> str:
        asked = json.dumps(request["messages"])
        return "and so on " * 60 if "[[a]]" in asked or rng.random() < 0.5 else "A plan. Answer: 42"

    found, stats = await run(task, ["idea_search:n=8,prompts=general"], tmp_path / "run", answer=half_lost, limit=3)
    (track,), (row,), (curve, *_) = found.tracks, summary(found), curves(found)
    counts = {row.cell: len(part) for row, part in zip(track.rows, track.correct, strict=True)}
    assert min(counts.values()) == 0 < max(counts.values()) < 8
    assert curve.x[-1] * 3 == pytest.approx(row["completion_tokens"]) == stats.completion_tokens
    lost = found.db.execute("SELECT cell, position FROM charges WHERE position < 0").fetchall()
    assert len({~position for _, position in lost}) > 1  # not all at one end
    assert all(~position < counts[cell] for cell, position in lost)


async def test_the_headline_is_what_was_paid_and_each_row_what_was_needed(task: str, tmp_path: Path) -> None:
    found, stats = await run(task, ["single", "self_consistency:n=6"], tmp_path / "run", limit=3, stop_early=False)
    rows = summary(found)
    assert sum(row["paid_completion_tokens"] for row in rows) == stats.completion_tokens
    assert sum(row["paid_requests"] for row in rows) == stats.served
    assert sum(row["completion_tokens"] for row in rows) > stats.completion_tokens
    assert {row["shared_problems"] for row in rows} == {None}
    settings: dict[str, Any] = {"stop_early": False, "seeds": [0, 1], "limit": 2}
    found, _ = await run(task, ["single"], tmp_path / "run", resume=True, **settings)
    assert [row["shared_problems"] for row in summary(found)] == [3, 3]
    (note,) = [note for note in summary_table({"": summary(found)}).notes if "different problems" in note]
    assert "over the 3 problems that all have: single" in note


@pytest.mark.parametrize("max_n", [1, 16])
async def test_what_a_settled_search_had_no_use_for_is_shown(max_n: int) -> None:
    async with ModelDouble(answer=lambda *_: "Answer: 42") as double:
        result = await solve(PROBLEM, "self_consistency:n=8", endpoint(double, max_n=max_n))
        await double.idle()
    assert result.ended == "settled"
    unused = sum_usage(result.unused.values()).completion_tokens
    assert unused + len("Answer: 42") * len(result.candidates) == sum_usage(result.spent.values()).completion_tokens
    assert max_n == 1 or unused == len("Answer: 42") * 3
    if not result.wasted:  # else answers were on their way, of which only the server knows the tokens
        check_account(result, double.stats)
    assert sum(usage.requests for usage in account(result)) >= double.stats.received
