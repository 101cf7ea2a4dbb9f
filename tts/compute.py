"""From token counts to FLOPs and money.

A forward pass multiplies each token with every weight once: 2 FLOPs (multiply and add) per parameter and
token, 2N. Attention adds what depends on the context: a token that attends to c positions takes 2 c d FLOPs
for the scores and 2 c d for the weighted sum, in each of L layers with hidden size d, 4 L d c. (Kaplan et al.
2020, section 2.1, gives 2 L d n for a sequence of length n: the same, with the mean causal context n/2.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, Field

from tts.errors import ConfigError
from tts.settings import Settings

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]


PRICES = "prompt_price_per_million and completion_price_per_million (0 where it is free)"
"""What a model card needs for money."""


def _per_million(price: float) -> float:
    if price == 0 or 1e-3 <= price <= 1e4:
        return price
    if 0 < price < 1e-3:
        raise ValueError(f"{price:g} looks like a price per token; prices are per million tokens: {price * 1e6:.4g}")
    raise ValueError(f"{price:g} is no price of a million tokens: give 0 (it is free) or 0.001 to 10000")


def _one_by_one(parameters: float) -> float:
    if parameters == 0 or 1e4 <= parameters <= 1e15:
        return parameters
    raise ValueError(f"{parameters:g} is no number of parameters; they are counted one by one: 7e9, not 7")


Price = Annotated[float, AfterValidator(_per_million)]


class ModelCard(Settings):
    """What it takes to turn a model's tokens into FLOPs and money. Leave out what is not known."""

    parameters: Annotated[float, AfterValidator(_one_by_one)] | None = None
    """Parameters used for each token: for a mixture of experts the active ones."""
    layers: int | None = None
    hidden_size: int | None = None
    """Attention heads times their size; with `layers`, for the attention term."""
    prompt_price_per_million: Price | None = None
    """Price of a million prompt tokens, in `currency`: 0, or 0.001 to 10,000."""
    cached_price_per_million: Price | None = None
    """The same for prompt tokens read from the cache; left out, they cost as much as any prompt token."""
    completion_price_per_million: Price | None = None
    """The same for completion tokens."""
    currency: str = "USD"
    price_factor: Annotated[float, Field(gt=0, le=10)] = 1.0
    """What the prices are multiplied by: 0.5 for an endpoint with `batch`, unless it says otherwise."""

    @property
    def priced(self) -> bool:
        """Whether prompt and completion tokens have a price."""
        return self.prompt_price_per_million is not None and self.completion_price_per_million is not None

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
        fresh, reread, written = (
            self.prompt_price_per_million,
            self.cached_price_per_million,
            self.completion_price_per_million,
        )
        if fresh is None or written is None:
            raise self._lacks("money", PRICES)
        prompt, completion, cached = _token_counts(prompt_tokens, completion_tokens, cached_tokens)
        reread = fresh if reread is None else reread
        return ((prompt - cached) * fresh + cached * reread + completion * written) * self.price_factor / 1e6

    def _lacks(self, what: str, fields: str) -> ConfigError:
        return ConfigError(f"cannot express compute in {what}: the model card needs {fields}")


def _token_counts(prompt: ArrayLike, completion: ArrayLike, cached: ArrayLike) -> tuple[Floats, Floats, Floats]:
    import numpy as np  # here: it is slow to import, and most searches compute no price

    counts = np.broadcast_arrays(*(np.asarray(v, dtype=np.float64) for v in (prompt, completion, cached)))
    prompt, completion, cached = counts
    if any(np.any(values < 0) for values in counts) or np.any(cached > prompt):
        raise ConfigError("token counts must not be negative, and cached tokens are part of the prompt tokens")
    return prompt, completion, cached
