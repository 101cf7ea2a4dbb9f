"""Batch APIs as a transport: requests are collected, sent as one file, and each gets its own answer.

A journal beside the run says what a batch is asked before there is one: a program that is killed finds what it has paid
for when it is started again.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterable, AsyncIterator, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from yarl import URL

from tts.sampler.transport import LOST, Reply, Request, Transport

QUIET = 2.0
"""Seconds without a new request after which those that were collected are sent."""
MOST_REQUESTS, MOST_BYTES = 50_000, 100_000_000
"""Of one batch."""
POLL = 30.0
"""Seconds between two looks at a batch."""

ROUTES = ("/chat/completions", "/completions", "/embeddings")
ENDED = ("completed", "failed", "expired", "cancelled")
JOURNAL = "batches.jsonl"
TAG = "ttscale"
"""The field of a batch's metadata that says which entry of a journal it is."""

Answer = tuple[int, bytes]
"""Status and body."""


@dataclass(eq=False)
class _Asked:
    """A request that is to be part of a batch."""

    url: str
    line: bytes
    answer: asyncio.Future[Answer] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class _Refused(Exception):
    """The server refused a file or a batch."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer)
        self.answer = answer


class BatchTransport:
    """Has requests to models answered as batches of one server; everything else goes straight to it.

    A request's `name` is what its answer is filed under; the same name must mean the same request.
    """

    def __init__(self, network: Transport, folder: Path | None) -> None:
        """`folder` is where the journal is kept; None: what is under way when the program ends is lost."""
        self._network = network
        self._journal = folder / JOURNAL if folder else None
        self._collected: dict[str, _Asked] = {}
        self._bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._paid: dict[str, str] = {}
        """The batch of each name whose answer is under way, or came when nobody waited for it any more."""
        self._reading: dict[str, asyncio.Task[dict[str, Answer]]] = {}
        """The results of batches, by id."""
        self._sending: set[asyncio.Task[None]] = set()
        self._remembering = asyncio.Lock()
        self._remembered = self._journal is None

    async def __call__(self, request: Request) -> Reply:
        route = next((route for route in ROUTES if request.url.path.endswith(route)), None)
        if request.method != "POST" or route is None:
            return await self._network(request)
        body = request.json()
        if body.get("stream"):
            return _response((501, _error("a batch does not stream; use an endpoint without `batch` for this")))
        server = _Server(self._network, request, str(request.url).partition(route)[0])
        name = request.name or uuid4().hex
        try:
            await self._remember(server)
            if (id := self._paid.pop(name, None)) is not None:
                status, data = (await self._results(server, id)).get(name, (0, b""))
                if status == 200:
                    return _response((status, data))
        except _Refused as refused:
            return _response(refused.answer)
        if name in self._collected:  # problems with the same prompt
            name = uuid4().hex
        url = f"{server.path}{route}"
        line = json.dumps({"custom_id": name, "method": "POST", "url": url, "body": body}).encode()
        waiting = self._collected[name] = _Asked(url, line)
        self._collect(server, len(line))
        try:
            return _response(await waiting.answer)
        finally:
            self._collected.pop(name, None)

    async def aclose(self) -> None:
        tasks = [*self._sending, *self._reading.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._timer is not None:
            self._timer.cancel()

    # -- sending ---------------------------------------------------------------------------------------------------

    def _collect(self, server: _Server, size: int) -> None:
        """Send what is collected when no more comes for a while."""
        self._bytes += size
        if self._timer is not None:
            self._timer.cancel()
        full = len(self._collected) >= MOST_REQUESTS or self._bytes >= MOST_BYTES
        self._timer = asyncio.get_running_loop().call_later(0.0 if full else QUIET, self._send, server)

    def _send(self, server: _Server) -> None:
        collected, self._collected, self._bytes = self._collected, {}, 0
        for url in {one.url for one in collected.values()}:
            part = {name: one for name, one in collected.items() if one.url == url}
            self._sending.add(task := asyncio.create_task(self._answer(server, url, part)))
            task.add_done_callback(self._sending.discard)

    async def _answer(self, server: _Server, url: str, lines: dict[str, _Asked]) -> None:
        """Have `lines` answered, whatever comes of them."""
        try:
            id = await self._begin(server, url, lines)
            found, refused = (
                await self._results(server, id),
                (504, _error(f"the batch {id} ended without this request")),
            )
            self._reading.pop(id, None)
        except _Refused as error:
            found, refused = {}, error.answer
        except (*LOST, ValueError, LookupError, TypeError) as error:
            found, refused = {}, (503, _error(f"the batch API gave no answer that can be read: {error!r}"))
        for name, one in lines.items():
            if not one.answer.done():
                self._paid.pop(name, None)
                one.answer.set_result(found.get(name, refused))

    async def _begin(self, server: _Server, url: str, lines: dict[str, _Asked]) -> str:
        """The id of a new batch of `lines`."""
        mark = uuid4().hex
        await self._note({"mark": mark, "names": list(lines)})
        file = await server.upload(b"\n".join(one.line for one in lines.values()))
        asked = {"input_file_id": file, "endpoint": url, "completion_window": "24h", "metadata": {TAG: mark}}
        id = (await server.json("POST", "/batches", json.dumps(asked).encode()))["id"]
        self._paid.update((name, id) for name in lines)
        await self._note({"mark": mark, "id": id})
        return id

    async def _results(self, server: _Server, id: str) -> dict[str, Answer]:
        """The answers of the batch `id`, by name, once it has ended."""
        if id not in self._reading:
            self._reading[id] = asyncio.create_task(server.results(id))
        return await asyncio.shield(self._reading[id])

    # -- the journal -----------------------------------------------------------------------------------------------

    async def _note(self, entry: dict[str, Any]) -> None:
        if self._journal is not None:
            await asyncio.to_thread(_append, self._journal, entry)

    async def _remember(self, server: _Server) -> None:
        """Read the journal, once. A batch whose id did not come to be written is looked for on the server."""
        async with self._remembering:
            if self._remembered or self._journal is None:
                return
            entries = await asyncio.to_thread(_entries, self._journal)
            names = {entry["mark"]: entry["names"] for entry in entries if "names" in entry}
            ids = {entry["mark"]: entry["id"] for entry in entries if "id" in entry}
            if names.keys() - ids.keys():
                async for mark, id in server.batches():
                    if mark in names and mark not in ids:
                        ids[mark] = id
                        await self._note({"mark": mark, "id": id})
            self._paid = {name: ids[mark] for mark in names if mark in ids for name in names[mark]}
            self._remembered = True


@dataclass(frozen=True, slots=True)
class _Server:
    """The files and batches of a server, asked as `request` was."""

    network: Transport
    request: Request
    base: str

    @property
    def path(self) -> str:
        """Of the API, as batches name it: `/v1`."""
        return URL(self.base).raw_path.rstrip("/")

    async def ask(self, method: str, path: str, content: bytes = b"", kind: str = "application/json") -> Reply:
        """An answer whose body is still to be read. Raises `_Refused` for one that is no good."""
        kept = ("authorization", "api-key", "openai-organization", "openai-project", "user-agent")
        headers = {name.lower(): value for name, value in self.request.headers.items()}
        headers = {name: value for name, value in headers.items() if name in kept or name.startswith("x-")}
        headers |= {"content-type": kind} if content else {}
        url = URL(self.base + path).update_query(self.request.url.query)
        reply = await self.network(Request(method, url, headers, content))
        if reply.status >= 300:
            raise _Refused((reply.status, await reply.read()))
        return reply

    async def json(self, method: str, path: str, content: bytes = b"", kind: str = "application/json") -> Any:
        return json.loads(await (await self.ask(method, path, content, kind)).read())

    async def upload(self, lines: bytes) -> str:
        """The id of a file with `lines`."""
        edge, field = f"--{uuid4().hex}", "Content-Disposition: form-data; name="
        file = f'{field}"file"; filename="batch.jsonl"\r\nContent-Type: application/jsonl'
        head = f'{edge}\r\n{field}"purpose"\r\n\r\nbatch\r\n{edge}\r\n{file}\r\n\r\n'
        content = b"%s%s\r\n%s--\r\n" % (head.encode(), lines, edge.encode())
        return (await self.json("POST", "/files", content, f"multipart/form-data; boundary={edge[2:]}"))["id"]

    async def batches(self) -> AsyncIterator[tuple[str, str]]:
        """Mark and id of the batches that this library has sent, the latest first."""
        after = ""
        while True:
            page = await self.json("GET", f"/batches?limit=100{after}")
            for batch in page["data"]:
                if mark := (batch.get("metadata") or {}).get(TAG):
                    yield mark, batch["id"]
            if not page.get("has_more") or not page["data"]:
                return
            after = f"&after={page['data'][-1]['id']}"

    async def results(self, id: str) -> dict[str, Answer]:
        """The answers of a batch by name, once it has ended. To ask costs nothing: what may pass is asked again."""
        while True:
            try:
                batch = await self.json("GET", f"/batches/{id}")
                if batch["status"] in ENDED:
                    return await self._read(batch)
            except (*LOST, ValueError):
                pass
            except _Refused as refused:
                if refused.answer[0] < 500 and refused.answer[0] not in (408, 409, 429):
                    raise
            await asyncio.sleep(POLL)

    async def _read(self, batch: Mapping[str, Any]) -> dict[str, Answer]:
        if batch["status"] == "failed":  # the file was refused
            told = (batch.get("errors") or {}).get("data") or [{}]
            raise _Refused((400, _error(f"the batch was refused: {told[0].get('message', 'no message')}")))
        found: dict[str, Answer] = {}
        for file in filter(None, (batch.get("output_file_id"), batch.get("error_file_id"))):
            async with aclosing(await self.ask("GET", f"/files/{file}/content")) as reply:
                async for line in _lines(reply):
                    name, answer = _answered(json.loads(line))
                    found[name] = answer
        return found


def _answered(line: Mapping[str, Any]) -> tuple[str, Answer]:
    """Whose answer a line of a result is, and what it says."""
    response, error = line.get("response"), line.get("error")
    if response:
        return line["custom_id"], (response["status_code"], json.dumps(response["body"]).encode())
    told = error if isinstance(error, Mapping) else {"message": str(error)}
    return line["custom_id"], (504, _error(f"{told.get('code', 'failed')}: {told.get('message', '')}"))


async def _lines(parts: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    """The lines of a file that say something."""
    begun = b""
    async for part in parts:
        *lines, begun = (begun + part).split(b"\n")
        for line in lines:
            if line.strip():
                yield line
    if begun.strip():
        yield begun


def _response(answer: Answer) -> Reply:
    status, data = answer
    headers = {"content-type": "application/json"}
    if status == 504:  # another batch would take another day: a resumed run asks again
        headers["x-should-retry"] = "false"
    return Reply.whole(status, data, headers)


def _error(message: str) -> bytes:
    return json.dumps({"error": {"message": message}}).encode()


def _append(journal: Path, entry: Mapping[str, Any]) -> None:
    journal.parent.mkdir(parents=True, exist_ok=True)
    with journal.open("a", encoding="utf-8") as file:
        file.write(f"\n{json.dumps(entry)}\n")  # on a line of its own, whatever was cut off before
        file.flush()
        os.fsync(file.fileno())


def _entries(journal: Path) -> list[dict[str, Any]]:
    """What the journal says; a line that was cut off says nothing."""
    entries = []
    for line in journal.read_text(encoding="utf-8").splitlines() if journal.exists() else ():
        with suppress(ValueError):
            entries.append(json.loads(line))
    return entries
