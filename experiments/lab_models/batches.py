"""Dialogues as token ids, in batches of rows of nearly equal length, so little of a batch is padding."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from random import Random
from typing import NamedTuple

import torch
from corpus import Dialogue, dialogues
from lab_tokenizer import asking
from torch import Tensor
from transformers import PreTrainedTokenizerFast

CHUNK = 6000  # dialogues generated at a time
LONGEST = 360  # tokens; longer dialogues are left out


class Row(NamedTuple):
    """A dialogue in tokens; the answer starts at `start`, and its tokens weigh `weight` in the loss."""

    ids: list[int]
    start: int
    weight: float


class Batch(NamedTuple):
    """Token ids (rows, length), and the weight of each but the first column in the loss."""

    ids: Tensor
    weights: Tensor


def encode(tokenizer: PreTrainedTokenizerFast, made: list[Dialogue]) -> list[Row]:
    """Dialogues as the chat template writes them, in tokens."""
    prompts = tokenizer([asking(one.prompt) for one in made])["input_ids"]
    answers = tokenizer([f"{one.answer}<|end|>" for one in made])["input_ids"]
    return [
        Row(prompt + answer, len(prompt), one.weight)
        for prompt, answer, one in zip(prompts, answers, made, strict=True)
    ]


def grouped(lengths: list[int], tokens: int, rng: Random) -> list[list[int]]:
    """The indices of rows of these lengths, in random groups of similar length and about `tokens` tokens each."""
    ordered = sorted(range(len(lengths)), key=lambda i: (lengths[i], rng.random()))
    groups, start = [], 0
    while start < len(ordered):
        end = start + 1
        while end < len(ordered) and lengths[ordered[end]] * (end + 1 - start) <= tokens:
            end += 1
        groups.append(ordered[start:end])
        start = end
    rng.shuffle(groups)
    return groups


def batched(rows: list[Row], tokens: int, rng: Random) -> list[Batch]:
    """The rows in random batches of about `tokens` tokens, each of rows of similar length."""
    groups = grouped([len(row.ids) for row in rows], tokens, rng)
    return [_padded([rows[i] for i in group]) for group in groups]


def _padded(rows: list[Row]) -> Batch:
    width = -(-max(len(row.ids) for row in rows) // 8) * 8 + 1
    ids = torch.zeros((len(rows), width), dtype=torch.long)  # what follows a row is never read
    weights = torch.zeros((len(rows), width - 1))
    for i, row in enumerate(rows):
        ids[i, : len(row.ids)] = torch.tensor(row.ids)
        weights[i, row.start - 1 : len(row.ids) - 1] = row.weight
    return Batch(ids, weights)


def make_chunk(tokenizer: PreTrainedTokenizerFast, seed: str, size: int = CHUNK) -> list[Row]:
    """`size` dialogues of a seed, less those that are too long."""
    return [row for row in encode(tokenizer, list(islice(dialogues(seed), size))) if len(row.ids) <= LONGEST]


def chunks(tokenizer: PreTrainedTokenizerFast, seed: int, start: int) -> Iterator[list[Row]]:
    """Chunks number `start`, `start` + 1, ... without end; another process prepares the next one meanwhile."""
    with ProcessPoolExecutor(1) as pool:
        coming = pool.submit(make_chunk, tokenizer, f"{seed} {start}")
        while True:
            start += 1
            ready, coming = coming, pool.submit(make_chunk, tokenizer, f"{seed} {start}")
            yield ready.result()
