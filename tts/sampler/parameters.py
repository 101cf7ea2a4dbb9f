"""Sampling parameters: which there are, where each goes in a request, and how to do without those a server refuses."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from tts.settings import LARGEST, TOO_LARGE

NOT_SAMPLING = {
    "n": "the strategy's n, or max_n for the choices of one request",
    "stream": "the endpoint's own field stream",
    "stream_options": "the endpoint's own field stream",
    "model": "the endpoint's own field model",
    "messages": "the problem",
    "prompt": "the problem",
    "input": "the problem",
}
"""Keys of a request that are not sampling parameters, and where their values come from."""

NUMBERS = frozenset(
    {
        *("dry_base", "dry_multiplier", "dynatemp_exponent", "dynatemp_range", "frequency_penalty", "length_penalty"),
        *("min_p", "mirostat_eta", "mirostat_tau", "presence_penalty", "repeat_penalty", "repetition_penalty"),
        *("temperature", "tfs_z", "top_a", "top_n_sigma", "top_p", "typical_p", "xtc_probability", "xtc_threshold"),
    }
)
WHOLE_NUMBERS = frozenset(
    {
        *("best_of", "beam_width", "dry_allowed_length", "dry_penalty_last_n", "id_slot", "max_completion_tokens"),
        *("max_tokens", "min_keep", "min_tokens", "mirostat", "n_keep", "n_probs", "output_compression"),
        *("partial_images", "priority", "prompt_logprobs", "repeat_last_n", "seed", "thinking_budget"),
        *("thinking_token_budget", "top_k", "top_logprobs", "truncate_prompt_tokens"),
    }
)
OTHERS = frozenset(
    {
        *("add_generation_prompt", "add_special_tokens", "allowed_token_ids", "audio", "background", "bad_words"),
        *("cache_prompt", "cache_salt", "chat_template", "chat_template_kwargs", "continue_final_message"),
        *("custom_params", "detokenize", "documents", "dry_sequence_breakers", "ebnf", "echo", "enable_thinking"),
        *("function_call", "functions", "grammar", "guided_backend", "guided_choice", "guided_decoding_backend"),
        *("guided_grammar", "guided_json", "guided_regex", "guided_whitespace_pattern", "guidance_scale"),
        *("ignore_eos", "include_reasoning", "include_stop_str_in_output", "json_schema", "kv_transfer_params"),
        *("logit_bias", "logits_processors", "logprobs", "lora_path", "metadata", "mm_processor_kwargs"),
        *("modalities", "models", "moderation", "negative_prompt", "no_stop_trim", "num_inference_steps"),
        *("output_format", "parallel_tool_calls", "plugins", "prediction", "prompt_cache_key"),
        *("prompt_cache_retention", "provider", "quality", "reasoning", "reasoning_effort", "reasoning_format"),
        *("regex", "request_id", "response_format", "return_hidden_states", "return_token_ids"),
        *("return_tokens_as_token_ids", "route", "safe_prompt", "safety_identifier", "samplers"),
        *("separate_reasoning", "service_tier", "session_id", "size", "skip_special_tokens"),
        *("spaces_between_special_tokens", "stop", "stop_regex", "stop_token_ids", "store", "stream_reasoning"),
        *("structured_outputs", "structural_tag", "style", "suffix", "think", "thinking", "tool_choice", "tools"),
        *("transforms", "usage", "use_beam_search", "user", "verbosity", "vllm_xargs", "web_search_options"),
    }
)
KNOWN = NUMBERS | WHOLE_NUMBERS | OTHERS
"""Parameters of OpenAI's APIs, vLLM, SGLang, llama.cpp and the usual routers."""

EXTRA = "extra_body"
"""Holds fields of the request's body that are none of the `KNOWN` parameters, sent as they are."""


class Dispensable(dict[str, Any]):
    """A value that a request would like to send for a parameter; where the server refuses it, it goes without."""


def check_params(params: dict[str, Any]) -> dict[str, Any]:
    """`params` if all are sampling parameters; raises `ValueError` that says what was meant or where others belong."""
    extra = params.get(EXTRA) or {}
    if not isinstance(extra, Mapping):
        raise ValueError(f"{EXTRA} must be a table of fields for the request's body, not {extra!r}")
    for key in [*params, *extra]:
        if key in NOT_SAMPLING:
            raise ValueError(f"'{key}' is not a sampling parameter; it comes from {NOT_SAMPLING[key]}")
    for key, value in params.items():
        if key not in KNOWN and key != EXTRA:
            near = get_close_matches(key.lower().replace("-", "_"), sorted(KNOWN), 1, 0.7)
            meant = f". Did you mean '{near[0]}'?" if near else "."
            raise ValueError(f"'{key}' is no known sampling parameter{meant} What only the server knows: {EXTRA}.{key}")
        _check_value(key, value)
    return params


