"""mini-swe-agent, as it is installed, works through a gateway whose preset is a strategy.

Needs an environment of its own at `TTS_MINI_SWE_AGENT`:
`python -m venv DIR && DIR/bin/pip install mini-swe-agent`.
"""

import asyncio
import json
import os
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.gateway.serving import serving
from tests.support.double import ModelDouble
from tts.sampler.transport import Reply, Request

PLACE = Path(os.environ.get("TTS_MINI_SWE_AGENT", Path.home() / ".cache/ttscale/peers/mini-swe-agent"))

AGENT = """
import sys
from importlib.resources import files

import yaml
from minisweagent.agents.default import DefaultAgent
from minisweagent.environments.local import LocalEnvironment
from minisweagent.models.litellm_model import LitellmModel

config = yaml.safe_load((files("minisweagent") / "config" / "mini.yaml").read_text())
config["agent"].pop("mode", None)
model = LitellmModel(model_name="openai/coder", cost_tracking="ignore_errors")
agent = DefaultAgent(model, LocalEnvironment(cwd=sys.argv[1]), **config["agent"])
print(agent.run("Write 42 into answer.txt")["exit_status"])
"""


def upstream() -> dict[str, Any]:
    """A model that takes the right step two times in three."""
    number = count()

    def choice(index: int, done: bool) -> dict[str, Any]:
        right = "echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT" if done else "echo 42 > answer.txt"
        command = right if index % 3 != 1 else "echo 41 > answer.txt"
        call = {"name": "bash", "arguments": json.dumps({"command": command})}
        calls = [{"id": f"call-{next(number)}", "type": "function", "function": call}]
        message = {"role": "assistant", "content": "I act.", "tool_calls": calls}
        return {"index": index, "finish_reason": "tool_calls", "message": message}

    async def answer(request: Request) -> Reply:
        if request.method == "GET":
            return Reply.json({"data": [{"id": "m"}]})
        body = request.json()
        done = any(message["role"] == "tool" for message in body["messages"])
        choices = [choice(index, done) for index in range(body.get("n", 1))]
        usage = {"prompt_tokens": 9, "completion_tokens": 4 * len(choices)}
        return Reply.json({"choices": choices, "usage": usage})

    return {"model": "m", "base_url": "mock://m", "transport": answer}


@pytest.mark.skipif(not PLACE.exists(), reason=f"mini-swe-agent is not installed at {PLACE} (TTS_MINI_SWE_AGENT)")
async def test_a_coding_agent_takes_the_steps_that_most_samples_agree_on(tmp_path: Path):
    presets = {"coder": {"strategy": "tool_vote:n=3", "model": "qwen"}}
    async with ModelDouble() as double, serving(double, endpoint=upstream(), presets=presets) as served:
        environment = {
            **os.environ,
            "OPENAI_BASE_URL": served.base_url,
            "OPENAI_API_KEY": "none",
            "LITELLM_LOCAL_MODEL_COST_MAP": "true",
            "MSWEA_CONFIGURED": "true",
        }
        process = await asyncio.create_subprocess_exec(
            *(str(PLACE / "bin" / "python"), "-c", AGENT, str(tmp_path)), stdout=-1, stderr=-1, env=environment
        )
        async with asyncio.timeout(180):
            out, err = await process.communicate()
    assert process.returncode == 0, err.decode()[-2000:]
    assert out.decode().splitlines()[-1] == "Submitted"
    assert (tmp_path / "answer.txt").read_text() == "42\n"
