"""A Llama model in numpy: token embedding, layers of attention and SwiGLU with RMSNorm before each, a head.

(Touvron et al. 2023, arXiv 2302.13971; grouped queries: Ainslie et al. 2023, arXiv 2305.13245.) Shapes are written
with B rows of the cache, S new tokens in each, T positions, K key/value heads, G query heads for each of them, and
D numbers in a head. All arithmetic is float32.

What a row is given does not depend on the other rows, bit for bit, as long as the matrix products do not: OpenBLAS
adds up each element in one order when it has at least eight rows and as many columns as its kernels take at a time.
So fewer rows are padded to `LEAST_ROWS`, and positions come in blocks of one size.
"""

from __future__ import annotations

import math
from copy import copy

import numpy as np
from numpy.typing import NDArray

from tts.embedded.weights import Floats, Shape

Ints = NDArray[np.int64]

LEAST_ROWS = 8
BLOCK = 64


class Cache:
    """Keys and values of `rows` token sequences, for each layer.

    Keys lie in blocks of positions (L, rows, K, blocks, D, BLOCK), values one position after the other (L, rows, K, T,
    D): what one product reads is contiguous. Untouched memory costs nothing.
    """

    def __init__(self, shape: Shape, rows: int) -> None:
        blocks = -(-shape.positions // BLOCK)
        self.keys = np.zeros((shape.layers, rows, shape.kv_heads, blocks, shape.head_width, BLOCK), np.float32)
        self.values = np.zeros((shape.layers, rows, shape.kv_heads, blocks * BLOCK, shape.head_width), np.float32)

    def read(self, row: int, length: int) -> tuple[Floats, Floats]:
        """The first `length` positions of a row (and some more), for `write`."""
        return self.keys[:, row, :, : -(-length // BLOCK)], self.values[:, row, :, :length]

    def write(self, row: int, kept: tuple[Floats, Floats], length: int) -> None:
        """Put the first `length` positions of what `read` gave into a row."""
        for target, source in zip(self.read(row, length), kept, strict=True):
            target[...] = source[:, :, : target.shape[2]]


class Layer:
    """The matrices of one layer, input first, those that read the same vector side by side.

    The weights of a norm are multiplied into the matrix behind it, and the scale of the attention into its queries.
    """

    def __init__(self, tensors: dict[str, Floats], prefix: str, shape: Shape) -> None:
        def matrix(name: str, norm: str | None = None) -> Floats:
            weight = tensors[f"{prefix}{name}.weight"].T
            return weight if norm is None else weight * tensors[f"{prefix}{norm}.weight"][:, None]

        scale = np.float32(shape.head_width**-0.5)
        query = _pairs(matrix("self_attn.q_proj", "input_layernorm"), shape.head_width) * scale
        key = _pairs(matrix("self_attn.k_proj", "input_layernorm"), shape.head_width)
        value = matrix("self_attn.v_proj", "input_layernorm")
        gate = matrix("mlp.gate_proj", "post_attention_layernorm")
        up = matrix("mlp.up_proj", "post_attention_layernorm")
        self.query_key_value = np.ascontiguousarray(np.concatenate([query, key, value], axis=1))
        self.out = np.ascontiguousarray(matrix("self_attn.o_proj"))
        self.gate_up = np.ascontiguousarray(np.concatenate([gate, up], axis=1))
        self.down = np.ascontiguousarray(matrix("mlp.down_proj"))


def _pairs(matrix: Floats, head_width: int) -> Floats:
    """Columns of each head so reordered that the two numbers which RoPE turns together stand side by side."""
    inputs = len(matrix)
    heads = matrix.reshape(inputs, -1, 2, head_width // 2)
    return heads.swapaxes(2, 3).reshape(inputs, -1)


class _Pass:
    """What the layers of one forward pass have in common: where its tokens stand, and what they may see."""

    def __init__(self, shape: Shape, starts: Ints, count: int, cache: Cache, turns: NDArray[np.complex64]) -> None:
        self.groups = shape.heads // shape.kv_heads
        self.places = starts[:, None] + np.arange(count)  # (B, S)
        self.turns = turns[self.places].reshape(-1, 1, turns.shape[-1])
        self.most, self.least = (int(self.places.max()) // BLOCK + 1) * BLOCK, int(starts.min())
        late = np.arange(self.least, self.most) > self.places[:, None, None, :, None]
        self.hidden = np.where(late, np.float32(-np.inf), np.float32(0))  # of what no row's first token may see
        # Places of the new keys and values (N, K, ...) in the flat memory of a layer's rows.
        blocks, row = cache.keys.shape[3], np.arange(len(starts))[:, None, None]
        head = row * shape.kv_heads + np.arange(shape.kv_heads)  # (B, 1, K)
        place = self.places[:, :, None]
        begin = (head * blocks + place // BLOCK) * shape.head_width * BLOCK + place % BLOCK
        self.key_places = (begin[..., None] + np.arange(shape.head_width) * BLOCK).reshape(
            -1, *begin.shape[2:], shape.head_width
        )
        self.value_places = (head * blocks * BLOCK + place).reshape(-1, shape.kv_heads)


class Llama:
    """The model: `forward` reads new tokens of some rows of a cache, `logits` and `rewards` say what follows."""

    def __init__(self, shape: Shape, tensors: dict[str, Floats]) -> None:
        self.shape = shape
        self.embedding = tensors["model.embed_tokens.weight"]
        self.layers = [Layer(tensors, f"model.layers.{i}.", shape) for i in range(shape.layers)]
        name = "score.weight" if shape.kind == "reward" else "lm_head.weight"
        head = tensors.get(name, self.embedding)  # tied weights are saved once
        self.head: Floats = np.ascontiguousarray((head * tensors["model.norm.weight"]).T)
        frequencies = shape.rope_base ** (-np.arange(0, shape.head_width, 2) / shape.head_width)
        angles = np.arange(shape.positions)[:, None] * frequencies
        self.turns = np.exp(1j * angles).astype(np.complex64)[:, None]  # (positions, 1, D/2)
        self._buffers: dict[str, Floats] = {}

    def twin(self) -> Llama:
        """The same weights with working memory of its own, for another thread."""
        other = copy(self)
        other._buffers = {}
        return other

    def forward(self, tokens: Ints, starts: Ints, cache: Cache, first_row: int = 0) -> Floats:
        """Read `tokens` (B, S), which stand at positions `starts` (B) and on, in B rows of `cache` from `first_row` on.

        Returns the state behind each token (B, S, width), ready for `logits` or `rewards`.
        """
        rows, count = tokens.shape
        new, where = rows * count, slice(first_row, first_row + rows)
        batch = _Pass(self.shape, starts, count, cache, self.turns)
        x = np.zeros((max(new, LEAST_ROWS), self.shape.width), np.float32)
        x[:new] = self.embedding[tokens.reshape(-1)]
        seen = np.zeros((len(x), self.shape.heads * self.shape.head_width), np.float32)
        for index, layer in enumerate(self.layers):
            mixed = self._norm(x) @ layer.query_key_value
            seen[:new] = self._attend(mixed[:new], batch, cache.keys[index, where], cache.values[index, where])
            x += seen @ layer.out
            x += self._swiglu(self._norm(x), layer) @ layer.down
        return self._norm(x)[:new].reshape(rows, count, -1)

    def _attend(self, mixed: Floats, batch: _Pass, keys: Floats, values: Floats) -> Floats:
        """Write new keys and values into the cache's rows; what each token's queries find there (N, heads * D)."""
        shape, (rows, count) = self.shape, batch.places.shape
        heads = mixed.reshape(len(mixed), -1, shape.head_width)
        turned = heads[:, : shape.heads + shape.kv_heads]
        turned.view(np.complex64)[...] *= batch.turns
        keys.reshape(-1)[batch.key_places] = turned[:, shape.heads :]
        values.reshape(-1, shape.head_width)[batch.value_places] = heads[:, shape.heads + shape.kv_heads :]
        split = (rows, count, shape.kv_heads, batch.groups, shape.head_width)
        queries = turned[:, : shape.heads].reshape(split).transpose(0, 2, 3, 1, 4)
        queries = queries.reshape(rows, shape.kv_heads, 1, batch.groups * count, shape.head_width)
        scores = self._buffer("scores", rows, shape.kv_heads, batch.groups * count, batch.most)
        in_blocks = scores.reshape(*scores.shape[:3], -1, BLOCK).swapaxes(2, 3)
        np.matmul(queries, keys[:, :, : batch.most // BLOCK], out=in_blocks)
        scores.reshape(rows, shape.kv_heads, batch.groups, count, -1)[..., batch.least :] += batch.hidden
        scores -= scores.max(axis=-1, keepdims=True)
        np.exp(scores, out=scores)
        found = scores @ values[:, :, : batch.most]
        found /= np.einsum("bkqt->bkq", scores)[..., None]
        found = found.reshape(rows, shape.kv_heads, batch.groups, count, -1).transpose(0, 3, 1, 2, 4)
        return found.reshape(len(mixed), -1)

    def logits(self, state: Floats) -> Floats:
        """Scores of every token of the vocabulary (N, V) behind states (N, width)."""
        padded = np.zeros((max(len(state), LEAST_ROWS), self.shape.width), np.float32)
        padded[: len(state)] = state
        return (padded @ self.head)[: len(state)]

    def rewards(self, state: Floats) -> Floats:
        """The reward head's value (N), before any activation, behind states (N, width)."""
        return self.logits(state)[:, 0]

    def _norm(self, x: Floats) -> Floats:
        mean_square = np.einsum("ij,ij->i", x, x) / np.float32(x.shape[1])
        return x / np.sqrt(mean_square + np.float32(self.shape.epsilon))[:, None]

    def _swiglu(self, x: Floats, layer: Layer) -> Floats:
        """gate * sigmoid(gate) * up."""
        gate_up = self._buffer("gate_up", len(x), layer.gate_up.shape[1])
        gate, up = np.split(np.matmul(x, layer.gate_up, out=gate_up), 2, axis=1)
        gated = self._buffer("gated", *gate.shape)
        np.negative(gate, out=gated)
        np.exp(gated, out=gated)
        gated += 1
        np.divide(gate, gated, out=gated)
        gated *= up
        return gated

    def _buffer(self, name: str, *size: int) -> Floats:
        """Memory that every layer and step uses again: fresh pages cost more than the arithmetic on them."""
        needed = math.prod(size)
        if name not in self._buffers or len(self._buffers[name]) < needed:
            self._buffers[name] = np.empty(needed, np.float32)
        return self._buffers[name][:needed].reshape(size)
