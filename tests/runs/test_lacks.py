"""Answers that were cut off, filtered, refused or empty are counted, with what to change."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from aiohttp import web

from tests.cli.conftest import Command, clean, tts
from tests.support.scripted import choice, scripted
from tts.runs import Run
from tts.runs.analysis import summary

__all__ = ["clean", "tts"]

LACKING = {
    "truncated": (choice("Answer: 4", "length"), "--max-tokens"),
    "truncated_empty": (choice("", "length"), "--max-tokens"),
    "filtered": (choice("", "content_filter"), "content filter"),
    "refused": (choice(None, refusal="I cannot help with that."), "refused by the model"),
    "only_reasoning": (choice(None, reasoning_content="Six times seven."), "reasoning parser"),
    "empty": (choice(""), "chat template"),
}
OTHERS = {
    "truncated_empty": [
        choice(None, "length", reasoning_content="Six"), choice("<think>Six times", "length"), choice(" \n", "length"),
    ],
    "filtered": [choice("Answer: 4", "content_filter"), choice("", "SAFETY")],
    "refused": [choice("", "refusal")],
    "only_reasoning": [choice("<think>Six times seven.</think>\n"), choice("", reasoning="Six")],
    "empty": [choice(None), choice("\n")],
}  # fmt: skip


@pytest.mark.parametrize("lack", LACKING)
def test_run_solve_report_and_page_say_how_many_answers_lack_what(tts: Command, clean: Path, lack: str):
    answer, advice = LACKING[lack]
    (clean / "two.jsonl").write_text(
        "\n".join(json.dumps({"id": f"p{i}", "prompt": "?", "answer": "42"}) for i in range(3))
    )
    with scripted(lambda _: answer) as server:
        ended = tts(
            "solve",
            "What?",
            "--strategy",
            "self_consistency:n=2,answer=exact_answer",
            "--no-stop-early",
            "--base-url",
            server.base_url,
        )
        assert ", 2 " in ended.err
        assert advice in ended.err
        words = ["--task", "jsonl:path=two.jsonl", "--strategy", "single", "--out", "found"]
        ended = tts("run", *words, "--base-url", server.base_url)
    assert "answers: 3 " in ended.out
    assert advice in ended.out
    assert "answers: 3 " in tts("report", "found", "--out", "report.md").out
    assert advice in (clean / "report.md").read_text()
    assert summary(Run(clean / "found"))[0][lack] == 3


@pytest.mark.parametrize(("lack", "answer"), [(lack, answer) for lack, them in OTHERS.items() for answer in them])
@pytest.mark.parametrize("stream", [False, True])
def test_every_form_of_a_lack_is_known(tts: Command, clean: Path, lack: str, answer: dict, stream: bool):
    def respond(_: dict) -> object:
        if not stream:
            return answer
        delta = {"index": 0, "delta": answer["message"]}
        end = {"index": 0, "delta": {}, "finish_reason": answer["finish_reason"]}
        events = "".join(f"data: {json.dumps({'choices': [one]})}\n\n" for one in (delta, end))
        return web.Response(text=events + "data: [DONE]\n\n", content_type="text/event-stream")

    with scripted(respond) as server:
        ended = tts("solve", "What?", "--base-url", server.base_url, "--models.policy.stream", str(stream).lower())
    assert LACKING[lack][1] in ended.err


def test_whole_answers_and_tool_calls_lack_nothing(tts: Command, clean: Path):
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    for answer in (choice("42"), choice(None, "tool_calls", tool_calls=[call]), choice("<think>x</think>42")):
        with scripted(lambda _, answer=answer: answer) as server:
            ended = tts("solve", "What?", "--base-url", server.base_url)
        assert ended.err.count(":") == 0, ended.err
