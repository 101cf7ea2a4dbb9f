"""An images API over real HTTP that draws scenes, with habits: what comes late in a prompt is forgotten, what is
stressed is not.

`async with Painter(fade=0.7) as painter: ... painter.base_url`
"""

from __future__ import annotations

import asyncio
import json
import re
from base64 import b64encode
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Self
from zlib import crc32

import numpy as np
from aiohttp import web

from tests.support.scenes import Thing, painted, things

STRESS = "Make sure of this: "


@dataclass(kw_only=True, eq=False)
class Painter:
    """Draws each thing of a prompt with a chance of its own."""

    keeps: float = 1.0
    """Chance of the first thing of a prompt that is not stressed."""
    fade: float = 1.0
    """Factor on that chance for every thing that was spoken of before it."""
    obeys: float | None = 0.95
    """Chance of a thing that is stressed, as long as there are at most `attention`; None: stress changes nothing."""
    attention: int = 4
    """Stressed things that it can keep in mind."""
    loyal: float = 0.6
    """How much a seed determines what is forgotten; the wording determines the rest."""
    takes_seed: bool = True
    takes_n: bool = True
    urls: bool = False
    """Whether it knows no response_format and answers with URLs."""
    lost: bool = False
    """Whether the pictures behind its URLs are not there."""
    filtered: str = ""
    """A prompt with this word is refused by the content filter."""
    withheld: frozenset[int] = frozenset()
    """Seeds of which the content filter withholds the picture, in an answer that is otherwise in order."""
    seed: int = 0
    requests: list[dict[str, Any]] = field(default_factory=list)
    fetched: list[dict[str, str]] = field(default_factory=list)
    """Headers with which pictures were fetched."""

    def __post_init__(self) -> None:
        self._rng = np.random.default_rng(self.seed)
        self._files: dict[str, bytes] = {}

    async def __aenter__(self) -> Self:
        self._server = web.Server(self._handle, handler_cancellation=True, access_log=None)
        self._listener = await asyncio.get_running_loop().create_server(self._server, "127.0.0.1", 0)
        self.port = self._listener.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._listener.close()
        await self._server.shutdown(timeout=0.01)

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/v1/models":
            return web.json_response({"data": [{"id": "painter", "owned_by": "painter"}]})
        if request.path in self._files:
            self.fetched.append({name.lower(): value for name, value in request.headers.items()})
            return web.Response(body=self._files[request.path], content_type="image/png")
        if request.path != "/v1/images/generations":
            return _refusal(404, "there is no such path", "path")
        body = json.loads(await request.read())
        self.requests.append(body)
        for known, name in ((self.takes_seed, "seed"), (self.takes_n, "n"), (not self.urls, "response_format")):
            if not known and body.get(name) not in (None, 1 if name == "n" else None):
                return _refusal(400, f"Unknown parameter: '{name}'", name)
        if self.filtered and self.filtered in body["prompt"]:
            return _refusal(400, "Your request was rejected by the safety system.", None, "content_policy_violation")
        seeds = [body.get("seed", int(self._rng.integers(1 << 40))) + i for i in range(body.get("n", 1))]
        return web.json_response({"created": 0, "data": [self._given(body["prompt"], seed) for seed in seeds]})

    def _given(self, prompt: str, seed: int) -> dict[str, Any]:
        if seed in self.withheld:
            return {"content_filter_results": {"violence": {"filtered": True}}}
        picture = self.paint(prompt, seed)
        if not self.urls:
            return {"b64_json": b64encode(picture).decode()}
        path = f"/pictures/{len(self._files)}.png"
        if not self.lost:
            self._files[path] = picture
        return {"url": f"http://127.0.0.1:{self.port}{path}"}

    def paint(self, prompt: str, seed: int) -> bytes:
        """The picture that `prompt` gives with `seed`."""
        stressed = things(" ".join(re.findall(rf"{STRESS}([^.]*)", prompt)))
        scene = [
            thing
            for i, thing in enumerate(things(prompt))
            if self._luck(thing, prompt, seed) < self._chance(i, thing in stressed, len(stressed))
        ]
        return painted(scene, np.random.default_rng((seed, crc32(prompt.encode()))))

    def _chance(self, place: int, stressed: bool, count: int) -> float:
        if stressed and self.obeys is not None:
            return self.obeys * min(1.0, self.attention / count)
        return self.keeps * self.fade**place

    def _luck(self, thing: Thing, prompt: str, seed: int) -> float:
        of_seed = np.random.default_rng((seed, crc32(str(thing).encode())))
        of_wording = np.random.default_rng((seed, crc32(f"{prompt}\0{thing}".encode())))
        return float((of_seed if of_wording.random() < self.loyal else of_wording).random())


def _refusal(status: int, message: str, param: str | None, code: str = "invalid_request") -> web.Response:
    return web.json_response({"error": {"message": message, "param": param, "code": code}}, status=status)


def met(request: str, scene: list[Thing]) -> float:
    """The share of what `request` speaks of that a scene has."""
    wanted = things(request)
    return sum((Counter(wanted) & Counter(scene)).values()) / len(wanted)
