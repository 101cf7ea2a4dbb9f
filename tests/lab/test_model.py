"""The forward pass: equal to a plain float64 Llama, however tokens are cut into passes and rows."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.small_llama import log_softmax, reference_states, write_model
from tts.errors import ConfigError
from tts.lab.engine.llama import Llama
from tts.lab.engine.models import Floats, read_shape, read_tensors
from tts.sampler import Endpoint

RNG = np.random.default_rng(0)
IDS = RNG.integers(6, 270, (3, 150))


def load(folder: Path) -> tuple[Llama, Floats]:
    model = Llama(read_shape(folder), read_tensors(folder))
    return model, model.cache(5)


def expected(folder: Path, ids: np.ndarray) -> np.ndarray:
    """Log-probabilities behind each token (T, V)."""
    config, tensors = json.loads((folder / "config.json").read_text()), read_tensors(folder)
    head = tensors.get("lm_head.weight", tensors["model.embed_tokens.weight"])
    return log_softmax(reference_states(config, dict(tensors), ids.tolist()) @ head.T)


SHAPES: dict[str, dict[str, Any]] = {
    "grouped queries": {},
    "a key head for each": {"num_key_value_heads": 4},
    "one key head": {"num_key_value_heads": 1, "num_attention_heads": 3, "head_dim": 16},
    "a head of its own": {"tied": False, "dtype": "F32"},
    "bfloat16": {"dtype": "BF16"},
    "another base": {"rope_parameters": {"rope_theta": 500.0, "rope_type": "default"}},
}


@pytest.mark.parametrize("changes", SHAPES.values(), ids=SHAPES)
def test_log_probabilities_are_those_of_a_plain_llama(tmp_path: Path, changes: dict[str, Any]):
    folder = write_model(tmp_path / "model", **changes)
    model, cache = load(folder)
    states = model.forward(IDS, np.zeros(3, np.int64), cache)
    for row in range(3):
        found = log_softmax(model.logits(states[row]))
        assert np.abs(found - expected(folder, IDS[row])).max() < 1e-3


def test_tokens_read_one_by_one_beside_rows_of_other_lengths_give_the_same(folder: Path):
    model, cache = load(folder)
    truth = [expected(folder, ids) for ids in IDS]
    begun = np.array([5, 70, 100])
    for row, length in enumerate(begun):
        model.forward(IDS[row : row + 1, :length], np.zeros(1, np.int64), cache, row)
    for step in range(50):
        states = model.forward(IDS[np.arange(3), begun + step][:, None], begun + step, cache)[:, 0]
        for row, logprobs in enumerate(log_softmax(model.logits(states))):
            assert np.abs(logprobs - truth[row][begun[row] + step]).max() < 1e-3


def test_a_row_is_computed_alike_to_the_last_bit_alone_and_beside_longer_ones(tmp_path: Path):
    sizes: dict[str, Any] = {"hidden_size": 192, "intermediate_size": 512, "num_attention_heads": 6, "head_dim": 32}
    folder = write_model(tmp_path / "model", max_position_embeddings=1024, scale=0.8, **sizes)
    model = Llama(read_shape(folder), read_tensors(folder))
    ids, lengths = RNG.integers(6, 270, (40, 901)), RNG.integers(1, 900, 40)
    texts, crowd = model.cache(4), model.cache(40)
    for row in range(4):
        model.forward(ids[row : row + 1, :900], np.zeros(1, np.int64), texts, row)
    for row, length in enumerate(lengths):  # each has read the beginning of one of the texts
        crowd[:, row, :, :length] = texts[:, row % 4, :, :length]
    beside = model.forward(ids[np.arange(40), lengths][:, None], lengths, crowd)
    for row, length in enumerate(lengths[:12]):
        alone = model.cache(1)
        alone[:, 0] = crowd[:, row]
        state = model.forward(ids[row, None, length : length + 1], lengths[row : row + 1], alone)
        assert np.array_equal(state[0], beside[row])


def test_a_row_that_moves_goes_on_as_before(folder: Path):
    model, cache = load(folder)
    model.forward(IDS[:1, :100], np.zeros(1, np.int64), cache, 3)
    cache[:, 0, :, :100] = cache[:, 3, :, :100]
    model.forward(IDS[1:2, :140], np.zeros(1, np.int64), cache, 3)  # what was there is overwritten
    states = model.forward(IDS[:1, 100:110], np.array([100]), cache)
    assert np.abs(log_softmax(model.logits(states[0])) - expected(folder, IDS[0])[100:110]).max() < 1e-3


def test_rewards_are_the_head_of_the_state_behind_each_token(reward_folder: Path):
    model, cache = load(reward_folder)
    found = model.logits(model.forward(IDS[:1], np.zeros(1, np.int64), cache)[0])[:, 0]
    tensors = read_tensors(reward_folder)
    config = json.loads((reward_folder / "config.json").read_text())
    truth = reference_states(config, dict(tensors), IDS[0].tolist()) @ tensors["score.weight"][0]
    assert np.abs(found - truth).max() < 1e-3


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"architectures": ["MistralForCausalLM"]}, "MistralForCausalLM"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"rope_parameters": {"rope_type": "llama3"}}, "rope_type"),
        ({"architectures": ["LlamaForSequenceClassification"], "id2label": {"0": "a", "1": "b"}}, "num_labels"),
    ],
)
def test_a_model_of_another_make_is_refused_with_what_is_strange(tmp_path: Path, changes: dict[str, Any], words: str):
    folder = write_model(tmp_path / "model")
    config = {**json.loads((folder / "config.json").read_text()), **changes}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=words):
        read_shape(folder)


def test_a_damaged_file_of_weights_is_named(tmp_path: Path):
    folder = write_model(tmp_path / "model")
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ConfigError, match=r"model\.safetensors"):
        read_tensors(folder)


def test_answers_of_other_weights_are_filed_apart(tmp_path: Path):
    folder = write_model(tmp_path)
    endpoint = Endpoint(model="small", base_url=f"embedded://{folder}")
    before = endpoint.filed_as
    assert Endpoint(model="small", base_url=f"embedded://{folder}").filed_as == before
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    assert Endpoint(model="small", base_url=f"embedded://{folder}").filed_as != before
