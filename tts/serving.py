"""Puts an ASGI app on a port, with uvicorn."""

from __future__ import annotations

import asyncio
import resource
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any

from tts.errors import ConfigError, MissingExtra

try:
    import uvicorn
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
except ImportError:
    raise MissingExtra("serve", "serving on a port") from None

App = Callable[[Any, Any, Any], Awaitable[None]]


class Patient(HttpToolsProtocol):
    """HTTP that gives a client `seconds` to send the head of a request, and to read what is ready for it.

    Who takes longer is disconnected: without that, a connection that sends nothing, or a stream that nobody reads,
    would be there for ever.
    """

    def __init__(self, *args: Any, seconds: float, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._seconds = seconds
        self._reading: asyncio.TimerHandle | None = None
        self._writing: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Wait for the first request."""
        super().connection_made(transport)
        self._reading = self._limit()

    def on_message_begin(self) -> None:
        """Wait for a head that has begun."""
        super().on_message_begin()
        _stop(self._reading)
        self._reading = self._limit()

    def on_headers_complete(self) -> None:
        """The head has come."""
        _stop(self._reading)
        super().on_headers_complete()

    def pause_writing(self) -> None:
        """Wait for the client to read."""
        super().pause_writing()
        self._writing = self._limit()

    def resume_writing(self) -> None:
        """It has read."""
        _stop(self._writing)
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing more to wait for."""
        _stop(self._reading)
        _stop(self._writing)
        super().connection_lost(exc)

    def _limit(self) -> asyncio.TimerHandle:
        return self.loop.call_later(self._seconds, self.transport.abort)


def _stop(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()


def server_for(app: App, *, drain_seconds: int = 1, client_seconds: float = 60.0) -> uvicorn.Server:
    """A server that waits `client_seconds` for slow clients, and at its end `drain_seconds` for open requests."""
    http: Any = partial(Patient, seconds=client_seconds)
    return uvicorn.Server(
        uvicorn.Config(
            app, http=http, ws="none", log_level="warning", timeout_graceful_shutdown=drain_seconds, server_header=False
        )
    )


def _raise_file_limit() -> None:
    """As many open connections as the system allows: shells often start with 1024, too few for a thousand streams."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # macOS has a limit of its own below the one that it tells
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def serve(
    app: App, host: str, port: int, announce: Callable[[str], None], *, path: str = "/v1", **settings: Any
) -> None:
    """Serve `app` until Ctrl-C or SIGTERM; `announce` is called with the base URL, which ends in `path`, when it can
    be reached.

    Port 0 is a free one; `settings` are those of `server_for`. Raises `ConfigError` where the port cannot be had.
    """
    server = server_for(app, **settings)
    _raise_file_limit()
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((host, port))
        except OSError as error:
            raise ConfigError(f"cannot listen at {host}:{port}: {error.strerror}; choose another --port") from None
        listening.listen(2048)
        announce(f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}{path}")
        with suppress(KeyboardInterrupt):  # uvicorn raises it again once everything is closed
            server.run(sockets=[listening])
