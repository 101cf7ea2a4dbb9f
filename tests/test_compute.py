from __future__ import annotations

import numpy as np
import pytest

from tts.compute import ModelCard
from tts.errors import ConfigError

card = ModelCard(parameters=7e9, layers=32, hidden_size=4096, prompt_price=2.0, cached_price=0.5, completion_price=8.0)


def test_flops_are_two_per_parameter_and_computed_token():
    assert card.flops(100, 50) == 2 * 7e9 * 150
    assert card.flops([100, 100], [50, 20], cached_tokens=[0, 80]).tolist() == [2 * 7e9 * 150, 2 * 7e9 * 40]


def test_the_attention_term_sums_over_every_computed_token_what_it_attends_to():
    extra = card.flops(10, 5, 4, attention=True) - card.flops(10, 5, 4)
    assert extra == pytest.approx(sum(4 * 32 * 4096 * context for context in range(5, 16)))


def test_attention_of_samples_that_share_a_prompt_counts_the_prompt_once():
    shared = card.flops(100, [30, 40], [0, 100], attention=True).sum()
    prompt = card.flops(100, 0, attention=True)
    continuations = card.flops(100, [30, 40], 100, attention=True).sum()
    assert shared == pytest.approx(prompt + continuations)


def test_money_charges_fresh_cached_and_completion_tokens_at_their_prices():
    assert card.price(1e6, 0) == 2
    assert card.price(1e6, 1e6, cached_tokens=4e5) == pytest.approx(0.6 * 2 + 0.4 * 0.5 + 8)
    assert ModelCard(prompt_price=2, completion_price=8).price(1e6, 0, cached_tokens=1e6) == 2
    np.testing.assert_allclose(card.price([0, 5e5], [1e6, 0]), [8, 1])


def test_what_the_card_does_not_know_is_an_error_that_names_the_field():
    empty = ModelCard()
    with pytest.raises(ConfigError, match="needs parameters"):
        empty.flops(1, 1)
    with pytest.raises(ConfigError, match="layers and hidden_size"):
        ModelCard(parameters=1e9).flops(1, 1, attention=True)
    with pytest.raises(ConfigError, match="prompt_price and completion_price"):
        empty.price(1, 1)


def test_impossible_token_counts_are_refused():
    for counts in ((-1, 0, 0), (10, 5, 11)):
        with pytest.raises(ConfigError, match="token counts"):
            card.flops(*counts)
