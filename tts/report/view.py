"""The server behind `tts view`: a folder's runs, and their reports that follow while runs go on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from tts.errors import ConfigError, TTSError
from tts.report.embed import as_json
from tts.report.live import Folder
from tts.report.page import page

T = TypeVar("T")

LOCAL = ["127.0.0.1", "localhost", "[::1]"]


def view_app(path: Path, hosts: list[str] | None = None) -> Starlette:
    """The ASGI app over the runs below `path`, which answers to the names of `hosts` (default: this machine's own).

    Other names are refused, so that no page of another site reads runs by pointing its name at this machine. Raises
    `ConfigError` when `path` is no folder.
    """
    folder = Folder(path)
    reader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tts-view")

    async def read(function: Callable[..., T], *words: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(reader, partial(function, *words))

    async def index(request: Request) -> Response:
        return _html(page("Runs", template="folder.html", scripts=("folder.js",), live=True))

    async def report(request: Request) -> Response:
        return _html(page(" and ".join(_names(request)), live=True))

    async def runs(request: Request) -> Response:
        return _json(await read(folder.listing))

    async def overview(request: Request) -> Response:
        found = await read(folder.report, _names(request))
        if found.version == request.query_params.get("since"):
            return Response(status_code=204)
        return _json({"version": found.version, "overview": found.overview})

    async def problem(request: Request) -> Response:
        place = request.query_params.get("place", "")
        if not place.isdecimal():
            raise ConfigError("`place` must be the position of a problem")
        name = request.query_params.get("name", "")
        return _json(await read(folder.problem, _names(request), int(place), name))

    async def failed(request: Request, error: Exception) -> Response:
        return JSONResponse({"error": str(error)}, 404 if isinstance(error, ConfigError) else 500)

    return Starlette(
        routes=[
            Route("/", index),
            Route("/report", report),
            Route("/api/runs", runs),
            Route("/api/overview", overview),
            Route("/api/problem", problem),
        ],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=hosts or LOCAL)],
        exception_handlers={TTSError: failed},
    )


def _names(request: Request) -> tuple[str, ...]:
    return tuple(request.query_params.getlist("run"))


def _html(text: str) -> Response:
    return HTMLResponse(text, headers={"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"})


def _json(data: object) -> Response:
    headers = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
    return Response(as_json(data), media_type="application/json", headers=headers)
