"""Files that are written whole or not at all, and the folder for what can be downloaded or computed again."""

from __future__ import annotations

import os
from pathlib import Path
from uuid import uuid4


def write_atomically(path: Path, data: bytes | str) -> None:
    """Write `path`, text as UTF-8, so that no reader ever sees part of it; makes its folder if it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{uuid4().hex}.part")
    try:
        partial.write_bytes(data.encode() if isinstance(data, str) else data)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def cache_folder() -> Path:
    """Where downloads and computed data are kept: `$TTS_DATA`, by default `~/.cache/ttscale/data`."""
    return Path(os.environ.get("TTS_DATA") or Path.home() / ".cache" / "ttscale" / "data")
