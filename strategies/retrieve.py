"""Retrieval: passages of a local corpus before the question.

Shao et al. 2024, "Scaling Retrieval-Based Language Models with a Trillion-Token Datastore" (arXiv 2407.12854),
section 3. Passages are ranked by BM25 (Robertson and Zaragoza 2009), as the package bm25s computes it.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import NonNegativeInt

from tts.errors import ConfigError, MissingExtra
from tts.prompting import fill, problem_text, reworded, template
from tts.session import Session
from tts.strategies.wrapping import Reworded
from tts.tasks.loading import read_jsonl
from tts.types import Problem

if TYPE_CHECKING:
    from bm25s import BM25

PROMPT = """\
These passages may help with what follows. They may also be beside the point.

$passages

$problem"""


class Retrieve(Reworded):
    """The K passages that match the question best, before it; the rest is the inner strategy's.

    A passage that contains the question itself is passed over, and so is one that shares no word with it. The best
    comes first, so that those of a smaller `k` begin those of a larger one.
    """

    k: NonNegativeInt = 4
    """Passages at most; 0: the question alone."""
    corpus: Path | None = None
    """The file: .jsonl or .jsonl.gz with a passage in the field `text` of each line, or plain text, whose passages are
    parted by empty lines."""
    prompt: Annotated[str, template("passages", "problem")] = PROMPT
    """What the last message becomes."""

    def ready(self, problem: Problem) -> None:
        super().ready(problem)
        problem_text(problem)
        if not self.k:
            return
        if self.corpus is None:
            raise ConfigError(f"{self.spec} needs passages: corpus=FILE, .jsonl with a `text` on each line, or text")
        if not self.corpus.is_file():
            raise ConfigError(f"there is no file {self.corpus}; give an existing one as corpus=")
        try:
            import bm25s  # noqa: F401
        except ImportError:
            raise MissingExtra("retrieval", "retrieve") from None

    async def asked(self, problem: Problem, session: Session) -> Problem:
        if not self.k or self.corpus is None:
            return problem
        found = await asyncio.to_thread(passages, self.corpus, problem_text(problem), self.k)
        if not found:
            return problem
        joined = "\n\n".join(found)
        return reworded(problem, lambda text: fill(self.prompt, passages=joined, problem=text), last=True)


@dataclass(frozen=True)
class Corpus:
    """Passages, and their index."""

    texts: list[str]
    plain: list[str]
    """The same in one form, to see what they contain."""
    index: BM25


def passages(path: Path, question: str, k: int) -> list[str]:
    """The `k` passages of a file that match the question best, the best first. Raises `ConfigError` if it has none."""
    corpus, asked = load_corpus(path, path.stat().st_mtime_ns), _plain(question)
    scores = corpus.index.get_scores(_tokens([question])[0])
    ranked = (i for i in np.argsort(-scores, kind="stable") if scores[i] > 0 and asked not in corpus.plain[i])
    return [corpus.texts[i] for i in islice(ranked, k)]


@lru_cache(maxsize=4)
def load_corpus(path: Path, changed: int) -> Corpus:
    """The passages of a file as it is at `changed`, indexed once."""
    import bm25s

    if path.name.endswith((".jsonl", ".jsonl.gz")):
        texts = [record.need("text", str).strip() for record in read_jsonl(path)]
    else:
        texts = [part.strip() for part in path.read_text(encoding="utf-8", errors="replace").split("\n\n")]
    texts = [text for text in texts if text]
    if not texts:
        raise ConfigError(f"{path} has no passages")
    index = bm25s.BM25()
    index.index(_tokens(texts), show_progress=False)
    return Corpus(texts, list(map(_plain, texts)), index)


def _tokens(texts: list[str]) -> Any:
    import bm25s

    return bm25s.tokenize(texts, stopwords=[], return_ids=False, show_progress=False)


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())
