"""Continuous batching: sequences join and leave a batch between two tokens, so none waits for another to end.

(Yu et al. 2022, "Orca", OSDI.) The arithmetic has threads of its own, each with its own cache and batch; they share
only the weights. A thread lives as long as there is work.
"""

from __future__ import annotations

import asyncio
import codecs
import ctypes
import os
import threading
from collections import deque
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tts.lab.engine.llama import BLOCK, Llama
from tts.lab.engine.models import Floats, Ints, LlamaShape, read_shape, read_tensors
from tts.lab.engine.sampling import SamplingParams, ScoredToken, draw, noise, score
from tts.lab.engine.tokenizer import Tokenizer

ROWS = 64
"""Sequences in the batch of one thread."""
PREFILL = 1024
"""Prompt tokens read between two steps, about: how long running sequences may have to wait."""
KEPT_PROMPTS = 32
"""Prompts whose keys and values each thread keeps, for later ones with the same prefix."""


@dataclass(frozen=True, slots=True)
class Delta:
    """What was generated of one choice since the last delta; with `finish_reason` the choice is complete."""

    index: int
    text: str
    tokens: list[int]
    scores: list[ScoredToken]
    finish_reason: str | None = None
    stop_reason: str | int | None = None


@dataclass(frozen=True, slots=True)
class CachedPrompt:
    """A prompt that was read: its tokens, its part of the cache, and the state after its last token."""

    tokens: Ints
    cache: Floats
    state: Floats

    def shared(self, prompt: Ints) -> int:
        """Length of the prefix that `prompt` shares, in whole blocks and without its last token."""
        size = min(len(self.tokens), len(prompt) - 1)
        same = self.tokens[:size] == prompt[:size]
        return (size if same.all() else int(same.argmin())) // BLOCK * BLOCK


@dataclass(eq=False, slots=True)
class GenerationRequest:
    """`n` choices for one prompt, and what reading the prompt found out."""

    prompt: Ints
    params: SamplingParams
    n: int = 1
    stream: bool = False
    """Whether deltas come token by token."""
    cached_tokens: int = 0
    prompt_scores: list[ScoredToken] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    """From a reward model: its raw value after each token of the prompt."""
    read: CachedPrompt | None = None
    """The prompt once it is read, for all choices."""
    cancelled: bool = False
    deltas: asyncio.Queue[Delta | Exception] = field(default_factory=asyncio.Queue)
    loop: asyncio.AbstractEventLoop | None = None

    def send(self, item: Delta | Exception) -> None:
        """Hand `item` from the computing thread to the waiting task."""
        try:
            assert self.loop is not None
            self.loop.call_soon_threadsafe(self.deltas.put_nowait, item)
        except RuntimeError:  # the loop is closed: nobody is waiting
            self.cancelled = True


