"""Text to tokens and back."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.small_llama import SPECIAL, TEMPLATE, write_tokenizer
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


@given(question=st.text(), start=st.text(), space=st.text(" \n\t\r\u00a0\u2003"))
def test_a_continuation_ends_exactly_with_the_given_text(tokenizer: Tokenizer, question: str, start: str, space: str):
    begun = [{"role": "user", "content": question}, {"role": "assistant", "content": start + space}]
    open_turn = tokenizer.render(begun[:1], open_turn=True)
    assert tokenizer.render(begun, open_turn=False, go_on=True) == open_turn + start + space


@pytest.fixture(scope="module")
def trimming(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """With a chat template that trims every message, as many do."""
    folder = tmp_path_factory.mktemp("trimming")
    write_tokenizer(folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE.replace("message['content']", "message['content'] | trim"))
    return Tokenizer(folder)


@given(start=st.text(), space=st.text(" \n\t\r\u00a0\u2003"))
def test_a_template_that_trims_never_changes_a_continuation(trimming: Tokenizer, start: str, space: str):
    content = start + space
    begun = [{"role": "user", "content": " hi "}, {"role": "assistant", "content": content}]
    if content == content.lstrip():
        text = trimming.render(begun, open_turn=False, go_on=True)
        assert text == "<|user|>hi<|end|><|assistant|>" + content
    else:
        with pytest.raises(ValueError, match=r"changes the last message, .*/v1/completions"):
            trimming.render(begun, open_turn=False, go_on=True)


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
