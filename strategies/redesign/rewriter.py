"""The calls to the model that rewrites prompts."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice
from math import ceil

from tts.base import rank
from tts.prompting import NoAnswer, fill, insist, prose
from tts.session import Session
from tts.strategies.redesign.attempts import Attempt, wording_of
from tts.strategies.redesign.elements import described, elements, failures
from tts.strategies.redesign.prompts import Prompts
from tts.types import Candidate


@dataclass(frozen=True)
class Rewriter:
    """Rewrites in one role. Where that gives no new wording, which is noted, the prompt stays as it was."""

    session: Session
    prompts: Prompts
    role: str

    async def expanded(self) -> Attempt:
        """The problem's prompt, expanded."""
        wording = wording_of(self.session.problem)
        asked = fill(self.prompts.expand, prompt=wording)
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
            asked = fill(self.prompts.rewrite, prompt=wording, missed=why, met=met or "(nothing)")
        else:
            why, asked = "nothing in common", fill(self.prompts.paraphrase, prompt=wording)
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
