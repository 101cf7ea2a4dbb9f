"""Continuous batching: sequences join and leave a batch between two tokens, so that no one waits for another.

(Yu et al. 2022, "Orca", OSDI.) The arithmetic has threads of its own, each with its own cache and batch; they share
the weights and nothing else. A thread lives while there is work.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections import deque
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from tts.lab.engine.choice import Choice, Delta, Request
from tts.lab.engine.model import BLOCK, Ints, Llama
from tts.lab.engine.sampling import draw, score
from tts.lab.engine.tokenizer import Tokenizer
from tts.lab.engine.weights import Floats, read_shape, read_tensors

ROWS = 64
"""Sequences in the batch of one thread."""
PREFILL = 1024
"""Prompt tokens read between two steps, about: what running sequences may have to wait for."""
KEPT_PROMPTS = 32
"""Prompts whose keys and values each thread keeps, for later ones that begin alike."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A prompt that was read: its tokens, its part of the cache, and the state behind its last token."""

    tokens: Ints
    cache: Floats
    state: Floats

    def common(self, prompt: Ints) -> int:
        """How many tokens `prompt` begins with in common, in whole blocks and without its last token."""
        size = min(len(self.tokens), len(prompt) - 1)
        same = self.tokens[:size] == prompt[:size]
        return (size if same.all() else int(same.argmin())) // BLOCK * BLOCK


class Worker:
    """One batch and the thread that computes it."""

    def __init__(self, model: Llama, tokenizer: Tokenizer, rows: int) -> None:
        self.model, self.tokenizer, self.rows = model, tokenizer, rows
        self.waiting: deque[Choice] = deque()
        self.running: list[Choice] = []
        """Row i of the cache and of the states behind the last tokens belongs to running[i]."""
        self._cache = model.cache(rows)
        self._states = np.zeros((rows, model.shape.width), np.float32)
        self._kept: deque[Kept] = deque(maxlen=KEPT_PROMPTS)
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    @property
    def load(self) -> int:
        """Sequences that run or wait."""
        return len(self.running) + len(self.waiting)

    def submit(self, request: Request) -> None:
        """Queue all choices of `request`, and begin to compute if nothing is."""
        ends = frozenset(self.model.shape.end_ids)
        with self._lock:
            self.waiting.extend(Choice(request, index, self.tokenizer, ends) for index in range(request.n))
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
                self._join()
                if self.running:
                    self._draw()
                    self._leave()
                if self.running:
                    self._read_on()
            except Exception as error:  # whoever waits must learn of it
                with self._lock:
                    for choice in (*self.running, *self.waiting):
                        choice.request.send(error)
                    self.running.clear()
                    self.waiting.clear()

    def _join(self) -> None:
        """Give free rows to those who wait; a prompt is read once for all choices of its request."""
        budget = PREFILL
        while self.waiting and len(self.running) < self.rows and budget > 0:
            choice, row = self.waiting.popleft(), len(self.running)
            if choice.request.cancelled:
                continue
            self.running.append(choice)
            kept = choice.request.kept
            if kept is None:
                kept = choice.request.kept = self._read(choice.request, row)
                budget -= len(kept.tokens) - choice.request.cached_tokens
            self._cache[:, row, :, : len(kept.tokens)] = kept.cache
            self._states[row] = kept.state

    def _read(self, request: Request, row: int) -> Kept:
        """Read a prompt, in a free row, on from the longest beginning that is known; score all of it where asked to."""
        prompt, tops, rewarding = request.prompt, request.settings.prompt_tops, self.model.shape.kind == "reward"
        known = 0
        if self._kept and tops is None and not rewarding:
            best = max(self._kept, key=lambda kept: kept.common(prompt))
            request.cached_tokens = known = best.common(prompt)
            self._cache[:, row, :, :known] = best.cache[:, :, :known]
        # Block by block: so the arithmetic is the same, bit for bit, from wherever it begins.
        blocks = [(prompt[None, i : i + BLOCK], np.array([i])) for i in range(known, len(prompt), BLOCK)]
        states = np.concatenate([self.model.forward(*block, self._cache, row)[0] for block in blocks])
        if rewarding:
            request.rewards = self.model.logits(states)[:, 0].tolist()
        elif tops is not None:
            request.prompt_scores = score(self.model.logits(states[:-1]), prompt[1:], tops)
        self._kept.append(Kept(prompt, self._cache[:, row, :, : len(prompt)].copy(), states[-1].copy()))
        return self._kept[-1]

    def _draw(self) -> None:
        """Draw the next token of every running sequence from the state behind its last one."""
        running = self.running
        logits = allowed = self.model.logits(self._states[: len(running)])
        early = [row for row, choice in enumerate(running) if len(choice.tokens) < choice.settings.min_tokens]
        if early:
            allowed = logits.copy()
            for row in early:
                allowed[row, list(running[row].ends | running[row].settings.stop_ids)] = -np.inf
        uniform = np.array([choice.noise[len(choice.tokens)] for choice in running])
        drawn = draw(allowed, [choice.settings for choice in running], uniform)
        tops = [choice.settings.tops for choice in running if choice.settings.tops is not None]
        scored = score(logits, drawn, max(tops)) if tops else [None] * len(running)
        for choice, token, one in zip(running, drawn.tolist(), scored, strict=True):
            choice.add(token, one)

    def _leave(self) -> None:
        """Drop what is complete or not wanted any more; the last row moves into the gap."""
        for row in reversed(range(len(self.running))):
            if self.running[row].finish_reason or self.running[row].request.cancelled:
                last = self.running.pop()
                if row < len(self.running):
                    self.running[row] = last
                    self._cache[:, row, :, : last.length] = self._cache[:, len(self.running), :, : last.length]

    def _read_on(self) -> None:
        """Read the token that was drawn for every running sequence."""
        tokens = np.array([choice.tokens[-1:] for choice in self.running])
        lengths = np.array([choice.length for choice in self.running])
        self._states[: len(tokens)] = self.model.forward(tokens, lengths, self._cache)[:, 0]
        for choice in self.running:
            choice.length += 1


class Engine:
    """A model that is computed in this process."""

    def __init__(self, folder: Path, *, name: str | None = None, threads: int | None = None, rows: int = ROWS) -> None:
        """Load the model in `folder`. Raises `ConfigError` where there is none that this engine can run.

        `threads` compute (default: a thread for each CPU, four at most), each a batch of `rows` sequences. They keep
        numpy's own threads from splitting every small product, which gains little and loses a lot on a busy machine.
        """
        self.name = name or folder.resolve().name
        self.shape = read_shape(folder)
        self.tokenizer = Tokenizer(folder)
        self.model = Llama(self.shape, read_tensors(folder))
        threads = threads or min(4, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2)
        threadpool_limits(1, "blas")
        self.workers = [Worker(self.model, self.tokenizer, rows) for _ in range(threads)]

    async def generate(self, request: Request) -> AsyncGenerator[Delta, None]:
        """The deltas of all choices of `request` as they come; closing the generator ends the computation.

        Whole choices where the request does not stream. An error of the computation is raised here.
        """
        request.loop = asyncio.get_running_loop()
        min(self.workers, key=lambda worker: worker.load).submit(request)
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
        """Sequences in a batch now."""
        return sum(len(worker.running) for worker in self.workers)

    @property
    def waiting(self) -> int:
        """Sequences that wait for a row."""
        return sum(len(worker.waiting) for worker in self.workers)
