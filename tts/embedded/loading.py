"""Engines of this process: each model is loaded once, whoever uses it."""

from __future__ import annotations

import functools
import threading
from pathlib import Path

from tts.embedded.app import App
from tts.embedded.engine import Engine

_lock = threading.Lock()


def load_app(folder: Path) -> App:
    """The app of the model in `folder`. Raises `ConfigError` where there is none that the engine can run."""
    with _lock:
        return _load(folder.resolve())


@functools.cache
def _load(folder: Path) -> App:
    return App(Engine(folder))
