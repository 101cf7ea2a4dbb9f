"""OpenAI's Files and Batches API in front of answers that a function makes, with faults."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from tests.support.listening import Listening
from tests.support.raw_answers import answer

Json = dict[str, Any]


@dataclass(kw_only=True, eq=False)
class BatchServer(Listening):
    """An async context manager. Batches stay `in_progress` until `release`, by default the first look at them."""

    says: Callable[[Json], str] = lambda body: "Answer: 42"
    ends: str = "completed"
    waits: bool = False
    """Whether batches wait for `release`."""
    faults: list[int] = field(default_factory=list)
    """Statuses of the next responses, whatever they are to; 0 is as usual."""
    expired: frozenset[int] = frozenset()
    """The lines of each batch, by number, that the day was too short for."""
    host: str = "127.0.0.1"
    port: int = 0
    files: dict[str, bytes] = field(default_factory=dict)
    batches: dict[str, Json] = field(default_factory=dict)
    answered: list[Json] = field(default_factory=list)
    """The bodies of all requests that were answered: what is paid for."""
    seen: list[str] = field(default_factory=list)

    def release(self) -> None:
        """End the batches that there are."""
        for batch in self.batches.values():
            if batch["status"] == "in_progress":
                self._end(batch)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self.seen.append(f"{request.method} {request.path}")
        assert request.headers["Authorization"] == "Bearer sk-batch-key"
        if self.faults and (status := self.faults.pop(0)):
            return web.json_response({"error": {"message": "Not now."}}, status=status)
        match request.method, request.path.removeprefix("/v1/").split("/"):
            case "POST", ["files"]:
                parts = {part.name: await part.read() async for part in await request.multipart()}  # type: ignore[union-attr]
                assert parts["purpose"] == b"batch"
                return web.json_response({"id": self._keep(bytes(parts["file"]))})
            case "POST", ["batches"]:
                asked = await web.Request.json(request)  # type: ignore[arg-type]
                assert asked["completion_window"] == "24h"
                id = f"batch_{len(self.batches)}"
                self.batches[id] = {"id": id, "status": "in_progress", **asked}
                return web.json_response(self.batches[id])
            case "GET", ["batches"]:
                return web.json_response({"data": list(self.batches.values()), "has_more": False})
            case "GET", ["batches", id]:
                if not self.waits:
                    self.release()
                return web.json_response(self.batches[id])
            case "GET", ["files", id, "content"]:
                return web.Response(body=self.files[id])
        return web.json_response({"error": {"message": "not here"}}, status=404)

    def _keep(self, data: bytes) -> str:
        id = f"file_{len(self.files)}"
        self.files[id] = data
        return id

    def _end(self, batch: Json) -> None:
        batch["status"] = self.ends
        if self.ends == "failed":
            batch["errors"] = {"data": [{"code": "invalid", "message": "This file is no good."}]}
            return
        good, bad = [], []
        lines = [json.loads(line) for line in self.files[batch["input_file_id"]].splitlines()]
        assert len({line["custom_id"] for line in lines}) == len(lines)
        for number, line in enumerate(lines):
            id, body = line["custom_id"], line["body"]
            assert (line["method"], line["url"]) == ("POST", batch["endpoint"])
            if number in self.expired:
                error = {"code": "batch_expired", "message": "This request could not be executed in time."}
                bad.append({"custom_id": id, "response": None, "error": error})
            elif (told := self.says(body)).startswith("!"):
                refused = {"status_code": int(told[1:]), "body": {"error": {"message": "Not this one."}}}
                bad.append({"custom_id": id, "response": refused, "error": None})
            else:
                self.answered.append(body)
                n = body.get("n", 1)
                said = answer(*[told] * n) | {"usage": {"prompt_tokens": 5, "completion_tokens": 7 * n}}
                good.append({"custom_id": id, "response": {"status_code": 200, "body": said}, "error": None})
        for name, found in (("output_file_id", good), ("error_file_id", bad)):
            if found:
                batch[name] = self._keep("\n".join(map(json.dumps, found)).encode())
