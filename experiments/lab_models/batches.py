"""Dialogues as token ids, in batches of rows of nearly equal length, so that hardly anything is padding."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from random import Random
from typing import NamedTuple

import torch
from corpus import Dialogue, dialogues
from torch import Tensor
from transformers import PreTrainedTokenizerFast

CHUNK = 6000  # dialogues made at a time
LONGEST = 360  # tokens; longer dialogues are left out


class Row(NamedTuple):
    """A dialogue in tokens; `begin` is where the answer begins, `weight` what its tokens count in the loss."""

    ids: list[int]
    begin: int
    weight: float


class Batch(NamedTuple):
    """Token ids (rows, length), and what each of them, without the first column, counts in the loss."""

    ids: Tensor
    weights: Tensor


def encode(tokenizer: PreTrainedTokenizerFast, made: list[Dialogue]) -> list[Row]:
    """Dialogues as the chat template writes them."""
    prompts = tokenizer([f"<|user|>{one.prompt}<|end|><|assistant|>" for one in made])["input_ids"]
    answers = tokenizer([f"{one.answer}<|end|>" for one in made])["input_ids"]
    return [
        Row(prompt + answer, len(prompt), one.weight)
        for prompt, answer, one in zip(prompts, answers, made, strict=True)
    ]


def batched(rows: list[Row], tokens: int, rng: Random) -> list[Batch]:
    """The rows in random batches of about `tokens` tokens, each of rows of similar length."""
    ordered = sorted(rows, key=lambda row: (len(row.ids), rng.random()))
    batches, begin = [], 0
    while begin < len(ordered):
        end = begin + 1
        while end < len(ordered) and len(ordered[end].ids) * (end + 1 - begin) <= tokens:
            end += 1
        batches.append(_padded(ordered[begin:end]))
        begin = end
    rng.shuffle(batches)
    return batches


def _padded(rows: list[Row]) -> Batch:
    width = -(-max(len(row.ids) for row in rows) // 8) * 8 + 1
    ids = torch.zeros((len(rows), width), dtype=torch.long)  # what stands behind a row is never looked at
    weights = torch.zeros((len(rows), width - 1))
    for i, row in enumerate(rows):
        ids[i, : len(row.ids)] = torch.tensor(row.ids)
        weights[i, row.begin - 1 : len(row.ids) - 1] = row.weight
    return Batch(ids, weights)


def make_chunk(tokenizer: PreTrainedTokenizerFast, seed: str, size: int = CHUNK) -> list[Row]:
    """`size` dialogues of a seed, without those that are too long."""
    return [row for row in encode(tokenizer, list(islice(dialogues(seed), size))) if len(row.ids) <= LONGEST]


def chunks(tokenizer: PreTrainedTokenizerFast, seed: int, begin: int) -> Iterator[list[Row]]:
    """Chunks number `begin`, `begin` + 1, ... without end; the next one is made by another process meanwhile."""
    with ProcessPoolExecutor(1) as pool:
        coming = pool.submit(make_chunk, tokenizer, f"{seed} {begin}")
        while True:
            begin += 1
            ready, coming = coming, pool.submit(make_chunk, tokenizer, f"{seed} {begin}")
            yield ready.result()
