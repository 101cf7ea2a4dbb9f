"""Reads `tokenizer.json` and the chat template of a model folder: byte-level BPE (Sennrich et al. 2016, 1508.07909).

It does what the package `tokenizers` does for the one kind of tokenizer that small models here have, which spares the
core a compiled package and the model hub's client that comes with it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from tts.errors import ConfigError

OPEN_END = "<|open-end|>"
"""Marks the end of a message that is to be continued while the chat template is applied."""


def _alphabet() -> dict[str, int]:
    """The printable character that stands for each byte in GPT-2's vocabularies, and the byte."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {**{chr(byte): byte for byte in shown}, **{chr(256 + i): byte for i, byte in enumerate(hidden)}}


class Tokenizer:
    """Text to token ids and back, and chat messages to text. Raises `ConfigError` for other kinds of tokenizers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        table = _json(folder / "tokenizer.json")
        self._settings = _json(folder / "tokenizer_config.json")
        model = table["model"]
        if model.get("type") != "BPE" or table.get("normalizer") or model.get("unk_token"):
            raise ConfigError(f"{folder}: the embedded engine reads only byte-level BPE without a normalizer")
        self._words = _word_pattern(table.get("pre_tokenizer") or {}, folder)
        self._ids: dict[str, int] = model["vocab"]
        merges = (merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"])
        self._ranks = {tuple(pair): rank for rank, pair in enumerate(merges)}
        self._added = {token["content"]: token["id"] for token in table.get("added_tokens", ())}
        self.special: frozenset[int] = frozenset(
            token["id"] for token in table.get("added_tokens", ()) if token["special"]
        )
        names = sorted(map(re.escape, self._added), key=len, reverse=True)
        self._split = re.compile(f"({'|'.join(names)})" if names else r"(?!)()")
        alphabet = _alphabet()
        self._shown = {byte: shown for shown, byte in alphabet.items()}
        plain = {i: token for token, i in self._ids.items() if token not in self._added}
        self.pieces: dict[int, bytes] = {i: bytes(alphabet[c] for c in token) for i, token in plain.items()}
        self.pieces |= {i: token.encode() for token, i in self._added.items()}
        self._merge = lru_cache(8192)(self._merge_word)

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`; the names of special tokens in it become those tokens."""
        ids: list[int] = []
        for part in self._split.split(text):
            if part in self._added:
                ids.append(self._added[part])
                continue
            for word in self._words.findall(part) if self._words else [part] if part else ():
                ids.extend(self._merge(word))
        return ids

    def decode(self, ids: Sequence[int], skip_special: bool = True) -> str:
        """The text of `ids`; bytes that are not UTF-8 become U+FFFD, and unknown ids are left out."""
        skipped = self.special if skip_special else ()
        return b"".join(self.pieces.get(i, b"") for i in ids if i not in skipped).decode("utf-8", "replace")

    def render(self, messages: Sequence[Mapping[str, Any]], *, open_turn: bool, go_on: bool = False) -> str:
        """The text of a conversation in the model's chat template.

        `open_turn` starts the assistant's turn. `go_on` leaves the last message open: the text ends exactly with its
        content, white space included. Raises `ValueError` with the template's own words if it cannot show these
        messages, and if it changes the content that is to be continued.
        """
        messages = [{**message, "content": _plain(message.get("content"))} for message in messages]
        if not go_on:
            return self._apply_template(messages, open_turn)
        content = messages[-1]["content"]
        messages[-1]["content"] += OPEN_END  # the content's white space is no longer at an end, where it may be trimmed
        text, mark, _ = self._apply_template(messages, open_turn).rpartition(OPEN_END)
        if not mark or not text.endswith(content):
            raise ValueError(
                "the model's chat template changes the last message, so it cannot be continued word for word; "
                "send the text or the token ids of the whole prompt to /v1/completions instead"
            )
        return text

    def _apply_template(self, messages: list[dict[str, Any]], open_turn: bool) -> str:
        from jinja2 import TemplateError

        try:
            return self._template.render(messages=messages, add_generation_prompt=open_turn, **self._names)
        except TemplateError as error:
            raise ValueError(str(error)) from None

    @cached_property
    def _template(self) -> Any:
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        path = self.folder / "chat_template.jinja"
        source = path.read_text() if path.exists() else self._settings.get("chat_template")
        if not isinstance(source, str):
            raise ValueError("the model has no chat template; use /v1/completions")
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.globals["raise_exception"] = _raise_template_error
        return environment.from_string(source)

    @property
    def _names(self) -> dict[str, str]:
        """The special tokens by the names that templates use: bos_token, eos_token, ..."""
        known = self._settings.items()
        return {key: value for key, value in known if key.endswith("_token") and isinstance(value, str)}

    def _merge_word(self, word: str) -> tuple[int, ...]:
        """Token ids of a word: its bytes, neighbours merged again and again, the most frequent pair first."""
        parts = [self._shown[byte] for byte in word.encode()]
        while len(parts) > 1:
            rank, i = min((self._ranks.get(pair, len(self._ranks)), i) for i, pair in enumerate(pairwise(parts)))
            if rank == len(self._ranks):
                break
            parts[i : i + 2] = [parts[i] + parts[i + 1]]
        return tuple(self._ids[part] for part in parts)


def _word_pattern(settings: dict[str, Any], folder: Path) -> re.Pattern[str] | None:
    """Matches the words that a text is cut into before bytes are merged; None: the text is one word."""
    steps = settings.get("pretokenizers", [settings])
    *splits, bytes_ = steps or [{}]
    plain = bytes_.get("type") == "ByteLevel" and not bytes_.get("use_regex", True) and not bytes_["add_prefix_space"]
    if plain and not splits:
        return None
    if plain and len(splits) == 1 and splits[0]["type"] == "Split" and splits[0]["behavior"] == "Isolated":
        pattern = splits[0]["pattern"]
        text = pattern["Regex"] if "Regex" in pattern else re.escape(pattern["String"])
        return re.compile(f"(?:{text})|.+?(?=(?:{text})|\\Z)", re.DOTALL)
    raise ConfigError(f"{folder}: the tokenizer cuts words in a way that the embedded engine does not know")


def _plain(content: Any) -> str:
    """A message's text, from a string or from content parts."""
    if isinstance(content, list):
        return "".join(part.get("text") or "" for part in content)
    return content or ""


def _raise_template_error(message: str) -> None:
    from jinja2 import TemplateError

    raise TemplateError(message)


def _json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from None
