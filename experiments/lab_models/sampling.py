"""Samples from a lab model in batches: one prefill per prompt, then a row of the cache per sample."""

from __future__ import annotations

from collections import defaultdict

import torch
from lab_tokenizer import END_ID, asking
from model import Cache, LanguageModel
from torch import Tensor
from transformers import PreTrainedTokenizerFast

ROWS = 128
LONGEST_ANSWER = 160  # tokens


def sample(
    model: LanguageModel,
    tokenizer: PreTrainedTokenizerFast,
    prompts: list[str],
    n: int,
    temperature: float,
    generator: torch.Generator,
) -> list[list[str]]:
    """`n` answers to each prompt. Prompts of equal length in tokens are batched."""
    by_length: dict[int, list[tuple[int, list[int]]]] = defaultdict(list)
    for place, prompt in enumerate(prompts):
        ids = tokenizer(asking(prompt))["input_ids"]
        by_length[len(ids)].append((place, ids))
    answers: list[list[str]] = [[] for _ in prompts]
    at_once = max(1, ROWS // n)
    for group in by_length.values():
        for start in range(0, len(group), at_once):
            places, ids = zip(*group[start : start + at_once], strict=True)
            tokens = _generate(model, torch.tensor(ids), n, temperature, generator)
            texts = tokenizer.batch_decode(tokens, skip_special_tokens=True)
            for i, place in enumerate(places):
                answers[place] = texts[i * n : (i + 1) * n]
    return answers


@torch.inference_mode()
def _generate(
    model: LanguageModel, ids: Tensor, n: int, temperature: float, generator: torch.Generator
) -> list[list[int]]:
    """`n` continuations of each row of `ids`, in order, with the `end` token if they reached it."""
    cache = Cache(model.model.shape, len(ids), ids.shape[1] + LONGEST_ANSWER)
    rows = torch.arange(len(ids)).repeat_interleave(n)
    states = model.model(ids, cache)[rows, -1]
    cache.keep(rows)
    found: list[list[int]] = [[] for _ in rows]
    rows = torch.arange(len(rows))
    for _ in range(LONGEST_ANSWER):
        chances = (model.logits(states).float() / temperature).softmax(-1)
        chosen = torch.multinomial(chances, 1, generator=generator).squeeze(1)
        for row, token in zip(rows.tolist(), chosen.tolist(), strict=True):
            found[row].append(token)
        going = (chosen != END_ID).nonzero().squeeze(1)
        if len(going) == 0:
            break
        if len(going) < len(rows):
            rows, chosen = rows[going], chosen[going]
            cache.keep(going)
        states = model.model(chosen[:, None], cache)[:, -1]
    return found
