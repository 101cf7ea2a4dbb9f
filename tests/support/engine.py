"""What the double generates: texts, lengths, delays and cached prefixes, each repeatable from its seed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from zlib import crc32

import numpy as np

from tests.support.answers import Answer, solvable
from tests.support.faults import FaultKind, Refusal
from tests.support.wire import Choice, Generation, Json, end_choice, prompt_tokens

Latency = float | tuple[float, float] | Callable[[Json, int], float]
Tokens = tuple[int, int] | Callable[[Json, np.random.Generator], int]


@dataclass(kw_only=True, eq=False)
class Engine:
    """Turns a request's body into a `Generation`."""

    models: Sequence[str] = ("test-model",)
    answer: Answer = field(default_factory=lambda: solvable({}, otherwise=0.5))
    """What each choice says. An exception in it is answered with a 400 that carries its message."""
    tokens: Tokens | None = None
    """Least and greatest tokens of a choice, or (request, generator) -> tokens: shorter answers are padded
    with thinking in front. A token is a UTF-8 byte; by default an answer is as long as it is."""
    latency: Latency = 0.0
    """Seconds a choice takes: fixed, drawn between two bounds, or (request, index of the choice) -> seconds.
    Streamed, it comes at an even pace over that time; in one piece, after the slowest choice."""
    owned_by: str = "vllm"
    """Whose server it is. vLLM's extensions (token ids, prompt log-probabilities, /tokenize, continuous
    usage, stop_reason) are there only when this is `vllm`."""
    echo: bool = True
    """Whether `echo` repeats the prompt of a plain completion, with its log-probabilities where they are asked for."""
    max_model_len: int = 32_768
    prefix_cache: bool = False
    """Report `cached_tokens`: the longest beginning of the prompt, in blocks of 16 tokens, seen before."""
    seed: int = 0

    def __post_init__(self) -> None:
        self._answer_rng = np.random.default_rng((self.seed, 0))
        self._latency_rng = np.random.default_rng((self.seed, 1))
        self._cached_blocks: set[int] = set()

    def generate(self, body: Json, kind: FaultKind | None = None) -> Generation:
        """All that answers a request, as bent by a fault. A request that cannot be met is a `Refusal`."""
        prompt, n = tokens_of(body), body.get("n", 1)
        if not isinstance(n, int) or n < 1:
            raise Refusal(FaultKind.BAD_REQUEST, 400, f"n must be a whole number from 1 on, not {n!r}", param="n")
        if kind is FaultKind.EMPTY_CHOICES:
            n = 0
        elif kind is FaultKind.N_IGNORED:
            n = 1
        elif kind is FaultKind.FEWER_CHOICES:
            n //= 2
        limit = self._room(body, len(prompt))
        try:
            choices = [self._choice(index, body, prompt, limit) for index in range(n)]
        except Exception as error:
            message = f"The answer function failed: {type(error).__name__}: {error}"
            raise Refusal("answer_failed", 400, message) from error
        return Generation(
            request=body,
            model=body["model"],
            prompt=prompt,
            choices=choices,
            cached_tokens=self._cached(prompt) if self.prefix_cache else None,
            extensions=self.owned_by == "vllm",
            echo=self.echo and bool(body.get("echo")),
            with_usage=kind is not FaultKind.MISSING_USAGE,
        )

    def _choice(self, index: int, body: Json, prompt: bytes, limit: int) -> Choice:
        """A seeded choice depends on seed + index and the prompt alone, as in vLLM."""
        rng, seed = self._answer_rng, body.get("seed")
        if seed is not None:
            rng = np.random.default_rng(((seed + index) % 2**64, crc32(prompt)))
        text = self.answer(body, rng)
        if tokens := self.tokens:
            length = tokens(body, rng) if callable(tokens) else int(rng.integers(*tokens, endpoint=True))
            text = ("thinking... " * length)[: max(0, length - len(text.encode()))] + text
        latency = self.latency
        if callable(latency):
            latency = latency(body, index)
        elif isinstance(latency, tuple):
            latency = self._latency_rng.uniform(*latency)
        return end_choice(index, text, body, limit, latency)

    def _room(self, body: Json, prompt_length: int) -> int:
        """The most tokens a choice may have. A plain completion that does not say gets 16, as elsewhere."""
        room = self.max_model_len - prompt_length
        default = max(room, 1) if "messages" in body else 16
        given = (body.get("max_completion_tokens"), body.get("max_tokens"), default)
        asked = next(limit for limit in given if limit is not None)
        if asked > room:
            message = (
                f"This model's maximum context length is {self.max_model_len} tokens; "
                f"the prompt has {prompt_length} and {asked} more are asked for."
            )
            raise Refusal(FaultKind.CONTEXT_LENGTH, 400, message, param="messages")
        return asked

    def _cached(self, prompt: bytes, block: int = 16) -> int:
        key, cached, known = 0, 0, True
        for end in range(block, len(prompt) + 1, block):
            key = crc32(prompt[end - block : end], key)
            known = known and key in self._cached_blocks
            cached = end if known else cached
            self._cached_blocks.add(key)
        return cached


def tokens_of(body: Json) -> bytes:
    """The prompt's tokens; a malformed prompt is a `Refusal`."""
    try:
        return prompt_tokens(body)
    except (KeyError, TypeError, ValueError) as error:
        message = f"Neither messages nor a prompt of text or of token ids below 256: {error!r}"
        raise Refusal(FaultKind.BAD_REQUEST, 400, message) from error