class GeneratedChoice:
    """One choice while it is generated: its tokens, and its text as far as it cannot change any more."""

    def __init__(self, request: GenerationRequest, index: int, tokenizer: Tokenizer, ends: frozenset[int]) -> None:
        params = request.params
        self.request: GenerationRequest = request
        self.index: int = index
        self.params: SamplingParams = params
        self.length: int = len(request.prompt)
        """Tokens whose keys and values are in the cache."""
        self.noise: NDArray[np.float64] = noise(params.seed, index, request.prompt, params.max_tokens)
        self.tokens: list[int] = []
        self.finish_reason: str | None = None
        self.ends: frozenset[int] = frozenset(params.stop_token_ids) | (frozenset() if params.ignore_eos else ends)
        self._stop_reason: str | int | None = None
        self._scores: list[ScoredToken] = []
        self._stops = [(stop.encode(), stop) for stop in params.stop]
        self._held = max((len(stop) for stop, _ in self._stops), default=1) - 1  # may be the start of a stop string
        self._pieces = tokenizer.pieces
        self._hidden = tokenizer.special if params.skip_special_tokens else frozenset[int]()
        self._text, self._searched = bytearray(), 0
        self._sent_text, self._sent_tokens = 0, 0
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode

    def add(self, token: int, scored: ScoredToken | None) -> None:
        """Append the next token, finish if it ends the text, and send what is due."""
        self.tokens.append(token)
        if scored is not None and self.params.logprobs is not None:
            self._scores.append(replace(scored, tops=scored.tops[: self.params.logprobs]))
        stops = token in self.params.stop_token_ids
        if token in self.ends:
            self.finish_reason, self._stop_reason = "stop", token if stops else None
        if not self.finish_reason or (self.params.include_stop_str_in_output and stops):
            self._text += b"" if token in self._hidden else self._pieces.get(token, b"")
        if self._stops and not self.finish_reason and len(self.tokens) >= self.params.min_tokens:
            self._find_stop()
        if not self.finish_reason and len(self.tokens) == self.params.max_tokens:
            self.finish_reason = "length"
        if self.finish_reason or self.request.stream:
            self.request.send(self._delta())

    def _find_stop(self) -> None:
        start = max(0, self._searched - self._held)
        self._searched = len(self._text)
        found = [(at, stop) for stop in self._stops if (at := self._text.find(stop[0], start)) >= 0]
        if found:
            at, (stop, self._stop_reason) = min(found, key=lambda one: one[0])
            del self._text[at + (len(stop) if self.params.include_stop_str_in_output else 0) :]
            self.finish_reason = "stop"

    def _delta(self) -> Delta:
        final = self.finish_reason is not None
        end = len(self._text) if final else max(self._sent_text, len(self._text) - self._held)
        text, self._sent_text = self._decode(bytes(self._text[self._sent_text : end]), final), end
        tokens, self._sent_tokens = self.tokens[self._sent_tokens :], len(self.tokens)
        scores, self._scores = self._scores, []
        return Delta(self.index, text, tokens, scores, self.finish_reason, self._stop_reason)


class BatchThread:
    """One batch and the thread that computes it."""

    def __init__(self, model: Llama, tokenizer: Tokenizer, rows: int) -> None:
        self.model: Llama = model
        self.tokenizer: Tokenizer = tokenizer
        self.rows: int = rows
        self.waiting: deque[GeneratedChoice] = deque()
        self.running: list[GeneratedChoice] = []
        """Row i of the cache and of the states after the last tokens belongs to running[i]."""
        self._cache = model.cache(rows)
        self._states = np.zeros((rows, model.shape.width), np.float32)
        self._kept: deque[CachedPrompt] = deque(maxlen=KEPT_PROMPTS)
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    @property
    def load(self) -> int:
        return len(self.running) + len(self.waiting)

    def submit(self, request: GenerationRequest) -> None:
        """Queue all choices of `request`, and start the thread unless it runs."""
        ends = frozenset(self.model.shape.end_ids)
        with self._lock:
            self.waiting.extend(GeneratedChoice(request, index, self.tokenizer, ends) for index in range(request.n))
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="tts-embedded", daemon=True)
                self._thread.start()

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self.load:
                    self._thread = None
                    return
            try:
                self._admit()
                if self.running:
                    self._draw()
                    self._release()
                if self.running:
                    self._read_drawn()
            except Exception as error:  # whoever waits must learn of it
                with self._lock:
                    for one in (*self.running, *self.waiting):
                        one.request.send(error)
                    self.running.clear()
                    self.waiting.clear()

    def _admit(self) -> None:
        """Give free rows to waiting sequences; a prompt is read once for all choices of its request."""
        budget = PREFILL
        while self.waiting and len(self.running) < self.rows and budget > 0:
            one, row = self.waiting.popleft(), len(self.running)
            if one.request.cancelled:
                continue
            self.running.append(one)
            read = one.request.read
            if read is None:
                read = one.request.read = self._read(one.request, row)
                budget -= len(read.tokens) - one.request.cached_tokens
            self._cache[:, row, :, : len(read.tokens)] = read.cache
            self._states[row] = read.state

    def _read(self, request: GenerationRequest, row: int) -> CachedPrompt:
        """Read a prompt into a free row, on from the longest prefix that is kept; score all of it if asked to."""
        prompt, tops, rewarding = request.prompt, request.params.prompt_logprobs, self.model.shape.kind == "reward"
        known = 0
        if self._kept and tops is None and not rewarding:
            best = max(self._kept, key=lambda kept: kept.shared(prompt))
            request.cached_tokens = known = best.shared(prompt)
            self._cache[:, row, :, :known] = best.cache[:, :, :known]
        # Block by block, so the arithmetic is the same, bit for bit, wherever it starts.
        blocks = [(prompt[None, i : i + BLOCK], np.array([i])) for i in range(known, len(prompt), BLOCK)]
        states = np.concatenate([self.model.forward(*block, self._cache, row)[0] for block in blocks])
        if rewarding:
            request.rewards = self.model.logits(states)[:, 0].tolist()
        elif tops is not None:
            request.prompt_scores = score(self.model.logits(states[:-1]), prompt[1:], tops)
        self._kept.append(CachedPrompt(prompt, self._cache[:, row, :, : len(prompt)].copy(), states[-1].copy()))
        return self._kept[-1]

    def _draw(self) -> None:
        """Draw the next token of every running sequence from the state after its last one."""
        running = self.running
        logits = allowed = self.model.logits(self._states[: len(running)])
        early = [row for row, one in enumerate(running) if len(one.tokens) < one.params.min_tokens]
        if early:
            allowed = logits.copy()
            for row in early:
                allowed[row, list(running[row].ends)] = -np.inf
        uniform = np.array([one.noise[len(one.tokens)] for one in running])
        drawn = draw(allowed, [one.params for one in running], uniform)
        tops = [one.params.logprobs for one in running if one.params.logprobs is not None]
        scored = score(logits, drawn, max(tops)) if tops else [None] * len(running)
        for one, token, its_score in zip(running, drawn.tolist(), scored, strict=True):
            one.add(token, its_score)

    def _release(self) -> None:
        """Drop what is complete or no longer wanted; the last row moves into the gap."""
        for row in reversed(range(len(self.running))):
            if self.running[row].finish_reason or self.running[row].request.cancelled:
                last = self.running.pop()
                if row < len(self.running):
                    self.running[row] = last
                    self._cache[:, row, :, : last.length] = self._cache[:, len(self.running), :, : last.length]

    def _read_drawn(self) -> None:
        """Read the token just drawn for every running sequence."""
        tokens = np.array([one.tokens[-1:] for one in self.running])
        lengths = np.array([one.length for one in self.running])
        self._states[: len(tokens)] = self.model.forward(tokens, lengths, self._cache)[:, 0]
        for one in self.running:
            one.length += 1


