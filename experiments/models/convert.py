"""Turns a GGUF file into the Hugging Face form that vLLM serves, once, in vLLM's own environment."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

from tts.errors import ConfigError

CONVERT = """
import sys, torch
from pathlib import Path
from transformers import AutoModelForCausalLM, AutoTokenizer
source, target = Path(sys.argv[1]), sys.argv[2]
where = {"pretrained_model_name_or_path": str(source.parent), "gguf_file": source.name}
AutoTokenizer.from_pretrained(**where).save_pretrained(target)
model = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.bfloat16)
model.hf_quantizer, model.is_quantized, model.quantization_method = None, False, None
if hasattr(model.config, "quantization_config"):
    del model.config.quantization_config
model.save_pretrained(target)
"""
"""Reads a quantised file and saves its values as ordinary weights."""


def hugging_face_form(model: Path, python: str) -> Path:
    """A folder that vLLM can serve, made once from a GGUF file by the interpreter `python`; takes minutes.

    The interpreter needs `transformers`, `torch`, `gguf` and `accelerate`.
    """
    if model.is_dir():
        return model
    target = model.with_name(f"{model.stem}-hf")
    if not target.exists():
        with tempfile.TemporaryDirectory(dir=target.parent) as room:
            partial = Path(room) / target.name
            try:
                subprocess.run([python, "-c", CONVERT, str(model), str(partial)], check=True)
            except subprocess.CalledProcessError as error:
                needs = f"{python} needs transformers, torch, gguf and accelerate to convert {model.name}"
                raise ConfigError(f"{needs}; its own words are above") from error
            partial.replace(target)
    return target
