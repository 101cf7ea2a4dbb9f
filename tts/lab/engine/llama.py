"""A Llama model in numpy: token embedding, layers of attention and SwiGLU with RMSNorm before each, a head.

(Touvron et al. 2023, arXiv 2302.13971; grouped queries: Ainslie et al. 2023, arXiv 2305.13245.) Shapes are written
with L layers, B rows of the cache, S new tokens in each, T positions, K key/value heads, G query heads for each of
them, and D numbers in a head. All arithmetic is float32.

A row's result does not depend on the other rows, bit for bit. The order in which OpenBLAS adds up a product depends on
the product's size, so few rows are padded to `LEAST_ROWS`, and positions come in blocks of one size.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tts.lab.engine.models import Floats, Ints, LlamaShape

LEAST_ROWS = 16
BLOCK = 64


class Layer:
    """The matrices of one layer, transposed to (input, output); those that read the same vector are joined.

    The weights of each norm are folded into the matrix after it, and the attention's scale into the queries.
    """

    def __init__(self, tensors: dict[str, Floats], prefix: str, shape: LlamaShape) -> None:
        def joined(norm: str, *names: str) -> Floats:
            weights = np.concatenate([tensors[f"{prefix}{name}.weight"] for name in names])
            return np.ascontiguousarray((weights * tensors[f"{prefix}{norm}.weight"]).T)

        projections = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
        self.query_key_value: Floats = joined("input_layernorm", *projections)
        queries, keys = shape.heads * shape.head_width, shape.kv_heads * shape.head_width
        self.query_key_value[:, :queries] *= shape.head_width**-0.5
        # The two numbers that RoPE rotates together become neighbours, as the parts of a complex number are.
        turned = self.query_key_value[:, : queries + keys]
        turned[...] = turned.reshape(shape.width, -1, 2, shape.head_width // 2).swapaxes(2, 3).reshape(turned.shape)
        self.out: Floats = np.ascontiguousarray(tensors[f"{prefix}self_attn.o_proj.weight"].T)
        self.gate_up: Floats = joined("post_attention_layernorm", "mlp.gate_proj", "mlp.up_proj")
        self.down: Floats = np.ascontiguousarray(tensors[f"{prefix}mlp.down_proj.weight"].T)


class Llama:
    """The model: `forward` reads new tokens into rows of a cache, `logits` scores what may follow."""

    def __init__(self, shape: LlamaShape, tensors: dict[str, Floats]) -> None:
        self.shape = shape
        self.embedding: Floats = tensors["model.embed_tokens.weight"]
        self.layers: list[Layer] = [Layer(tensors, f"model.layers.{i}.", shape) for i in range(shape.layers)]
        name = "score.weight" if shape.kind == "reward" else "lm_head.weight"
        head = tensors.get(name, self.embedding)  # tied weights are saved once
        self.head: Floats = np.ascontiguousarray((head * tensors["model.norm.weight"]).T)
        frequencies = shape.rope_base ** (-np.arange(0, shape.head_width, 2) / shape.head_width)
        angles = np.arange(shape.positions)[:, None] * frequencies
        self.turns: NDArray[np.complex64] = np.exp(1j * angles).astype(np.complex64)  # (positions, D / 2)

    def cache(self, rows: int) -> Floats:
        """Zeros for keys, then values, of `rows` sequences (L, B, 2 K, T, D). Untouched memory costs nothing."""
        shape, positions = self.shape, -(-self.shape.positions // BLOCK) * BLOCK
        return np.zeros((shape.layers, rows, 2 * shape.kv_heads, positions, shape.head_width), np.float32)

    def forward(self, tokens: Ints, starts: Ints, cache: Floats, first_row: int = 0) -> Floats:
        """Read `tokens` (B, S), which start at positions `starts` (B), into B rows of `cache` from `first_row` on.

        Returns the state after each token (B, S, width), ready for `logits`.
        """
        new, places = tokens.size, starts[:, None] + np.arange(tokens.shape[1])
        turns = self.turns[places][:, :, None]
        x = np.zeros((max(new, LEAST_ROWS), self.shape.width), np.float32)
        x[:new] = self.embedding[tokens.reshape(-1)]
        seen = np.zeros((len(x), self.layers[0].out.shape[0]), np.float32)
        hidden = _hidden(places)
        for layer, memory in zip(self.layers, cache[:, first_row : first_row + len(tokens)], strict=True):
            heads = (self._norm(x) @ layer.query_key_value)[:new]
            heads = heads.reshape(*places.shape, -1, self.shape.head_width)
            seen[:new] = self._attend(heads, places, turns, hidden, memory)
            x += seen @ layer.out
            gate_up = self._norm(x) @ layer.gate_up
            gate, up = gate_up[:, : len(layer.down)], gate_up[:, len(layer.down) :]
            gate /= 1 + np.exp(-gate)
            gate *= up
            x += gate @ layer.down
        return self._norm(x)[:new].reshape(*tokens.shape, -1)

    def _attend(
        self, heads: Floats, places: Ints, turns: NDArray[np.complex64], hidden: Floats, memory: Floats
    ) -> Floats:
        """Store keys and values of `heads` (B, S, (G + 2) K, D) in `memory` (B, 2 K, T, D); return the attention."""
        (rows, count), kv_heads, width = places.shape, self.shape.kv_heads, self.shape.head_width
        heads[:, :, : self.shape.heads + kv_heads].view(np.complex64)[...] *= turns
        memory[np.arange(rows)[:, None], :, places] = heads[:, :, self.shape.heads :]
        length = places.max() // BLOCK * BLOCK + BLOCK
        keys, values = memory[:, :kv_heads, :length], memory[:, kv_heads:, :length]
        queries = heads[:, :, : self.shape.heads].reshape(rows, count, kv_heads, -1, width).swapaxes(1, 2)
        queries = queries.reshape(rows, kv_heads, 1, -1, width)  # (B, K, 1, S G, D)
        scores = np.empty((rows, kv_heads, queries.shape[3], length), np.float32)
        in_blocks = scores.reshape(*scores.shape[:3], -1, BLOCK).swapaxes(2, 3)
        np.matmul(queries, keys.reshape(rows, kv_heads, -1, BLOCK, width).swapaxes(3, 4), out=in_blocks)
        late = scores.reshape(rows, kv_heads, count, -1, length)[..., length - hidden.shape[-1] :]
        late += hidden
        scores -= scores.max(axis=-1, keepdims=True)
        np.exp(scores, out=scores)
        found = scores @ values
        found /= np.einsum("bkqt->bkq", scores)[..., None]  # unlike sum, unchanged by zeros at the end
        return found.reshape(rows, kv_heads, count, -1, width).swapaxes(1, 2).reshape(rows * count, -1)

    def logits(self, states: Floats) -> Floats:
        """Scores of every token (N, V) after `states` (N, width); of a reward model its raw values (N, 1)."""
        padded = np.zeros((max(len(states), LEAST_ROWS), self.shape.width), np.float32)
        padded[: len(states)] = states
        return (padded @ self.head)[: len(states)]

    def _norm(self, x: Floats) -> Floats:
        mean_square = np.einsum("ij,ij->i", x, x) / np.float32(x.shape[1])
        return x / np.sqrt(mean_square + np.float32(self.shape.epsilon))[:, None]


def _hidden(places: Ints) -> Floats:
    """What hides later tokens when added to scores (B, K, S, G, T), from the first position where one could be seen."""
    positions = np.arange(places.min(), places.max() // BLOCK * BLOCK + BLOCK)
    late = positions > places[:, :, None]
    return np.where(late, np.float32(-np.inf), np.float32(0))[:, None, :, None]
