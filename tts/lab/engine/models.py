"""Where the models are that the engine can run: those that come with the library, and folders of your own."""

from __future__ import annotations

import hashlib
from pathlib import Path

from tts.errors import ConfigError

SCHEME = "embedded://"
BUNDLED = Path(__file__).parent / "models"


def bundled_models() -> list[Path]:
    """The folders of the models that come with the library."""
    return sorted(path.parent for path in BUNDLED.glob("*/config.json"))


def model_folder(place: str) -> Path:
    """The folder of a model: `lab-target`, `embedded://lab-target`, `./folder` or `embedded:///folder`.

    Raises `ConfigError` where there is none.
    """
    name = place.removeprefix(SCHEME).removesuffix("/v1").rstrip("/")
    folder = Path(name).expanduser() if "/" in name or name.startswith(("~", ".")) else BUNDLED / name
    if not name or not (folder / "config.json").is_file():
        there = ", ".join(path.name for path in bundled_models()) or "none"
        raise ConfigError(f"no embedded model '{name}'; there are: {there}. Or give a folder: {SCHEME}/path/to/model")
    return folder


def fingerprint(place: str) -> str:
    """A digest of the weights of a model, by which they are told from those that stood there before."""
    weights = b"".join(path.read_bytes() for path in sorted(model_folder(place).glob("*.safetensors")))
    return hashlib.blake2b(weights, digest_size=6).hexdigest()
