"""A folder in the sandbox: what its tools do, and what they cannot."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.acting import acting, policy, replies
from tests.support.processes import living_processes
from tests.verifiers.hostile import intrusions
from tests.verifiers.hostile.host import SECRET, guarded
from tts import Episode, Problem, ToolCall, registry, solve
from tts.environments.workspace import FolderEpisode
from tts.errors import ConfigError
from tts.resources import Resources
from tts.verifiers.sandbox import Sandbox

FILES = {"a.py": "def f():\n    return 1\n", "docs/b.txt": "hello"}
PROBLEM = Problem.from_prompt("Change it.", environment="workspace", metadata={"files": FILES})


@pytest.fixture
async def shared() -> AsyncIterator[Resources]:
    async with Resources() as made:
        yield made


async def opened(shared: Resources, spec: str = "workspace", problem: Problem = PROBLEM) -> Episode:
    environment = registry.make("environments", spec)
    environment.ready(problem)
    return await environment.reset(problem, shared)


async def call(episode: Episode, name: str, **arguments: Any) -> str:
    return (await episode.step(ToolCall(name, arguments))).text


async def kept(episode: Episode) -> dict[str, bytes]:
    assert isinstance(episode, FolderEpisode)
    return episode.folder


async def test_its_tools_work_on_one_folder(shared: Resources):
    episode = await opened(shared)
    assert "a.py\ndocs/b.txt" in episode.observation
    assert await call(episode, "bash", command="cat docs/b.txt; python a.py; ls") == "helloa.py\ndocs\n"
    assert await call(episode, "read", path="a.py", begin=2, lines=1) == "    return 1"
    assert "written" in await call(episode, "write", path="docs/new/c.txt", content="c\n")
    assert (
        await call(episode, "bash", command="cat docs/new/c.txt; echo 2 > d; mkdir e; exit 3") == "c\n\n(exit status 3)"
    )
    patch = "--- a/a.py\n+++ b/a.py\n@@ -1,2 +1,2 @@\n def f():\n-    return 1\n+    return 2\n"
    assert "applied" in await call(episode, "apply_patch", patch=patch)
    assert "does not fit" in await call(episode, "apply_patch", patch=patch)
    said = await call(episode, "bash", command="python -c 'import a; print(a.f())'; ls; rm -r docs")
    assert said == "2\na.py\nd\ndocs\ne\n"
    state = await episode.state()
    assert state.notes == {"changed": ["a.py", "d", "docs/b.txt"]}
    assert state.content is not None
    assert "+    return 2" in state.content


async def test_a_fork_goes_on_by_itself(shared: Resources):
    episode = await opened(shared)
    await call(episode, "write", path="x", content="1")
    fork = await episode.fork()
    await call(fork, "bash", command="echo 2 > x")
    assert await call(episode, "read", path="x") == "1"
    assert await call(fork, "read", path="x") == "2\n"
    assert (await fork.state()).digest != (await episode.state()).digest
    await call(fork, "write", path="x", content="1")
    assert (await fork.state()) == (await episode.state())


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("read", {"path": "none"}, "no file none"),
        ("read", {"path": "../../etc/passwd"}, "no path"),
        ("read", {"path": "/etc/passwd"}, "no path"),
        ("read", {}, "needs path"),
        ("read", {"path": "a.py", "begin": 0}, "from 1 on"),
        ("read", {"path": "a.py", "lines": True}, "from 1 on"),
        ("write", {"path": "a.py"}, "needs content"),
        ("write", {"path": "/tmp/x", "content": ""}, "no path"),
        ("write", {"path": "docs/../../x", "content": ""}, "no path"),
        ("write", {"path": "a.py/x", "content": ""}, "a file and a folder"),
        ("write", {"path": "docs", "content": ""}, "a file and a folder"),
        ("write", {"path": "x\0", "content": ""}, "control characters"),
        ("write", {"path": "x", "content": "\udc80"}, "error"),
        ("write", {"path": "x", "content": "y" * 5_000_000}, "may hold 4096 KB"),
        ("apply_patch", {"patch": "--- /dev/null\n+++ b/../x\n@@ -0,0 +1,1 @@\n+y\n"}, "no path"),
        ("bash", {"command": ["ls"]}, "needs command"),
    ],
)
async def test_what_cannot_be_done_is_told_and_changes_nothing(
    name: str, arguments: dict[str, Any], words: str, shared: Resources
):
    episode = await opened(shared)
    before = await episode.state()
    assert words in await call(episode, name, **arguments)
    assert await episode.state() == before


JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=4)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.sampled_from(["read", "write", "apply_patch"]), st.data())
async def test_whatever_a_policy_writes_is_answered(shared: Resources, name: str, data: st.DataObject):
    names = st.sampled_from(["path", "content", "patch", "begin", "lines"])
    arguments = data.draw(st.dictionaries(names, JSON | st.sampled_from(["a.py", "docs", "x"])))
    assert isinstance(await call(await opened(shared), name, **arguments), str)


async def test_what_a_command_does_to_the_folder_is_bounded(shared: Resources):
    episode = await opened(shared, "workspace:size_kb=100,files=20,timeout=5,output=1000")
    said = await call(episode, "bash", command="head -c 200000 /dev/zero > big; echo kept > small")
    assert "not kept in the folder: big" in said
    said = await call(episode, "bash", command="ls; ln -s /etc link; mkfifo pipe; touch $'odd\\nname'; chmod 0 small")
    assert "big" not in said.partition("(not kept")[0]
    assert all(word in said for word in ("link", "pipe", "odd"))
    assert await call(episode, "read", path="small") == "kept\n"
    said = await call(episode, "bash", command="for i in $(seq 100); do echo > $i; done")
    assert "no room" in said
    assert len(await kept(episode)) <= 20
    said = await call(episode, "bash", command="seq 100000")
    assert len(said) < 1200
    assert said.startswith("1\n2\n")
    assert said.endswith("99999\n100000\n")


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("sleep 1000", "ended after 1 seconds"),
        ("yes", "printed too much"),
        ("(sleep 1000; echo late) & echo hi", "hi\n"),
        ("kill -9 1 $PPID; echo left", "left"),
        ("exec 3<>/dev/tcp/127.0.0.1/{port}", "exit status"),
        ("cat /proc/1/environ /etc/passwd {outside}/seen", "No such file"),
        ("rm -rf / --no-preserve-root 2>/dev/null; echo done", "done|ended after"),
        ("cd /tmp; rm -rf * .[a-z]*; ls", "exit status|could not be run|no output|not kept"),
        ("mount -t tmpfs x /tmp; unshare -r true; echo on", "on"),
        ("ln -s {outside} l; echo x > l/written; cp -r l m", "No such file"),
        (":(){{ :|:& }};:", "(?s).*"),
        ("while true; do cp a.py $RANDOM$RANDOM; done", "ended after|No space"),
    ],
)
async def test_a_hostile_command_changes_nothing_outside(command: str, words: str, shared: Resources, tmp_path: Path):
    with guarded(tmp_path) as host:
        episode = await opened(shared, "workspace:timeout=1")
        await call(episode, "bash", command="true")
        before, descriptors = host.state(), len(os.listdir("/proc/self/fd"))
        said = await call(episode, "bash", command=command.format(outside=host.outside, port=host.port))
        assert any(word in said for word in words.split("|")) or words.startswith("(?s)"), said
        assert host.state() == before
        assert await call(episode, "bash", command="echo still here") == "still here\n"
        assert len(os.listdir("/proc/self/fd")) <= descriptors
        left = [text for worker in shared.get(Sandbox)._all for text in living_processes(worker.process_id).values()]
        assert not [text for text in left if "bash" in text or "sleep" in text or "yes" in text]


PROGRAMS = {
    f"{family}-{name}": program
    for family, programs in intrusions.FAMILIES.items()
    for name, program in list(programs.items())[::3]
    if not program.ends & {"cpu", "memory"} and not program.sleeps  # those only take long
}


async def test_hostile_programs_gain_nothing_in_a_command(shared: Resources, tmp_path: Path):
    """All kinds of intrusions, one after the other: nothing outside changes, and no secret comes back."""
    with guarded(tmp_path) as host:
        before = host.state()
        end = "\nfor n in (3, 12): print(solve(n))"
        sources = {f"{name}.py": host.fill(program) + end for name, program in PROGRAMS.items()}
        problem = Problem.from_prompt("x", metadata={"files": sources})
        episode = await opened(shared, "workspace:timeout=60", problem)
        every = "for p in *.py; do python $p 2>/dev/null; echo; echo; done; echo end"
        said = await call(episode, "bash", command=every)
        assert said.endswith("end\n"), said
        assert SECRET not in said
        assert host.state() == before


@pytest.mark.parametrize("way", ["", "& wait", "> log & until [ -s log ]; do sleep 0.05; done"])
async def test_what_a_command_computes_is_counted_however_it_ends(way: str, shared: Resources):
    """Also what is ended with it: after its time, or since it was left running in the background."""
    episode = await opened(shared, "workspace:timeout=3")
    burn = "python -c 'import time\nwhile time.process_time() < 0.3: pass\nprint(flush=True)\nwhile True: pass'"
    told = await episode.step(ToolCall("bash", {"command": f"{burn} {way}"}))
    assert told.cpu_seconds > 0.1


async def test_memory_is_bounded_for_each_process(shared: Resources):
    episode = await opened(shared, "workspace:memory_mb=200")
    said = await call(episode, "bash", command="python -c 'x = bytearray(500 << 20)' 2>&1 | tail -1")
    assert said == "MemoryError\n"


async def test_without_namespaces_no_command_runs():
    async with Resources() as shared:
        shared.put(Sandbox(without=("namespaces",)))
        episode = await opened(shared)
        with pytest.raises(Exception, match="only be run where namespaces are available"):
            await call(episode, "bash", command="ls")


async def test_a_search_over_folders(tmp_path: Path):
    def act(turns: list[dict[str, Any]], number: int) -> Any:
        moves = [
            ("read", {"path": "x"}),
            [("bash", {"command": f"echo {number % 2} > x"}), ("read", {"path": "x"})],
            "done",
        ]
        return moves[len([turn for turn in turns if turn["role"] == "assistant"])]

    (tmp_path / "x").write_text("0\n")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git/HEAD").write_text("x")
    async with acting(act) as server:
        environment = f'workspace:folder="{tmp_path}"'
        spec = "best_of_n:n=4,verifier=regex(pattern=1)"
        result = await solve("Make it 1.", spec, policy(server), environment=environment, stop_early=False)
        told = [replies(body["messages"]) for body in server.seen]
    one = "--- a/x\n+++ b/x\n@@ -1,1 +1,1 @@\n-0\n+1\n"
    assert sorted(candidate.content for candidate in result.candidates) == ["", "", one, one]
    assert ["0\n", "(no output)", "1\n"] in told
    assert (tmp_path / "x").read_text() == "0\n"
    assert result.spent["environment"].verifier_seconds > 0


@pytest.mark.parametrize("spec", ["workspace:files=1", 'workspace:folder="/nowhere/at/all"', "workspace:size_kb=1"])
def test_a_folder_that_does_not_fit_is_refused_at_once(spec: str):
    problem = Problem.from_prompt("x", metadata={"files": {"a": "x" * 2000, "b": ""}})
    with pytest.raises(ConfigError, match=r"larger than|is no folder"):
        registry.make("environments", spec).ready(problem)
