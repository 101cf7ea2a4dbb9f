"""The recipes of docs/gateway.md do what they say, with whichever of the clients are installed."""

import asyncio
import io
import os
import re
import shutil
import sys
from contextlib import redirect_stdout
from pathlib import Path

import pytest

from tests.gateway.serving import serving
from tests.support.double import ModelDouble

PAGE = (Path(__file__).parents[2] / "docs" / "gateway.md").read_text()
RECIPES = re.findall(
    r"^```(python|bash)\n(.*?)^```$", PAGE.partition("## Recipes")[2].partition("\n## ")[0], re.M | re.S
)
PYTHON = os.environ.get("TTS_CLIENTS", sys.executable)
"""An interpreter that has the clients; by default the one that runs this."""
LOADED = ("import openai", "import anthropic", "from pydantic_ai")
"""What this process loads as well, where the recipe runs at once."""


async def ran(command: list[str], environment: dict[str, str]) -> tuple[int | None, bytes, bytes]:
    """The code with which a command ends, and what it says."""
    pipe = asyncio.subprocess.PIPE
    run = await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe, env={**os.environ, **environment})
    async with asyncio.timeout(300):
        out, err = await run.communicate()
    return run.returncode, out, err


async def ran_here(code: str, environment: dict[str, str]) -> tuple[int, bytes, bytes]:
    with pytest.MonkeyPatch.context() as patched, redirect_stdout(io.StringIO()) as out:
        for name, value in environment.items():
            patched.setenv(name, value)
        async with asyncio.timeout(300):
            await asyncio.to_thread(exec, code, {"__name__": "__main__"})
    return 0, out.getvalue().encode(), b""


@pytest.mark.parametrize(("language", "code"), RECIPES, ids=[code.split("\n")[0][:40] for _, code in RECIPES])
async def test_a_recipe_is_answered_by_the_preset(language: str, code: str, tmp_path: Path):
    if language == "bash":
        program = code.split()[0] if "=" not in code.split()[0] else "inspect"
        if shutil.which(program) is None or program == "inspect":
            pytest.skip(f"there is no {program}")
        command = ["bash", "-euc", code]
    else:
        (tmp_path / "recipe.py").write_text(code)
        command = [PYTHON, str(tmp_path / "recipe.py")]
    preset = {"strategy": "self_consistency:n=3", "answer": "numeric_answer"}
    answer = '{"value": 42}' if "instructor" in code else "Answer: 42"
    async with ModelDouble(answer=lambda request, rng: answer) as double:
        async with serving(double, presets={"coder": preset}) as served:
            bare = served.base_url.removesuffix("/v1")
            places = {"OPENAI_BASE_URL": served.base_url, "ANTHROPIC_BASE_URL": bare}
            keys = {"OPENAI_API_KEY": "none", "ANTHROPIC_API_KEY": "none"}
            if sys.executable == PYTHON and code.startswith(LOADED):
                ended, out, err = await ran_here(code, {**places, **keys})
            else:
                ended, out, err = await ran(command, {**places, **keys, "LITELLM_LOCAL_MODEL_COST_MAP": "True"})
        asked = len(double.requests)
    if found := re.search(rb"ModuleNotFoundError: No module named '([\w.]+)'", err):
        pytest.skip(f"there is no {found[1].decode()}")
    assert ended == 0, err.decode()
    assert b"42" in out
    assert asked >= 1
