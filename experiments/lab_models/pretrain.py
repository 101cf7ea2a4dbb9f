"""Trains one language model: resumes from its checkpoint and logs the loss."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import torch
from batches import Batch, batched, chunks
from model import LanguageModel, Shape
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

MICROBATCH_TOKENS = 4096
MICROBATCHES = 1
MATRIX_RATE, OTHER_RATE = 4e-3, 3e-3
WARM_UP, DECAY = 0.01, 0.35
"""Fractions of the training over which the learning rate rises and falls; in between it is constant."""
LOG_EVERY = 50  # steps


class Optimizer:
    """Muon for the matrices of the layers (Jordan et al. 2024), AdamW for the embedding, the norms and a head."""

    def __init__(self, model: nn.Module) -> None:
        matrices = [p for name, p in model.named_parameters() if "_proj" in name]
        others = [p for name, p in model.named_parameters() if "_proj" not in name]
        self.parts = [
            torch.optim.Muon(
                matrices, lr=MATRIX_RATE, momentum=0.95, adjust_lr_fn="match_rms_adamw", weight_decay=0.01
            ),
            torch.optim.AdamW(others, lr=OTHER_RATE, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
        ]

    def step(self, scale: float) -> None:
        """Take one step at `scale` times the full learning rates."""
        for part, rate in zip(self.parts, (MATRIX_RATE, OTHER_RATE), strict=True):
            for group in part.param_groups:
                group["lr"] = rate * scale
            part.step()
            part.zero_grad()


def rate_scale(done: float) -> float:
    """The learning rate as a fraction of the full one, after the fraction `done` of the training."""
    return min(1.0, done / WARM_UP + 0.02, max(0.0, (1 - done) / DECAY) + 0.01)


def pretrain(
    name: str, shape: Shape, tokenizer: PreTrainedTokenizerFast, tokens: int, folder: Path, compiled: bool = False
) -> LanguageModel:
    """Train on `tokens` tokens in all; the checkpoint and the log are in `folder`."""
    checkpoint, log = folder / f"{name}.pt", folder / f"{name}.jsonl"
    torch.manual_seed(0)
    model = LanguageModel(shape)
    optimizer = Optimizer(model)
    seen = chunk = step = 0
    seconds = 0.0
    if checkpoint.exists():
        state = torch.load(checkpoint)
        model.load_state_dict(state["model"])
        for part, saved in zip(optimizer.parts, state["optimizer"], strict=True):
            part.load_state_dict(saved)
        seen, chunk, step, seconds = state["seen"], state["chunk"], state["step"], state["seconds"]
        lines = log.read_text().splitlines(keepends=True)
        log.write_text("".join(line for line in lines if json.loads(line)["step"] <= step))
    if seen >= tokens:
        return model
    loss_of = torch.compile(model.loss, dynamic=True) if compiled else model.loss
    begun, losses = time.monotonic() - seconds, []

    def save() -> None:
        state = {"model": model.state_dict(), "optimizer": [part.state_dict() for part in optimizer.parts]}
        state |= {"seen": seen, "chunk": chunk, "step": step, "seconds": time.monotonic() - begun}
        torch.save(state, partial := checkpoint.with_suffix(".partial"))
        partial.rename(checkpoint)

    for rows in chunks(tokenizer, seed=0, start=chunk):
        batches = batched(rows, MICROBATCH_TOKENS, Random(chunk))
        chunk += 1
        for i in range(0, len(batches) - MICROBATCHES + 1, MICROBATCHES):
            step += 1
            for batch in batches[i : i + MICROBATCHES]:
                losses.append(_backward(loss_of, batch))
                seen += batch.ids.numel()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step(rate_scale(seen / tokens))
            if step % LOG_EVERY == 0:
                loss = round(torch.stack(losses).mean().item(), 4)
                line = {"step": step, "tokens": seen, "loss": loss, "seconds": round(time.monotonic() - begun)}
                with log.open("a") as file:
                    file.write(json.dumps(line) + "\n")
                losses = []
            if seen >= tokens:
                break
        save()
        if seen >= tokens:
            return model
    raise AssertionError("chunks never end")


def _backward(loss_of: Callable[[Tensor, Tensor], Tensor], batch: Batch) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = loss_of(batch.ids, batch.weights)
    (loss / MICROBATCHES).backward()
    return loss.detach()
