"""A server that answers with bytes as they are written down: what real servers get wrong on the wire."""

import asyncio
import json
from collections.abc import Callable, Iterable
from typing import Any, Self

Json = dict[str, Any]
Reply = bytes | Iterable[bytes]
"""All bytes of a response, in one piece or in those in which they are sent."""


class Scripted:
    """Answers each POST with what `reply` makes of its body; it lists no models. An async context manager.

    `requests` are the bodies, `heads` the heads of all requests. `reply` may look at `head` for what else was sent.
    """

    def __init__(self, reply: Callable[[Json], Reply]) -> None:
        self.requests: list[Json] = []
        self.heads: list[str] = []
        self.sent = 0
        """Bytes of responses that were sent."""
        self._reply = reply

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.base_url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    @property
    def head(self) -> str:
        """The head of the last request: its first line and headers."""
        return self.heads[-1]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            self.heads.append((await reader.readuntil(b"\r\n\r\n")).decode())
            lengths = [line[15:] for line in self.head.lower().split("\r\n") if line.startswith("content-length:")]
            body = await reader.readexactly(int(lengths[0])) if lengths else b""
            if self.head.startswith("GET"):
                reply: Reply = response(b"{}", status="404 Not Found")
            else:
                self.requests.append(json.loads(body))
                reply = self._reply(self.requests[-1])
            for piece in [reply] if isinstance(reply, bytes) else reply:
                writer.write(piece)
                self.sent += len(piece)
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


def response(body: bytes | Any, status: str = "200 OK", **headers: str) -> bytes:
    """A response that ends with its connection; what is not bytes is sent as JSON. Names: `content_type`."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    fields = {"content-type": "application/json", "connection": "close"}
    fields |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {status}\r\n{head}\r\n".encode() + data


def answer(*texts: str, **fields: Any) -> Json:
    """A chat completion with a choice for each of `texts`; `fields` are further ones of every choice."""
    choices = [
        {"index": i, "message": {"role": "assistant", "content": text}, "finish_reason": "stop", **fields}
        for i, text in enumerate(texts)
    ]
    return {"object": "chat.completion", "choices": choices, "usage": {"prompt_tokens": 5, "completion_tokens": 7}}


def stream(*events: Any, end: bytes = b"\n\n") -> bytes:
    """A stream of events; what is not bytes is sent as JSON."""
    lines = [event if isinstance(event, bytes) else b"data: " + json.dumps(event).encode() for event in events]
    return response(b"".join(line + end for line in lines), content_type="text/event-stream")


def delta(text: str | None = None, finish: str | None = None, **fields: Any) -> Json:
    """An event that adds `text` to the only choice, or ends it."""
    return {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": finish, **fields}]}
