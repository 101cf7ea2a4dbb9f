from __future__ import annotations

import math

import numpy as np
import pytest
from pydantic import ValidationError

from tts.compute import ModelCard
from tts.errors import ConfigError
from tts.runs import Experiment

card = ModelCard(
    parameters=7e9,
    layers=32,
    hidden_size=4096,
    prompt_price_per_million=2.0,
    cached_price_per_million=0.5,
    completion_price_per_million=8.0,
)


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
    uncached = ModelCard(prompt_price_per_million=2, completion_price_per_million=8)
    assert uncached.price(1e6, 0, cached_tokens=1e6) == 2
    np.testing.assert_allclose(card.price([0, 5e5], [1e6, 0]), [8, 1])


def test_what_the_card_does_not_know_is_an_error_that_names_the_field():
    empty = ModelCard()
    with pytest.raises(ConfigError, match="needs parameters"):
        empty.flops(1, 1)
    with pytest.raises(ConfigError, match="layers and hidden_size"):
        ModelCard(parameters=1e9).flops(1, 1, attention=True)
    with pytest.raises(ConfigError, match="prompt_price_per_million and completion_price_per_million"):
        empty.price(1, 1)


PRICES = [f"{kind}_price_per_million" for kind in ("prompt", "cached", "completion")]


@pytest.mark.parametrize("name", PRICES)
@pytest.mark.parametrize(
    ("price", "reason"),
    [
        (6e-7, "looks like a price per token.*per million tokens: 0.6"),
        (9.99e-4, "per token"),
        (-0.1, "no price of a million tokens"),
        (20_000, "0.001 to 10000"),
        (math.nan, "no price"),
        (math.inf, "no price"),
    ],
)
def test_prices_that_cannot_be_per_million_tokens_are_refused_with_the_reason(name: str, price: float, reason: str):
    with pytest.raises(ValidationError, match=reason):
        ModelCard.model_validate({name: price})
    table = {
        "task": "gsm8k",
        "strategies": ["single"],
        "models": {"m": {"base_url": "http://x", "card": {name: price}}},
    }
    with pytest.raises(ConfigError, match=rf"models\.m\.policy\.card\.{name}: .*{reason}"):
        Experiment.parse(table)


@pytest.mark.parametrize("price", [0, 0.001, 0.0028, 0.6, 600, 10_000])
def test_plausible_prices_are_taken(price: float):
    assert all(getattr(ModelCard.model_validate({name: price}), name) == price for name in PRICES)


@pytest.mark.parametrize("parameters", [7, 0.5, -7e9, 1e16, math.nan])
def test_parameters_in_billions_are_refused(parameters: float):
    with pytest.raises(ValidationError, match="one by one"):
        ModelCard(parameters=parameters)


def test_a_price_without_its_unit_is_refused():
    with pytest.raises(ValidationError, match="prompt_price"):
        ModelCard(prompt_price=0.2)  # pyright: ignore


def test_impossible_token_counts_are_refused():
    for counts in ((-1, 0, 0), (10, 5, 11)):
        with pytest.raises(ConfigError, match="token counts"):
            card.flops(*counts)
