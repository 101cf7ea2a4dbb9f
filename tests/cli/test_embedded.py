"""`tts embedded` and `tts demo`: models that need no server."""

import asyncio
import json
import signal
import sys
from pathlib import Path
from subprocess import Popen

import httpx
import pytest

from tests.cli.conftest import Command, finished, start
from tests.support.small_gguf import write_gguf
from tests.support.small_llama import write_model
from tts.cli.demo import compare
from tts.lab.engine.models import bundled_models
from tts.lab.public_models import MODELS


def serving(model: Path, name: str) -> tuple[Popen[str], str, dict[str, object]]:
    """A process that has printed its settings and answered once, its URL, and what it was asked."""
    process = start("embedded", "serve", model, "--port", 0, cwd=model.parent)
    assert process.stdout is not None
    url = process.stdout.readline().removeprefix("export OPENAI_BASE_URL=").strip()
    assert process.stdout.readline() == f"export OPENAI_MODEL={name}\n"
    body: dict[str, object] = {"model": name, "prompt": "the bell", "max_tokens": 5, "ignore_eos": True}
    assert httpx.post(f"{url}/completions", json=body).json()["usage"]["completion_tokens"] == 5
    return process, url, body


def test_serve_prints_the_settings_and_ends_with_ctrl_c(clean: Path):
    process, url, body = serving(write_model(clean / "small"), "small")
    with httpx.stream("POST", f"{url}/completions", json={**body, "stream": True}) as response:
        events = [line for line in response.iter_lines() if line]
    assert events[-1] == "data: [DONE]"
    assert len(events) == 6
    endless = {**body, "max_tokens": 250, "stream": True, "n": 8}
    with httpx.stream("POST", f"{url}/completions", json=endless) as response:
        next(response.iter_lines())
    metrics = ""
    while "num_requests_running 0.0" not in metrics:
        metrics = httpx.get(url.removesuffix("/v1") + "/metrics").text
    assert "request_success_total 2.0" in metrics
    process.send_signal(signal.SIGINT)
    ended = finished(process)
    assert ended.code == 0
    assert f"small is ready at {url}" in ended.err
    assert "Traceback" not in ended.err


def test_a_gguf_file_is_served_too(clean: Path):
    process, url, body = serving(write_gguf(clean / "tiny.gguf"), "tiny")
    with httpx.stream("POST", f"{url}/completions", json={**body, "stream": True}) as response:
        assert [line for line in response.iter_lines() if line][-1] == "data: [DONE]"
    process.send_signal(signal.SIGINT)
    ended = finished(process)
    assert ended.code == 0
    assert "Traceback" not in ended.err


def test_serve_without_uvicorn_names_the_extra(tts: Command, clean: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "tts.serving", raising=False)
    ended = tts("embedded", "serve", write_model(clean / "small"))
    assert ended.code == 2
    assert "pip install 'ttscale[serve]'" in ended.err


def test_serve_of_an_unknown_model_says_which_there_are(tts: Command):
    ended = tts("embedded", "serve", "nothing")
    assert ended.code == 2
    assert "no embedded model 'nothing'" in ended.err


def test_the_list_has_every_bundled_and_public_model(tts: Command):
    rows = tts("embedded", "list", "--json").json
    names = [*(folder.name for folder in bundled_models()), *MODELS]
    assert [row["base_url"] for row in rows] == [f"embedded://{name}" for name in names]
    assert all(row["here"] for row in rows[: len(bundled_models())])


def test_solve_needs_no_server_and_no_model_name(tts: Command, clean: Path):
    place = f"embedded://{write_model(clean / 'small')}"
    ended = tts("solve", "the bell", "--base-url", place, "--max-tokens", 5, "--json")
    assert ended.code == 0, ended.err
    assert ended.json["candidates"]


def test_the_comparison_of_the_demo_makes_runs_that_resume(clean: Path):
    lines = [{"id": f"p{i}", "prompt": f"the {i}", "answer": i} for i in range(3)]
    (clean / "sums.jsonl").write_text("\n".join(map(json.dumps, lines)))
    model = str(write_model(clean / "small"))
    task = "jsonl:path=sums.jsonl,answer_verifier=numeric_answer"
    grids = {task: ["single", "self_consistency:n=4", "first_pass:k=4,verifier=oracle"]}
    for _ in range(2):
        (run,) = asyncio.run(compare(grids, model, clean / "demo", limit=2, sampling={"max_tokens": 9})).values()
        assert len(run.tracks) == 3
        assert sum(row.ended != "failed" for track in run.tracks for row in track.rows) == 6
        assert run.tracks[0].cost("flops")[0].min() > 0
