"""Log-probabilities of given text under a model (teacher forcing).

vLLM gives them as `prompt_logprobs`, other servers as `echo` with `logprobs`. Either way the server reads the whole
prompt again, past its prefix cache, and that is what is charged.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tts.accounts import Ledger
from tts.errors import ConfigError, EndpointRefused, RequestRejected, TransientError
from tts.sampler import protocol
from tts.sampler.protocol import TokenLogprob
from tts.sampler.sampler import Sampler
from tts.types import Charge, Prompt, Usage


@dataclass(frozen=True, slots=True)
class TokenScores:
    """Log-probabilities of the tokens of a continuation."""

    token_ids: tuple[int, ...]
    """Empty if the server does not tell."""
    logprobs: tuple[float, ...]
    """Natural logarithms, raw (no temperature)."""
    charges: tuple[Charge, ...] = ()

    @property
    def mean(self) -> float:
        """Mean log-probability of a token; exp of its negative is the perplexity."""
        return sum(self.logprobs) / len(self.logprobs)


# -- other requests ------------------------------------------------------------------------------------------------


async def tokenize(
    sampler: Sampler, prompt: Prompt, *, special: bool = True, tools: Sequence[Mapping[str, Any]] | None = None
) -> list[int]:
    """Token ids of `prompt` under the endpoint's own template and tokenizer, as vLLM and llama.cpp give them.

    Chat messages are rendered with the generation prompt and `tools`; `special` adds the begin-of-text token to raw
    text. Raises `ConfigError` if the server has no such route.
    """
    if not isinstance(prompt, str) and (not prompt or isinstance(prompt[0], int)):
        return [int(token) for token in prompt]  # type: ignore[arg-type]
    given = {"tools": tools} if tools else {}
    why = "cannot tokenize ({}); that needs vLLM or llama.cpp's server"
    await sampler.identify()
    if sampler.llama_cpp:
        if not isinstance(prompt, str):
            prompt = str(await _beside(sampler, "apply-template", {"messages": prompt, **given}, "prompt", why))
        body: dict[str, Any] = {"content": prompt, "add_special": special, "parse_special": True}
    elif isinstance(prompt, str):
        body = {"prompt": prompt, "add_special_tokens": special}
    else:
        body = {"messages": prompt, "add_generation_prompt": True, **given}
    return list(await _beside(sampler, "tokenize", body, "tokens", why))


async def detokenize(sampler: Sampler, tokens: Sequence[int]) -> str:
    """The text of `tokens`, special ones included.

    Raises `ConfigError` if the server has no such route.
    """
    why, key = "cannot turn token ids into text ({})", "content" if sampler.llama_cpp else "prompt"
    return str(await _beside(sampler, "detokenize", {"tokens": list(tokens)}, key, why))


async def _beside(sampler: Sampler, route: str, body: dict[str, Any], key: str, why: str) -> Any:
    body = {"model": sampler.endpoint.model, **body}
    try:
        return (await sampler.connection.post(f"/../{route}", body, role="tokenizer"))[0][key]
    except (EndpointRefused, RequestRejected) as error:
        raise ConfigError(f"{sampler.endpoint.urls[0]} {why.format(error)}") from error
    except (KeyError, TypeError) as error:
        raise ConfigError(f"{sampler.endpoint.urls[0]} {why.format(f'/{route} answers without {key!r}')}") from error


async def call(
    sampler: Sampler,
    path: str,
    body: dict[str, Any],
    *,
    role: str,
    ledger: Ledger | None = None,
    prompt: Usage,
    completion_tokens: float = 0,
    affinity: int = 0,
) -> tuple[Any, Charge]:
    """The JSON answer to one request that does not sample, and its charge, which is paid and needed.

    If the server does not count tokens, `prompt` and `completion_tokens` are charged; `prompt` is also what an attempt
    costs that is cancelled.
    """
    data, exchange = await sampler.connection.post(
        path, body, role=role, ledger=ledger, affinity=affinity, prompt=prompt
    )
    usage = protocol.usage_of(data.get("usage")) if isinstance(data, Mapping) else None
    if usage is None:
        usage = prompt + Usage(completion_tokens=completion_tokens, estimated_tokens=completion_tokens)
    charge = Charge(exchange.id, role, usage + Usage(requests=1, seconds=exchange.seconds), exchange.started)
    if ledger is not None:
        ledger.paid.add(charge)
        ledger.need(charge)
    return data, charge


# -- scores --------------------------------------------------------------------------------------------------------


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
    the continuation count; if the text already holds its begin-of-text token, set `special` to False. Text after
    chat messages or ids is tokenized on its own: that boundary is a special token.

    Raises `ConfigError` if the server gives no log-probabilities of a prompt: a missing score is never a number.
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
    body: dict[str, Any] = {"model": sampler.endpoint.model, "prompt": whole, "max_tokens": 1, "temperature": 0}
    body |= {"prompt_logprobs": 0, "return_token_ids": True} if sampler.vllm else {"echo": True, "logprobs": 1}
    if not special:
        body["add_special_tokens"] = False
    async with sampler.scoring:
        data, charge = await call(
            sampler,
            "/completions",
            body,
            role=role,
            ledger=ledger,
            prompt=protocol.prompt_usage(whole),
            completion_tokens=1,
            affinity=sampler.connection.affinity(whole),
        )
    try:
        tokens = _prompt_tokens(data, whole)
    except (TransientError, AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise RequestRejected(f"{sampler.endpoint.model} gave scores that cannot be read: {error}") from error
    if not tokens:
        raise ConfigError(f"{sampler.endpoint.model} returned no prompt log-probabilities; score with vLLM")
    kept = _within(tokens, whole, length) if isinstance(whole, str) else tokens[-length:]
    if not kept or not all(math.isfinite(token.logprob) for token in kept):
        raise RequestRejected(f"{sampler.endpoint.model} did not score all tokens of the continuation")
    ids = tuple(token.id for token in kept if token.id is not None)
    return TokenScores(ids, tuple(token.logprob for token in kept), (charge,))


def _prompt_tokens(data: Mapping[str, Any], whole: str | Sequence[int]) -> list[TokenLogprob]:
    """Each token of the prompt, from either form of response; empty if it has none."""
    choice = (data.get("choices") or [{}])[0]
    entries = choice.get("prompt_logprobs") or ()
    ids = choice.get("prompt_token_ids") or () if isinstance(whole, str) else whole
    if entries and len(ids) == len(entries):  # an entry holds the token itself, and perhaps likelier ones
        own = [(entry or {}).get(str(i), {}) for i, entry in zip(ids, entries, strict=True)]
        return [
            TokenLogprob(one.get("decoded_token") or "", float(one.get("logprob", "nan")), id=i)
            for i, one in zip(ids, own, strict=True)
        ]
    echoed = protocol.read_logprobs(choice.get("logprobs")) or []
    usage = protocol.usage_of(data.get("usage"))
    count = int(usage.prompt_tokens) if usage else len(echoed) - 1  # the last one is generated
    if not 0 < count <= len(echoed) or not (isinstance(whole, str) or count == len(whole)):
        return []
    echoed = echoed[:count]
    if isinstance(whole, str):
        return echoed
    return [token._replace(id=i) for i, token in zip(whole, echoed, strict=True)]


def _within(tokens: Sequence[TokenLogprob], whole: str, length: int) -> list[TokenLogprob]:
    """The tokens that begin within the last `length` characters of `whole`; one across the boundary is left out.

    Tokens are laid along the text from its end. The text of a piece of a divided character does not show what the
    piece covers; a run of such pieces covers what lies between its neighbours.
    """
    boundary, end, first = len(whole) - length, len(whole), len(tokens)
    while first > 0:
        run = first
        while run > 0 and _is_piece(tokens[run - 1].token):
            run -= 1
        if run == first:
            run, begin = first - 1, end - len(tokens[first - 1].token)
        else:
            before = tokens[run - 1].token if run else ""
            begin = whole.rfind(before, 0, end) + len(before) if run else 0
        if begin < boundary:
            if first - run == len(whole[begin:end].encode()):  # each is a byte
                first -= len(whole[boundary:end].encode())
            break
        first, end = run, begin
    return list(tokens[first:])


def _is_piece(text: str) -> bool:
    return not text or "\ufffd" in text
