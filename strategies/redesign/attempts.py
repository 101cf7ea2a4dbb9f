"""What the generating model is asked: a wording, and what of an earlier candidate is used again."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from tts.concurrency import merge
from tts.errors import ConfigError, SamplingFailed
from tts.prompting import fill
from tts.session import Session
from tts.types import Candidate, Charge, Drawing, Problem, Prompt, Sample


@dataclass(frozen=True)
class Attempt:
    """One prompt, to be answered `n` times."""

    wording: str
    n: int = 1
    samples: tuple[Sample, ...] = ()
    """The samples that made the wording."""
    lineage: tuple[tuple[str, str], ...] = ()
    """The steps that led to it."""
    parent: Candidate | None = None
    """The candidate that is partly used again."""
    seed: int | None = None


def with_seeds(attempts: Iterable[Attempt], fresh: Iterator[int]) -> list[Attempt]:
    """Fresh seeds for those `attempts` that have none, or whose seed another one with the same wording has."""
    seen: set[tuple[str, int]] = set()
    seeded = []
    for attempt in attempts:
        if attempt.seed is None or (attempt.wording, attempt.seed) in seen:
            attempt = replace(attempt, seed=next(fresh))
        seen.add((attempt.wording, attempt.seed or 0))
        seeded.append(attempt)
    return seeded


def wording_of(problem: Problem) -> str:
    """What is rewritten: the text of the last message. Raises `ConfigError` where there is none."""
    if isinstance(problem.messages, str):
        return problem.messages
    text = problem.messages[-1].get("content") if problem.messages else None
    if not text or not isinstance(text, str):
        raise ConfigError(f"the last message of {problem.id} is no text; prompt_redesign rewrites texts only")
    return text


def asking(problem: Problem, wording: str) -> Prompt:
    """The messages of `problem` with `wording` in place of the last one's text."""
    if isinstance(problem.messages, str):
        return wording
    return [*problem.messages[:-1], {**problem.messages[-1], "content": wording}]


def _asked(attempt: Attempt, session: Session, images: bool, draft: str) -> AsyncGenerator[Sample, None]:
    if images:
        seed = {} if attempt.seed is None else {"seed": attempt.seed}
        return session.sample(Drawing(attempt.wording), n=attempt.n, role="image", **seed)
    wording = attempt.wording
    if attempt.parent is not None:
        wording = fill(draft, prompt=wording, draft=attempt.parent.content)
    return session.sample(asking(session.problem, wording), n=attempt.n)


async def drawn(
    attempts: Sequence[Attempt], before: Sequence[Candidate], session: Session, *, images: bool, draft: str, number: int
) -> AsyncGenerator[Candidate, None]:
    """The candidates of round `number`; they carry the cost of the candidates `before`, which led to them.

    An attempt that fails loses itself alone. Raises `SamplingFailed` when all do.
    """
    failed: list[SamplingFailed] = []
    paid = frozenset[Charge]().union(*(candidate.charges for candidate in before))

    async def made(attempt: Attempt, samples: AsyncGenerator[Sample, None]) -> AsyncGenerator[Candidate, None]:
        parents = [attempt.parent] if attempt.parent is not None else []
        try:
            async for sample in samples:
                notes = {"round": number, "lineage": [list(step) for step in attempt.lineage]}
                if attempt.seed is not None and "seed" not in session.sampler(sample.role).refused:
                    notes["seed"] = attempt.seed
                yield session.candidate(sample, *attempt.samples, parents=parents, charges=paid, **notes)
        except SamplingFailed as error:
            failed.append(error)

    sources = [made(attempt, _asked(attempt, session, images, draft)) for attempt in attempts]
    any_came = False
    async for candidate in merge(sources):
        any_came = True
        yield candidate
    if failed and not any_came:
        raise failed[-1]