class Engine:
    """A model that is computed in this process."""

    def __init__(self, folder: Path, *, name: str | None = None, threads: int | None = None, rows: int = ROWS) -> None:
        """Load the model in `folder`. Raises `ConfigError` if there is none that this engine can run.

        It computes in `threads` threads (default: one for each CPU, at most four), each with a batch of `rows`
        sequences. They keep numpy from splitting every small product over threads of its own, which gains little and
        costs a lot on a busy machine.
        """
        self.name: str = name or folder.resolve().name
        self.shape: LlamaShape = read_shape(folder)
        self.tokenizer: Tokenizer = Tokenizer(folder)
        self.model: Llama = Llama(self.shape, read_tensors(folder))
        threads = threads or min(4, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2)
        leave_threads_to_us()
        self.batches: list[BatchThread] = [BatchThread(self.model, self.tokenizer, rows) for _ in range(threads)]

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Delta, None]:
        """The deltas of all choices of `request` as they come; closing the generator ends the computation.

        Whole choices unless the request streams. Raises what the computation raises.
        """
        request.loop = asyncio.get_running_loop()
        min(self.batches, key=lambda batch: batch.load).submit(request)
        left = request.n
        try:
            while left:
                delta = await request.deltas.get()
                if isinstance(delta, Exception):
                    raise delta
                left -= delta.finish_reason is not None
                yield delta
        finally:
            request.cancelled = True

    @property
    def running(self) -> int:
        return sum(len(batch.running) for batch in self.batches)

    @property
    def waiting(self) -> int:
        return sum(len(batch.waiting) for batch in self.batches)


def leave_threads_to_us() -> None:
    """Have the OpenBLAS that numpy's wheels hold compute in the thread that calls it; others know variables, such as
    `MKL_NUM_THREADS`."""
    maps = Path("/proc/self/maps")
    mapped = maps.read_text().splitlines() if maps.exists() else []
    for library in {line.split(maxsplit=5)[-1] for line in mapped if "openblas" in line}:
        for name in ("scipy_openblas_set_num_threads64_", "openblas_set_num_threads64_", "openblas_set_num_threads"):
            if limit := getattr(ctypes.CDLL(library), name, None):
                limit(1)
