"""A text that meets constraints, whichever they are."""

from __future__ import annotations

from collections.abc import Sequence

from tts.verifiers.constraints import COMMON_WORDS, Constraint


def obedient(constraints: Sequence[Constraint]) -> str:
    """A text that meets them all."""
    want = {one.kind: one.value for one in constraints}
    filler = COMMON_WORDS[want.get("language", "English")].split()
    paragraphs = [["x"] for _ in range(int(want.get("paragraphs", 1)))]
    paragraphs[-1] += [want["has"]] if "has" in want else []
    paragraphs[-1] += filler * (1 + int(want.get("words_at_least", 0)) // len(filler))
    text = "\n\n".join(" ".join(words) for words in paragraphs)
    text += "".join("\n- x" for _ in range(int(want.get("bullets", 0))))
    head = f"# {want['heading']}\n" if "heading" in want else ""
    return f"{head}{text} {want.get('ends', '')}".strip()
