"""llama.cpp's own completion route, which tells what its OpenAI routes do not: token ids, and what ended a text.

Text completions for which token ids are asked go there, translated both ways, so that an answer can be continued
exactly. (llama.cpp, tools/server/README, "POST /completion".)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tts.errors import TransientError
from tts.sampler import protocol
from tts.sampler.protocol import ModelResponse

OWNER = "llamacpp"
"""Who owns the models in the server's list of models."""

PATH = "/../completion"
NAMES = {"max_tokens": "n_predict", "max_completion_tokens": "n_predict", "logprobs": "n_probs"}
"""What it calls a parameter of a text completion; other parameters have the same name."""

UNCUT = {"temperature": 1, "top_k": 0, "top_p": 1, "min_p": 0}
"""The values by which nothing cuts or bends the model's own distribution."""

OURS = ("model", "return_token_ids", "include_stop_str_in_output", "add_special_tokens")
"""Parameters that it does not know."""


def cuts(settings: Any) -> dict[str, float]:
    """What `settings`, the answer to `GET /props`, apply to requests that do not set it themselves.

    Raises `KeyError` or `TypeError` where they do not tell.
    """
    applied = settings["default_generation_settings"]["params"]
    values = {name: round(applied[name], 4) for name in UNCUT}
    return {name: value for name, value in values.items() if value != UNCUT[name]}


def own_request(body: Mapping[str, Any]) -> dict[str, Any]:
    """The request of its own for the body of a text completion."""
    own = {NAMES.get(key, key): value for key, value in body.items() if key not in OURS} | {"return_tokens": True}
    if "n_probs" in own:  # 0 asks for no probabilities here, and elsewhere for those of the chosen tokens
        own["n_probs"] = max(1, own["n_probs"])
    return own


def parse(body: Mapping[str, Any], answer: Mapping[str, Any]) -> ModelResponse:
    """The response that its own answer to `body` is; the string that ended the text is part of it if asked for.

    Raises `TransientError` for what is no such answer.
    """
    try:
        return protocol.parse(_completion(answer, body))
    except (KeyError, TypeError) as error:
        raise TransientError(f"unreadable answer of llama.cpp: {type(error).__name__}: {error}") from error


def _completion(answer: Mapping[str, Any], body: Mapping[str, Any]) -> dict[str, Any]:
    ended, text = answer["stop_type"], answer["content"]
    if ended == "word" and body.get("include_stop_str_in_output"):
        text += answer["stopping_word"]
    choice = {
        "index": 0,
        "text": text,
        "finish_reason": "length" if ended in ("limit", "none") else "stop",
        "token_ids": answer["tokens"],
    }
    probabilities = answer.get("completion_probabilities") or []
    if probabilities or ("logprobs" in body and _told_all(answer)):
        choice["logprobs"] = {"content": probabilities}
    prompt, completion = answer["tokens_evaluated"], answer["tokens_predicted"]
    cached = {"cached_tokens": answer["timings"]["cache_n"]}
    usage = {"prompt_tokens": prompt, "completion_tokens": completion, "prompt_tokens_details": cached}
    return {"model": answer.get("model"), "choices": [choice], "usage": usage}


def _told_all(answer: Mapping[str, Any]) -> bool:
    """Whether no probabilities are all there are: it tells none of as many tokens as the string that ended the text
    has, which are the last ones, whatever else is in them."""
    stopped = answer["stop_type"] == "word" and len(answer["tokens"]) <= len(answer["stopping_word"].encode())
    return stopped or not answer["content"]
