"""Simulated servers on a simulated clock: the same strategies, samplers and accounts, at the pace of other machines.

A server decodes all running sequences together, one token each per step; a step takes `step + step_per_sequence * n`
seconds. Prompts are read one after another. What a prompt has in common with one read before is read from the prefix
cache, except for scoring, which reads everything again, as vLLM does.
"""

from __future__ import annotations

import asyncio
import selectors
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from tts import Endpoint, ModelCard, Problem
from tts.sampler.transport import Reply, Request

T = TypeVar("T")


class _Instant(selectors.DefaultSelector):
    """Never waits: time goes on by itself."""

    clock: Clock

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        found = super().select(0)
        if timeout is None and not found:
            raise RuntimeError("everything waits for something that will never happen")
        if timeout and not found:
            self.clock.now += timeout
        return found


class Clock(asyncio.SelectorEventLoop):
    """An event loop whose time passes only while nothing can be done, and then at once."""

    def __init__(self) -> None:
        self.now = 0.0
        selector = _Instant()
        selector.clock = self
        super().__init__(selector)

    def time(self) -> float:
        """Simulated seconds."""
        return self.now


def run(main: Coroutine[Any, Any, T]) -> T:
    """`main` to its end on a clock of its own."""
    with asyncio.Runner(loop_factory=Clock) as runner:
        return runner.run(main)


@dataclass(frozen=True)
class Machine:
    """How fast a server is. Seconds and tokens are those of the real model."""

    name: str
    parameters: float
    step: float
    """Seconds of a decoding step with one sequence: reading the weights."""
    step_per_sequence: float
    """Seconds that every further sequence adds: reading its keys and values, and arithmetic."""
    prefill: float
    """Prompt tokens read per second."""
    sequences: int = 256
    """Sequences that fit in memory; others wait."""


@dataclass
class Workload:
    """Problems whose solutions have lengths, answers and scores drawn once, the same for all strategies."""

    problems: int
    mean_tokens: float
    """Median length of a solution."""
    between: float = 0.5
    """Standard deviation of the logarithm of the length between problems, and within a problem."""
    within: float = 0.4
    right: float = 0.6
    grain: int = 20
    """Real tokens in a simulated one; it makes the simulation itself quicker."""
    seed: int = 0

    def problem(self, number: int) -> Problem:
        """Problem `number` from 0 on."""
        return Problem(id=f"p{number}", messages=f"problem {number}\n", answer="numeric_answer")

    def length(self, problem: int, sample: int) -> int:
        """Simulated tokens of a sample's whole solution."""
        level = np.random.default_rng((self.seed, problem)).normal(scale=self.between)
        noise = np.random.default_rng((self.seed, problem, sample)).normal(scale=self.within)
        return max(2, round(self.mean_tokens * np.exp(level + noise) / self.grain))

    def answer(self, problem: int, sample: int) -> str:
        """What a sample concludes: 42 is right."""
        rng = np.random.default_rng((self.seed, problem, sample, 1))
        return "42" if rng.random() < self.right else str(rng.integers(100, 110))

    def logprob(self, problem: int, sample: int, position: int) -> float:
        """The target's log-probability of a chunk that ends at `position`."""
        level = np.random.default_rng((self.seed, problem, 2)).normal(scale=0.3)
        return float(-1 + level + 0.2 * np.random.default_rng((self.seed, problem, sample, position)).normal())


@dataclass(eq=False)
class _Sequence:
    left: float
    done: asyncio.Event = field(default_factory=asyncio.Event)


