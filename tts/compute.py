"""From token counts to FLOPs and money.

A forward pass multiplies each token with every weight once: 2 FLOPs (multiply and add) per parameter and
token, 2N. Attention adds what depends on the context: a token that attends to c positions takes 2 c d FLOPs
for the scores and 2 c d for the weighted sum, in each of L layers with hidden size d, 4 L d c. (Kaplan et al.
2020, section 2.1, gives 2 L d n for a sequence of length n: the same, with the mean causal context n/2.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tts.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ModelCard:
    """What it takes to turn a model's tokens into FLOPs and money. Leave out what is not known."""

    parameters: float | None = None
    """Parameters used for each token: for a mixture of experts the active ones."""
    layers: int | None = None
    hidden_size: int | None = None
    """Attention heads times their size; with `layers`, for the attention term."""
    prompt_price: float | None = None
    """Per million prompt tokens, in `currency`."""
    cached_price: float | None = None
    """Per million prompt tokens read from the cache; left out, they cost as much as any prompt token."""
    completion_price: float | None = None
    """Per million completion tokens."""
    currency: str = "USD"

    def flops(
        self,
        prompt_tokens: ArrayLike,
        completion_tokens: ArrayLike,
        cached_tokens: ArrayLike = 0,
        *,
        attention: bool = False,
    ) -> Floats:
        """Forward-pass FLOPs; the arguments broadcast. Cached tokens are part of the prompt and cost nothing.

        With `attention` each entry must be one sequence, not a sum over several, as the term is quadratic in
        length. Samples that share a prompt: count it in the first, and as cached in the others.

        Raises `ConfigError` if the card lacks the parameters (or layers and hidden size), or counts are
        impossible.
        """
        if self.parameters is None:
            raise self._lacks("FLOPs", "parameters")
        prompt, completion, cached = _token_counts(prompt_tokens, completion_tokens, cached_tokens)
        total = 2.0 * self.parameters * (prompt - cached + completion)
        if not attention:
            return total
        if self.layers is None or self.hidden_size is None:
            raise self._lacks("the attention term", "layers and hidden_size")
        end = prompt + completion
        positions = (end * (end + 1) - cached * (cached + 1)) / 2  # the token at position t attends to t positions
        return total + 4.0 * self.layers * self.hidden_size * positions

    def price(self, prompt_tokens: ArrayLike, completion_tokens: ArrayLike, cached_tokens: ArrayLike = 0) -> Floats:
        """Money in `currency`; the arguments broadcast. Raises `ConfigError` if the card has no prices."""
        if self.prompt_price is None or self.completion_price is None:
            raise self._lacks("money", "prompt_price and completion_price (0 where it is free)")
        prompt, completion, cached = _token_counts(prompt_tokens, completion_tokens, cached_tokens)
        cached_price = self.prompt_price if self.cached_price is None else self.cached_price
        paid = (prompt - cached) * self.prompt_price + cached * cached_price + completion * self.completion_price
        return paid / 1e6

    def _lacks(self, what: str, fields: str) -> ConfigError:
        return ConfigError(f"cannot express compute in {what}: the model card needs {fields}")


def _token_counts(prompt: ArrayLike, completion: ArrayLike, cached: ArrayLike) -> tuple[Floats, Floats, Floats]:
    import numpy as np  # here: it is slow to import, and most searches compute no price

    counts = np.broadcast_arrays(*(np.asarray(v, dtype=np.float64) for v in (prompt, completion, cached)))
    prompt, completion, cached = counts
    if any(np.any(values < 0) for values in counts) or np.any(cached > prompt):
        raise ConfigError("token counts must not be negative, and cached tokens are part of the prompt tokens")
    return prompt, completion, cached