def _check_value(key: str, value: Any) -> None:
    if key == "logprobs" and not isinstance(value, bool | None):
        raise ValueError(
            f"logprobs must be true or false, not {value!r}; top_logprobs says for how many tokens at each place"
        )
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if value is None or (key not in NUMBERS and key not in WHOLE_NUMBERS):
        return
    if number and math.inf > abs(value) > LARGEST:
        raise ValueError(f"{key} {TOO_LARGE}")
    if not number or not math.isfinite(value):
        raise ValueError(f"{key} must be a number, not {value!r}")
    if key in WHOLE_NUMBERS and value != int(value):
        raise ValueError(f"{key} must be a whole number, not {value!r}")


LENGTHS = ("max_tokens", "max_completion_tokens")
"""The names that servers have for the most tokens of a completion."""


def merged(*params: Mapping[str, Any]) -> dict[str, Any]:
    """All of `params`, the later ones before the earlier, with the fields of each one's `extra_body` among them.

    A length under either of its names replaces both.
    """
    whole: dict[str, Any] = {}
    for one in filter(None, params):
        if one.get("max_tokens") is not None or one.get("max_completion_tokens") is not None:
            whole = {name: value for name, value in whole.items() if name not in LENGTHS}
        whole |= one
        if isinstance(extra := one.get(EXTRA), Mapping):
            whole |= extra
            del whole[EXTRA]
    return whole


def token_limit(params: Mapping[str, Any]) -> str:
    """The parameter that limits the completion tokens of a request with `params`."""
    return "max_completion_tokens" if params.get("max_completion_tokens") else "max_tokens"


# -- what a server may refuse ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fallback:
    """How to do without a parameter."""

    trial: Any
    """A value that every server takes which takes the parameter at all."""
    words: str
    """What is done instead."""
    instead: str | None = None
    """The parameter that says the same."""


YES_OR_NO: dict[str, Any] = {"type": "object", "properties": {"yes": {"type": "boolean"}}, "required": ["yes"]}
SHAPE: dict[str, Any] = {"name": "reply", "strict": True, "schema": {**YES_OR_NO, "additionalProperties": False}}

OWN = "the server's own applies"
FALLBACKS = {
    "n": Fallback(2, "samples are requested one by one"),
    "response_format": Fallback({"type": "json_schema", "json_schema": SHAPE}, "requests go without it"),
    "max_tokens": Fallback(16, "max_completion_tokens limits the answers", "max_completion_tokens"),
    "max_completion_tokens": Fallback(16, "max_tokens limits the answers", "max_tokens"),
    "seed": Fallback(1, "samples cannot be repeated"),
    "stream_options": Fallback({"include_usage": True}, "the tokens of streamed answers are estimates"),
    "temperature": Fallback(0.7, OWN),
    "top_p": Fallback(0.9, OWN),
    "top_k": Fallback(20, OWN),
    "min_p": Fallback(0.05, OWN),
    "presence_penalty": Fallback(0.1, OWN),
    "frequency_penalty": Fallback(0.1, OWN),
    "repetition_penalty": Fallback(1.05, OWN),
}
"""Parameters that a server may refuse. What else it refuses is for the caller to leave out: `stop`, `tools` and the
like decide what an answer is."""


def without(body: dict[str, Any], refused: set[str]) -> dict[str, Any]:
    """`body` for a server that refuses the parameters `refused`."""
    kept = {key: value for key, value in body.items() if key not in refused}
    for key in refused & body.keys():
        instead = FALLBACKS[key].instead
        if instead is not None and instead not in refused:
            kept.setdefault(instead, body[key])
    return kept


# -- what a server is known to ignore --------------------------------------------------------------------------------

IGNORED = {
    "api.anthropic.com": frozenset(
        {
            *("frequency_penalty", "logit_bias", "logprobs", "presence_penalty", "reasoning_effort"),
            *("response_format", "seed", "top_logprobs"),
        }
    ),
    "ttscale": frozenset({"bad_words", "frequency_penalty", "logit_bias", "presence_penalty", "repetition_penalty"}),
    "library": frozenset({"logit_bias", "min_p", "repetition_penalty", "top_k"}),
}
"""Parameters that a server's documentation says it ignores, by its host, or by who owns its models ("library": Ollama;
"ttscale": the engine in numpy)."""


def ignored_by(*names: str) -> frozenset[str]:
    """Parameters that a server is known to ignore, by its host and the owners of its models."""
    return frozenset().union(*(IGNORED.get(name, ()) for name in names))
