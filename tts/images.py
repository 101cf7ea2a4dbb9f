"""Pictures as answers: files named by what is in them, in a folder beside the run's store, shown to judges inline."""

from __future__ import annotations

import asyncio
import os
import re
import tempfile
from base64 import b64encode
from hashlib import sha256
from pathlib import Path

from tts.errors import ConfigError

FOLDER = "images"
_NAME = re.compile(rf"{FOLDER}/[0-9a-f]{{64}}\.(png|jpeg|webp|gif)")
_BEGINNINGS = ((b"\x89PNG\r\n\x1a\n", "png"), (b"\xff\xd8\xff", "jpeg"), (b"GIF8", "gif"))


def kind_of(data: bytes) -> str | None:
    """png, jpeg, webp or gif, by how the file begins; None for anything else."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    return next((kind for beginning, kind in _BEGINNINGS if data.startswith(beginning)), None)


def is_picture(content: str) -> bool:
    """Whether a candidate's content is the name of a picture: `images/SHA256.png`, relative to the run's folder."""
    return _NAME.fullmatch(content) is not None


class Pictures:
    """The pictures in `folder`/images."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def keep(self, data: bytes) -> str:
        """Write a picture, whole or not at all, and give its name. Raises `ValueError` where `data` is none."""
        kind = kind_of(data)
        if kind is None:
            raise ValueError(f"this is no picture: {data[:40]!r}")
        name = f"{FOLDER}/{sha256(data).hexdigest()}.{kind}"
        await asyncio.to_thread(_write, self._folder / name, data)
        return name

    async def inline(self, name: str) -> str:
        """The picture as a data URI. Raises `ConfigError` where its file is gone."""
        assert is_picture(name)
        try:
            data = await asyncio.to_thread((self._folder / name).read_bytes)
        except OSError as error:
            raise ConfigError(f"the picture {self._folder / name} cannot be read: {error.strerror}") from None
        return f"data:image/{name.rpartition('.')[2]};base64,{b64encode(data).decode()}"


def _write(path: Path, data: bytes) -> None:
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(dir=path.parent, prefix=".part.")
    with os.fdopen(handle, "wb") as file:
        file.write(data)
    os.replace(partial, path)
