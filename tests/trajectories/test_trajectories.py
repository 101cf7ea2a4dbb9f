"""What a policy does in an environment is a sample like any other: strategies need not know."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.support.acting import acting, policy, replies
from tests.support.scripted import ScriptedServer, choice
from tts import Budget, EndState, Environment, Episode, Experiment, Observation, Problem, ToolCall, registry, solve
from tts.errors import ConfigError
from tts.resources import Resources
from tts.types import total

TOOLS = ({"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}},)
COUNT = Problem.from_prompt("Reach 3 by adding.", id="count", environment="counting", answer="exact_answer")
open_episodes: Counter[str] = Counter()


class Counting(Environment):
    """A number that can be added to."""

    start: int = 0

    async def reset(self, problem: Problem, resources: Resources) -> Episode:
        return Number(self.start)


class Number(Episode):
    tools = TOOLS

    def __init__(self, value: int) -> None:
        self.value, self.observation = value, f"The number is {value}."
        open_episodes["open"] += 1

    async def step(self, action: ToolCall | str) -> Observation:
        if isinstance(action, str):
            return Observation("not there yet") if "wait" in action else Observation(done=True)
        if action.arguments.get("n") == "broken":
            raise RuntimeError("the environment has a fault")
        self.value += action.arguments["n"]
        return Observation(f"The number is {self.value}.", done=self.value > 9, cpu_seconds=0.25)

    async def state(self) -> EndState:
        return EndState(str(self.value), f"Answer: {self.value}", {"reached": self.value})

    async def close(self) -> None:
        open_episodes["open"] -= 1


registry.register("environments", Counting)


def by_ones(turns: list[dict[str, Any]], number: int) -> Any:
    """Adds 1 until the number is 3, or in every third trajectory gives up at 1."""
    done = len(replies(turns))
    return "finished" if done == (1 if number % 3 == 2 else 3) else ("add", {"n": 1})


@pytest.mark.parametrize(
    ("spec", "candidates"),
    [
        ("single", 1),
        ("best_of_n:n=6,verifier=exact_answer(reference=3)", 6),
        ("first_pass:k=4,verifier=exact_answer(reference=3)", 4),
        ("self_consistency:n=6", 6),
        ("tool_vote:n=3", 3),
        ("pass_until:passes=2,n=6,verifier=exact_answer(reference=3)", 6),
        ("sequential_feedback:rounds=2,chains=2,verifier=exact_answer(reference=3)", 4),
        ("self_refine:rounds=2,verifier=exact_answer(reference=3)", 2),
    ],
)
async def test_strategies_search_over_trajectories(spec: str, candidates: int):
    async with acting(by_ones) as server:
        result = await solve(COUNT, spec, policy(server), stop_early=False)
    assert not result.failures
    assert result.text == "Answer: 3"
    assert 1 <= len(result.candidates) <= candidates
    for one in result.candidates:
        told = one.notes["trajectory"]
        assert one.content == f"Answer: {told['reached']}"
        assert (told["ended"], told["state"]) == ("stop", str(told["reached"]))
        assert [turn["role"] for turn in told["turns"]] == ["assistant", "tool"] * told["reached"] + ["assistant"]
    assert open_episodes["open"] == 0


async def test_the_cost_of_a_trajectory_is_that_of_all_its_calls():
    async with acting(by_ones) as server:
        spec = "best_of_n:n=6,verifier=exact_answer(reference=3)"
        result = await solve(COUNT, spec, policy(server), stop_early=False)
        asked = Counter(len(replies(body["messages"])) for body in server.seen)
    cost = Counter((one.notes["trajectory"]["reached"], one.usage.completion_tokens) for one in result.candidates)
    assert cost == {(3, 4 * 5): 4, (1, 2 * 5): 2}
    assert result.spent["policy"].completion_tokens == 5 * (6 + 6 + 4 + 4)
    assert result.spent["policy"].requests == len(server.seen) == asked.total()
    assert result.spent["environment"].verifier_seconds == 0.25 * (4 * 3 + 2)
    assert result.needed == result.spent
    assert not result.loose
    assert total(set().union(*(one.charges for one in result.candidates))).completion_tokens == 100


async def test_the_policy_is_told_the_tools_and_what_there_is_to_see():
    async with acting(by_ones) as server:
        await solve(COUNT, "single", policy(server), environment="counting:start=2")
    first, second = server.seen[0], server.seen[1]
    assert first["tools"] == second["tools"] == list(TOOLS)
    assert first["messages"] == [{"role": "user", "content": "Reach 3 by adding.\n\nThe number is 2."}]
    assert second["messages"][-1]["content"] == "The number is 3."
    assert second["messages"][-1]["tool_call_id"] == second["messages"][-2]["tool_calls"][0]["id"]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ({"name": "none", "arguments": "{}"}, "no tool 'none'; there are: add"),
        ({"name": "add", "arguments": "{"}, "not JSON"),
        ({"name": "add", "arguments": "[1]"}, "not a JSON object"),
        ({}, "no tool ''"),
    ],
)
async def test_calls_that_cannot_be_made_are_told_to_the_policy(call: dict[str, Any], words: str):
    def respond(body: dict[str, Any]) -> Any:
        if told := replies(body["messages"]):
            return choice(f"I see: {told[0]}")
        return choice("", tool_calls=[{"id": "1", "type": "function", "function": call}])

    async with ScriptedServer(respond) as server:
        result = await solve(COUNT, "single", policy(server))
    (one,) = result.candidates
    assert words in one.notes["trajectory"]["turns"][-1]["content"]


async def test_a_message_without_calls_may_be_answered_too():
    moves = iter(["wait", ("add", {"n": 3}), "wait", "finished"])
    async with acting(lambda turns, number: next(moves)) as server:
        result = await solve(COUNT, "single", policy(server))
    roles = [turn["role"] for turn in result.candidates[0].notes["trajectory"]["turns"]]
    assert roles == ["assistant", "user", "assistant", "tool", "assistant", "user", "assistant"]


@pytest.mark.parametrize(("spec", "ended", "calls"), [("turns=2", "turns", 2), ("tokens=14", "tokens", 3)])
async def test_a_trajectory_ends_at_its_caps(spec: str, ended: str, calls: int):
    async with acting(lambda turns, number: ("add", {"n": 1})) as server:
        result = await solve(COUNT, "single", policy(server), environment=f"counting:{spec}")
    assert len(server.seen) == calls
    assert result.candidates[0].notes["trajectory"]["ended"] == ended
    assert result.text == f"Answer: {calls}"
    if ended == "tokens":
        assert [body.get("max_tokens") for body in server.seen] == [14, 9, 4]


@pytest.mark.parametrize(
    ("spec", "reason", "ended"),
    [("", "length", "length"), ("", "content_filter", "content_filter"), ("tokens=5", "length", "tokens")],
)
async def test_a_message_that_is_cut_off_does_not_end_it_as_if_the_policy_were_done(spec: str, reason: str, ended: str):
    async with ScriptedServer(lambda body: choice("finished, I th", reason)) as server:
        result = await solve(COUNT, "single", policy(server), environment=f"counting:{spec}".rstrip(":"))
    (one,) = result.candidates
    assert (one.notes["trajectory"]["ended"], one.samples[-1].finish_reason) == (ended, ended)


@pytest.mark.parametrize("ids", [["1", "1"], ["", ""], [None, "1"]])
async def test_calls_are_told_apart_where_their_ids_do_not(ids: list[str | None]):
    def respond(body: dict[str, Any]) -> Any:
        if len(body["messages"]) > 1:
            return choice("finished")
        call = {"type": "function", "function": {"name": "add", "arguments": '{"n": 1}'}}
        return choice(None, "tool_calls", tool_calls=[{**call, "id": id} for id in ids])

    async with ScriptedServer(respond) as server:
        await solve(COUNT, "single", policy(server))
    _, said, *told = server.seen[-1]["messages"]
    asked = [call["id"] for call in said["tool_calls"]]
    assert len({*asked}) == 2
    assert all(asked)
    assert [one["tool_call_id"] for one in told] == asked


async def test_the_environment_may_end_it():
    async with acting(lambda turns, number: ("add", {"n": 5})) as server:
        result = await solve(COUNT, "single", policy(server))
    assert result.text == "Answer: 10"
    assert len(server.seen) == 2


async def test_what_a_spent_budget_leaves_of_a_trajectory_is_kept_and_not_preferred():
    async with acting(by_ones) as server:
        budget = Budget(requests=3)
        result = await solve(COUNT, "best_of_n:n=2,verifier=exact_answer(reference=9)", policy(server), budget=budget)
    assert result.ended == "budget"
    assert len(result.candidates) == 2
    assert all(one.cut_off for one in result.candidates)
    assert sum(one.notes["trajectory"]["reached"] for one in result.candidates) == 4
    assert result.spent["policy"].requests == 3
    assert open_episodes["open"] == 0


async def test_one_that_fails_loses_only_itself():
    def act(turns: list[dict[str, Any]], number: int) -> Any:
        return by_ones(turns, 0) if number else ("add", {"n": "broken"})

    async with acting(act) as server:
        result = await solve(COUNT, "self_consistency:n=3", policy(server))
    assert len(result.candidates) == 2
    assert result.failures == ("counting: RuntimeError: the environment has a fault",)
    assert open_episodes["open"] == 0


async def test_leaving_a_search_closes_every_episode():
    async with acting(lambda turns, number: ("add", {"n": 0})) as server:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await solve(COUNT, "self_consistency:n=4", policy(server), environment="counting:turns=100000")
    assert open_episodes["open"] == 0


async def test_what_writes_in_pieces_or_ends_answers_early_is_refused():
    for spec in ("beam_search:verifier=judge", "budget_forcing", "deepconf"):
        async with acting(by_ones) as server:
            with pytest.raises(ConfigError):
                await solve(COUNT, spec, {"policy": policy(server), "judge": policy(server)})
            assert not server.seen or spec == "deepconf"


async def test_what_was_said_is_told_again_word_by_word_unless_the_state_differs(tmp_path: Path):
    """The clock in an observation does not make a stored conversation worthless; another state does."""
    clock, drift = iter(range(1000)), [0]

    class Clocked(Counting):
        name = "clocked"

        async def reset(self, problem: Problem, resources: Resources) -> Episode:
            episode = Number(0)
            step = episode.step

            async def timed(action: ToolCall | str) -> Observation:
                seen = await step(action)
                episode.value += drift[0]
                return seen if seen.done else Observation(f"{seen.text} It took {next(clock)} s.")

            episode.step = timed
            return episode

    registry.register("environments", Clocked)
    path = tmp_path / "problems.jsonl"
    path.write_text(json.dumps({"id": "count", "prompt": "Reach 3 by adding.", "answer": "3"}))
    async with acting(by_ones) as server:
        table = {
            "task": f'jsonl:path="{path}"',
            "environment": "clocked",
            "strategies": ["self_consistency:n=2", "self_consistency:n=2,answer=exact_answer"],
            "models": {"m": policy(server)},
        }
        run = await Experiment.parse(table).run(tmp_path / "run")
        assert len(server.seen) == 1 + 2 * 3, "the second strategy has all from the store"
        one, other = run.tracks
        assert one.usage().completion_tokens == other.usage().completion_tokens == 40
        drift[0] = 10
        table["strategies"].append("single")
        run = await Experiment.parse(table).run(tmp_path / "run", resume=True)
        assert len(server.seen) == 1 + 2 * 3 + 1, "told of another number, the policy is asked anew"
        (single,) = run.tracks[2].rows
        (last,) = run.tracks[2].candidates(single)
        assert last.notes["trajectory"]["reached"] == 22
