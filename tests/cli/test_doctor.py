"""`tts doctor`: what the endpoint can do, what that took, and what is installed here."""

from importlib.metadata import version

import pytest

from tests.cli.conftest import Command
from tests.support.double import ModelDouble
from tests.support.threaded import serving


def test_shows_every_capability_and_what_the_probe_cost(tts: Command, double: ModelDouble):
    ended = tts("doctor", "--base-url", double.base_url)
    assert ended.code == 0
    lines = {line.split("  ")[0].strip(): line for line in ended.out.splitlines()}
    assert " yes" in lines["prompt logprobs"]
    assert " no " in lines["structured output"]
    tokens = double.stats.prompt_tokens + double.stats.wasted_prompt_tokens  # a client may be gone when it has all
    cost = f"{double.stats.received} requests, {tokens:,} prompt tokens"
    assert cost in ended.out
    assert f"ttscale {version('ttscale')}" in ended.out
    assert "extra vllm:" in ended.out


def test_json_has_the_reasons(tts: Command):
    with serving(owned_by="someone") as double:
        found = tts("doctor", "--base-url", double.base_url, "--json").json
    assert found["model"] == "test-model"
    assert found["capabilities"]["chat"] == {"ok": True, "why": ""}
    assert found["capabilities"]["tokenize"] == {"ok": False, "why": "There is no /tokenize here."}
    assert found["cost"]["completion_tokens"] == double.stats.completion_tokens
    assert found["local"]["packages"]["pydantic"] == version("pydantic")


def test_tells_which_layers_hold_untrusted_programs_here(tts: Command, double: ModelDouble):
    layers = tts("doctor", "--json", "--base-url", double.base_url).json["local"]["isolation"]
    assert list(layers) == ["namespaces", "seccomp", "landlock", "rlimits"]
    assert all(layer["why"] for layer in layers.values())
    assert layers["rlimits"]["holds"]


def test_a_server_that_is_not_there_is_exit_code_1_with_the_reason(tts: Command):
    ended = tts("doctor", "--base-url", "http://127.0.0.1:9/v1")
    assert ended.code == 1
    assert "127.0.0.1:9" in ended.out
    assert "Traceback" not in ended.err


def test_a_wrong_key_is_exit_code_1_and_said_to_be_one(tts: Command, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    with serving(api_key="another") as double:
        ended = tts("doctor", "--base-url", double.base_url, "--json")
    assert ended.code == 1
    assert ended.json["capabilities"]["reachable"]["ok"] is True
    assert ended.json["capabilities"]["key_accepted"]["ok"] is False
    assert "sk-secret" not in ended.out + ended.err


def test_a_model_that_is_not_served_is_exit_code_1(tts: Command, double: ModelDouble):
    ended = tts("doctor", "--base-url", double.base_url, "--model", "absent", "--json")
    assert ended.code == 1
    assert "test-model" in ended.json["capabilities"]["model_served"]["why"]


@pytest.mark.parametrize("words", [[], ["--base-url", "localhost:8000"], ["--base-url", "http://a/v1,http://b/v1"]])
def test_a_url_that_cannot_be_used_is_exit_code_2(tts: Command, words: list[str]):
    ended = tts("doctor", *words)
    assert ended.code == 2
    assert ended.err.startswith("error: ")
