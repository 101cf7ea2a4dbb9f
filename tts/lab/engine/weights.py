"""Reads a model folder as `transformers` saves it: `config.json` and `model.safetensors`, into numpy arrays."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tts.errors import ConfigError

Floats = NDArray[np.float32]

ARCHITECTURES: dict[str, Literal["generate", "reward"]] = {
    "LlamaForCausalLM": "generate",
    "LlamaForSequenceClassification": "reward",
}
DTYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}


@dataclass(frozen=True, slots=True)
class Shape:
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


def read_shape(folder: Path) -> Shape:
    """The shape in `config.json`. Raises `ConfigError` for a folder that has none, or a model of another make."""
    try:
        config = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{folder} is no model folder: {error}") from None
    names = config.get("architectures") or ["none"]
    if names[0] not in ARCHITECTURES:
        raise ConfigError(f"{folder} holds a {names[0]}; the embedded engine runs {', '.join(ARCHITECTURES)}")
    kind = ARCHITECTURES[names[0]]
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    strange = {
        "hidden_act": config.get("hidden_act", "silu") != "silu",
        "attention_bias": config.get("attention_bias"),
        "mlp_bias": config.get("mlp_bias"),
        "rope_type": rope.get("rope_type", "default") != "default",
        "num_labels": kind == "reward" and len(config.get("id2label") or {0: 0, 1: 0}) != 1,  # transformers' default
    }
    if any(strange.values()):
        named = ", ".join(key for key, value in strange.items() if value)
        raise ConfigError(f"{folder} uses what the embedded engine has not: {named}; serve it with vLLM")
    ends = config.get("eos_token_id")
    heads = config["num_attention_heads"]
    return Shape(
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
    """The tensors of `model.safetensors` by name, in float32.

    The format is a length (8 bytes), a JSON table of dtype, shape and byte range, then the bytes. Raises `ConfigError`
    where that cannot be read.
    """
    path = folder / "model.safetensors"
    try:
        data = path.read_bytes()
        begin = 8 + int.from_bytes(data[:8], "little")
        table: dict[str, Any] = json.loads(data[8:begin])
        table.pop("__metadata__", None)
        return {name: _tensor(data, begin, entry) for name, entry in table.items()}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"cannot read {path}: {error or type(error).__name__}") from None


def _tensor(data: bytes, begin: int, entry: dict[str, Any]) -> Floats:
    first, last = entry["data_offsets"]
    raw = np.frombuffer(data[begin + first : begin + last], DTYPES[entry["dtype"]]).reshape(entry["shape"])
    if entry["dtype"] == "BF16":  # the upper half of a float32
        return (raw.astype(np.uint32) << 16).view(np.float32)
    return raw.astype(np.float32)
