"""How prompts are redesigned: what verdicts say of elements, what is tried next, and how wordings are rewritten.

"PRIS" (arXiv 2512.03534), the steps between the first candidates and the rewritten prompt.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice
from math import ceil
from typing import Any

from tts.base import rank
from tts.concurrency import merge
from tts.errors import ConfigError, SamplingFailed
from tts.prompting import NoAnswer, fill, filled, insist, plain_text, prose
from tts.session import Session
from tts.strategies.redesign.prompts import RedesignPrompts
from tts.types import Candidate, Charge, Drawing, Problem, Prompt, Sample


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
    """The elements of those `numbers`, each in a `line` as `RedesignPrompts.element` has it."""
    lines = []
    for i in numbers:
        rows = [elements(candidate)[i] for candidate in chosen]
        met = f"{sum(row['met'] for row in rows)} of {len(rows)}"
        why = next((row["why"] for row in rows if not row["met"] and row["why"]), "")
        lines.append(fill(line, text=rows[0]["text"], met=met, why=why, instead=f"; instead: {why}" if why else ""))
    return "\n".join(lines)


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
    text = plain_text(problem.messages[-1].get("content")) if problem.messages else None
    if not text:
        raise ConfigError(f"the last message of {problem.id} is no text; prompt_redesign rewrites texts only")
    return text


def asking(problem: Problem, wording: str) -> Prompt:
    """The messages of `problem` with `wording` in place of the last one's text."""
    if isinstance(problem.messages, str):
        return wording
    return [*problem.messages[:-1], {**problem.messages[-1], "content": wording}]


def _asked(attempt: Attempt, session: Session, images: bool, draft: str) -> AsyncGenerator[Sample, None]:
    if images:
        seed: dict[str, Any] = {} if attempt.seed is None else {"seed": attempt.seed}
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


@dataclass(frozen=True)
class Rewriter:
    """Rewrites in one role. Where that gives no new wording, which is noted, the prompt stays as it was."""

    session: Session
    prompts: RedesignPrompts
    role: str

    async def expanded(self) -> Attempt:
        """The problem's prompt, expanded."""
        wording = wording_of(self.session.problem)
        asked = await filled(self.prompts.expand, prompt=wording)
        return await self._reworded(wording, asked)

    async def redesigned(
        self, best: Sequence[Candidate], n: int, variants: int, *, per_sample: bool, reuse: bool
    ) -> list[Attempt]:
        """`n` attempts: each new wording with every candidate that is used again, in turn.

        There are as many `variants` of a wording as are used, at most. See `PromptRedesign` for the others.
        """
        groups = [[one] for one in best] if per_sample else [best]
        served = [group if reuse else group[:1] for group in groups]
        variants = min(variants, ceil(n / sum(map(len, served))))
        async with asyncio.TaskGroup() as running:
            tasks = [running.create_task(self._rewritten(group, variants)) for group in groups]
        wordings = [task.result() for task in tasks]
        attempts = [
            replace(new[i], parent=one, seed=one.notes.get("seed")) if reuse else new[i]
            for i in range(variants)
            for ones, new in zip(served, wordings, strict=True)
            for one in ones
        ]
        return list(islice(cycle(attempts), n))

    async def _rewritten(self, group: Sequence[Candidate], variants: int) -> list[Attempt]:
        """The wording of the best of `group`, rewritten in several variants for what the group mostly misses."""
        best = max(group, key=rank)
        steps = [text for kind, text in best.notes["lineage"] if kind == "prompt"]
        wording = steps[-1] if steps else wording_of(self.session.problem)
        if missed := failures(group):
            kept = [i for i in range(len(elements(best))) if i not in missed]
            why, met = (described(group, numbers, self.prompts.element) for numbers in (missed, kept))
            asked = await filled(self.prompts.rewrite, prompt=wording, missed=why, met=met or "(nothing)")
        else:
            why, asked = "nothing in common", await filled(self.prompts.paraphrase, prompt=wording)
        async with asyncio.TaskGroup() as running:
            tasks = [running.create_task(self._reworded(wording, asked, ("missed", why))) for _ in range(variants)]
        return [task.result() for task in tasks]

    async def _reworded(self, wording: str, asked: str, *steps: tuple[str, str]) -> Attempt:
        messages = [{"role": "user", "content": asked}]
        try:
            samples, said = await insist(self.session, messages, prose, role=self.role, tries=[{}, {}])
        except NoAnswer:
            return Attempt(wording)
        return Attempt(said, 1, samples, (*steps, ("prompt", said)))
