"""An interpreter in the sandbox keeps its variables, whatever is run in it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.acting import acting, policy, replies
from tts import Episode, Experiment, Problem, ToolCall, registry
from tts.resources import Resources


@pytest.fixture
async def shared() -> AsyncIterator[Resources]:
    async with Resources() as made:
        yield made


async def opened(shared: Resources, spec: str = "python") -> Episode:
    return await registry.make("environments", spec).reset(Problem.from_prompt("x"), shared)


async def run(episode: Episode, code: str) -> str:
    return (await episode.step(ToolCall("python", {"code": code}))).text


async def test_variables_are_kept_and_values_shown(shared: Resources):
    episode = await opened(shared)
    assert await run(episode, "x = 6\nprint('six')\nx * 7") == "six\n42\n"
    assert await run(episode, "def f(): return x\nNone") == "(no output)"
    assert "ZeroDivisionError" in await run(episode, "f() / 0")
    assert "SyntaxError" in await run(episode, "def")
    assert await run(episode, "f()") == "6\n"
    assert "needs code" in (await episode.step(ToolCall("python", {}))).text
    assert len(await run(episode, "print('x' * 10**6)")) < 11_000
    assert (await episode.step("so it is 42")).done
    await episode.close()


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import os; os._exit(0)", "was ended, and its variables are lost"),
        ("while True: pass", "took too long"),
        ("b = bytearray(4 << 30)", "MemoryError"),
        ("open('/etc/passwd')", "No such file"),
        ("import socket; socket.socket()", "Operation not permitted"),
        ("import os; os.fork()", "Operation not permitted"),
        ("import sys; sys.stdout.write = None; 1", ""),
        ("run = None; cells.clear()", ""),
    ],
)
async def test_it_survives_what_is_run_in_it(code: str, words: str, shared: Resources):
    episode = await opened(shared, "python:timeout=0.5")
    assert words in await run(episode, code)
    assert await run(episode, "1 + 1") == "2\n"
    await episode.close()


async def test_many_wait_at_once_without_holding_up_others(shared: Resources):
    episodes = [await opened(shared) for _ in range(8)]
    assert await asyncio.gather(*(run(one, f"x = {i}; x") for i, one in enumerate(episodes))) == [
        f"{i}\n" for i in range(8)
    ]
    assert await run(episodes[0], "x") == "0\n"
    for one in episodes:
        await one.close()


async def test_a_task_that_knows_no_environment_is_solved_in_one(tmp_path: Path):
    path = tmp_path / "problems.jsonl"
    path.write_text(json.dumps({"id": "a", "prompt": "What is 6 * 7?", "answer": "42"}))

    def act(turns: list[dict[str, object]], number: int) -> object:
        said = replies(turns)
        return f"Answer: {said[0].strip()}" if said else ("python", {"code": f"6 * {6 + number % 2}"})

    async with acting(act) as server:
        run = await Experiment.parse(
            {
                "task": f'jsonl:path="{path}"',
                "environment": "python",
                "strategies": ["self_consistency:n=4"],
                "models": {"m": policy(server)},
            }
        ).run(tmp_path / "run")
    (track,) = run.tracks
    assert sorted(one.content for one in track.candidates(track.rows[0])) == ["Answer: 36"] * 2 + ["Answer: 42"] * 2
    assert sum(flag is True or flag == 1 for flag in track.correct[0].tolist()) == 2
    assert track.usage().completion_tokens == 4 * 2 * 5
