"""A request, and one choice of its answer while it is generated: its tokens, its text and where that ends."""

from __future__ import annotations

import asyncio
import codecs
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from tts.lab.engine.model import Ints
from tts.lab.engine.sampling import Scored, Settings, noise
from tts.lab.engine.tokenizer import Tokenizer

if TYPE_CHECKING:
    from tts.lab.engine.engine import Kept


@dataclass(frozen=True, slots=True)
class Delta:
    """What has become of one choice since the last delta; with `finish_reason` it is complete."""

    index: int
    text: str
    tokens: list[int]
    scores: list[Scored]
    finish_reason: str | None = None
    stop_reason: str | int | None = None


@dataclass(eq=False, slots=True)
class Request:
    """`n` choices for one prompt, and what reading it found out."""

    prompt: Ints
    settings: Settings
    n: int = 1
    stream: bool = False
    """Whether deltas come token by token."""
    cached_tokens: int = 0
    prompt_scores: list[Scored] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    """From a reward model: its raw value behind each token of the prompt."""
    kept: Kept | None = None
    """The prompt as it was read, for all choices."""
    cancelled: bool = False
    deltas: asyncio.Queue[Delta | Exception] = field(default_factory=asyncio.Queue)
    loop: asyncio.AbstractEventLoop | None = None

    def send(self, item: Delta | Exception) -> None:
        """Hand `item` to whoever waits, from the thread that computes."""
        try:
            assert self.loop is not None
            self.loop.call_soon_threadsafe(self.deltas.put_nowait, item)
        except RuntimeError:  # the loop is closed: nobody waits any more
            self.cancelled = True


class Choice:
    """One sequence that is being generated: what was drawn, and its text as far as it cannot change any more."""

    def __init__(self, request: Request, index: int, tokenizer: Tokenizer, ends: frozenset[int]) -> None:
        settings = request.settings
        self.request, self.index, self.settings = request, index, settings
        self.length = len(request.prompt)
        """Tokens whose keys and values are in the cache."""
        self.noise = noise(settings.seed, index, request.prompt, settings.max_tokens)
        self.tokens: list[int] = []
        self.finish_reason: str | None = None
        self._stop_reason: str | int | None = None
        self._scores: list[Scored] = []
        self.ends = settings.stop_ids if settings.ignore_end else settings.stop_ids | ends
        self._stops = [(stop.encode(), stop) for stop in settings.stop]
        self._held = max((len(stop) for stop, _ in self._stops), default=1) - 1  # could be the begin of a stop string
        self._pieces, self._hidden = tokenizer.pieces, tokenizer.special if settings.skip_special else frozenset()
        self._text, self._read, self._sent, self._told = bytearray(), 0, 0, 0
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode

    def add(self, token: int, scored: Scored | None) -> None:
        """Take the next token in, and end if it ends the text."""
        self.tokens.append(token)
        if scored is not None and self.settings.tops is not None:
            self._scores.append(replace(scored, tops=scored.tops[: self.settings.tops]))
        if token in self.ends:
            self.finish_reason = "stop"
            self._stop_reason = token if token in self.settings.stop_ids else None
        if not self.finish_reason or (self.settings.include_stop and token in self.settings.stop_ids):
            self._text += b"" if token in self._hidden else self._pieces.get(token, b"")
        if self._stops and not self.finish_reason and len(self.tokens) >= self.settings.min_tokens:
            self._find_stop()
        if not self.finish_reason and len(self.tokens) == self.settings.max_tokens:
            self.finish_reason = "length"
        if self.finish_reason or self.request.stream:
            self.request.send(self._delta())

    def _find_stop(self) -> None:
        begin = max(0, self._read - self._held)
        self._read = len(self._text)
        found = [(at, stop) for stop in self._stops if (at := self._text.find(stop[0], begin)) >= 0]
        if found:
            at, (stop, self._stop_reason) = min(found, key=lambda one: one[0])
            del self._text[at + (len(stop) if self.settings.include_stop else 0) :]
            self.finish_reason = "stop"

    def _delta(self) -> Delta:
        final = self.finish_reason is not None
        end = len(self._text) if final else max(self._sent, len(self._text) - self._held)
        text, self._sent = self._decode(bytes(self._text[self._sent : end]), final), end
        tokens, self._told = self.tokens[self._told :], len(self.tokens)
        scores, self._scores = self._scores, []
        return Delta(self.index, text, tokens, scores, self.finish_reason, self._stop_reason)
