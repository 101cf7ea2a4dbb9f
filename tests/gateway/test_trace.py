"""What is kept of requests: runs that `tts report` opens, and spans."""

import asyncio
import json
from pathlib import Path

import pytest

from tests.cli.conftest import finished, start
from tests.gateway.serving import ASK, NUMBERS, serving
from tests.support.collector import collector, spans_of
from tests.support.double import Fault, FaultKind, ModelDouble, solvable
from tests.support.lag import MOST, standstill
from tts.sampler.transport import Reply, Request

RIGHT = solvable({}, otherwise=1.0)
VOTE = f"self_consistency:n=3,{NUMBERS}"


async def test_every_request_is_kept_and_tts_report_opens_it(tmp_path: Path):
    folder = tmp_path / "trace"
    endpoint = {"api_key": "upstream-secret", "headers": {"x-k": "more-secret"}}
    async with ModelDouble(answer=RIGHT) as double:
        async with serving(double, trace=folder, endpoint=endpoint) as served:
            answers = [await served.chat("qwen"), await served.chat(VOTE), await served.chat(VOTE, stream=True)]
            double.latency = 60.0
            answers.append(await served.chat(VOTE, tts={"deadline": 0.1}))
            await served.at_rest()
        lines = [json.loads(line) for line in (folder / "requests.jsonl").read_text().splitlines()]
        assert [line["run"] for line in lines] == [answer.headers["x-tts-run"] for answer in answers]
        assert [line["status"] for line in lines] == [200, 200, 200, 504]
        counted = sum(line["usage"]["policy"]["completion_tokens"] for line in lines[1:3])
        assert counted + lines[0]["usage"]["policy"]["completion_tokens"] == double.stats.completion_tokens
        assert lines[1]["body"]["messages"] == ASK
        async with serving(double, trace=folder, endpoint=endpoint):  # it is taken up again
            pass
    report = await asyncio.to_thread(finished, start("report", folder, "--json"))
    assert report.code == 0, report.err
    assert "self_consistency" in report.out
    for file in folder.iterdir():
        assert b"secret" not in file.read_bytes(), file


async def test_large_requests_are_noted_beside_the_loop(tmp_path: Path):
    async def transport(request: Request) -> Reply:
        choice = {"index": 0, "message": {"content": "42"}, "finish_reason": "stop"}
        return Reply.json({"choices": [choice], "usage": {}})

    endpoint = {"model": "m", "base_url": "mock://m", "transport": transport}
    content = json.dumps(
        {"model": "qwen", "messages": [{"role": "user", "content": "é" * 7_500_000}]}, ensure_ascii=False
    )
    async with ModelDouble() as double, serving(double, trace=tmp_path / "trace", endpoint=endpoint) as served:

        async def attack() -> None:
            answer = await served.http.post("/chat/completions", content=content.encode())
            assert answer.status_code == 200, answer.text

        assert await standstill(attack) < MOST
    line, *_ = (tmp_path / "trace" / "requests.jsonl").read_text().splitlines()  # one for each attempt
    assert json.loads(line)["body"]["messages"][0]["content"] == "é" * 7_500_000


async def test_spans_tell_the_request_and_its_calls(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OTEL_SERVICE_NAME", "gate")
    parent = "0af7651916cd43dd8448eb211c80319c"
    answers = iter(["Answer: 1", "Answer: 2", "Answer: 3"])  # so that nothing is decided before all are there
    async with (
        collector(monkeypatch) as received,
        ModelDouble(answer=lambda request, rng: next(answers)) as double,
        serving(double, otel=True, endpoint={"max_n": 1}) as served,
    ):
        headers = {"traceparent": f"00-{parent}-b7ad6b7169203331-01"}
        body = {"model": VOTE, "messages": ASK}
        answer = await served.http.post("/chat/completions", json=body, headers=headers)
        double._fault_for = lambda number, body: Fault(FaultKind.SERVER_ERROR)
        assert (await served.chat("qwen")).status_code == 500
        await served.at_rest()
    resource = received.resource_spans[0]
    assert "gate" in [attribute.value.string_value for attribute in resource.resource.attributes]
    spans, told = zip(*spans_of(received), strict=True)
    requests = [i for i, span in enumerate(spans) if "tts.run" in told[i]]
    voted, failed = sorted(requests, key=lambda i: spans[i].start_time_unix_nano)
    assert told[voted]["tts.run"].string_value == answer.headers["x-tts-run"]
    assert spans[voted].trace_id.hex() == parent
    calls = [i for i, span in enumerate(spans) if span.parent_span_id == spans[voted].span_id]
    tokens = [told[i]["gen_ai.usage.output_tokens"].int_value for i in calls]
    assert sum(tokens) == told[voted]["gen_ai.usage.output_tokens"].int_value == double.stats.completion_tokens
    assert told[failed]["error.type"].string_value == "500"


@pytest.mark.parametrize("depth", [90, 900])
async def test_requests_are_kept_however_deep_their_json_is_or_refused(tmp_path: Path, depth: int):
    deep = json.loads("[" * depth + "]" * depth)
    async with ModelDouble(answer=RIGHT) as double, serving(double, trace=tmp_path / "trace") as served:
        answer = await served.chat("qwen", metadata=deep)
        assert answer.status_code == (200 if depth < 100 else 400), answer.text
    lines = [json.loads(line) for line in (tmp_path / "trace" / "requests.jsonl").read_text().splitlines()]
    assert [line["body"]["metadata"] for line in lines] == ([deep] if depth < 100 else [])
