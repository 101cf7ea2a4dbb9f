"""Where embedded models are; the shape and the weights of model folders as `transformers` saves them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tts.errors import ConfigError
from tts.lab.public_models import MODELS, public_file, public_name

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

SCHEME = "embedded://"
GGUF = ".gguf"
ENDS = 1 << 20
"""Bytes of each end of a GGUF file that tell it from others."""
BUNDLED = Path(__file__).parent / "models"
ARCHITECTURES: dict[str, Literal["generate", "reward"]] = {
    "LlamaForCausalLM": "generate",
    "LlamaForSequenceClassification": "reward",
}
DTYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}


def bundled_models() -> list[Path]:
    """The folders of the models that ship with the library."""
    return sorted(path.parent for path in BUNDLED.glob("*/config.json"))


def model_place(place: str) -> Path:
    """The folder or the GGUF file of a model that is here.

    `place` is the name of a bundled or a fetched public model or a path, as in `lab-target`, `smollm2-135m`, `./folder`
    and `~/model.gguf`, each with or without `embedded://` before it. Raises `ConfigError` if there is none.
    """
    name = place.removeprefix(SCHEME).removesuffix("/v1").rstrip("/")
    if "/" in name or name.startswith(("~", ".")) or name.endswith(GGUF):
        path = Path(name).expanduser()
    elif (public := public_name(name)) and not (BUNDLED / name).exists():
        path = public_file(public)
        if not path.exists():
            raise ConfigError(f"the model {public} is not here yet: tts embedded fetch {public}")
    else:
        path = BUNDLED / name
    if not name or not (path.is_file() if path.suffix == GGUF else (path / "config.json").is_file()):
        known = ", ".join([*(path.name for path in bundled_models()), *MODELS])
        raise ConfigError(
            f"no embedded model '{name}'; there are: {known}. Or give a folder or a GGUF file: {SCHEME}/path/to/model"
        )
    return path


def model_name(place: str) -> str:
    """What requests call the model at `place`."""
    path = model_place(place).resolve()
    known = {public_file(name): name for name in MODELS}
    return known.get(path) or (path.stem if path.suffix == GGUF else path.name)


def parameters_of(place: str) -> float | None:
    """The number of weights of the model at `place`; None of an unknown GGUF file. Folders hold two bytes for each."""
    path = model_place(place)
    if path.suffix == GGUF:
        known = MODELS.get(model_name(place))
        return known.parameters if known else None
    return (path / "model.safetensors").stat().st_size / 2


def fingerprint(place: str) -> str:
    """A digest of a model's weights, which tells it from other weights saved in the same place.

    Of a GGUF file, which may be large, the size and both ends are read.
    """
    path = model_place(place)
    if path.suffix != GGUF:
        return _digest(*(one.read_bytes() for one in sorted(path.glob("*.safetensors"))))
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(ENDS)
        file.seek(max(0, size - ENDS))
        return _digest(str(size).encode(), head, file.read())


def _digest(*parts: bytes) -> str:
    return hashlib.blake2b(b"".join(parts), digest_size=6).hexdigest()


@dataclass(frozen=True, slots=True)
class LlamaShape:
    """The dimensions of a Llama model, and what it is for."""

    kind: Literal["generate", "reward"]
    layers: int
    width: int
    heads: int
    kv_heads: int
    head_width: int
    vocabulary: int
    positions: int
    """The longest context, in tokens."""
    rope_base: float
    epsilon: float
    end_ids: tuple[int, ...]
    """Tokens that end a text."""


def read_shape(folder: Path) -> LlamaShape:
    """The shape in `config.json`. Raises `ConfigError` if it is missing or describes a model that cannot run here."""
    try:
        config = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{folder} is not a model folder: {error}") from None
    names = config.get("architectures") or ["none"]
    if names[0] not in ARCHITECTURES:
        raise ConfigError(f"{folder} holds a {names[0]}; the embedded engine runs {', '.join(ARCHITECTURES)}")
    kind = ARCHITECTURES[names[0]]
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    unknown = {
        "hidden_act": config.get("hidden_act", "silu") != "silu",
        "attention_bias": config.get("attention_bias"),
        "mlp_bias": config.get("mlp_bias"),
        "rope_type": rope.get("rope_type", "default") != "default",
        "num_labels": kind == "reward" and len(config.get("id2label") or {0: 0, 1: 0}) != 1,  # transformers' default
    }
    if any(unknown.values()):
        named = ", ".join(key for key, value in unknown.items() if value)
        raise ConfigError(f"{folder} uses features that the embedded engine lacks: {named}; serve it with vLLM")
    ends, heads = config.get("eos_token_id"), config["num_attention_heads"]
    return LlamaShape(
        kind=kind,
        layers=config["num_hidden_layers"],
        width=config["hidden_size"],
        heads=heads,
        kv_heads=config.get("num_key_value_heads") or heads,
        head_width=config.get("head_dim") or config["hidden_size"] // heads,
        vocabulary=config["vocab_size"],
        positions=config["max_position_embeddings"],
        rope_base=rope.get("rope_theta") or config.get("rope_theta") or 10_000.0,
        epsilon=config.get("rms_norm_eps", 1e-6),
        end_ids=() if ends is None else tuple(ends) if isinstance(ends, list) else (ends,),
    )


def read_tensors(folder: Path) -> dict[str, Floats]:
    """The tensors of `model.safetensors` by name, in float32. Raises `ConfigError` if the file cannot be read.

    The format is a length (8 bytes), a JSON table of dtype, shape and byte range, then the bytes.
    """
    path = folder / "model.safetensors"
    try:
        data = path.read_bytes()
        start = 8 + int.from_bytes(data[:8], "little")
        table: dict[str, Any] = json.loads(data[8:start])
        table.pop("__metadata__", None)
        payload = memoryview(data)[start:]
        return {name: _tensor(payload, entry) for name, entry in table.items()}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"cannot read {path}: {error or type(error).__name__}") from None


def _tensor(payload: memoryview, entry: dict[str, Any]) -> Floats:
    raw = np.frombuffer(payload[slice(*entry["data_offsets"])], DTYPES[entry["dtype"]]).reshape(entry["shape"])
    if entry["dtype"] == "BF16":  # the upper half of a float32
        return (raw.astype(np.uint32) << 16).view(np.float32)
    return raw.astype(np.float32)
