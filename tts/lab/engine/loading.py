"""Engines of this process: each model is loaded once, whoever uses it."""

from __future__ import annotations

import functools
import threading
from pathlib import Path

from tts.lab.engine.engine import Engine
from tts.lab.engine.service import Service

_lock = threading.Lock()


def load_service(folder: Path) -> Service:
    """The service of the model in `folder`. Raises `ConfigError` where there is none that the engine can run."""
    with _lock:
        return _load(folder.resolve())


@functools.cache
def _load(folder: Path) -> Service:
    return Service(Engine(folder))
