"""Every request kept: `tts report DIRECTORY` shows what the strategies did and what they cost.

A request with a strategy is a problem of the run, under the id that the client sees in `x-tts-run`. What was asked,
of plain models too, is in `requests.jsonl`, a line each with the name of the client's key, the status and the usage.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from pathlib import Path
from time import time
from typing import Self

from tts.errors import StoreError
from tts.gateway.requests import Request
from tts.gateway.settings import Settings
from tts.runs.database import Lock
from tts.runs.store import Cell, Store
from tts.types import Result

log = logging.getLogger("tts")


class Trace:
    """The writing side. An async context manager; raises `ConfigError` where the directory cannot be written."""

    def __init__(self, directory: Path, settings: Settings) -> None:
        self._directory = directory
        self._lock = Lock(directory)
        self._record(settings)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        self._asked = os.open(directory / "requests.jsonl", flags, 0o600)

    async def __aenter__(self) -> Self:
        self._store = Store(self._directory / "run.sqlite")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._store.aclose()
        os.close(self._asked)
        self._lock.release()

    async def keep(self, result: Result, model: str) -> None:
        """Keep the result of a strategy, whose problem is the request; once awaited it is safe.

        Where it cannot be kept the log says so, and the client has its answer all the same.
        """
        try:
            await self._store.finish(Cell(result.problem, result.strategy, model, 0), result, {})
        except StoreError as error:
            log.error("request %s cannot be kept: %s", result.problem, error)

    async def note(self, request: Request, status: int) -> None:
        """Keep what was asked for, and how it ended."""
        line = {
            "run": request.run,
            "time": round(time(), 3),
            "client": request.client.name,
            "kind": request.kind,
            "status": status,
            "usage": {role: usage.as_dict() for role, usage in request.spent.items()},
            "body": request.body,
        }
        try:
            await asyncio.to_thread(os.write, self._asked, json.dumps(line).encode() + b"\n")
        except OSError as error:
            log.error("request %s cannot be noted: %s", request.run, error.strerror)

    def _record(self, settings: Settings) -> None:
        """What `tts report` must know of the models; those of earlier times stay."""
        path = self._directory / "run.json"
        before = json.loads(path.read_text())["config"]["models"] if path.exists() else {}
        models = {**before, **settings.model_dump(mode="json", include={"models"})["models"]}
        path.write_text(json.dumps({"config": {"task": {"name": "gateway"}, "verifier": None, "models": models}}))
