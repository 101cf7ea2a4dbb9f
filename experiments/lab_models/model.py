"""A Llama in plain PyTorch: small, compiled for training, and sampled from in batches with a cache.

The names of its weights are those of `transformers`, so that a state dict goes over as it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Shape:
    """The sizes of a model; heads are `head` wide."""

    hidden: int
    layers: int
    inner: int
    heads: int
    kv_heads: int
    head: int = 32
    vocabulary: int = 512
    positions: int = 1024
    theta: float = 10_000.0
    epsilon: float = 1e-5


DRAFT = Shape(hidden=96, layers=3, inner=256, heads=3, kv_heads=1)
TARGET = Shape(hidden=192, layers=5, inner=512, heads=6, kv_heads=2)


class Cache:
    """Keys and values of all layers, (rows, kv heads, positions, head); `length` positions are filled."""

    def __init__(self, shape: Shape, rows: int, positions: int) -> None:
        size = (rows, shape.kv_heads, positions, shape.head)
        self.keys = [torch.zeros(size) for _ in range(shape.layers)]
        self.values = [torch.zeros(size) for _ in range(shape.layers)]
        self.length = 0

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Append to a layer; return all its keys and values. `length` is advanced by the caller."""
        end = self.length + keys.shape[2]
        self.keys[layer][:, :, self.length : end] = keys
        self.values[layer][:, :, self.length : end] = values
        return self.keys[layer][:, :, :end], self.values[layer][:, :, :end]

    def keep(self, rows: Tensor) -> None:
        """Keep only these rows."""
        self.keys = [keys[rows] for keys in self.keys]
        self.values = [values[rows] for values in self.values]


class Attention(nn.Module):
    """Grouped-query attention with rotary positions."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.q_proj = nn.Linear(shape.hidden, shape.heads * shape.head, bias=False)
        self.k_proj = nn.Linear(shape.hidden, shape.kv_heads * shape.head, bias=False)
        self.v_proj = nn.Linear(shape.hidden, shape.kv_heads * shape.head, bias=False)
        self.o_proj = nn.Linear(shape.heads * shape.head, shape.hidden, bias=False)

    def forward(self, x: Tensor, angles: Tensor, cache: Cache | None, layer: int) -> Tensor:
        """States (rows, positions, hidden) to what they gather from the positions before them."""
        rows, length, _ = x.shape
        q, k, v = (
            project(x).view(rows, length, -1, self.shape.head).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        q, k = rotated(q, angles), rotated(k, angles)
        if cache is not None:
            k, v = cache.extend(layer, k, v)
        groups = self.shape.heads // self.shape.kv_heads
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
        scores = q @ k.transpose(-1, -2) * self.shape.head**-0.5  # faster here than torch's fused attention
        if length > 1:
            hidden = torch.ones(length, length, dtype=torch.bool, device=x.device).triu(1)
            scores = scores.masked_fill(hidden, -torch.inf)
        mixed = scores.softmax(-1).to(v.dtype) @ v
        return self.o_proj(mixed.transpose(1, 2).reshape(rows, length, -1))


def rotated(x: Tensor, angles: Tensor) -> Tensor:
    """`x`, (rows, heads, positions, head), turned by `angles`, (positions, head / 2)."""
    first, second = x.chunk(2, -1)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)


class MLP(nn.Module):
    """The gated feed-forward part."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(shape.hidden, shape.inner, bias=False)
        self.up_proj = nn.Linear(shape.hidden, shape.inner, bias=False)
        self.down_proj = nn.Linear(shape.inner, shape.hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Each position by itself."""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    """Attention and feed-forward, each behind a norm."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(shape.hidden, shape.epsilon)
        self.self_attn = Attention(shape)
        self.post_attention_layernorm = nn.RMSNorm(shape.hidden, shape.epsilon)
        self.mlp = MLP(shape)

    def forward(self, x: Tensor, angles: Tensor, cache: Cache | None, layer: int) -> Tensor:
        """The states and what is added to them."""
        x = x + self.self_attn(self.input_layernorm(x), angles, cache, layer)
        return x + self.mlp(self.post_attention_layernorm(x))


class Trunk(nn.Module):
    """Token ids (rows, positions) to normalised hidden states (rows, positions, hidden)."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.embed_tokens = nn.Embedding(shape.vocabulary, shape.hidden)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.norm = nn.RMSNorm(shape.hidden, shape.epsilon)
        self.angles: Tensor
        rates = shape.theta ** (-torch.arange(0, shape.head, 2) / shape.head)
        self.register_buffer("angles", torch.outer(torch.arange(shape.positions), rates), persistent=False)

    def forward(self, ids: Tensor, cache: Cache | None = None) -> Tensor:
        """States of the ids; with a cache they follow what it holds."""
        begin = cache.length if cache is not None else 0
        angles = self.angles[begin : begin + ids.shape[1]]
        x = self.embed_tokens(ids)
        for i, layer in enumerate(self.layers):
            x = layer(x, angles, cache, i)
        if cache is not None:
            cache.length += ids.shape[1]
        return self.norm(x)


class LanguageModel(nn.Module):
    """The trunk with a head that shares the embedding's weights."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.model = Trunk(shape)
        for name, weight in self.named_parameters():
            if weight.dim() == 2:
                deep = name.endswith(("o_proj.weight", "down_proj.weight"))
                nn.init.normal_(weight, std=weight.shape[1] ** -0.5 * (0.3 if deep else 0.7))

    def logits(self, states: Tensor) -> Tensor:
        """Scores of all tokens as the next one."""
        return F.linear(states, self.model.embed_tokens.weight)

    def loss(self, ids: Tensor, weights: Tensor) -> Tensor:
        """Weighted mean of the tokens' cross-entropies; `weights` (rows, positions) as `ids` but without the first."""
        states = self.model(ids[:, :-1])
        places = weights.flatten().nonzero().squeeze(1)
        logits = self.logits(states.flatten(0, 1)[places])
        losses = F.cross_entropy(logits.float(), ids[:, 1:].flatten()[places], reduction="none")
        counted = weights.flatten()[places]
        return (losses * counted).sum() / counted.sum()


class RewardModel(nn.Module):
    """The trunk with one score for every prefix."""

    def __init__(self, trunk: Trunk) -> None:
        super().__init__()
        self.model = trunk
        self.score = nn.Linear(trunk.shape.hidden, 1, bias=False)
        nn.init.zeros_(self.score.weight)

    def forward(self, ids: Tensor) -> Tensor:
        """Scores (rows, positions) of the prefixes that end there; a score is a logit."""
        return self.score(self.model(ids)).squeeze(-1)
