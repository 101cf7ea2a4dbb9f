"""`tts init`: the file it writes is one that runs."""

import re
import tomllib
from pathlib import Path

import pytest

from tests.cli.conftest import Command


@pytest.mark.parametrize("task", ["lab_math", "lab_code"])
def test_the_file_runs_as_it_is_and_can_be_used_with_all_that_is_commented_out(tts: Command, clean: Path, task: str):
    assert tts("init", "mine.toml", "--task", task).code == 0
    plan = tts("run", "mine.toml", "--limit", 2, "--dry-run", "--json")
    assert plan.json["problems"] == 2
    assert tts("run", "mine.toml", "--limit", 2, "--out", "mine", "--quiet").code == 0
    text = (clean / "mine.toml").read_text()
    setting = re.compile(
        r"# ((?:verifier|seeds|\w+_tokens|api_key_env|max_concurrency|parameters|model|base_url|\w+_million) = |\[)"
    )
    (clean / "all.toml").write_text("\n".join(setting.sub(r"\1", line) for line in text.splitlines()))
    everything = tts("run", "all.toml", "--limit", 2, "--dry-run", "--json")
    assert everything.code == 0, everything.err
    assert everything.json["config"]["seeds"] == [0, 1]


def test_no_file_is_overwritten_and_an_unknown_task_is_told(tts: Command, clean: Path):
    assert tts("init").code == 0
    again = tts("init")
    assert (again.code, "experiment.toml is there already" in again.err) == (2, True)
    assert tts("init", "x.toml", "--task", "nope").code == 2
    assert not (clean / "x.toml").exists()


def test_the_endpoint_is_the_one_that_is_named(tts: Command, clean: Path):
    assert tts("init", "--task", "lab_math", "--model", "Qwen/Q 2.5", "--base-url", "http://h:1/v1").code == 0
    table = tomllib.loads((clean / "experiment.toml").read_text())
    assert table["models"] == {"Qwen/Q 2.5": {"base_url": "http://h:1/v1"}}
