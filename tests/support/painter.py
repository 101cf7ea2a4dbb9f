"""An images API over real HTTP that draws scenes, with habits: what comes late in a prompt is forgotten, what is
stressed is not. Asked for picture 2 of 3 it draws some of the things, from the picture before where it gets one. It
embeds pictures, too.

`async with Painter(fade=0.7) as painter: ... painter.base_url`
"""

from __future__ import annotations

import json
import re
from base64 import b64decode, b64encode
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Any
from zlib import crc32

import numpy as np
from aiohttp import web

from tests.support.listening import Listening
from tests.support.scenes import PLACES, Thing, measured, painted, things

STRESS = "Make sure of this: "
_COUNT = re.compile(r"picture (\d+) of (\d+)")


@dataclass(kw_only=True, eq=False)
class Painter(Listening):
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
    first: float = 0.0
    """Share of the things that the first picture of several has beside its part of the others, which come evenly."""
    holds: float = 1.0
    """Chance that what should be and is in the picture before stays."""
    mends: float = 0.0
    """Chance that what should be in the picture before, and is not, is drawn now."""
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
    drawn: int = 0
    """Pictures so far."""
    requests: list[dict[str, Any]] = field(default_factory=list)
    fetched: list[dict[str, str]] = field(default_factory=list)
    """Headers with which pictures were fetched."""

    def __post_init__(self) -> None:
        self._rng = np.random.default_rng(self.seed)
        self._files: dict[str, bytes] = {}

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/v1/models":
            return web.json_response({"data": [{"id": "painter", "owned_by": "painter"}]})
        if request.path in self._files:
            self.fetched.append({name.lower(): value for name, value in request.headers.items()})
            return web.Response(body=self._files[request.path], content_type="image/png")
        if request.path == "/v1/embeddings":
            shown = pictures(json.loads(await request.read()))
            return web.json_response({"data": [{"embedding": embedded(shown[-1])}]})
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
        return web.json_response({"created": 0, "data": [self._given(body, seed) for seed in seeds]})

    def _given(self, body: dict[str, Any], seed: int) -> dict[str, Any]:
        if seed in self.withheld:
            return {"content_filter_results": {"violence": {"filtered": True}}}
        before = decoded(body["image"]) if "image" in body else None
        picture = self.paint(body["prompt"], seed, before)
        self.drawn += 1
        if not self.urls:
            return {"b64_json": b64encode(picture).decode()}
        path = f"/pictures/{len(self._files)}.png"
        if not self.lost:
            self._files[path] = picture
        return {"url": f"http://127.0.0.1:{self.port}{path}"}

    def paint(self, prompt: str, seed: int, before: bytes | None = None) -> bytes:
        """The picture that `prompt` gives with `seed`, and the picture `before`."""
        wanted, old = things(prompt), 0
        if count := _COUNT.search(prompt):
            number, last = map(int, count.groups())
            old, due = (self._due(len(wanted), one, last) for one in (number - 1, number))
            wanted = wanted[:due]
        there = measured(before) if before is not None else []
        stressed = things(" ".join(re.findall(rf"{STRESS}([^.]*)", prompt)))

        def chance(place: int, thing: Thing) -> float:
            if before is not None and place < old:
                return self.holds if thing in there else self.mends
            return self._chance(place, thing in stressed, len(stressed))

        scene = [thing for i, thing in enumerate(wanted) if self._luck(thing, prompt, seed) < chance(i, thing)]
        return painted(scene, np.random.default_rng((seed, crc32(prompt.encode()))))

    def _due(self, size: int, number: int, last: int) -> int:
        """How many of the things are to be in picture `number` of `last`."""
        share = self.first + (1 - self.first) * number / last
        return ceil(size * share - 1e-9) if number else 0

    def _chance(self, place: int, stressed: bool, count: int) -> float:
        if stressed and self.obeys is not None:
            return self.obeys * min(1.0, self.attention / count)
        return self.keeps * self.fade**place

    def _luck(self, thing: Thing, prompt: str, seed: int) -> float:
        luck = np.random.default_rng((seed, crc32(f"{prompt}\0{thing}".encode())))
        if luck.random() < self.loyal:
            luck = np.random.default_rng((seed, crc32(str(thing).encode())))
        return float(luck.random())


def _refusal(status: int, message: str, param: str | None, code: str = "invalid_request") -> web.Response:
    return web.json_response({"error": {"message": message, "param": param, "code": code}}, status=status)


def decoded(uri: str) -> bytes:
    """What a data URI holds."""
    return b64decode(uri.partition(",")[2])


def pictures(request: dict[str, Any]) -> list[bytes]:
    """The pictures that come with a chat request, in order."""
    content = request["messages"][-1]["content"]
    parts = content if isinstance(content, list) else []
    return [decoded(part["image_url"]["url"]) for part in parts if part["type"] == "image_url"]


def embedded(picture: bytes) -> list[float]:
    """What is in a picture as a vector, place by place; what does not matter, where it stands there, is not in it."""
    scene = measured(picture)
    hashes = [[crc32(f"{thing}".encode(), i) / 2**32 - 0.5 for i in range(8)] for thing in scene]
    vector = np.zeros((len(PLACES), 8))
    for thing, numbers in zip(scene, hashes, strict=True):
        vector[PLACES.index(thing.place)] += numbers
    return [1.0, *vector.ravel().tolist()]


def met(request: str, scene: Sequence[Thing]) -> float:
    """The share of what `request` speaks of that a scene has."""
    wanted = things(request)
    return sum((Counter(wanted) & Counter(scene)).values()) / len(wanted)
