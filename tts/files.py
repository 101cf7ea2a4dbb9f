"""Files that are written whole or not at all, the folder for what can be downloaded or computed again, and images as
answers: files named by their content, in a folder beside the run's store, shown to judges inline.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import re
import shutil
from base64 import b64encode
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

from tts.errors import ConfigError


def write_atomically(path: Path, data: bytes | str) -> None:
    """Write `path`, text as UTF-8, so that no reader ever sees part of it; makes its folder if it is missing."""
    with written_whole(path) as partial:
        partial.write_bytes(data.encode() if isinstance(data, str) else data)


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A file beside `path` to write into, which takes its place at the end if nothing fails; makes its folder.

    A link stays, and what it leads to is written. Where the folder takes no new files, the one that is there gets what
    was written elsewhere.
    """
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{uuid4().hex}.part")
    try:
        partial.touch()
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS) or not path.is_file():
            raise
        with TemporaryDirectory() as folder:
            yield Path(folder, path.name)
            shutil.copyfile(Path(folder, path.name), path)
        return
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def download(url: str, target: Path, timeout: float = 60.0) -> None:
    """Write what is at `url` to `target`, so that no reader ever sees part of it; makes its folder if it is missing.

    Goes by the environment's proxies. Raises `OSError` if it cannot be had, or nothing comes for `timeout` seconds.
    """
    from http.client import HTTPException  # imported late, as few need it
    from urllib.request import Request, urlopen

    request = Request(url, headers={"user-agent": "ttscale"})
    try:
        with written_whole(target) as partial, urlopen(request, timeout=timeout) as answer:
            with partial.open("wb") as file:
                shutil.copyfileobj(answer, file, 1 << 20)
            if answer.length:
                raise ConnectionError(f"the connection was lost with {answer.length:,} bytes left")
    except HTTPException as error:
        raise ConnectionError(f"no proper answer: {error!r}") from error


def check_writable(path: Path, formats: Sequence[str] = ()) -> str:
    """The suffix of a file that is to be written, without its dot and in small letters.

    Raises `ConfigError` if it is none of `formats`, where there are any, or nothing can be written there: before work
    whose result it is to hold.
    """
    kind, folder = path.suffix.removeprefix(".").lower(), path.resolve().parent
    if formats and kind not in formats:
        raise ConfigError(f"cannot tell the format of {path}: end the name in one of .{', .'.join(formats)}")
    if not folder.is_dir():
        raise ConfigError(f"cannot write {path}: there is no folder {folder if path.is_symlink() else path.parent}")
    if path.is_dir() or not os.access(path if path.exists() else folder, os.W_OK):
        raise ConfigError(f"cannot write {path}: {'it is a folder' if path.is_dir() else 'no permission'}")
    return kind


def write_calibration_file(path: Path, content: Any) -> None:
    """Write `content` as JSON. Raises `ConfigError` if there is such a file already, or it cannot be written."""
    try:
        with path.open("x", encoding="utf-8") as file:
            json.dump(content, file, indent=1)
    except FileExistsError:
        raise ConfigError(f"{path} is there already; a calibration is never overwritten") from None
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from None


def cache_folder() -> Path:
    """Where downloads and computed data are kept: `$TTS_DATA`, by default `~/.cache/ttscale/data`."""
    return Path(os.environ.get("TTS_DATA") or Path.home() / ".cache" / "ttscale" / "data")


FOLDER = "images"
_NAME = re.compile(rf"{FOLDER}/[0-9a-f]{{64}}\.(png|jpeg|webp|gif)")
_SIGNATURES = {b"\x89PNG\r\n\x1a\n": "png", b"\xff\xd8\xff": "jpeg", b"GIF8": "gif"}


def kind_of(data: bytes) -> str | None:
    """png, jpeg, webp or gif, by the first bytes of the file; None for anything else."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    return next((kind for signature, kind in _SIGNATURES.items() if data.startswith(signature)), None)


def pictures_in(content: str) -> list[str]:
    """The pictures that a candidate's content is: names such as `images/SHA256.png`, relative to the run's folder.

    A film has one on each line. Empty where the content is anything else.
    """
    names = content.split("\n")
    return names if all(map(_NAME.fullmatch, names)) else []


class ImageFolder:
    """The images in `folder`/images."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.place = folder

    async def keep(self, data: bytes) -> str:
        """Store an image and return its name. Raises `ValueError` when `data` is not an image."""
        kind = kind_of(data)
        if kind is None:
            raise ValueError(f"not an image: {data[:40]!r}")
        name = f"{FOLDER}/{sha256(data).hexdigest()}.{kind}"
        path = self._folder / name
        if not path.exists():
            await asyncio.to_thread(write_atomically, path, data)
        return name

    async def inline(self, name: str) -> str:
        """The image as a data URI. Raises `ConfigError` when its file cannot be read."""
        assert _NAME.fullmatch(name)
        try:
            data = await asyncio.to_thread((self._folder / name).read_bytes)
        except OSError as error:
            raise ConfigError(f"the image {self._folder / name} cannot be read: {error.strerror}") from None
        return f"data:image/{name.rpartition('.')[2]};base64,{b64encode(data).decode()}"
