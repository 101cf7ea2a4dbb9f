"""Continuous batching: sequences join and leave a batch between two tokens, so that no one waits for another.

(Yu et al. 2022, "Orca", OSDI.) The arithmetic has threads of its own, each with its own cache and batch; they share
the weights and nothing else. A thread lives while there is work.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from tts.embedded.choice import Choice, Delta, Request
from tts.embedded.model import Cache, Ints, Llama
from tts.embedded.sampling import Knobs, score
from tts.embedded.tokenizer import Tokenizer
from tts.embedded.weights import Floats, read_shape, read_tensors

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
    cache: tuple[Floats, Floats]
    state: Floats


class Worker:
    """One batch and the thread that computes it."""

    def __init__(self, model: Llama, tokenizer: Tokenizer, rows: int) -> None:
        self.model, self.tokenizer, self.rows = model, tokenizer, rows
        self.ends = frozenset(model.shape.end_ids)
        self.running: list[Choice] = []
        """Row i of the cache belongs to running[i]."""
        self.waiting: deque[tuple[Request, int]] = deque()
        self._cache = Cache(model.shape, rows)
        self._kept: OrderedDict[bytes, Kept] = OrderedDict()
        self._knobs: Knobs | None = None
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    @property
    def load(self) -> int:
        """Sequences that run or wait."""
        return len(self.running) + len(self.waiting)

    def submit(self, request: Request) -> None:
        """Queue all choices of `request`, and begin to compute if nothing is."""
        with self._lock:
            self.waiting.extend((request, index) for index in range(max(1, request.n)))
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="tts-embedded", daemon=True)
                self._thread.start()

    def _work(self) -> None:
        while True:
            with self._lock:
                self.waiting = deque(item for item in self.waiting if not item[0].cancelled)
                if not self.running and not self.waiting:
                    self._thread = None
                    return
            try:
                self._leave()
                self._join()
                self._step()
            except Exception as error:  # whoever waits must learn of it
                with self._lock:
                    lost = {choice.request for choice in self.running} | {request for request, _ in self.waiting}
                    self.running, self._knobs = [], None
                    self.waiting.clear()
                for request in lost:
                    request.send(error)

    # -- between two steps -----------------------------------------------------------------------------------------

    def _leave(self) -> None:
        """Drop what is complete or not wanted any more; the last row moves into the gap."""
        for row in reversed(range(len(self.running))):
            choice = self.running[row]
            if choice.finish_reason or choice.request.cancelled:
                last = self.running.pop()
                if last is not choice:
                    self._cache.write(row, self._cache.read(len(self.running), last.length), last.length)
                    self.running[row] = last
                self._knobs = None

    def _join(self) -> None:
        """Read prompts into free rows, and draw each one's first token."""
        budget = PREFILL
        while self.waiting and len(self.running) < self.rows and budget > 0:
            request, index = self.waiting[0]
            if request.cancelled:
                self.waiting.popleft()
                continue
            state, fresh = self._read(request, len(self.running))
            budget -= fresh
            if request.n:
                choice = Choice(request, index, self.tokenizer, self.ends)
                self._draw([choice], Knobs([choice.settings]), state[None])
                if not choice.finish_reason:
                    self.running.append(choice)
                    self._knobs = None
            else:
                request.send(None)
            self.waiting.popleft()

    def _read(self, request: Request, row: int) -> tuple[Floats, int]:
        """Read a prompt into a row: the state behind its last token, and how many tokens were not known before."""
        prompt, settings = request.prompt, request.settings
        whole = bool(
            self.model.shape.kind == "reward" or (settings.prompt_tops is not None and not request.prompt_scores)
        )
        key = prompt.tobytes()
        kept, common = (None, 0) if whole else self._longest(key, prompt)
        if kept is not None:
            self._cache.write(row, kept.cache, common)
            if common == len(prompt):
                self._kept.move_to_end(key)
                return kept.state, 0
        states = self.model.forward(prompt[None, common:], np.array([common]), self._cache, row)[0]
        if self.model.shape.kind == "reward":
            request.rewards = self.model.rewards(states).tolist()
        elif whole:
            request.prompt_scores = score(self.model.logits(states[:-1]), prompt[1:], settings.prompt_tops or 0)
        else:
            request.cached_tokens = max(request.cached_tokens, common)
        cached = self._cache.read(row, len(prompt))
        self._kept[key] = Kept(prompt, (cached[0].copy(), cached[1].copy()), states[-1].copy())
        if len(self._kept) > KEPT_PROMPTS:
            self._kept.popitem(last=False)
        return states[-1], len(prompt) - common

    def _longest(self, key: bytes, prompt: Ints) -> tuple[Kept | None, int]:
        """The kept prompt that has the longest beginning with `prompt` in common, and its length."""
        if key in self._kept:
            return self._kept[key], len(prompt)
        best, longest = None, 0
        for kept in self._kept.values():
            size = min(len(kept.tokens), len(prompt) - 1)  # the last token is read, for the state behind it
            differ = np.flatnonzero(kept.tokens[:size] != prompt[:size])
            common = int(differ[0]) if len(differ) else size
            if common > longest:
                best, longest = kept, common
        return best, longest

    # -- a step ----------------------------------------------------------------------------------------------------

    def _step(self) -> None:
        """One more token for every running sequence."""
        if not self.running:
            return
        tokens = np.array([choice.tokens[-1] for choice in self.running])
        lengths = np.array([choice.length for choice in self.running])
        states = self.model.forward(tokens[:, None], lengths, self._cache)[:, 0]
        for choice in self.running:
            choice.length += 1
        self._knobs = self._knobs or Knobs([choice.settings for choice in self.running])
        self._draw(self.running, self._knobs, states)

    def _draw(self, choices: Sequence[Choice], knobs: Knobs, states: Floats) -> None:
        """Draw the next token of each choice from the state behind its last one (B, width)."""
        logits = allowed = self.model.logits(states)
        early = [row for row, choice in enumerate(choices) if len(choice.tokens) < choice.settings.min_tokens]
        if early:
            allowed = logits.copy()
            for row in early:
                allowed[row, list(choices[row].ends | choices[row].settings.stop_ids)] = -np.inf
        drawn = knobs.draw(allowed, np.array([choice.noise[len(choice.tokens)] for choice in choices]))
        tops = [choice.settings.tops for choice in choices if choice.settings.tops is not None]
        scored = score(logits, drawn, max(tops)) if tops else [None] * len(choices)
        for choice, token, one in zip(choices, drawn.tolist(), scored, strict=True):
            choice.add(token, one)


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
        tensors = read_tensors(folder)
        threads = threads or min(4, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2)
        threadpool_limits(1, "blas")
        model = Llama(self.shape, tensors)
        self.workers = [Worker(model.twin(), self.tokenizer, rows) for _ in range(threads)]

    async def generate(self, request: Request) -> AsyncGenerator[Delta, None]:
        """The deltas of all choices of `request` as they come; closing the generator ends the computation.

        Whole choices where the request does not stream. A request for no choices yields nothing, and has its scores
        when the generator ends. An error of the computation is raised here.
        """
        request.loop = asyncio.get_running_loop()
        min(self.workers, key=lambda worker: worker.load).submit(request)
        open_ = max(1, request.n)
        try:
            while open_:
                await request.arrived.wait()
                request.arrived.clear()
                while request.inbox:
                    item = request.inbox.popleft()
                    if isinstance(item, Exception):
                        raise item
                    open_ -= item is None or item.finish_reason is not None
                    if item is not None:
                        yield item
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
