"""Picks the next token of every row at once: temperature, top-k, top-p, min-p, then one random number a token.

The random numbers of a sequence are its own: number t of a Philox stream (Salmon et al. 2011, a counter-based
generator) whose key is the sequence's seed and prompt. So what it draws depends on nothing else in the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from secrets import randbits
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tts.lab.engine.models import Floats, Ints

GREEDY = 1e-5
"""Temperatures below this take the most likely token, as in vLLM."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How a sequence is sampled and when it ends, in vLLM's terms."""

    max_tokens: int
    min_tokens: int = 0
    temperature: float = 1.0
    top_k: int = 0
    """Only the k most likely tokens; 0 or less: all."""
    top_p: float = 1.0
    """Only the most likely tokens that together have this much probability."""
    min_p: float = 0.0
    """Only tokens at least this fraction as likely as the most likely one."""
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    """Tokens that end the text besides the model's own."""
    ignore_eos: bool = False
    """Whether the model's own end tokens leave the text open."""
    include_stop_str_in_output: bool = False
    skip_special_tokens: bool = True
    logprobs: int | None = None
    """How many of the likeliest tokens are reported beside each chosen one; None: no log-probabilities at all."""
    prompt_logprobs: int | None = None
    """The same for the tokens of the prompt."""


@dataclass(frozen=True, slots=True)
class ScoredToken:
    """A token and its log-probability under the model itself, without temperature, beside the likeliest ones."""

    token: int
    logprob: float
    rank: int
    """1 for the most likely token of its position."""
    tops: tuple[tuple[int, float], ...] = ()


def noise(seed: int | None, index: int, prompt: Ints, count: int) -> NDArray[np.float64]:
    """`count` numbers in [0, 1) for choice `index` of a prompt; without a seed, new ones each time."""
    key = randbits(64) if seed is None else (seed + index) % 2**64
    words = int.from_bytes(blake2b(prompt.tobytes(), digest_size=8).digest(), "little")
    return np.random.Generator(np.random.Philox(key=np.array([key, words], np.uint64))).random(count)


def draw(logits: Floats, params: Sequence[SamplingParams], uniform: NDArray[np.float64]) -> Ints:
    """A token for each row of `logits` (B, V) under its own params; `uniform` (B), numbers in [0, 1), decides."""

    def column(name: str) -> NDArray[Any]:
        return np.array([getattr(one, name) for one in params])[:, None]

    temperature, top_k, top_p, min_p = map(column, ("temperature", "top_k", "top_p", "min_p"))
    greedy = temperature < GREEDY
    weights = logits / np.where(greedy, 1, temperature).astype(np.float32)
    weights -= weights.max(axis=1, keepdims=True)
    np.exp(weights, out=weights)
    if min_p.any():
        weights[weights < min_p] = 0.0  # the greatest weight is 1
    if len(cut := np.flatnonzero((top_k > 0) | (top_p < 1))):
        weights[cut] = _cut(weights[cut], top_k[cut], top_p[cut])
    below = weights.cumsum(axis=1, dtype=np.float64)
    drawn = (below <= uniform[:, None] * below[:, -1:]).sum(axis=1)
    return np.where(greedy[:, 0], logits.argmax(axis=1), np.minimum(drawn, logits.shape[1] - 1))


def _cut(weights: Floats, top_k: Ints, top_p: NDArray[np.float64]) -> Floats:
    """`weights` (B, V), zero beyond the `top_k` greatest (0: all) and beyond those that hold a share of `top_p`."""
    order = np.argsort(-weights, axis=1, kind="stable")
    ranked = np.take_along_axis(weights, order, axis=1)
    ranked[(top_k > 0) & (np.arange(ranked.shape[1]) >= top_k)] = 0.0
    before = ranked.cumsum(axis=1, dtype=np.float64) - ranked
    ranked[before >= top_p * ranked.sum(axis=1, keepdims=True)] = 0.0
    np.put_along_axis(weights, order, ranked, axis=1)
    return weights


def score(logits: Floats, tokens: Ints, tops: int) -> list[ScoredToken]:
    """Log-probabilities of `tokens` (N) under `logits` (N, V), with the `tops` likeliest tokens at each."""
    greatest = logits.max(axis=1)
    shift = greatest + np.log(np.exp(logits - greatest[:, None]).sum(axis=1))
    own = logits[np.arange(len(tokens)), tokens]
    ranks = (logits > own[:, None]).sum(axis=1) + 1
    best = np.argsort(-logits, axis=1, kind="stable")[:, :tops] if tops else np.empty((len(tokens), 0), np.int64)
    likely = np.take_along_axis(logits, best, axis=1) - shift[:, None]
    rows = zip(tokens.tolist(), (own - shift).tolist(), ranks.tolist(), best.tolist(), likely.tolist(), strict=True)
    return [
        ScoredToken(token, own, rank, tuple(zip(ids, values, strict=True))) for token, own, rank, ids, values in rows
    ]
