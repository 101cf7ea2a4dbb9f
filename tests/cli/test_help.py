"""The command as a whole: quick to start, helpful, and honest about its version."""

import subprocess
import sys
from importlib.metadata import version

import pytest

from tests.cli.conftest import Command

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


def test_the_version_is_the_distributions(tts: Command):
    assert tts("--version").out == f"tts {version('ttscale')}\n"


def test_an_unknown_option_is_exit_code_2(tts: Command):
    ended = tts("run", "--limits", "3")
    assert ended.code == 2
    assert "--limit" in ended.err
