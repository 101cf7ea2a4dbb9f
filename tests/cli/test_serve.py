"""`tts serve` as a process: settings, keys, the port, and how it ends."""

import json
import os
import signal
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from tests.cli.conftest import Command, finished, start
from tests.support.processes import living_processes
from tests.support.threaded import serving
from tts.gateway.admission import hashed

ASK = [{"role": "user", "content": "[[p]] What is 6 times 7?"}]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_workers_that_are_only_starting_end_quietly_with_their_gateway(clean: Path, number: signal.Signals):
    place = ["--base-url", "http://127.0.0.1:1/v1", "--model", "m", "--port", 0, "--workers", 2]
    process = start("serve", *place, cwd=clean, start_new_session=True)
    assert process.stdout is not None
    assert process.stdout.readline()
    while not any("forkserver" in command for command in living_processes(process.pid).values()):
        assert process.poll() is None
    os.killpg(process.pid, number)  # as a terminal does, and what manages services
    ended = finished(process)
    assert ended.code == 0
    assert "Traceback" not in ended.err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serve_answers_and_drains_before_it_ends(clean: Path, number: signal.Signals):
    with serving(latency=1.0) as double:
        (clean / "gateway.toml").write_text(
            f'[models.qwen]\nmodel = "test-model"\nbase_url = "{double.base_url}"\n'
            '[presets.vote]\nstrategy = "self_consistency:n=2,answer=exact_answer"\n'
        )
        process = start("serve", "gateway.toml", "--port", 0, cwd=clean)
        assert process.stdout is not None
        url = process.stdout.readline().removeprefix("export OPENAI_BASE_URL=").strip()
        names = [one["id"] for one in httpx.get(f"{url}/models", timeout=120).json()["data"]]
        assert names[:2] == ["qwen", "vote"]
        answers: list[httpx.Response] = []

        def ask() -> None:
            answers.append(httpx.post(f"{url}/chat/completions", json={"model": "vote", "messages": ASK}, timeout=120))

        asking = threading.Thread(target=ask)
        asking.start()
        while double.stats.running == 0:
            assert process.poll() is None
        process.send_signal(number)
        asking.join(30)
        process.communicate(timeout=120)
        assert answers[0].status_code == 200
        assert process.returncode in (0, -number)


def test_a_new_key_is_shown_once_with_the_hash_for_the_configuration(tts: Command):
    made = tts("serve", "--new-key", "alice")
    assert made.code == 0
    assert f'[keys."alice"]\nsha256 = "{hashed(made.out.strip())}"' in made.err
    assert tts("serve", "--new-key", "../alice").code == 2


def test_other_machines_are_let_in_only_with_keys(tts: Command, clean: Path):
    ended = tts("serve", "--host", "0.0.0.0", "--model", "m", "--base-url", "http://127.0.0.1:1/v1")
    assert ended.code == 2
    assert "--new-key" in ended.err


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "[models.m]\nbase_url = 'http://x/v1'\n[presets.p]\nstrategy = 'nothing'",
            "no 'nothing' among the strategies",
        ),
        ("[models.m]\nbase_url = 'http://x/v1'\n[limits]\nrunnin = 1", "limits.runnin"),
        ("[presets.p]\nstrategy = 'single'", "models"),
        ("[models.m]\nbase_url = 'http://x/v1'\n[keys.a]\nsha256 = 'secret'", "keys.a.sha256"),
    ],
)
def test_a_configuration_that_cannot_be_used_says_where(tts: Command, clean: Path, text: str, words: str):
    (clean / "gateway.toml").write_text(text)
    ended = tts("serve", "gateway.toml")
    assert ended.code == 2
    assert words in ended.err
    assert "Traceback" not in ended.err
    assert json.dumps(ended.err).count("secret") == 0


@pytest.mark.parametrize("strategy", ["", "self_consistency:n=4,answer=numeric_answer@"])
def test_a_kill_gives_no_day_anew(clean: Path, strategy: str):
    """What was spent is still spent, and what was under way counts as if it had been."""
    slow: list[bool] = []
    with serving(tokens=(20, 20), latency=lambda body, index: 60.0 if slow else 0.0) as double:
        (clean / "gateway.toml").write_text(
            f'[models.qwen]\nmodel = "test-model"\nbase_url = "{double.base_url}"\n'
            f'[keys.alice]\nsha256 = "{hashed("secret")}"\ntokens_per_day = 2000\n'
        )
        body = {"model": f"{strategy}qwen", "messages": ASK, "max_tokens": 100}  # which it does not use up
        spent = 0.0
        for time in (30, 1):
            process = start("serve", "gateway.toml", "--port", 0, cwd=clean)
            assert process.stdout is not None
            url = process.stdout.readline().removeprefix("export OPENAI_BASE_URL=").strip()
            with httpx.Client(base_url=url, headers={"authorization": "Bearer secret"}, timeout=120) as http:
                if slow:
                    with pytest.raises(httpx.ReadTimeout):
                        http.post("/chat/completions", json=body, timeout=time)
                else:
                    spent += http.post("/chat/completions", json=body).json()["usage"]["total_tokens"]
                process.kill()
                process.communicate(timeout=120)
            with closing(sqlite3.connect(clean / "gateway.quotas")) as connection:
                tokens, reserved = connection.execute("SELECT tokens, reserved_tokens FROM spending").fetchone()
            assert tokens + reserved >= spent
            slow.append(True)
        assert tokens >= spent
