"""Log-probabilities of given text under a model (teacher forcing)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from time import time
from typing import Any
from uuid import uuid4

from tts.errors import ConfigError, EndpointRefused, RequestRejected
from tts.ledger import Ledger
from tts.sampler import wire
from tts.sampler.sampler import Sampler
from tts.types import Charge, Prompt, Usage


@dataclass(frozen=True, slots=True)
class TokenScores:
    """Log-probabilities of a continuation, one for each of its tokens."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    """Natural logarithms, raw (no temperature)."""
    charges: tuple[Charge, ...] = ()

    @property
    def mean(self) -> float:
        """Mean log-probability of a token; exp of its negative is the perplexity."""
        return sum(self.logprobs) / len(self.logprobs)


async def tokenize(sampler: Sampler, prompt: Prompt, *, special: bool = True) -> list[int]:
    """Token ids of `prompt` under the endpoint's own template and tokenizer (vLLM's /tokenize).

    Chat messages are rendered with the generation prompt; `special` adds the begin-of-text token to raw text.
    Raises `ConfigError` where the server has no such route.
    """
    if not isinstance(prompt, str) and (not prompt or isinstance(prompt[0], int)):
        return [int(token) for token in prompt]  # type: ignore[arg-type]
    body: dict[str, Any] = {"model": sampler.endpoint.model}
    if isinstance(prompt, str):
        body |= {"prompt": prompt, "add_special_tokens": special}
    else:
        body |= {"messages": list(prompt), "add_generation_prompt": True}
    try:
        return list((await sampler.post("/../tokenize", body, role="tokenizer"))["tokens"])
    except (EndpointRefused, RequestRejected, KeyError, TypeError) as error:
        server = sampler.endpoint.urls[0]
        raise ConfigError(f"{server} cannot tokenize ({error}); scoring needs a vLLM server or token ids") from error


async def score(
    sampler: Sampler,
    prompt: Prompt,
    continuation: str | Sequence[int],
    *,
    role: str = "target",
    ledger: Ledger | None = None,
) -> TokenScores:
    """Log-probability of every token of `continuation` after `prompt`.

    Text is tokenized apart from the prompt, so a token never straddles the boundary; pass token ids to score
    exactly what was sampled. Raises `ConfigError` when the server returns no prompt log-probabilities: a missing
    score is never a number.
    """
    head = await tokenize(sampler, prompt)
    tail = await tokenize(sampler, continuation, special=False)
    if not head or not tail:
        raise ConfigError("scoring needs at least one token of prompt and one of continuation")
    body = {
        "model": sampler.endpoint.model,
        "prompt": head + tail,
        "max_tokens": 1,
        "temperature": 0,
        "prompt_logprobs": 0,
    }
    begin = time()
    try:
        data = await sampler.post("/completions", body, role=role, ledger=ledger)
    except RequestRejected as error:
        raise ConfigError(f"{sampler.endpoint.model} cannot score given text: {error}") from error
    usage = wire.usage_of(data.get("usage")) or Usage(prompt_tokens=len(head) + len(tail), completion_tokens=1)
    charge = Charge(uuid4().hex, role, usage + Usage(requests=1, seconds=time() - begin), begin)
    if ledger is not None:
        ledger.pay(charge)
    entries = (data.get("choices") or [{}])[0].get("prompt_logprobs")
    if not entries or len(entries) != len(head) + len(tail):
        raise ConfigError(f"{sampler.endpoint.model} returned no prompt log-probabilities; score with vLLM")
    pairs = zip(tail, entries[len(head) :], strict=True)
    logprobs = tuple(float(entry[str(token)]["logprob"]) for token, entry in pairs)  # by id: top-k may be there too
    return TokenScores(tuple(tail), logprobs, (charge,))
