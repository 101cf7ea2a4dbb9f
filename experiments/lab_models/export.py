"""Writes model folders as `transformers` does, in fp16; `transformers`, vLLM and the embedded engine load them."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from lab_tokenizer import END_ID, PAD_ID
from model import LanguageModel, RewardModel, Shape
from torch import nn
from transformers import (
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
)


def config_of(shape: Shape) -> LlamaConfig:
    """The configuration under which `transformers` computes the same."""
    return LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head,
        max_position_embeddings=shape.positions,
        rms_norm_eps=shape.epsilon,
        rope_parameters={"rope_type": "default", "rope_theta": shape.theta},
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=END_ID,
        pad_token_id=PAD_ID,
    )


def export(model: LanguageModel | RewardModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write the model to `folder`. Raises `AssertionError` if `transformers` computes anything else with it."""
    config = config_of(model.model.shape)
    config.num_labels = 1
    kind = LlamaForSequenceClassification if isinstance(model, RewardModel) else LlamaForCausalLM
    theirs: nn.Module = kind(config)
    weights = model.state_dict()
    if isinstance(model, LanguageModel):
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    else:  # without what only training needs
        weights = {name: weight for name, weight in weights.items() if name.startswith(("model.", "score."))}
    theirs.load_state_dict(weights)
    _assert_same(model, theirs, tokenizer)
    theirs.half().save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)
    _save_tokenizer(tokenizer, folder)
    if isinstance(model, LanguageModel):
        GenerationConfig(do_sample=True, temperature=1.0, eos_token_id=END_ID, pad_token_id=PAD_ID).save_pretrained(
            folder
        )


def _save_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """The tokenizer and its chat template in two files that both transformers 4 and 5 read."""
    tokenizer.save_pretrained(folder, save_jinja_files=False)
    path = folder / "tokenizer_config.json"
    known = json.loads(path.read_text())
    special = known.pop("extra_special_tokens")
    for key in ("backend", "is_local", "local_files_only"):
        known.pop(key, None)
    known |= {"tokenizer_class": "PreTrainedTokenizerFast", "additional_special_tokens": special}
    path.write_text(json.dumps(known, indent=2) + "\n")


@torch.inference_mode()
def _assert_same(model: LanguageModel | RewardModel, theirs: nn.Module, tokenizer: PreTrainedTokenizerFast) -> None:
    ids = torch.tensor([tokenizer("<|user|>Start with 37, add 58.<|end|><|assistant|>37 + 58 = 95\n")["input_ids"]])
    expected = theirs.eval()(input_ids=ids).logits
    ours = model(ids)[:, -1:] if isinstance(model, RewardModel) else model.logits(model.model(ids))
    torch.testing.assert_close(ours, expected.view_as(ours), atol=1e-4, rtol=1e-4)
