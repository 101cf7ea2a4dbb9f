"""The agents in examples/agents, as they stand, in front of gateways with the bundled model and a scripted one."""

import ast
import asyncio
import json
import os
import shutil
import sys
from itertools import count
from pathlib import Path
from typing import Any

from tests.cli.conftest import start
from tests.gateway.serving import serving
from tests.gateway.test_tools import call, text
from tests.support.double import ModelDouble
from tts.sampler.transport import Reply, Request

AGENTS = Path(__file__).parents[2] / "examples" / "agents"


async def run(script: str, *words: object, base_url: str) -> tuple[int | None, str, str]:
    """How a script ended, and what it said."""
    environment = {**os.environ, "OPENAI_BASE_URL": base_url, "OPENAI_API_KEY": "none"}
    command = [sys.executable, str(AGENTS / script), *map(str, words)]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe, env=environment)
    async with asyncio.timeout(120):
        out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


async def test_the_coding_agent_writes_functions_that_pass_their_examples(tmp_path: Path):
    module = tmp_path / "unfinished.py"
    shutil.copy(AGENTS / "unfinished.py", module)
    gateway = start("serve", "--base-url", "embedded://lab-target", "--run-code", "--port", 0, cwd=tmp_path)
    try:
        assert gateway.stdout is not None
        said = await asyncio.to_thread(gateway.stdout.readline)
        base_url = said.removeprefix("export OPENAI_BASE_URL=").strip()
        code, out, err = await run("coding_agent.py", module, "--model", "lab-target", base_url=base_url)
    finally:
        gateway.terminate()
        await asyncio.to_thread(gateway.communicate, timeout=120)
    assert code == 0, err
    assert "4 of 4 functions" in out
    written = {one.name: one for one in ast.parse(module.read_text()).body if isinstance(one, ast.FunctionDef)}
    namespace: dict[str, Any] = {}
    exec(compile(ast.Module(list(written.values()), []), "written", "exec"), namespace)
    assert namespace["g"]("one two") == "eno-owt"  # what is in no example
    assert namespace["f"]([1, 2, 10]) == 20


async def test_the_coding_agent_says_so_where_programs_are_not_run_and_leaves_the_file_as_it_was(tmp_path: Path):
    module = tmp_path / "unfinished.py"
    shutil.copy(AGENTS / "unfinished.py", module)
    async with ModelDouble() as double, serving(double) as served:
        code, out, err = await run("coding_agent.py", module, "--model", "qwen", base_url=served.base_url)
    assert code == 1
    assert "0 of 4 functions" in out
    assert "run_code" in err
    assert module.read_text() == (AGENTS / "unfinished.py").read_text()


def unreliable_model() -> dict[str, Any]:
    """An endpoint that makes the right step three times in five, and is wrong in various ways else."""
    number = count()

    def step(messages: list[dict[str, Any]]) -> tuple[str, dict[str, Any]]:
        results = [json.loads(one["content"]) for one in messages if one["role"] == "tool"]
        if not results:
            return "list_parts", {}
        parts, *looked = results
        if len(looked) < len(parts):
            return "look_up", {"part": parts[len(looked)]}
        heaviest = max(range(len(parts)), key=lambda i: looked[i]["grams"])
        return "final_result", {"part": parts[heaviest], "stock": looked[heaviest]["stock"]}

    async def answer(request: Request) -> Reply:
        if request.method == "GET":
            return Reply.json({"data": [{"id": "m"}]})
        body = request.json()
        name, arguments = step(body["messages"])
        wrong = [text("It is the hinge."), call((name, '{"colour": 3}')), call(("rm", "{}"))]
        messages = []
        for _ in range(body.get("n", 1)):
            at = next(number)
            messages.append(wrong[at % 3] if at % 5 in (0, 3) else call((name, json.dumps(arguments))))
        choices = [
            {"index": i, "message": message, "finish_reason": "tool_calls" if message.get("tool_calls") else "stop"}
            for i, message in enumerate(messages)
        ]
        usage = {"prompt_tokens": 5, "completion_tokens": 3 * len(choices), "total_tokens": 5 + 3 * len(choices)}
        answered = {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": choices}
        return Reply.json({**answered, "usage": usage})

    return {"model": "m", "base_url": "mock://m", "transport": answer, "max_n": 8}


async def test_the_tool_agent_finds_out_with_a_model_that_is_often_wrong():
    async with ModelDouble() as double, serving(double, endpoint=unreliable_model()) as served:
        words = ["Which part is heaviest, and how many are left?", "--model", "qwen"]
        code, out, err = await run("tool_agent.py", *words, base_url=served.base_url)
    assert code == 0, err
    assert json.loads(out.splitlines()[0]) == {"part": "bracket", "stock": 41}
    assert "requests=5" in out  # one for each of its steps: the votes are the gateway's business
