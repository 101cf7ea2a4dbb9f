"""The command as a whole: quick to start, helpful, and honest about its version."""

import os
import subprocess
import sys
from importlib.metadata import version
from typing import Any, cast

import pytest
import typer
from typer.main import get_command

from tests.cli.conftest import Command
from tts.cli import app

HEAVY = ("numpy", "httpx", "aiohttp", "matplotlib", "pydantic", "pyarrow", "rich")


def test_help_loads_nothing_heavy():
    program = (
        "import sys\nfrom tts.cli import main\nsys.argv = ['tts', '--help']\n"
        "try:\n    main()\nexcept SystemExit:\n"
        f"    print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    assert "Usage: tts" in done.stdout
    assert done.stderr.strip() == "[]"


@pytest.mark.parametrize(
    "command", ["solve", "init", "run", "report", "list", "doctor", "demo", "embedded", "serve", "vllm"]
)
@pytest.mark.parametrize("option", ["-h", "--help"])
def test_every_command_has_help_with_examples(tts: Command, command: str, option: str):
    ended = tts(command, option)
    assert ended.code == 0
    assert f"Usage: tts {command}" in ended.out
    assert f"Examples:\n    tts {command}" in ended.out


def test_help_shows_what_an_option_takes_in_the_words_of_users(tts: Command):
    for command in ("run", "report", "import"):
        options = tts(command, "--help").out.partition("Options:")[2]
        assert "<list[" not in options
        assert "int range" not in options


@pytest.mark.parametrize(
    "words",
    ["calibrate", "import", "init", "list", "report", "run", "serve", "solve", "verify", "vllm", "embedded serve"],
)
def test_help_shows_an_argument_by_its_name(tts: Command, words: str):
    arguments = tts(*words.split(), "--help").out.partition("Arguments:")[2].partition("Options:")[0]
    assert arguments.strip()
    assert "<" not in arguments


def test_the_version_is_the_distributions(tts: Command):
    assert tts("--version").out == f"tts {version('ttscale')}\n"


def test_an_unknown_option_is_exit_code_2(tts: Command):
    ended = tts("run", "--limits", "3")
    assert ended.code == 2
    assert "--limit" in ended.err


def test_every_command_is_described_in_a_line_that_is_not_cut(tts: Command, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert "..." not in tts("--help").out.partition("Commands:")[2].partition("Examples:")[0]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("run", "--temperature", "warm"), "'--temperature': must be a number, not 'warm'"),
        (("run", "--limit", "0"), "'--limit': must be at least 1, not '0'"),
        (("report", "runs/a", "--style", "large"), "'--style': 'large' is not one of 'screen', 'paper'"),
        (
            ("solve", "?", "--base-url", "embedded://lab-target", "--sampling.logprobs", "3"),
            "logprobs must be true or false",
        ),
    ],
)
def test_what_is_wrong_is_told_in_plain_words(tts: Command, words: tuple[str, ...], complaint: str):
    ended = tts(*words)
    assert ended.code == 2
    assert complaint in ended.err


def test_a_missing_extra_is_the_users_to_correct(tts: Command, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "starlette.applications", None)
    monkeypatch.delitem(sys.modules, "tts.report.viewer", raising=False)
    ended = tts("view", ".")
    assert ended.code == 2
    assert "pip install 'ttscale[serve]'" in ended.err


def test_the_shell_completes_every_option_that_takes_a_plug_in():
    names = {"task", "strategy", "verifier", "answer_verifier", "environment", "study"}
    commands: dict[str, Any] = cast(Any, get_command(app)).commands
    found = [
        (name, option.name, option.shell_complete(typer.Context(command), ""))
        for name, command in commands.items()
        for option in command.params
        if option.name in names
    ]
    assert len(found) > 10
    assert [(command, option) for command, option, words in found if len(words) < 2] == []


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("tts run --strategy best_", {"best_of_n"}),
        ("tts solve hi --strategy self_", {"self_consistency", "self_refine"}),
        ("tts run --task humaneval", {"humaneval", "humaneval_plus"}),
        ("tts report runs --study imp", {"imperfect_verifier"}),
        ("tts list str", {"strategies"}),
        ("tts list strategies best", {"best_of_n"}),
        ("tts list gsm8k best", {"best_of_n"}),
    ],
)
def test_the_shell_completes_names(line: str, names: set[str]):
    words = line.split()
    asked = {"_TTS_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    program = "from tts.cli import main\nmain()"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, env={**os.environ, **asked}
    )
    assert set(done.stdout.split()) == names
