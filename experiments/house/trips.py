"""How often one call changes file: `python experiments/house/trips.py [--json]`.

Follows two warm calls: one sample through `Sampler.sample` over HTTP, and one program judged by `unit_tests` on a
single assert through `Session.verify`. The profiler sees every call and return. A call, or the resumption of a
coroutine or generator, enters the callee's file; a return, or a suspension, goes back to the file of the nearest caller
that is ours. Code outside `tts`, `strategies` and `verifiers` is skipped. Each step from one of our files to another
counts as one trip.

A coroutine that wakes is entered through its whole chain of awaits, so waiting adds trips. How often a call waits
depends on timing; the shortest of several recordings counts. Other threads and the sandbox's processes are not
followed.

Measures the `tts` that the interpreter imports; `counts.py --root DIR` chooses interpreter and PYTHONPATH.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count, pairwise
from pathlib import Path
from threading import Thread
from types import FrameType
from typing import Any

import tts
from tts.registry import make

ROOT = Path(tts.__file__).resolve().parents[1]
OURS = ("tts", "strategies", "verifiers")
RECORDINGS = 20
PAUSE = 0.1
"""Seconds before each recording, which let the sandbox prepare its next process."""
SHOWN = 10

PROMPT = [{"role": "user", "content": "What is 6 * 7?"}]
TESTS = {"entry_point": "f", "asserts": ["assert f(1) == 2"]}

Steps = list[str]
"""Files in the order they are entered."""


@cache
def own_file(filename: str) -> str | None:
    """The file's path relative to the root if it is ours, else None. Links are resolved, so each file has one name."""
    path = Path(filename).resolve()
    if not path.is_relative_to(ROOT):
        return None
    inner = path.relative_to(ROOT)
    return str(inner) if inner.parts[0] in OURS else None


async def record(call: Callable[[], Awaitable[None]]) -> Steps:
    """The files that one execution of `call` visits."""
    steps: Steps = []

    def follow(frame: FrameType, event: str, _: Any) -> None:
        if event not in ("call", "return") or own_file(frame.f_code.co_filename) is None:
            return
        at = frame if event == "call" else frame.f_back
        while at is not None:
            if file := own_file(at.f_code.co_filename):
                steps.append(file)
                return
            at = at.f_back

    sys.setprofile(follow)
    try:
        await call()
    finally:
        sys.setprofile(None)
    return steps


def trips(steps: Steps) -> list[tuple[str, str]]:
    return [(left, entered) for left, entered in pairwise(steps) if left != entered]


async def report(call: Callable[[], Awaitable[None]]) -> dict[str, Any]:
    """The figures of the shortest recording, after one warm-up execution."""
    await call()
    recordings = []
    for _ in range(RECORDINGS):
        await asyncio.sleep(PAUSE)
        recordings.append(await record(call))
    counts = [len(trips(steps)) for steps in recordings]
    steps = recordings[counts.index(min(counts))]
    frequent = Counter(trips(steps)).most_common(SHOWN)
    return {
        "trips": min(counts),
        "most": max(counts),
        "files": len(set(steps)),
        "frequent": [[times, left, entered] for (left, entered), times in frequent],
    }


class Answers(BaseHTTPRequestHandler):
    """A model server with one fixed answer."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.reply({"object": "list", "data": [{"id": "model", "owned_by": "nobody"}]})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Answer: 42"}}
        usage = {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}
        self.reply({"id": "1", "object": "chat.completion", "model": "model", "choices": [choice], "usage": usage})

    def reply(self, data: dict[str, Any]) -> None:
        body = json.dumps(data).encode()
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        self.wfile.write(head.encode() + body)  # one write, so that the client wakes once

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def server() -> Iterator[str]:
    """The base URL of a server that runs on its own thread."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as serving:
        Thread(target=serving.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{serving.server_port}/v1"
        finally:
            serving.shutdown()


async def of_a_sample() -> dict[str, Any]:
    with server() as url:
        async with tts.Sampler(tts.Endpoint(model="model", base_url=url)) as sampler:

            async def draw() -> None:
                texts = [sample.text async for sample in sampler.sample(PROMPT)]
                assert texts == ["Answer: 42"], texts

            return await report(draw)


async def of_an_assert() -> dict[str, Any]:
    problem = tts.Problem(id="p", messages=PROMPT, tests=TESTS)
    session = tts.Session(problem, {}, verifier=make("verifiers", "unit_tests"))
    numbers = count()

    async def judge() -> None:
        program = f"def f(x):\n    return x + 1  # {next(numbers)}\n"  # new each time, because verdicts are cached
        candidate = tts.Candidate(id=0, content=program, spawned=(0,))
        verdict = await session.verify(candidate)
        assert verdict.passed, verdict

    return await report(judge)


async def main(as_json: bool) -> None:
    found = {"one warm Sampler.sample": await of_a_sample(), "one assert through unit_tests": await of_an_assert()}
    if as_json:
        print(json.dumps(found))
        return
    for title, figures in found.items():
        print(f"{title}: {figures['trips']} to {figures['most']} trips, {figures['files']} files")
        for times, left, entered in figures["frequent"]:
            print(f"  {times:4} {left} -> {entered}")


if __name__ == "__main__":
    asyncio.run(main("--json" in sys.argv[1:]))
