"""A GGUF file with random weights: a small Llama with a byte-level vocabulary, as llama.cpp reads it."""

from pathlib import Path

import numpy as np
import pytest

from tests.support.small_llama import MERGES, SPECIAL, TEMPLATE, alphabet

WIDTH, HEADS, LAYERS, HIDDEN = 64, 2, 2, 96


def write_gguf(path: Path, *, seed: int = 0, begins: bool = False) -> Path:
    """Write the file, or skip the test where the engine that reads it is not installed.

    With `begins` every text begins with a token of its own, in the chat template too.
    """
    for package in ("xllamacpp", "gguf"):
        pytest.importorskip(package, reason=f"{package} is not installed here: pip install 'ttscale[gguf,dev]'")
    from gguf import GGUFWriter, TokenType

    symbols = [*SPECIAL, *alphabet(), *(merge.replace(" ", "") for merge in MERGES)]
    kinds = [TokenType.CONTROL] * len(SPECIAL) + [TokenType.NORMAL] * (len(symbols) - len(SPECIAL))
    rng = np.random.default_rng(seed)
    writer = GGUFWriter(path, "llama")
    writer.add_block_count(LAYERS)
    writer.add_context_length(512)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_vocab_size(len(symbols))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(symbols)
    writer.add_token_types(kinds)
    writer.add_token_merges(MERGES)
    writer.add_eos_token_id(SPECIAL.index("<|end|>"))
    writer.add_bos_token_id(SPECIAL.index("<|pad|>"))
    writer.add_add_bos_token(begins)
    writer.add_chat_template("<|pad|>" * begins + TEMPLATE)

    def add(name: str, *shape: int) -> None:
        plain = len(shape) == 1
        values = np.ones(shape) if plain else rng.normal(0, 0.5, shape)
        writer.add_tensor(f"{name}.weight", values.astype(np.float32))

    add("token_embd", len(symbols), WIDTH)
    add("output_norm", WIDTH)
    for layer in range(LAYERS):
        block = f"blk.{layer}."
        for name in ("attn_norm", "ffn_norm"):
            add(block + name, WIDTH)
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            add(block + name, WIDTH, WIDTH)
        for name in ("ffn_gate", "ffn_up"):
            add(block + name, HIDDEN, WIDTH)
        add(block + "ffn_down", WIDTH, HIDDEN)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
