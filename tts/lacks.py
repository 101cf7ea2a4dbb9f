"""Answers that lack something: cut off, held back, refused or empty. What it is, and what to change."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from tts.types import Candidate

Lack = Literal["truncated", "truncated_empty", "filtered", "refused", "only_reasoning", "empty"]
"""The answer was cut off, with or without any content; a filter held it back; the model refused; it ended by itself
with reasoning and nothing else, or with nothing at all."""

LACKS: dict[Lack, str] = {
    "truncated": "cut off at the limit of tokens (finish_reason length): raise --max-tokens, or serve a longer context",
    "truncated_empty": "at the limit of tokens before any content (finish_reason length): raise --max-tokens, "
    "reasoning counts too",
    "filtered": "ended by the server's content filter: change the prompt, or ask another model",
    "refused": "refused by the model: change the prompt, or ask another model",
    "only_reasoning": "with reasoning and no content: raise --max-tokens, or check the server's reasoning parser",
    "empty": "empty: check the chat template and the stop strings",
}
"""What to say of so many answers."""

TRUNCATED = frozenset({"length", "max_tokens", "model_length"})
"""Finish reasons, in lower case, of answers that reached a limit of tokens."""
FILTERED = frozenset({"content_filter", "safety", "recitation", "prohibited_content", "blocklist"})
"""Finish reasons, in lower case, of answers that a filter ended."""


def lack_of(candidate: Candidate) -> Lack | None:
    """What the answer lacks, as far as the server and the text tell; None: nothing."""
    if not candidate.samples or candidate.samples[-1].trajectory is not None:
        return None
    last = candidate.samples[-1]
    reason = (last.finish_reason or "").lower()
    content, thought, _ = candidate.content.rpartition("</think>")[2].partition("<think>")
    said = bool(content.strip() or last.tool_calls)
    if reason in TRUNCATED:
        return "truncated" if said else "truncated_empty"
    if reason in FILTERED:
        return "filtered"
    if reason == "refusal":
        return "refused"
    if said:
        return None
    return "only_reasoning" if last.reasoning or thought or candidate.content.strip() else "empty"


def lacks_of(candidates: Iterable[Candidate]) -> Mapping[Lack, int]:
    """How many of the candidates lack what."""
    return Counter(lack for lack in map(lack_of, candidates) if lack)


def lacking(counts: Mapping[Any, Any]) -> list[str]:
    """How many answers lack what, in words; `counts` are by `Lack`."""
    return [f"{counts[name]:,} {words}" for name, words in LACKS.items() if counts.get(name)]
