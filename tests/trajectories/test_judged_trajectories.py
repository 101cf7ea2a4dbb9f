"""A judge reads how a trajectory went, within a limit, and the whole answer if it fits."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tests.support.acting import acting, policy
from tests.support.scripted import ScriptedServer, choice
from tts import solve
from tts.prompting import way_of
from tts.tasks.repair_tasks import RepairTasks, solution
from tts.types import Candidate

EXAMPLE = next(RepairTasks().examples())
PATCH = solution(EXAMPLE.problem)
texts = st.text("ab \n<>", max_size=900)
turns = st.lists(
    st.builds(
        lambda text, output, name: [
            {"role": "assistant", "content": text, "tool_calls": [{"function": {"name": name, "arguments": text}}]},
            {"role": "tool", "tool_call_id": "1", "content": output},
        ],
        texts,
        texts,
        st.sampled_from(["bash", "write"]),
    ),
    max_size=40,
).map(lambda pairs: [turn for pair in pairs for turn in pair])


def trajectory(turns: list[dict[str, Any]], answer: str) -> Candidate:
    return Candidate(id=0, content=answer, spawned=(0,), notes={"trajectory": {"turns": turns}})


@given(turns, st.text("+-x\n", max_size=3000), st.integers(400, 9000))
async def test_it_keeps_to_the_limit_and_the_answer_is_whole_if_it_fits(turns: Any, answer: str, most: int):
    words = await way_of(trajectory(turns, answer), most)
    assert isinstance(words, str)
    assert len(words) <= most + 60
    if len(answer) <= most * 3 // 4:
        assert words.endswith(answer or "(nothing)")
    said = sum(len(str(turn["content"])) + 40 for turn in turns) * 2
    if said + len(answer) + 200 < most:
        assert "[..." not in words
        assert words.count("[tool]") == len(turns) // 2


async def test_tool_outputs_are_cut_before_messages_and_the_middle_before_the_ends():
    one = [
        {"role": "assistant", "content": "<think>hidden</think>I look." + "m" * 1000, "tool_calls": []},
        {"role": "tool", "content": "begin" + "o" * 1000 + "end"},
    ]
    words = str(await way_of(trajectory(one, "patch"), 2000))
    assert "m" * 1000 in words
    assert "hidden" not in words
    assert "begin" in words
    assert "end\n" in words
    assert "characters ..." in words
    many = [{"role": "assistant", "content": f"message {i} " + "x" * 150} for i in range(100)]
    words = str(await way_of(trajectory(many, "patch"), 2000))
    assert "message 0 " in words
    assert "message 99 " in words
    assert "message 50 " not in words
    assert "some messages" in words


async def test_nothing_in_an_answer_hides_the_rest_of_it():
    """What looks like the end of a thought is a part of the file here."""
    patch = "+import os\n+os._exit(0)\n+# </think>\n+nothing to see\n"
    words = str(await way_of(trajectory([{"role": "assistant", "content": "Done."}], patch), 20_000))
    assert patch in words


async def test_nothing_in_a_patch_hides_it_from_who_compares_patches():
    text, asked = "import os\n# <think> or not </think>\nnothing\n", list[str]()

    def write(turns: list[dict[str, Any]], number: int) -> Any:
        moves = [("write", {"path": "new.py", "content": text}), "<think>Well.</think>Done."]
        return moves[sum(turn["role"] == "assistant" for turn in turns)]

    def judge(body: dict[str, Any]) -> Any:
        asked.append(body["messages"][-1]["content"])
        return choice(json.dumps({"reasons": "", "better": "tie"}))

    async with acting(write) as server, ScriptedServer(judge) as judging:
        await solve(EXAMPLE.problem, "tournament:n=2", {"policy": policy(server), "judge": policy(judging)})
    assert len(asked) == 2
    assert all(prompt.count("+" + text.strip().replace("\n", "\n+")) == 2 for prompt in asked)


def act(turns: list[dict[str, Any]], number: int) -> Any:
    moves = [("bash", {"command": "echo looked around"}), ("apply_patch", {"patch": PATCH}), "I have repaired it."]
    return moves[sum(turn["role"] == "assistant" for turn in turns)]


async def test_the_judge_is_told_the_way_and_the_patch():
    asked = list[str]()

    def judge(body: dict[str, Any]) -> Any:
        asked.append(body["messages"][-1]["content"])
        return choice(json.dumps({"reasons": "", "grade": 7}))

    async with acting(act) as server, ScriptedServer(judge) as judging:
        models = {"policy": policy(server), "judge": policy(judging)}
        result = await solve(EXAMPLE.problem, "best_of_n:n=1,verifier=judge", models)
        await solve(EXAMPLE.problem, "best_of_n:n=1,verifier=judge(trajectory=0)", models)
        assert result.selected is not None
        whole, bare = asked
        for words in ("looked around", "I have repaired it.", PATCH.strip(), "[tool]"):
            assert words in whole
        assert PATCH.strip() in bare
        assert "looked around" not in bare
        asked.clear()
        await solve(EXAMPLE.problem, "beam_search:n=1,width=1,verifier=judge", models, stop_early=False)
        first, second, third = asked
    assert "looked around" in first
    assert "(nothing)" in first
    assert "not finished yet" in first
    assert PATCH.strip() in second
    assert "not finished yet" not in third
    assert "I have repaired it." in third
