"""Any program that speaks to a model server can be the policy: a trajectory is one run of it, in its own folder."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import finished, start
from tests.support.acting import Act, acting, policy, replies
from tests.trajectories.test_trajectory_runs import PROBLEMS, SOLUTIONS, N, answers
from tts import Experiment, Run
from tts.errors import ConfigError

AGENT = """
import json, os, subprocess, sys, urllib.request

def ask(turns, **more):
    tools = [{"type": "function", "function": {"name": "sh"}}]
    body = json.dumps({"model": "any", "messages": turns, "tools": tools, **more})
    headers = {"Authorization": "Bearer " + os.environ["OPENAI_API_KEY"], "Content-Type": "application/json"}
    request = urllib.request.Request(os.environ["OPENAI_BASE_URL"] + "/chat/completions", body.encode(), headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)["choices"][0]["message"]

turns = [{"role": "user", "content": sys.argv[1]}]
while True:
    said = ask(turns)
    turns.append(said)
    if not said.get("tool_calls"):
        break
    for call in said["tool_calls"]:
        command = json.loads(call["function"]["arguments"])["command"]
        done = subprocess.run(command, shell=True, capture_output=True, text=True)
        turns.append({"role": "tool", "tool_call_id": call["id"], "content": done.stdout + done.stderr})
print("the agent is done")
"""


@pytest.fixture
def command(tmp_path: Path) -> str:
    (tmp_path / "agent.py").write_text(AGENT)
    return f"{sys.executable} {tmp_path / 'agent.py'} {{problem}}"


def repairing() -> Act:
    """Repairs the fault with git in every fourth run of the agent on a problem, and looks around in the others."""
    begun: dict[str, list[int]] = {question: [] for question in SOLUTIONS}

    def act(turns: list[dict[str, Any]], number: int) -> Any:
        question = next(question for question in SOLUTIONS if turns[0]["content"].startswith(question))
        begun[question] += [number] * (number not in begun[question])
        repair = ("sh", {"command": f"git apply - <<'END'\n{SOLUTIONS[question]}END"})
        look = ("sh", {"command": "ls; pwd; mkdir -p __pycache__; echo x > __pycache__/a.pyc"})
        return [look if begun[question].index(number) % 4 else repair, "Done."][len(replies(turns))]

    return act


def grid(server: Any, command: str, **more: Any) -> dict[str, Any]:
    table = {"task": "repair_tasks", "limit": PROBLEMS, "strategies": [f"best_of_n:n={N}"], "agent": command}
    return {**table, "models": {"m": policy(server)}, **more}


async def test_a_program_is_the_policy_and_a_run_of_it_is_a_trajectory(command: str, tmp_path: Path):
    async with acting(repairing()) as server:
        run = await Experiment.parse(grid(server, command)).run(tmp_path / "run")
        (track,) = run.tracks
        assert not [row.failures for row in track.rows if row.failures]
        assert [flags.astype(bool).sum() for flags in track.correct] == [2] * PROBLEMS
        assert len(server.seen) == track.usage().requests == PROBLEMS * N * 2
        assert track.usage().completion_tokens == PROBLEMS * N * 2 * 5
        for row in track.rows:
            candidates = list(track.candidates(row))
            assert [one.content for one in candidates].count("") == 6
            assert candidates[row.selected or 0].content
            for one in candidates:
                told = one.notes["trajectory"]
                assert [turn["role"] for turn in told["turns"]] == ["user", "assistant", "tool", "assistant"]
                assert (told["ended"], told["status"], told["printed"]) == ("stop", 0, "the agent is done\n")
        left = await asyncio.to_thread(lambda: list(Path(tempfile.gettempdir(), f"tts-agents-{os.getuid()}").glob("*")))
        assert not [path for path in left if path.name in json.dumps(server.seen)]
        again = grid(server, command, strategies=[f"best_of_n:n={N}", f"first_pass:k={N}"])
        asked, vain = len(server.seen), sum(int(flags.argmax()) for flags in track.correct)
        await Experiment.parse(again).run(tmp_path / "run", resume=True)
        assert len(server.seen) - asked == vain, "in another folder, what looks around has another second turn"


@pytest.mark.parametrize(
    ("spec", "ended"), [("workspace:turns=2", "turns"), ("workspace:tokens=9", "tokens"), ("workspace", "budget")]
)
async def test_each_run_has_caps_of_its_own(spec: str, ended: str, command: str, tmp_path: Path):
    async with acting(lambda turns, number: ("sh", {"command": "echo more >> notes"})) as server:
        budget = {"budget": {"requests": 5}} if ended == "budget" else {}
        table = grid(server, command, environment=spec, strategies=["best_of_n:n=2"], limit=1, **budget)
        run = await Experiment.parse(table).run(tmp_path / "run")
    (track,) = run.tracks
    (row,) = track.rows
    told = [one.notes["trajectory"] for one in track.candidates(row)]
    assert {one["ended"] for one in told} == {ended}
    assert any(one["changed"] == ["notes"] for one in told)
    assert len(server.seen) == (5 if ended == "budget" else 4)
    assert row.ended == ("budget" if ended == "budget" else "complete")


async def test_a_key_opens_nothing_but_its_own_trajectory_and_only_while_it_lasts(tmp_path: Path):
    """The key of one run, kept by it, is refused afterwards; without a key nobody comes in."""
    script, keys = tmp_path / "agent.py", tmp_path / "keys"
    head, tail = AGENT.split("turns = [")
    script.write_text(f"""{head}
