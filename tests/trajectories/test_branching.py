"""Searches over steps take a trajectory's turns as their steps, and find, pay and choose as they do over texts."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.acting import policy, said
from tests.support.branching import DIGITS, Branching, KnownValue, Memory, chance
from tests.support.killing import answers, killed_midway
from tests.support.scripted import ScriptedServer
from tts import Budget, EndState, Environment, Episode, Experiment, Observation, Problem, Result, ToolCall, registry
from tts.base import Strategy
from tts.errors import ConfigError
from tts.gateway.agents import OutsideAgent
from tts.resources import Resources
from tts.solving import drive, open_models, open_session, solve
from tts.tasks.repair_tasks import RepairTasks, solution
from tts.types import total

GO = {"type": "function", "function": {"name": "go", "parameters": {"type": "object"}}}
open_episodes: Counter[str] = Counter()


class Forking(Environment):
    """A way of digits: at the `depth`-th it ends."""

    depth: int = 3

    async def reset(self, problem: Problem, resources: Resources) -> Episode:
        return Way(self.depth, ())


class Way(Episode):
    tools = (GO,)

    def __init__(self, depth: int, digits: tuple[int, ...]) -> None:
        self.depth, self.digits = depth, digits
        open_episodes["open"] += 1

    async def step(self, action: ToolCall | str) -> Observation:
        if isinstance(action, str):
            return Observation(done=True)
        if action.arguments["to"] == "broken":
            raise RuntimeError("the environment has a fault")
        await asyncio.sleep(0)
        self.digits = (*self.digits, action.arguments["to"])
        return Observation("gone", done=len(self.digits) == self.depth, cpu_seconds=0.25)

    async def state(self) -> EndState:
        return EndState(str(self.digits), "\n".join(map(str, self.digits)))

    async def fork(self) -> Episode:
        return Way(self.depth, self.digits)

    async def close(self) -> None:
        open_episodes["open"] -= 1


registry.register("environments", Forking)


def gone(body: dict[str, Any]) -> tuple[str, ...]:
    """The way so far in a conversation."""
    calls = [call for turn in body["messages"] for call in turn.get("tool_calls", ())]
    return tuple(call["function"]["arguments"] for call in calls)


def digits_in_order() -> ScriptedServer:
    """A policy that goes to 0, 1, 2, ... from wherever it is, each time it is asked."""
    asked: Counter[tuple[str, ...]] = Counter()

    def respond(body: dict[str, Any]) -> list[dict[str, Any]]:
        choices = []
        for i in range(body.get("n") or 1):
            choices.append({**said(("go", {"to": asked[gone(body)]})), "index": i})
            asked[gone(body)] += 1
        return choices

    return ScriptedServer(respond)


async def over_turns(strategy: Strategy, depth: int, **options: Any) -> tuple[Result, ScriptedServer]:
    async with asyncio.timeout(120), digits_in_order() as server:
        given = {"verifier": KnownValue(), "stop_early": False, "environment": f"forking:depth={depth}", **options}
        asked_in_order = policy(server, max_n=64, max_concurrency=1)
        result = await solve(DIGITS, strategy, asked_in_order, **given)
    assert open_episodes["open"] == 0
    return result, server


SEARCHES = [
    "beam_search:n={n},width={width}",
    "dvts:n={n},width={width}",
    "rebase:n={n}",
    "particle_filter:n={n}",
    "particle_filter:n={n},wait_for=0.5",
    "mcts:simulations={n},branching={width}",
    "mcts:simulations={n},branching={width},policy=uct,until=leaf",
    "tree_of_thoughts:branching={width},keep={n}",
    "tree_of_thoughts:branching={width},order=depth,nodes={n}",
    "staged_resampling:n={width},widths=[3,2,1],resample_from=0",
    "tree_of_frames:n={n}",
]


@pytest.mark.parametrize("spec", SEARCHES)
@settings(max_examples=5, deadline=None)
@given(n=st.integers(1, 9), width=st.integers(1, 4), depth=st.integers(1, 4), cut=st.integers(1, 5))
async def test_a_search_over_turns_is_the_search_over_steps(spec: str, n: int, width: int, depth: int, cut: int):
    """It finds the same in the same order, chooses the same, and each turn is paid once; `cut` is its own depth."""
    filled = f'{spec.format(n=n, width=width)},step="\\n",depth={cut}'
    strategy: Strategy = registry.make("strategies", filled)
    world = Branching(depth=depth)
    texts = await solve(DIGITS, strategy, world.endpoint, verifier=KnownValue(), stop_early=False)
    turns, server = await over_turns(strategy, depth)

    def told(result: Result) -> list[Any]:
        found = sorted(result.candidates, key=lambda one: one.spawned)
        return [(one.content.strip(), one.spawned, one.cut_off, one.notes["node"]) for one in found]

    def tree(result: Result) -> list[Any]:
        return [(node["node"], node["turn"], node["reward"]) for one in result.candidates for node in one.notes["tree"]]

    assert not turns.failures
    assert told(turns) == told(texts)
    assert tree(turns) == tree(texts)
    assert (turns.text or "").strip() == (texts.text or "").strip()
    choices = sum(body.get("n") or 1 for body in server.seen)
    assert choices == world.said.total()
    assert turns.spent["policy"].requests == len(server.seen)
    assert turns.spent["policy"].completion_tokens == 5 * choices
    assert turns.spent["environment"].verifier_seconds == 0.25 * choices
    assert turns.needed == turns.spent
    everything = turns.loose.union(*(one.charges for one in turns.candidates))
    assert total(everything).completion_tokens == 5 * choices
    assert total(everything).verifier_seconds == pytest.approx(
        0.25 * choices + turns.spent.get("verifier", total(())).verifier_seconds
    )


@pytest.mark.parametrize(("n", "width", "depth"), [(4, 2, 2), (6, 3, 3), (5, 2, 3)])
async def test_a_beam_over_turns_is_that_of_brute_force(n: int, width: int, depth: int):
    beam, asked = [""], 0
    for _ in range(depth):
        beam = sorted(beam, key=chance, reverse=True)[: -(-n // width)]
        shares = [n // len(beam) + (i < n % len(beam)) for i in range(len(beam))]
        beam = [f"{way}\n{i}".strip() for way, share in zip(beam, shares, strict=True) for i in range(share)]
        asked += n
    result, server = await over_turns(registry.make("strategies", f"beam_search:n={n},width={width}"), depth)
    assert result.text == max(beam, key=chance)
    assert [one.content for one in sorted(result.candidates, key=lambda one: one.spawned)] == beam
    assert sum(body.get("n") or 1 for body in server.seen) == asked


async def test_a_candidate_is_a_trajectory_and_carries_the_branches_looked_at():
    result, _ = await over_turns(registry.make("strategies", "beam_search:n=4,width=2"), 3)
    for one in result.candidates:
        trajectory = one.notes["trajectory"]
        assert [turn["role"] for turn in trajectory["turns"]] == ["assistant", "tool"] * 3
        assert (trajectory["ended"], one.samples[-1].finish_reason) == ("stop", "stop")
        assert one.usage.completion_tokens > 3 * 5
    texts = [node["text"] for one in result.candidates for node in one.notes["tree"]]
    assert texts[0].split() == ["[assistant]", "go", '{"to":', "0}", "[tool]", "gone"]


@pytest.mark.parametrize("share", [1.0, 0.5])
async def test_roll_outs_are_whole_trajectories(share: float):
    spec = f"mcts:simulations=2,branching=2,rollouts=3,rollout_share={share}"
    result, server = await over_turns(registry.make("strategies", spec), 3)
    ends = [one for one in result.candidates if -1 in one.notes["trajectory"]["turns"] or len(one.content) == 5]
    assert len(ends) >= 6
    assert all(one.verdict is not None and one.notes["trajectory"]["ended"] == "stop" for one in ends)
    assert result.spent["policy"].completion_tokens == 5 * sum(body.get("n") or 1 for body in server.seen)


@pytest.mark.parametrize("budget", [{"requests": 3}, {"completion_tokens": 40}, {"total_tokens": 60}])
@pytest.mark.parametrize("spec", ["beam_search:n=4,width=2", "mcts:simulations=6,branching=2", "dvts:n=4,width=2"])
async def test_a_budget_ends_it_and_what_is_there_is_given(spec: str, budget: dict[str, int]):
    strategy: Strategy = registry.make("strategies", {"params": {"max_tokens": 5}, **_table(spec)})
    result, _ = await over_turns(strategy, 4, budget=Budget.model_validate(budget))
    assert result.ended == "budget"
    spent = result.spent["policy"]
    assert spent.requests <= budget.get("requests", 99)
    assert spent.completion_tokens <= budget.get("completion_tokens", 999)
    assert spent.total_tokens <= budget.get("total_tokens", 999)
    assert result.candidates
    assert all(one.cut_off == (one.content.count("\n") < 3) for one in result.candidates)
    everything = result.loose.union(*(one.charges for one in result.candidates))
    assert total(everything).completion_tokens == spent.completion_tokens


def _table(spec: str) -> dict[str, Any]:
    name, fields = registry.parse_spec(spec)
    return {"name": name, **fields}


@pytest.mark.parametrize("cap", ["turns=2", "tokens=10"])
async def test_a_trajectory_ends_at_the_caps_of_its_environment(cap: str):
    strategy = registry.make("strategies", "beam_search:n=4,width=2")
    result, server = await over_turns(strategy, 4, environment=f"forking:depth=4,{cap}")
    assert {one.content.count("\n") for one in result.candidates} == {1}
    assert {one.notes["trajectory"]["ended"] for one in result.candidates} == {cap.partition("=")[0]}
    if cap.startswith("tokens"):
        assert {body["max_tokens"] for body in server.seen} == {10, 5}


async def test_the_smaller_of_two_limits_on_tokens_holds():
    async with digits_in_order() as server:
        models = policy(server, params={"max_tokens": 7})
        for spec in ("beam_search:n=2,width=2,verifier=known_value", "single"):
            await solve(DIGITS, spec, models, environment="forking:depth=2,tokens=100")
    assert {body["max_tokens"] for body in server.seen} == {7}


registry.register("verifiers", KnownValue)


async def test_a_turn_that_fails_loses_only_its_branch():
    async with digits_in_order() as server:
        respond = server.respond

        def faulty(body: dict[str, Any]) -> Any:
            made = respond(body)
            made[0] = {**said(("go", {"to": "broken"})), "index": 0}
            return made

        server.respond = faulty
        result = await solve(
            DIGITS, "beam_search:n=4,width=2,verifier=known_value", policy(server), environment="forking"
        )
    assert result.failures
    assert set(result.failures) == {"forking: RuntimeError: the environment has a fault"}
    assert all(len(one.notes["trajectory"]["turns"]) == 6 for one in result.candidates)
    assert result.text is not None
    assert open_episodes["open"] == 0


async def test_a_refused_conversation_ends_there():
    """A server that says that the conversation is too long ends that branch, with what there is."""
    async with digits_in_order() as server:
        respond = server.respond

        def short(body: dict[str, Any]) -> Any:
            if len(gone(body)) < 2:
                return respond(body)
            from aiohttp import web

            words = {"error": {"message": "maximum context length is 9 tokens", "type": "invalid_request_error"}}
            return web.json_response(words, status=400)

        server.respond = short
        result = await solve(
            DIGITS, "beam_search:n=4,width=2,verifier=known_value", policy(server), environment="forking"
        )
    assert {one.notes["trajectory"]["ended"] for one in result.candidates} == {"refused"}
    assert result.failures


@pytest.mark.parametrize(
    ("spec", "environment", "agent", "words"),
    [
        (
            "beam_search:verifier=judge",
            "python",
            None,
            r"python cannot be copied.*workspace.*whole trajectories",
        ),
        ("mcts:rollouts=1,verifier=judge", "counting_only", None, "counting_only cannot be copied"),
        ("beam_search:verifier=judge", "workspace", OutsideAgent("true"), "outside agent.*best_of_n"),
        ("budget_forcing", "workspace", None, "needs whole messages"),
        ("tree_of_thoughts:thoughts=propose,verifier=judge", "workspace", None, "needs whole messages"),
        ("tree_of_frames:images=true,verifier=judge", "workspace", None, "needs whole messages"),
    ],
)
async def test_what_cannot_branch_is_refused_before_anything_is_spent(
    spec: str, environment: str, agent: Any, words: str
):
    class CountingOnly(Environment):
        """Has no copies."""

        async def reset(self, problem: Problem, resources: Resources) -> Episode:
            return Episode()

    registry.register("environments", CountingOnly)
    async with (
        digits_in_order() as server,
        open_models(dict.fromkeys(("policy", "judge", "image"), policy(server))) as by,
    ):
        strategy, place = registry.make("strategies", spec), registry.make("environments", environment)

        async def tried() -> None:  # of an environment that does not say, only its episodes tell
            await drive(strategy, open_session(DIGITS, strategy, by, environment=place, agent=agent))

        with pytest.raises(ConfigError, match=words):
            await tried()
        assert not server.seen


async def test_leaving_a_search_aborts_its_branches():
    under_way, aborted = Counter[str](), Counter[str]()
    async with digits_in_order() as server:
        respond = server.respond

        async def slowly(body: dict[str, Any]) -> Any:
            under_way["now"] += 1
            try:
                await asyncio.sleep(60 if gone(body) else 0)
            except asyncio.CancelledError:
                aborted["requests"] += 1
                raise
            finally:
                under_way["now"] -= 1
            return respond(body)

        server.respond = slowly
        budget = Budget(seconds=1)
        result = await solve(
            DIGITS, "beam_search:n=4,width=2,verifier=known_value", policy(server), environment="forking", budget=budget
        )
        async with asyncio.timeout(120):
            while under_way["now"]:
                await asyncio.sleep(0.01)
    assert result.ended == "deadline"
    assert aborted["requests"] >= 2
    assert open_episodes["open"] == 0


@pytest.mark.parametrize("seed", range(4))
async def test_a_search_that_is_resumed_asks_for_nothing_twice_whatever_comes_first(seed: int):
    """What several simulations at once ask for depends on which answer comes first, but what was answered is used."""
    store, spec, runs = Memory(), "mcts:simulations=8,branching=3,in_flight=3", itertools.count()
    async with digits_in_order() as server:
        respond = server.respond

        async def found(**options: Any) -> tuple[Result, int]:
            before, run = len(server.seen), next(runs)

            async def in_an_order_of_its_own(body: dict[str, Any]) -> Any:
                await asyncio.sleep(chance(f"{seed} {run} {gone(body)}") / 100)
                return respond(body)

            server.respond = in_an_order_of_its_own
            given = {"verifier": KnownValue(), "stop_early": False, "environment": "forking", **options}
            return await solve(DIGITS, spec, policy(server, max_n=64), store=store, **given), len(server.seen) - before

        short, first = await found(budget=Budget(requests=4))
        whole, second = await found()
        again, third = await found()
    assert short.ended == "budget"
    assert (first, third) == (4, 0)
    assert Counter(map(gone, server.seen)).most_common(1)[0][1] == 1
    assert whole.needed["policy"].requests == first + second
    assert whole.text == again.text
    assert "policy" not in again.spent
    assert again.needed["policy"] == whole.needed["policy"]


EXAMPLE = next(RepairTasks().examples())
PATCH = solution(EXAMPLE.problem)


def repairing(body: dict[str, Any]) -> list[dict[str, Any]]:
    """Notes something at first, in every second branch the repair; then it looks, then it is done."""
    turns = sum(turn["role"] == "assistant" for turn in body["messages"])
    choices = []
    for i in range(body.get("n") or 1):
        note = f"--- /dev/null\n+++ b/note_{random.randrange(10**9)}.txt\n@@ -0,0 +1,1 @@\n+seen\n"
        first = ("apply_patch", {"patch": PATCH if i % 2 else note})
        move = [first, ("bash", {"command": "date +%N"}), "Done."][turns]
        choices.append({**said(move), "index": i})
    return choices


async def test_tests_of_the_folder_as_it_stands_lead_a_search_to_the_repair():
    async with ScriptedServer(repairing) as server:
        result = await solve(EXAMPLE.problem, "beam_search:n=4,width=4", policy(server), stop_early=False)
    assert result.selected is not None
    assert result.selected.passed
    assert result.text == PATCH
    rated = [node for one in result.candidates for node in one.notes["tree"]]
    assert {node["reward"] for node in rated if node["turn"] == 0} > {1.0}
    live = {node["node"].partition(".")[0] for node in rated if node["turn"] > 0}
    good = {node["node"] for node in rated if node["turn"] == 0 and node["reward"] == 1.0}
    assert live == {min(good)}, "only what passes the tests is gone on from"


async def test_killed_in_the_middle_a_search_over_turns_pays_nothing_twice(tmp_path: Path):
    out = tmp_path / "run"
    async with ScriptedServer(repairing) as server:
        models = {"m": {"model": "test-model", "base_url": server.base_url, "api_key_env": "NO_KEY"}}
        grid = {"task": "repair_tasks", "limit": 2, "stop_early": False, "models": models}
        grid["strategies"] = ["beam_search:n=4,width=2", "mcts:simulations=4,branching=2"]
        await killed_midway(grid, out, server, kept=3, answered=8)
        kept, before = answers(out), len(server.seen)
        run = await Experiment.parse(grid).run(out, resume=True)
        drawn = sum(body.get("n") or 1 for body in server.seen[before:])
    assert kept > 0
    assert answers(out) - kept == drawn, "every answer that was drawn is new"
    for track in run.tracks:
        for row in track.rows:
            assert row.selected is not None
            assert all(one.notes["trajectory"]["turns"] for one in track.candidates(row))
