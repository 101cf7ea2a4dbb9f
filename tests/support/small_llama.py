"""Model folders with random weights, as transformers saves them, and a plain Llama in float64 to compare with."""

import json
from pathlib import Path
from typing import Any

import numpy as np

END, SPECIAL = "<|end|>", ("<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>")
TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
WORDS = r"\n|[0-9]| ?[A-Za-z_]+| ?[^\sA-Za-z_0-9]+ ?| +|\s"
MERGES = ["t h", "th e", "Ġ the", "a n", "an d", "Ġ and", "e r", "i n", "in g", "Ġ a", "o n", "Ġ =", "l l", "e ll"]

Arrays = dict[str, np.ndarray]


def alphabet() -> list[str]:
    """The 256 characters that stand for bytes in GPT-2's vocabulary, by byte."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = iter(range(256, 512))
    return [chr(byte) if byte in kept else chr(next(hidden)) for byte in range(256)]


def write_tokenizer(folder: Path) -> int:
    """Write a byte-level BPE tokenizer with a few merges; returns the size of its vocabulary."""
    symbols = [*SPECIAL, *alphabet(), *(merge.replace(" ", "") for merge in MERGES)]
    added = [{"id": i, "content": name, "special": True} for i, name in enumerate(SPECIAL)]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    bytes_ = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": WORDS}, "behavior": "Isolated", "invert": False}
    model = {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "vocab": {symbol: i for i, symbol in enumerate(symbols)},
        "merges": [merge.split(" ") for merge in MERGES],
    }
    table = {
        "version": "1.0",
        "added_tokens": [{**one, **flags} for one in added],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, bytes_]},
        "post_processor": None,
        "decoder": {**bytes_, "use_regex": True},
        "model": model,
    }
    (folder / "tokenizer.json").write_text(json.dumps(table))
    settings = {"eos_token": END, "pad_token": SPECIAL[0], "tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": TEMPLATE}))
    return len(symbols)


def write_model(
    folder: Path, *, seed: int = 0, dtype: str = "F16", tied: bool = True, scale: float = 1.5, **changes: Any
) -> Path:
    """Write a model folder; `changes` go over its `config.json`, `scale` says how decided its weights are."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = write_tokenizer(folder)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": vocabulary,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "hidden_act": "silu",
        "max_position_embeddings": 256,
        "rms_norm_eps": 1e-5,
        "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
        "tie_word_embeddings": tied,
        "eos_token_id": SPECIAL.index(END),
        "bos_token_id": None,
        "pad_token_id": 0,
        **changes,
    }
    (folder / "config.json").write_text(json.dumps(config))
    write_tensors(folder / "model.safetensors", random_tensors(config, seed, tied, scale), dtype)
    return folder


def random_tensors(config: dict[str, Any], seed: int, tied: bool, scale: float) -> Arrays:
    """Weights of the right names and shapes, large enough that every token has its say."""
    rng, width, inner = np.random.default_rng(seed), config["hidden_size"], config["intermediate_size"]
    heads, kv = config["num_attention_heads"] * config["head_dim"], config["num_key_value_heads"] * config["head_dim"]

    def matrix(*shape: int) -> np.ndarray:
        return rng.normal(scale=scale * shape[-1] ** -0.5, size=shape)

    tensors = {"model.embed_tokens.weight": matrix(config["vocab_size"], width), "model.norm.weight": _gain(rng, width)}
    for i in range(config["num_hidden_layers"]):
        layer = {
            "input_layernorm": _gain(rng, width),
            "post_attention_layernorm": _gain(rng, width),
            "self_attn.q_proj": matrix(heads, width),
            "self_attn.k_proj": matrix(kv, width),
            "self_attn.v_proj": matrix(kv, width),
            "self_attn.o_proj": matrix(width, heads),
            "mlp.gate_proj": matrix(inner, width),
            "mlp.up_proj": matrix(inner, width),
            "mlp.down_proj": matrix(width, inner),
        }
        tensors |= {f"model.layers.{i}.{name}.weight": value for name, value in layer.items()}
    if config["architectures"] == ["LlamaForSequenceClassification"]:
        tensors["score.weight"] = matrix(1, width)
    elif not tied:
        tensors["lm_head.weight"] = matrix(config["vocab_size"], width)
    return tensors


def _gain(rng: np.random.Generator, width: int) -> np.ndarray:
    return 1 + 0.2 * rng.normal(size=width)


def write_tensors(path: Path, tensors: Arrays, dtype: str) -> None:
    """The safetensors format: a length, a JSON table, bytes."""
    data, table = b"", {}
    for name, value in tensors.items():
        if dtype == "BF16":
            raw = (value.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes()
        else:
            raw = value.astype({"F16": "<f2", "F32": "<f4"}[dtype]).tobytes()
        span = [len(data), len(data) + len(raw)]
        table[name] = {"dtype": dtype, "shape": list(value.shape), "data_offsets": span}
        data += raw
    header = json.dumps({"__metadata__": {"format": "pt"}, **table}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)


def reference_states(config: dict[str, Any], tensors: Arrays, ids: list[int]) -> np.ndarray:
    """States behind each token (T, width) in float64, one head and one position after the other."""
    head, groups = config["head_dim"], config["num_attention_heads"] // config["num_key_value_heads"]
    frequencies = config["rope_parameters"]["rope_theta"] ** (-np.arange(0, head, 2) / head)
    angles = np.arange(len(ids))[:, None] * np.concatenate([frequencies, frequencies])

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + config["rms_norm_eps"]) * tensors[name]

    def turn(x: np.ndarray) -> np.ndarray:
        half = np.concatenate([-x[:, head // 2 :], x[:, : head // 2]], axis=1)
        return x * np.cos(angles) + half * np.sin(angles)

    x = tensors["model.embed_tokens.weight"][ids].astype(np.float64)
    for i in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{i}."
        weight = {name: tensors[f"{prefix}{name}.weight"].astype(np.float64) for name in MATRICES}
        inside = norm(x, prefix + "input_layernorm.weight")
        heads = []
        for h in range(config["num_attention_heads"]):
            own, shared = slice(h * head, (h + 1) * head), slice(h // groups * head, (h // groups + 1) * head)
            q = turn(inside @ weight["self_attn.q_proj"][own].T)
            k = turn(inside @ weight["self_attn.k_proj"][shared].T)
            scores = q @ k.T / np.sqrt(head)
            scores[np.triu_indices(len(ids), 1)] = -np.inf
            shares = np.exp(scores - scores.max(-1, keepdims=True))
            heads.append(shares / shares.sum(-1, keepdims=True) @ (inside @ weight["self_attn.v_proj"][shared].T))
        x = x + np.concatenate(heads, axis=1) @ weight["self_attn.o_proj"].T
        inside = norm(x, prefix + "post_attention_layernorm.weight")
        gate = inside @ weight["mlp.gate_proj"].T
        x = x + (gate / (1 + np.exp(-gate)) * (inside @ weight["mlp.up_proj"].T)) @ weight["mlp.down_proj"].T
    return norm(x, "model.norm.weight")


MATRICES = (
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Over the last axis."""
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