import urllib.error
own = os.environ["OPENAI_API_KEY"]
open({str(keys)!r}, "a").write(own + "\\n")
for key in ("wrong", "", open({str(keys)!r}).read().split()[0]):
    os.environ["OPENAI_API_KEY"] = key
    try:
        key == own or ask([])
    except urllib.error.HTTPError as error:
        print("refused", error.code)
os.environ["OPENAI_API_KEY"] = own
turns = [{tail}""")
    async with acting(lambda turns, number: "Done.") as server:
        table = grid(server, f"{sys.executable} {script} {{problem}}", strategies=["first_pass:k=2"], limit=1)
        run = await Experiment.parse(table).run(tmp_path / "run")
    assert len(set(keys.read_text().split())) == 2
    (row,) = run.tracks[0].rows
    assert not row.failures
    printed = [one.notes["trajectory"]["printed"] for one in run.tracks[0].candidates(row)]
    assert [words.count("refused 401") for words in printed] == [2, 3]


@pytest.mark.parametrize(
    ("command", "words"),
    [("/no/such/program {problem}", "cannot start the agent"), ("false", "ended with status 1 before it asked")],
)
async def test_an_agent_that_does_not_work_is_said_to(command: str, words: str, tmp_path: Path):
    async with acting(repairing()) as server:
        table = grid(server, command, limit=1, strategies=["best_of_n:n=2"])
        if "start" in words:
            with pytest.raises(ConfigError, match=words):
                await Experiment.parse(table).run(tmp_path / "run")
            return
        run = await Experiment.parse(table).run(tmp_path / "run")
    (row,) = run.tracks[0].rows
    assert row.ended == "failed"
    assert words in row.failures[0]


async def test_an_agent_needs_a_folder_to_work_in(tmp_path: Path):
    path = tmp_path / "problems.jsonl"
    path.write_text(json.dumps({"id": "a", "prompt": "What is 6 * 7?", "answer": "42"}))
    async with acting(repairing()) as server:
        for environment, words in ((None, "somewhere to act"), ("python", "works in a folder")):
            table = grid(server, "true", task=f'jsonl:path="{path}"', strategies=["self_consistency:n=2"])
            with pytest.raises(ConfigError, match=words):
                await Experiment.parse({**table, "environment": environment}).run(tmp_path / f"run-{environment}")


async def test_leaving_ends_the_program_and_what_it_started(tmp_path: Path):
    mark = tmp_path / "alive"
    script = tmp_path / "agent.py"
    loop = f"while :; do date > {mark}; sleep 0.05; done"
    script.write_text(f"import subprocess, time\nsubprocess.Popen(['sh', '-c', {loop!r}])\ntime.sleep(1000)")
    async with acting(repairing()) as server:
        table = grid(server, f"{sys.executable} {script}", limit=1, strategies=["best_of_n:n=1"])
        running = asyncio.create_task(Experiment.parse(table).run(tmp_path / "run"))
        async with asyncio.timeout(120):
            while not mark.exists():
                await asyncio.sleep(0.05)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        mark.unlink(missing_ok=True)
        await asyncio.sleep(0.5)
    assert not mark.exists()


async def test_a_run_from_the_command_line_that_is_killed_pays_again_for_nothing_but_what_was_in_flight(
    command: str, tmp_path: Path
):
    """`kill -9` in the middle of trajectories; the programs that it leaves behind do not meddle with the next."""
    words = ["run", "--task", "repair_tasks", "--limit", PROBLEMS, "--strategy", "best_of_n:n=4"]
    async with acting(repairing()) as server:
        words += ["--model", "test-model", "--base-url", server.base_url, "--agent", command, "--out", tmp_path / "run"]
        for resume in ([], ["--resume"]):
            until = answers(tmp_path / "run") + 2
            with server.rationed(7):  # so that it does not end before
                run = await asyncio.to_thread(start, *words, *resume, cwd=tmp_path)
                while answers(tmp_path / "run") < until:
                    assert run.poll() is None, await asyncio.to_thread(run.communicate)
                    await asyncio.sleep(0.01)
                run.kill()
                await asyncio.to_thread(run.communicate)
                await server.deserted()
        kept = answers(tmp_path / "run")
        before = sum(body.get("n") or 1 for body in server.seen)
        ended = await asyncio.to_thread(finished, start(*words, "--resume", "--json", cwd=tmp_path))
        assert ended.code == 0, ended.err
        drawn = sum(body.get("n") or 1 for body in server.seen) - before
    assert 0 < kept < PROBLEMS * 4 * 2
    assert drawn == PROBLEMS * 4 * 2 - kept, "nothing that is stored is asked for again"
    run = Run(tmp_path / "run")
    (track,) = run.tracks
    assert not [row.failures for row in track.rows if row.failures]
    assert all(len(list(track.candidates(row))) == 4 for row in track.rows)
    assert track.usage().completion_tokens == PROBLEMS * 4 * 2 * 5
