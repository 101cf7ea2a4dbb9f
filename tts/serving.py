"""Serves an ASGI app on a port, with uvicorn."""

from __future__ import annotations

import asyncio
import resource
import signal
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

from tts.cycles import look_past_what_is_there
from tts.errors import ConfigError, MissingExtra

try:
    import uvicorn
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
except ImportError:
    raise MissingExtra("serve", "serving on a port") from None

App = Callable[[Any, Any, Any], Awaitable[None]]


LONGEST_HEAD = 1 << 17
"""Bytes of a request's head, its URL and headers, which come before anybody knows who sends it, or of what follows its
body."""

TOO_LONG = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


class TimedProtocol(HttpToolsProtocol):
    """HTTP that gives a client `seconds` to send the head of a request, and to read what was sent to it.

    Slower clients are disconnected, and those whose head has no end. Otherwise a connection that sends nothing, or a
    stream that nobody reads, would stay open for ever, and a head take memory, and time that is quadratic in it.
    """

    def __init__(self, *args: Any, seconds: float, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._seconds = seconds
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._head = 0
        """Bytes that came last and are not of a body."""

    def data_received(self, data: bytes) -> None:
        self._head += len(data)
        super().data_received(data)
        if self._head > LONGEST_HEAD and not self.transport.is_closing():
            if self.cycle is None or self.cycle.response_complete:
                self.transport.write(TOO_LONG)
            self.transport.close()

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        super().connection_made(transport)
        held: socket.socket = transport.get_extra_info("socket")
        held.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # else a body waits until its head is acknowledged
        self._limit("reading")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head = 0
        self._limit("reading")

    def on_headers_complete(self) -> None:
        self._stop("reading")
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._head = 0
        super().on_body(body)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._limit("writing")

    def resume_writing(self) -> None:
        self._stop("writing")
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop("reading")
        self._stop("writing")
        super().connection_lost(exc)

    def _limit(self, what: str) -> None:
        self._stop(what)
        self._timers[what] = self.loop.call_later(self._seconds, self.transport.abort)

    def _stop(self, what: str) -> None:
        if timer := self._timers.pop(what, None):
            timer.cancel()


def server_for(
    app: App, *, drain_seconds: int = 1, client_seconds: float = 60.0, tls: ssl.SSLContext | None = None
) -> uvicorn.Server:
    """A server that waits `client_seconds` for slow clients, and `drain_seconds` for open requests when it stops."""
    http: Any = partial(TimedProtocol, seconds=client_seconds)
    config = uvicorn.Config(
        app, http=http, ws="none", log_level="warning", timeout_graceful_shutdown=drain_seconds, server_header=False
    )
    config.load()
    config.ssl = tls
    return uvicorn.Server(config)


def _raise_file_limit() -> None:
    """Allow as many open files as the system does: many shells start with 1024, too few for a thousand streams."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # macOS enforces a lower limit than the one it reports
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def serve(
    app: App, host: str, port: int, announce: Callable[[str], None], *, path: str = "/v1", **settings: Any
) -> None:
    """Serve `app` until Ctrl-C or SIGTERM.

    `announce` is called with the base URL, which ends in `path`, once it answers there. Port 0 is any free one;
    `settings` are those of `server_for`. Raises `ConfigError` if the port is not available.
    """
    with listening_at(host, port) as listening:
        url = url_of(host, listening, path, "https" if settings.get("tls") else "http")
        run_on(listening, app, lambda: announce(url), **settings)


def run_on(listening: socket.socket, app: App, ready: Callable[[], None] = lambda: None, **settings: Any) -> None:
    """Serve `app` on a socket until Ctrl-C or SIGTERM; `ready` is called once it answers, and goes by its signals."""
    server = server_for(app, **settings)
    _raise_file_limit()
    startup = server.startup

    async def settled(sockets: list[socket.socket] | None = None) -> None:
        await startup(sockets)
        if not server.should_exit:
            ready()
        look_past_what_is_there()  # to look through all that is there takes longer than the loop may stand still

    server.startup = settled
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:  # the terminal is closed: as gracefully as SIGTERM
        signal.signal(signal.SIGHUP, server.handle_exit)
    with suppress(KeyboardInterrupt):  # uvicorn raises it again once everything is closed
        server.run(sockets=[listening])


def url_of(host: str, listening: socket.socket, path: str = "/v1", scheme: str = "http") -> str:
    """Where a socket that listens at `host` can be reached."""
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}{path}"


@contextmanager
def listening_at(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that takes connections. Raises `ConfigError` if the port is not available."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((host, port))
        except OSError as error:
            raise ConfigError(f"cannot listen at {host}:{port}: {error.strerror}; choose another --port") from None
        listening.listen(2048)
        yield listening
