"""The next token: the right distribution, from random numbers that belong to the sequence alone."""

from typing import Any

import numpy as np
import pytest

from tests.support.small_llama import log_softmax
from tts.lab.engine.sampling import SamplingParams, draw, noise, score

LOGITS = (3 * np.random.default_rng(1).normal(size=20)).astype(np.float32)
DRAWS = 20_000


def exact(temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0) -> np.ndarray:
    """The distribution that is asked for, token by token from the likeliest one."""
    chances = np.exp(log_softmax(LOGITS.astype(np.float64) / temperature))
    order = sorted(range(len(chances)), key=lambda token: -chances[token])
    kept, total = np.zeros(len(chances)), 0.0
    allowed = [token for token in order if chances[token] >= min_p * max(chances)][: top_k or None]
    whole = sum(chances[token] for token in allowed)
    for token in allowed:
        if total >= top_p * whole:
            break
        kept[token] = chances[token]
        total += chances[token]
    return kept / kept.sum()


CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "temperature": {"temperature": 0.6},
    "hot": {"temperature": 1.7},
    "top_k": {"top_k": 4},
    "top_p": {"top_p": 0.8},
    "min_p": {"min_p": 0.1},
    "all": {"temperature": 1.3, "top_k": 7, "top_p": 0.9, "min_p": 0.02},
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_frequencies_are_those_of_the_distribution(case: dict[str, Any]):
    changes: list[dict[str, Any]] = [{}, {"temperature": 0}, {"top_p": 0.5}]
    others = [SamplingParams(max_tokens=1, **one) for one in changes]
    batch = [*others, *[SamplingParams(max_tokens=1, **case)] * DRAWS]
    uniform = noise(7, 0, np.arange(3), len(batch))
    drawn = draw(np.tile(LOGITS, (len(batch), 1)), batch, uniform)[len(others) :]
    chances = exact(**case)
    counts = np.bincount(drawn, minlength=len(LOGITS))
    assert not counts[chances == 0].any()
    seen = chances > 0
    expected = chances[seen] * DRAWS
    common = expected >= 5  # the rest is one class
    pairs = [*zip(counts[seen][common], expected[common], strict=True)]
    pairs.append((counts[seen][~common].sum(), expected[~common].sum()))
    chi_square = sum((count - mean) ** 2 / mean for count, mean in pairs if mean > 0)
    freedom = len([mean for _, mean in pairs if mean > 0]) - 1
    assert chi_square < freedom + 4 * (2 * freedom) ** 0.5 + 8  # the seed is fixed: about one false alarm in 10,000


def test_temperature_zero_takes_the_likeliest():
    greedy = [SamplingParams(max_tokens=1, temperature=0.0)] * 5
    assert set(draw(np.tile(LOGITS, (5, 1)), greedy, np.linspace(0, 0.99, 5)).tolist()) == {int(LOGITS.argmax())}


def test_random_numbers_belong_to_seed_choice_and_prompt():
    prompt, other = np.arange(5), np.arange(6)
    first = noise(3, 2, prompt, 10)
    assert np.array_equal(first, noise(3, 2, prompt, 50)[:10])
    assert np.array_equal(first, noise(5, 0, prompt, 10))  # seed + index, as in vLLM
    assert not np.array_equal(first, noise(3, 2, other, 10))
    assert not np.array_equal(noise(None, 0, prompt, 10), noise(None, 0, prompt, 10))


def test_scores_are_raw_log_probabilities_with_ranks_and_the_likeliest():
    tokens = np.array([4, int(LOGITS.argmax())])
    found = score(np.tile(LOGITS, (2, 1)), tokens, 3)
    truth = log_softmax(LOGITS.astype(np.float64))
    order = np.argsort(-truth)
    for one in found:
        assert one.logprob == pytest.approx(truth[one.token], abs=1e-5)
        assert one.rank == order.tolist().index(one.token) + 1
        assert [token for token, _ in one.tops] == order[:3].tolist()
        assert [value for _, value in one.tops] == pytest.approx(truth[order[:3]], abs=1e-5)
