"""The tokenizer of the lab models: byte-level BPE with a small vocabulary; each digit and line break is a token.

So no text is unknown, numbers are read digit by digit, and a text can be cut at its lines without other tokens.
"""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

VOCABULARY = 512
PAD, END = "<|pad|>", "<|end|>"
PAD_ID, END_ID = 0, 1
ROLES = ["<|system|>", "<|user|>", "<|assistant|>", "<|tool|>"]
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
WORDS = Regex(r"\n|[0-9]| ?[A-Za-z_]+| ?[^\sA-Za-z_0-9]+ ?| +|\s")
"""Text is cut into these before bytes are merged; the pattern means the same in Python's `re`."""


def asking(prompt: str) -> str:
    """What the chat template makes of a user's prompt, up to the start of the answer."""
    return f"<|user|>{prompt}{END}<|assistant|>"


def train_tokenizer(texts: Iterable[str], positions: int) -> PreTrainedTokenizerFast:
    """A tokenizer with the most frequent merges in `texts`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(WORDS, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = [PAD, END, *ROLES]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=special,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=ROLES,
        chat_template=CHAT_TEMPLATE,
        model_max_length=positions,
        clean_up_tokenization_spaces=False,
    )
