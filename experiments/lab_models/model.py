"""A Llama in plain PyTorch: small, compiled for training, and sampled from in batches with a cache.

The names of its weights are those of `transformers`, so that a state dict goes over as it is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

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


FAST, SHARP = 4, 8.0
"""How many rotary rates a new head uses to tell neighbours apart, and how sharply it does."""
LEAST_LIKELY = 8.0
"""A reward model does not tell log-probabilities below minus this apart."""


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
        """What states (rows, positions, hidden) gather from the positions up to theirs."""
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
    """`x` (rows, heads, positions, head) rotated by `angles` (positions, head / 2)."""
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
        """Apply to each position by itself."""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    """Attention and feed-forward, each after a norm."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(shape.hidden, shape.epsilon)
        self.self_attn = Attention(shape)
        self.post_attention_layernorm = nn.RMSNorm(shape.hidden, shape.epsilon)
        self.mlp = MLP(shape)

    def forward(self, x: Tensor, angles: Tensor, cache: Cache | None, layer: int) -> Tensor:
        """The states with what attention and feed-forward add to them."""
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
        """States of the ids; with a cache, they follow what it holds."""
        start = cache.length if cache is not None else 0
        angles = self.angles[start : start + ids.shape[1]]
        x = self.embed_tokens(ids)
        for i, layer in enumerate(self.layers):
            x = layer(x, angles, cache, i)
        if cache is not None:
            cache.length += ids.shape[1]
        return self.norm(x)


def initialise(module: nn.Module) -> None:
    """Random matrices."""
    for name, weight in module.named_parameters():
        if weight.dim() == 2:
            deep = name.endswith(("o_proj.weight", "down_proj.weight"))
            nn.init.normal_(weight, std=weight.shape[1] ** -0.5 * (0.3 if deep else 0.7))


class LanguageModel(nn.Module):
    """The trunk with a head that shares the embedding's weights."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.model = Trunk(shape)
        initialise(self)

    def logits(self, states: Tensor) -> Tensor:
        """Scores of every token as the next one."""
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
    """A language model's trunk, further layers on it, and one score for every prefix.

    Only the trunk's last layer holds its prediction; the layers above compare that with the token that came. A `hint`
    teaches them to: after the second one, the log-probability of that token must be readable.
    """

    def __init__(self, trunk: Trunk, layers: int) -> None:
        super().__init__()
        self.predicts = len(trunk.layers)
        """Layers after which the next token is predicted."""
        self.prediction_norm = trunk.norm
        self.hint = nn.Linear(trunk.shape.hidden, 1)
        nn.init.zeros_(self.hint.weight)
        self.score = nn.Linear(trunk.shape.hidden, 1, bias=False)
        nn.init.zeros_(self.score.weight)
        trunk.shape = replace(trunk.shape, layers=trunk.shape.layers + layers)
        trunk.norm = nn.RMSNorm(trunk.shape.hidden, trunk.shape.epsilon)
        for _ in range(layers):
            trunk.layers.append(layer := Layer(trunk.shape))
            initialise(layer)
        self.model = trunk

    @property
    def added(self) -> nn.Module:
        """What is trained: all but the original trunk."""
        return nn.ModuleList([*self.model.layers[self.predicts :], self.model.norm, self.hint, self.score])

    def forward(self, ids: Tensor) -> Tensor:
        """Scores (rows, positions) of the prefixes that end at each position; a score is a logit."""
        return self.score(self.model(ids)).squeeze(-1)

    @torch.no_grad()
    def predicting(self, ids: Tensor) -> Tensor:
        """States of the last layer of the original trunk."""
        x, angles = self.model.embed_tokens(ids), self.model.angles[: ids.shape[1]]
        for i, layer in enumerate(self.model.layers[: self.predicts]):
            x = layer(x, angles, None, i)
        return x

    @torch.no_grad()
    def look_back(self, ids: Tensor) -> None:
        """Initialise the first added layer so that all its heads attend to the previous token.

        A direction in which the states of `ids` are nearly alike (least squares) serves as a constant; rotary positions
        at the fastest rates make the product of two constants greatest one position apart.
        """
        x = self.predicting(ids)
        states = F.rms_norm(x, x.shape[2:]).flatten(0, 1)
        constant = torch.linalg.lstsq(states, torch.ones(len(states), 1)).solution[:, 0]
        attention: Attention = self.model.layers[self.predicts].self_attn
        width, rates = self.model.shape.head, self.model.angles[1, :FAST]
        for project, turn in ((attention.q_proj, torch.zeros(FAST)), (attention.k_proj, rates)):
            heads = project.weight.view(-1, width, x.shape[2])
            heads.zero_()
            heads[:, :FAST] = SHARP * turn.cos()[:, None] * constant
            heads[:, width // 2 : width // 2 + FAST] = SHARP * turn.sin()[:, None] * constant

    def loss(self, ids: Tensor, right: Tensor, counted: Tensor) -> tuple[Tensor, Tensor]:
        """Mean cross-entropy of whether all is `right` up to each token, and the mean error of the hints.

        All are (rows, positions), weighted by `counted`.
        """
        x, angles = self.predicting(ids), self.model.angles[: ids.shape[1]]
        with torch.no_grad():
            logits = F.linear(self.prediction_norm(x[:, :-1]), self.model.embed_tokens.weight).float()
            own = -F.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none").clamp(max=LEAST_LIKELY)
        for i, layer in enumerate(self.model.layers[self.predicts :], 1):
            x = layer(x, angles, None, i)
            if i == 2:
                hints = self.hint(F.rms_norm(x[:, 1:], x.shape[2:])).squeeze(-1).float()
        scores = self.score(self.model.norm(x)).squeeze(-1).float()
        losses = F.binary_cross_entropy_with_logits(scores, right, reduction="none")
        missed = F.smooth_l1_loss(hints, own, reduction="none") * (1 - own) * (counted[:, 1:] > 0)
        return (losses * counted).sum() / counted.sum(), missed.sum() / (counted > 0).sum()
