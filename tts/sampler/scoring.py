"""Log-probabilities of given text under a model (teacher forcing).

vLLM gives them as `prompt_logprobs`, other servers as `echo` with `logprobs`. Either reads the whole prompt again, past
the prefix cache, and is accounted as it is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from tts.accounts import Ledger
from tts.concurrency import now
from tts.errors import ConfigError, EndpointRefused, RequestRejected
from tts.sampler import protocol
from tts.sampler.sampler import Sampler
from tts.types import Charge, Prompt, Usage


@dataclass(frozen=True, slots=True)
class TokenScores:
    """Log-probabilities of a continuation, one for each of its tokens."""

    token_ids: tuple[int, ...]
    """Empty where the server does not tell."""
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


async def call(
    sampler: Sampler,
    path: str,
    body: dict[str, Any],
    *,
    role: str,
    ledger: Ledger | None = None,
    prompt_tokens: float = 0,
) -> tuple[Any, Charge]:
    """The JSON answer to one request that generates nothing to speak of, and its charge, which is paid.

    Where the server does not count tokens, `prompt_tokens` is the estimate that is charged.
    """
    begin = now()
    data = await sampler.post(path, body, role=role, ledger=ledger)
    counted = protocol.usage_of(data.get("usage")) if isinstance(data, Mapping) else None
    usage = counted or Usage(prompt_tokens=prompt_tokens, estimated_tokens=prompt_tokens)
    charge = Charge(uuid4().hex, role, usage + Usage(requests=1, seconds=now() - begin), begin)
    if ledger is not None:
        ledger.pay(charge)
    return data, charge


async def detokenize(sampler: Sampler, tokens: Sequence[int]) -> str:
    """The text of `tokens`, special ones included (vLLM's /detokenize). Raises `ConfigError` where there is no such
    route."""
    body = {"model": sampler.endpoint.model, "tokens": list(tokens)}
    try:
        return str((await sampler.post("/../detokenize", body, role="tokenizer"))["prompt"])
    except (EndpointRefused, RequestRejected, KeyError, TypeError) as error:
        raise ConfigError(f"{sampler.endpoint.urls[0]} cannot turn token ids into text ({error})") from error


async def score(
    sampler: Sampler,
    prompt: Prompt,
    continuation: str | Sequence[int],
    *,
    role: str = "target",
    ledger: Ledger | None = None,
    special: bool = True,
) -> TokenScores:
    """Log-probability of every token of `continuation` after `prompt`.

    Token ids are scored exactly as they are. Text after text is tokenized as a whole, and the tokens that begin within
    the continuation count; a text that holds its begin-of-text token already is scored with `special` false. Text after
    chat messages or ids is tokenized apart: that boundary is a special token.

    Raises `ConfigError` when the server gives no log-probabilities of a prompt: a missing score is never a number.
    """
    await sampler.identify()
    whole: str | list[int]
    if isinstance(prompt, str) and isinstance(continuation, str):
        whole, length = prompt + continuation, len(continuation)
    else:
        tail = await tokenize(sampler, continuation, special=False)
        whole, length = await tokenize(sampler, prompt) + tail, len(tail)
    if not length or length == len(whole):
        raise ConfigError("scoring needs at least one token of prompt and one of continuation")
    ledger = Ledger() if ledger is None else ledger
    async with sampler.scoring:
        data, charge = await _read(sampler, whole, role, ledger, special)
    tokens = _tokens(data, whole)
    if not tokens:
        raise ConfigError(f"{sampler.endpoint.model} returned no prompt log-probabilities; score with vLLM")
    kept = tokens[-length:] if not isinstance(whole, str) else _within(tokens, whole, length)
    if not kept or not all(math.isfinite(logprob) for _, _, logprob in kept):
        raise RequestRejected(f"{sampler.endpoint.model} did not score all tokens of the continuation")
    ids = tuple(number for number, _, _ in kept if number is not None)
    return TokenScores(ids, tuple(logprob for _, _, logprob in kept), (charge,))


async def _read(
    sampler: Sampler, whole: str | list[int], role: str, ledger: Ledger, special: bool
) -> tuple[Any, Charge]:
    """The server's answer to a request that scores `whole`, and what it cost."""
    body: dict[str, Any] = {"model": sampler.endpoint.model, "prompt": whole, "max_tokens": 1, "temperature": 0}
    body |= {"prompt_logprobs": 0, "return_token_ids": True} if sampler.vllm else {"echo": True, "logprobs": 1}
    if not special:
        body["add_special_tokens"] = False
    begin = 0.0

    async def talk(url: str) -> Any:
        nonlocal begin
        begin = now()
        return await sampler.connection.post(url + "/completions", body)

    affinity = sampler.affinity(whole)
    data = await sampler.retrying(lambda avoid: sampler.exchange(role, ledger, affinity, avoid, talk))
    guess = protocol.estimate_prompt(whole)
    usage = protocol.usage_of(data.get("usage")) or Usage(
        prompt_tokens=guess, completion_tokens=1, estimated_tokens=guess + 1
    )
    charge = Charge(uuid4().hex, role, usage + Usage(requests=1, seconds=now() - begin), begin)
    ledger.pay(charge)
    return data, charge


Token = tuple[int | None, str, float]
"""Id where known, text, log-probability; NaN where the server gives none."""


def _tokens(data: Mapping[str, Any], whole: str | Sequence[int]) -> list[Token]:
    """Each token of the prompt, from either form of answer; empty where it has none."""
    choice = (data.get("choices") or [{}])[0]
    usage = protocol.usage_of(data.get("usage"))
    entries = choice.get("prompt_logprobs") or ()
    ids = whole if not isinstance(whole, str) else choice.get("prompt_token_ids") or ()
    if entries and len(ids) == len(entries):
        known = [(entry or {}).get(str(i), {}) for i, entry in zip(ids, entries, strict=True)]  # more may be there
        return [
            (i, one.get("decoded_token") or "", float(one.get("logprob", "nan")))
            for i, one in zip(ids, known, strict=True)
        ]
    echoed = choice.get("logprobs") or {}
    texts, logprobs = echoed.get("tokens") or (), echoed.get("token_logprobs") or ()
    count = int(usage.prompt_tokens) if usage else len(texts) - 1  # the last one is generated
    if not 0 < count <= len(texts) or (not isinstance(whole, str) and count != len(whole)):
        return []
    ids = whole if not isinstance(whole, str) else [None] * count
    values = [float("nan") if value is None else float(value) for value in logprobs[:count]]
    return list(zip(ids, texts[:count], values, strict=True))


def _within(tokens: Sequence[Token], whole: str, length: int) -> list[Token]:
    """The last tokens that begin within the last `length` characters of `whole`; one across the boundary is left out.

    Tokens are laid along the text from its end. What each piece of a divided character covers is not to be seen in its
    own text: such a run covers what lies between its neighbours.
    """
    boundary, end, first = len(whole) - length, len(whole), len(tokens)
    while first > 0:
        run = first
        while run > 0 and _is_piece(tokens[run - 1][1]):
            run -= 1
        if run == first:
            run, begin = first - 1, end - len(tokens[first - 1][1])
        else:
            before = tokens[run - 1][1] if run else ""
            begin = whole.rfind(before, 0, end) + len(before) if run else 0
        if begin < boundary:
            if first - run == len(whole[begin:end].encode()):  # each is a byte
                first -= len(whole[boundary:end].encode())
            break
        first, end = run, begin
    return list(tokens[first:])


def _is_piece(text: str) -> bool:
    return not text or "\ufffd" in text