class Server:
    """One simulated server, as the transport of an endpoint. Token 0 stands for a problem's text, 1 for any word."""

    def __init__(self, machine: Machine, workload: Workload) -> None:
        self.machine, self.workload = machine, workload
        self.generated = 0
        self._room = asyncio.Semaphore(machine.sequences)
        self._reading = asyncio.Lock()
        self._running: set[_Sequence] = set()
        self._changed = asyncio.Event()
        self._decoding: asyncio.Task[None] | None = None
        self._begun: Counter[int] = Counter()
        self._cached: dict[tuple[int, int], int] = {}

    def endpoint(self) -> Endpoint:
        """Where it is served."""
        return Endpoint(
            model=self.machine.name,
            base_url="mock://simulated",
            transport=self,
            max_concurrency=4096,
            max_scoring=64,
            card=ModelCard(parameters=self.machine.parameters),
            attempt_timeout=1e9,
            total_timeout=1e9,
            connect_timeout=1e9,
        )

    async def __call__(self, request: Request) -> Reply:
        """Answer as vLLM does."""
        path = request.url.path
        if request.method == "GET":
            return Reply.json({"data": [{"id": self.machine.name, "owned_by": "vllm", "max_model_len": 10**9}]})
        body = request.json()
        if path.endswith("/tokenize"):
            words = body.get("prompt", "")
            number = words.removeprefix("problem ").strip()
            return Reply.json({"tokens": [1000 + int(number)] if number.isdigit() else [1, 1]})
        prompt = body["prompt"] if isinstance(body["prompt"], list) else [1] * len(body["prompt"])
        async with self._room:
            if "prompt_logprobs" in body:
                return Reply.json(await self._score(prompt, body))
            return Reply.json(await self._generate(prompt, body["max_tokens"]))

    async def _score(self, prompt: list[int], body: dict[str, Any]) -> dict[str, Any]:
        await self._read(len(prompt))
        await self._decode(1 / self.workload.grain)  # one real token
        known = prompt[0] >= 1000 and len(prompt) > 1
        value = self.workload.logprob(prompt[0] - 1000, prompt[1], len(prompt)) if known else -1.0
        entries = [None, *({str(token): {"logprob": value, "decoded_token": "?"}} for token in prompt[1:])]
        choice = {"text": "", "prompt_logprobs": entries, "prompt_token_ids": prompt}
        return {"choices": [choice], "usage": {"prompt_tokens": len(prompt), "completion_tokens": 1}}

    async def _generate(self, prompt: list[int], limit: int) -> dict[str, Any]:
        problem, new = prompt[0] - 1000, []
        if len(prompt) == 1:  # the first token of a solution is its number
            new = [self._begun[problem]]
            self._begun[problem] += 1
        sample, place = (prompt + new)[1], (problem, (prompt + new)[1])
        cached = min(self._cached.get(place, 0), len(prompt) - 1)
        await self._read(len(prompt) - cached)
        whole = self.workload.length(problem, sample)
        count = max(1, min(limit, whole - (len(prompt) - 1)))
        await self._decode(count)
        self._cached[place] = len(prompt) + count
        ended = len(prompt) - 1 + count >= whole
        text = "so " * count + (f"\nAnswer: {self.workload.answer(problem, sample)}" if ended else "")
        ids = (new + [1] * count)[:count]
        choice = {"index": 0, "text": text, "token_ids": ids, "finish_reason": "stop" if ended else "length"}
        usage = {
            "prompt_tokens": len(prompt),
            "completion_tokens": count,
            "prompt_tokens_details": {"cached_tokens": cached},
        }
        self.generated += count
        return {"model": self.machine.name, "choices": [choice], "usage": usage}

    async def _read(self, tokens: int) -> None:
        async with self._reading:
            await asyncio.sleep(tokens * self.workload.grain / self.machine.prefill)

    async def _decode(self, tokens: float) -> None:
        sequence = _Sequence(tokens)
        self._running.add(sequence)
        self._changed.set()
        if self._decoding is None or self._decoding.done():
            self._decoding = asyncio.create_task(self._steps())
        try:
            await sequence.done.wait()
        finally:
            self._running.discard(sequence)
            self._changed.set()

    async def _steps(self) -> None:
        """Let all running sequences grow at one pace until the first is done or their number changes."""
        loop = asyncio.get_running_loop()
        while self._running:
            count = len(self._running)
            pace = (self.machine.step + self.machine.step_per_sequence * (count - 1)) * self.workload.grain
            least = min(sequence.left for sequence in self._running)
            begin = loop.time()
            self._changed.clear()
            try:
                async with asyncio.timeout(least * pace):
                    await self._changed.wait()
            except TimeoutError:
                pass
            grown = (loop.time() - begin) / pace
            for sequence in list(self._running):
                sequence.left -= grown
                if sequence.left <= 1e-9:
                    sequence.done.set()
                    self._running.discard(sequence)
