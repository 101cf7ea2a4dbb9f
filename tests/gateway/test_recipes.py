"""The recipes of docs/gateway.md do what they say, with whichever of the clients are installed."""

import asyncio
import os
import re
import shutil
import sys
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
            pipe = asyncio.subprocess.PIPE
            environment = {**os.environ, **places, **keys}
            run = await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe, env=environment)
            async with asyncio.timeout(300):
                out, err = await run.communicate()
        asked = len(double.requests)
    if found := re.search(rb"ModuleNotFoundError: No module named '([\w.]+)'", err):
        pytest.skip(f"there is no {found[1].decode()}")
    assert run.returncode == 0, err.decode()
    assert b"42" in out
    assert asked >= 1
