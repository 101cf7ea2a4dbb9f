"""Which candidates together meet the most elements, and which elements most of them miss.

"PRIS" (arXiv 2512.03534), the steps between the first candidates and the rewritten prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tts.base import rank
from tts.errors import ConfigError
from tts.prompting import fill
from tts.types import Candidate


def elements(candidate: Candidate) -> list[dict[str, Any]]:
    """What its verdict says of each element: `text`, `kind`, `met` and `why`.

    Raises `ConfigError` where the verifier does not tell elements apart.
    """
    assert candidate.verdict is not None
    table = candidate.verdict.details.get("elements")
    if not table:
        raise ConfigError("the verifier of prompt_redesign must say which elements are met; this verdict says of none")
    return table


def met(candidate: Candidate, kind: str | None = None) -> frozenset[int]:
    """The numbers of the elements that it meets, of one `kind` (core or extra) or of both."""
    table = enumerate(elements(candidate))
    return frozenset(i for i, element in table if element["met"] and kind in (None, element["kind"]))


def covering(candidates: Sequence[Candidate], k: int) -> list[Candidate]:
    """Up to `k` of the rated `candidates` (in spawned order) that together meet the most elements.

    Greedy: each next one adds the most core elements, then the most extra ones; equals go by their verdicts, and the
    earliest of those. This covers at least 1 - 1/e of what the best choice could (Nemhauser et al. 1978).
    """
    left = [one for one in candidates if one.verdict is not None and one.verdict.score is not None]
    chosen: list[Candidate] = []
    covered: frozenset[int] = frozenset()
    while left and len(chosen) < k:
        best = max(left, key=lambda one: (len(met(one, "core") - covered), len(met(one, "extra") - covered), rank(one)))
        left.remove(best)
        chosen.append(best)
        covered |= met(best)
    return chosen


def failures(chosen: Sequence[Candidate]) -> list[int]:
    """The numbers of the elements that fewer than half of the `chosen` candidates meet."""
    hits = [met(candidate) for candidate in chosen]
    return [i for i in range(len(elements(chosen[0]))) if 2 * sum(i in one for one in hits) < len(hits)]


def described(chosen: Sequence[Candidate], numbers: Sequence[int], line: str) -> str:
    """The elements of those `numbers`, each in a `line` as `Prompts.element` has it."""
    lines = []
    for i in numbers:
        rows = [elements(candidate)[i] for candidate in chosen]
        met = f"{sum(row['met'] for row in rows)} of {len(rows)}"
        why = next((row["why"] for row in rows if not row["met"] and row["why"]), "")
        lines.append(fill(line, text=rows[0]["text"], met=met, why=why, instead=f"; instead: {why}" if why else ""))
    return "\n".join(lines)
