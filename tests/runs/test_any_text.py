"""Any text that a server or a data set holds survives a run, its resume, and every way out."""

from __future__ import annotations

import csv
import io
import json
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.cli.conftest import Command, Outcome, clean, finished, start, tts
from tests.support.scripted import choice, scripted
from tts.text import well_formed

__all__ = ["clean", "tts"]

ODD = "half \ud83d, other \ude00x, nul \0, lines \u2028 \u2029 \x85, none \ufffe \uffff, 🎉 日本 é \x1b[31m"
MENDED = ODD.replace("\ud83d", "\ufffd").replace("\ude00", "\ufffd")


def odd_choice(_: dict) -> dict:
    call = {"id": ODD, "type": "function", "function": {"name": "f", "arguments": json.dumps({"a": ODD})}}
    token = {"token": ODD, "logprob": -0.5, "top_logprobs": [{"token": ODD, "logprob": -0.5}]}
    return choice(f"Answer: {ODD}", reasoning_content=ODD, tool_calls=[call]) | {"logprobs": {"content": [token]}}


Shown = Callable[..., Outcome]
"""Run `tts WORDS...` on a terminal of an encoding: as a process where that is ASCII, unless it `stays`."""


@pytest.fixture
def shown(tts: Command, clean: Path, encoding: str, monkeypatch: pytest.MonkeyPatch) -> Shown:
    def run(*words: str, read_as: str = encoding, stays: bool = False) -> Outcome:
        if encoding == "ascii" and not stays:
            env = {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
            return finished(start(*words, cwd=clean, env=env, encoding=read_as))
        pipes = {name: io.TextIOWrapper(io.BytesIO(), encoding) for name in ("stdout", "stderr")}
        with monkeypatch.context() as patched:
            for name, pipe in pipes.items():
                patched.setattr(sys, name, pipe)
            code = tts(*words).code
        return Outcome(code, *(pipe.buffer.getvalue().decode(read_as) for pipe in pipes.values()))

    return run


@given(st.text(st.characters(exclude_categories=()) | st.sampled_from("\ud83d\ude00\0"), max_size=20))
def test_what_utf_8_can_say_stays_and_the_rest_is_replaced(text):
    mended = well_formed(text)
    assert mended.encode().decode() == mended
    assert well_formed(mended) == mended
    if "\ufffd" not in mended:
        assert mended.encode("utf-16") == text.encode("utf-16", "surrogatepass")


def test_two_halves_that_meet_are_a_character_and_lists_and_tables_are_mended_too():
    assert well_formed({"a\ud83d": ["\ud83d\ude00", ("\ude00", 1, None)]}) == {"a\ufffd": ["😀", ("\ufffd", 1, None)]}


@pytest.mark.parametrize("said", [b"caf\xe9", b"half \xf0\x9f\x98", b"\xff\xfe"])
@pytest.mark.parametrize("stream", [False, True])
def test_bytes_that_are_no_text_cost_no_answer(tts: Command, clean: Path, said: bytes, stream: bool):
    from aiohttp import web

    def respond(_: dict) -> object:
        body = b'{"choices": [{"index": 0, "finish_reason": "stop", "%s": {"content": "Answer: 42 %s"}}]}'
        body %= (b"delta" if stream else b"message", said)
        kind = "text/event-stream" if stream else "application/json"
        return web.Response(body=b"data: " + body + b"\n\ndata: [DONE]\n\n" if stream else body, content_type=kind)

    with scripted(respond) as server:
        ended = tts("solve", "What?", "--base-url", server.base_url, "--models.policy.stream", str(stream).lower())
    assert (ended.code, len(server.seen)) == (0, 1), ended.err
    assert ended.out.startswith("Answer: 42 ")
    assert "\ufffd" in ended.out


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252", "ascii"])
def test_a_run_its_resume_and_its_reports_take_any_text(tts: Command, clean: Path, shown: Shown):
    problems = [{"id": f"p{i} {ODD}", "prompt": f"What? {ODD}", "answer": f"42 {ODD}"} for i in range(2)]
    (clean / "odd.jsonl").write_text("".join(json.dumps(problem) + "\n" for problem in problems))
    words = ["run", "--task", "jsonl:path=odd.jsonl,answer_verifier=exact_answer", "--strategy", "self_consistency:n=2"]
    words += ["--strategy", "best_of_n:n=2,verifier=mean_logprob", "--out", "found", "--sampling.logprobs", "true"]
    with scripted(odd_choice) as server:
        ended = shown(*words, "--base-url", server.base_url)
        assert ended.code == 0, ended.err
        asked = len(server.seen)
        with closing(sqlite3.connect(clean / "found" / "run.sqlite", isolation_level=None)) as db:
            db.executescript("DELETE FROM cells; DELETE FROM candidates; DELETE FROM charges")
        ended = shown(*words, "--resume", "--base-url", server.base_url)
        assert (ended.code, len(server.seen)) == (0, asked), ended.err
    reported = ["report", "found", "--out", "page.html", "--candidates", "a.csv"]
    ended = shown(*reported)
    assert ended.code == 0, ended.err
    ended = tts("report", "found", "--out", "report.md", "--candidates", "a.jsonl")
    assert ended.code == 0, ended.err
    rows = list(csv.DictReader(io.StringIO((clean / "a.csv").read_text(encoding="utf-8"), newline="")))
    assert {row["content"] for row in rows} == {f"Answer: {MENDED}"}
    lines = [json.loads(line) for line in (clean / "a.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {line["content"] for line in lines} == {f"Answer: {MENDED}"}
    assert {line["problem"] for line in lines} == {f"p{i} {MENDED}" for i in range(2)}


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252", "ascii"])
@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize("stream", [False, True])
def test_solve_shows_any_text_on_any_terminal(shown: Shown, encoding: str, as_json: bool, stream: bool):
    from aiohttp import web

    def respond(body: dict) -> object:
        if not stream:
            return odd_choice(body)
        pieces = [{"content": "split \ud83d"}, {"content": "\ude00 " + ODD}]
        events = [{"choices": [{"index": 0, "delta": piece}]} for piece in pieces]
        events.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        text = "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"
        return web.Response(text=text, content_type="text/event-stream")

    with scripted(respond) as server:
        words = ["--base-url", server.base_url, "--models.policy.stream", str(stream).lower()]
        words += ["--json"] if as_json else []
        read_as = "cp1252" if encoding == "cp1252" else "utf-8"  # click takes ASCII for a mistake and writes UTF-8
        ended = shown("solve", "What \udcff?", *words, read_as=read_as, stays=stream or as_json)
    assert ended.code == 0, ended.err
    assert "Traceback" not in ended.err
    if as_json:
        said = json.loads(ended.out)["answer"]
        assert said == (f"split 😀 {MENDED}" if stream else f"Answer: {MENDED}")


def test_an_error_in_any_words_is_shown_and_stored(tts: Command, clean: Path):
    from aiohttp import web

    def refuse(_: dict) -> object:
        return web.json_response({"error": {"message": ODD}}, status=400)

    (clean / "one.jsonl").write_text(json.dumps({"id": "p", "prompt": "?", "answer": "42"}))
    with scripted(refuse) as server:
        words = ["--task", "jsonl:path=one.jsonl", "--strategy", "single", "--out", "found"]
        ended = finished(
            start("run", *words, "--base-url", server.base_url, cwd=clean, env={"PYTHONIOENCODING": "ascii"})
        )
    assert ended.code == 1
    assert "Traceback" not in ended.err
    assert "half" in ended.err
    assert tts("report", "found", "--out", "page.html").code in (0, 1, 2)
