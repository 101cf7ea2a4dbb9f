"""Text to tokens and back."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.small_llama import SPECIAL, write_tokenizer
from tts.errors import ConfigError
from tts.lab.engine.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder)
    return Tokenizer(folder)


@given(text=st.text())
def test_every_text_comes_back(tokenizer: Tokenizer, text: str):
    assert tokenizer.decode(tokenizer.encode(text), skip_special=False) == text


def test_frequent_pairs_are_merged_first_and_never_across_words(tokenizer: Tokenizer):
    ids = tokenizer.encode("the tell 12\nthand")
    assert [tokenizer.pieces[i] for i in ids] == [b"the", b" ", b"t", b"ell", b" ", b"1", b"2", b"\n", b"th", b"and"]


def test_special_tokens_are_read_as_such_and_left_out_of_texts(tokenizer: Tokenizer):
    ids = tokenizer.encode("<|user|>hi<|end|>")
    assert ids[0] == SPECIAL.index("<|user|>")
    assert tokenizer.decode(ids) == "hi"


def test_a_conversation_is_rendered_open_closed_or_to_be_continued(tokenizer: Tokenizer):
    messages = [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]
    assert tokenizer.render(messages, open_turn=True) == "<|user|>hi<|end|><|assistant|>"
    begun = [*messages, {"role": "assistant", "content": "so"}]
    assert tokenizer.render(begun, open_turn=False) == "<|user|>hi<|end|><|assistant|>so<|end|>"
    assert tokenizer.render(begun, open_turn=False, go_on=True) == "<|user|>hi<|end|><|assistant|>so"


def test_a_tokenizer_of_another_kind_is_refused(tmp_path: Path):
    write_tokenizer(tmp_path)
    path = tmp_path / "tokenizer.json"
    table = json.loads(path.read_text())
    path.write_text(json.dumps({**table, "pre_tokenizer": {"type": "Metaspace"}}))
    with pytest.raises(ConfigError, match="cuts words"):
        Tokenizer(tmp_path)
    path.write_text(json.dumps({**table, "model": {**table["model"], "type": "Unigram"}}))
    with pytest.raises(ConfigError, match="byte-level BPE"):
        Tokenizer(tmp_path)
