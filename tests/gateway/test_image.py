"""The container image without an engine: its file is well formed, and its commands work."""

import asyncio
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.cli.conftest import start
from tests.gateway.serving import serving
from tests.support.double import ModelDouble

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
KNOWN = {"FROM", "COPY", "RUN", "ENV", "USER", "WORKDIR", "EXPOSE", "HEALTHCHECK", "ENTRYPOINT", "CMD"}


@pytest.fixture(scope="module")
def steps() -> list[tuple[str, str]]:
    """The instructions of the Dockerfile and their arguments."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.M).replace("\\\n", " ")
    found = [line.partition(" ") for line in text.splitlines() if line.strip()]
    return [(word, rest.strip()) for word, _, rest in found]


def test_it_is_well_formed_and_names_no_host_but_those_of_its_images(steps: list[tuple[str, str]]):
    assert {word for word, _ in steps} <= KNOWN
    assert steps[0][0] == "FROM"
    for word, rest in steps:
        if word == "FROM":
            assert re.fullmatch(r"[a-z]+:[\d.]+(-\w+)?( AS \w+)?", rest), rest
        elif word in ("ENTRYPOINT", "CMD"):
            assert all(isinstance(one, str) for one in json.loads(rest))
        if word not in ("FROM", "HEALTHCHECK"):
            assert not re.search(r"://|\w\.(com|org|io|net)\b|--(extra-)?index-url", rest), rest
    assert [rest for word, rest in steps if word == "USER"][-1] not in ("root", "0")


def test_what_it_copies_and_installs_is_there(steps: list[tuple[str, str]]):
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    copied = [line[1:] for line in ignored if line.startswith("!")]
    assert all((ROOT / name).exists() for name in copied)
    assert {"pyproject.toml", PROJECT["readme"], *PROJECT["license-files"], "tts", "strategies"} <= set(copied)
    (extras,) = [found[1].split(",") for _, rest in steps if (found := re.search(r"/src\[(.*?)\]", rest))]
    assert set(extras) <= PROJECT["optional-dependencies"].keys()


async def test_its_commands_work(steps: list[tuple[str, str]], tmp_path: Path):
    words = dict(steps)
    entry, more = json.loads(words["ENTRYPOINT"]), json.loads(words["CMD"])
    assert entry[0] in PROJECT["scripts"]
    port = words["EXPOSE"]
    assert port in entry
    assert f":{port}/" in words["HEALTHCHECK"]
    probe = json.loads(words["HEALTHCHECK"].removeprefix("CMD "))[2]
    async with ModelDouble() as double, serving(double) as served:
        there = probe.replace(f"127.0.0.1:{port}", served.base_url.split("/")[2])
        for code, status in ((there, 0), (there.replace("healthz", "nothing"), 1)):
            run = await asyncio.to_thread(
                subprocess.run, [sys.executable, "-c", code], capture_output=True, timeout=120
            )
            assert run.returncode == status
        file = tmp_path / Path(more[0]).name
        file.write_text(f'[models.m]\nbase_url = "{double.base_url}"\n[keys.a]\nsha256 = "{"0" * 64}"\n')
        gateway = start(*(word if word != port else "0" for word in entry[1:]), file, cwd=tmp_path)
        try:
            assert gateway.stdout is not None
            assert "OPENAI_BASE_URL=http://0.0.0.0:" in await asyncio.to_thread(gateway.stdout.readline)
        finally:
            gateway.terminate()
            await asyncio.to_thread(gateway.communicate, timeout=120)


def test_the_package_is_built_from_what_is_copied(tmp_path: Path):
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if line.startswith("!"):
            subprocess.run(["cp", "-a", str(ROOT / line[1:]), str(tmp_path)], check=True)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path / "dist"), tmp_path]
    built = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert built.returncode == 0, built.stderr
