"""Every request with a strategy kept as a run: `tts report DIRECTORY` shows what the strategies did and what they cost.

A request is a problem of the run, under the id that the client sees in `x-tts-run`. What was asked is in
`requests.jsonl`, a line each, with the name of the client's key.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from time import time
from typing import Any, Self

from tts.experiment.database import Lock
from tts.experiment.store import Cell, Store
from tts.gateway.settings import Settings
from tts.types import Result


class Trace:
    """The writing side. An async context manager; raises `ConfigError` where the directory cannot be written."""

    def __init__(self, directory: Path, settings: Settings) -> None:
        self._directory = directory
        self._lock = Lock(directory)
        self._record(settings)
        self._asked = (directory / "requests.jsonl").open("a", encoding="utf-8")

    async def __aenter__(self) -> Self:
        self._store = Store(self._directory / "run.sqlite")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._store.aclose()
        self._asked.close()
        self._lock.release()

    async def keep(self, run: str, client: str, kind: str, model: str, body: dict[str, Any], result: Result) -> None:
        """Keep one request and its result; once awaited both are safe."""
        line = {"run": run, "time": round(time(), 3), "client": client, "kind": kind, "body": body}
        await asyncio.to_thread(self._write, json.dumps(line))
        await self._store.finish(Cell(run, result.strategy, model, 0), result, {})

    def _write(self, line: str) -> None:
        self._asked.write(line + "\n")
        self._asked.flush()

    def _record(self, settings: Settings) -> None:
        """What `tts report` must know of the models; those of earlier times stay."""
        path = self._directory / "run.json"
        before = json.loads(path.read_text())["config"]["models"] if path.exists() else {}
        models = {**before, **settings.model_dump(mode="json", include={"models"})["models"]}
        path.write_text(json.dumps({"config": {"task": {"name": "gateway"}, "verifier": None, "models": models}}))
