"""Retrieval: passages of a local corpus before the question.

Shao et al. 2024, "Scaling Retrieval-Based Language Models with a Trillion-Token Datastore" (arXiv 2407.12854),
section 3. Passages are ranked by BM25 (Robertson and Zaragoza 2009), as the package bm25s computes it, or by their
embeddings.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import NonNegativeInt, PositiveInt

from tts.errors import ConfigError, MissingExtra, SamplingFailed
from tts.prompting import fill, problem_text, reworded, template
from tts.session import Session
from tts.strategies.wrapping import Reworded
from tts.tasks.loading import read_jsonl
from tts.types import Problem
from tts.verifiers.embedding_similarity import embedding

if TYPE_CHECKING:
    from bm25s import BM25

PROMPT = """\
These passages may help with what follows. They may also be beside the point.

$passages

$problem"""
BATCH = 64
"""Passages that one request embeds."""


class Retrieve(Reworded):
    """The K passages that match the question best, before it; the rest is the inner strategy's.

    A passage that contains the question itself is passed over, and so is one that shares no word with it, unless
    embeddings rank. The best comes first, so that those of a smaller `k` begin those of a larger one.
    """

    k: NonNegativeInt = 4
    """Passages at most; 0: the question alone."""
    corpus: Path | None = None
    """The file: .jsonl or .jsonl.gz with a passage in the field `text` of each line, or plain text, whose passages are
    parted by empty lines."""
    embed: bool = False
    """Whether a model for the role `embed` ranks passages by what they mean, and not BM25 by their words."""
    among: PositiveInt = 256
    """Passages that are embedded for a question, those that BM25 ranks highest; each problem is charged for its own."""
    prompt: Annotated[str, template("passages", "problem")] = PROMPT
    """What the last message becomes."""

    @property
    def roles(self) -> frozenset[str]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return super().roles | ({"embed"} if self.embed and self.k else set())

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
        question, most = problem_text(problem), self.among if self.embed else self.k
        found = await asyncio.to_thread(passages, self.corpus, question, most, strangers=self.embed)
        if not found:
            return problem
        if self.embed:
            found = await nearest(found, question, session)
        joined = "\n\n".join(found[: self.k])
        return reworded(problem, lambda text: fill(self.prompt, passages=joined, problem=text), last=True)


@dataclass(frozen=True)
class Corpus:
    """Passages, and their index."""

    texts: list[str]
    plain: list[str]
    """The same in one form, to see what they contain."""
    index: BM25


def passages(path: Path, question: str, k: int, *, strangers: bool = False) -> list[str]:
    """The `k` passages of a file that match the question best, the best first, also `strangers` that share no word with
    it. Raises `ConfigError` if the file has none."""
    corpus, asked = load_corpus(path, path.stat().st_mtime_ns), _plain(question)
    scores = corpus.index.get_scores(_tokens([question])[0])
    order = (i for i in np.argsort(-scores, kind="stable") if strangers or scores[i] > 0)
    ranked = (i for i in order if asked not in corpus.plain[i])
    return [corpus.texts[i] for i in islice(ranked, k)]


async def nearest(texts: list[str], question: str, session: Session) -> list[str]:
    """`texts` by the cosine similarity of their embeddings with that of the question, the nearest first."""
    asked = [question, *texts]
    bodies = [{"input": text} for text in asked]
    for start in range(0, len(bodies), BATCH):
        await session.post_joined("/embeddings", bodies[start : start + BATCH], field="input", role="embed")
    try:
        own, *others = await session.together(embedding(text, session) for text in asked)
        likeness = np.array(others) @ own
    except ValueError as error:  # no vectors, or some of other lengths
        raise SamplingFailed(f"embed: {error}") from error
    return [texts[i] for i in np.argsort(-likeness, kind="stable")]


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
