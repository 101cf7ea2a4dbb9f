"""Puts an ASGI app on a port, with uvicorn."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from tts.errors import ConfigError, MissingExtra

App = Callable[[Any, Any, Any], Awaitable[None]]


def serve(
    app: App, host: str, port: int, announce: Callable[[str], None], *, drain_seconds: int = 1, path: str = "/v1"
) -> None:
    """Serve `app` until Ctrl-C or SIGTERM; `announce` is called with the base URL, which ends in `path`,
    when it can be reached.

    Port 0 is a free one. Requests that are being answered at the end have `drain_seconds` left.

    Raises `MissingExtra` without uvicorn, and `ConfigError` where the port cannot be had.
    """
    try:
        import uvicorn
    except ImportError:
        raise MissingExtra("serve", "serving on a port") from None
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=drain_seconds))
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
