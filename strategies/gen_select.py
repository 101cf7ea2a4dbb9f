"""A model reads candidates and chooses one.

GenSelect: Toshniwal et al. 2025 (arXiv 2507.17797), section 3: several comparisons of a window of candidates each, and
a vote over what they choose.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

from pydantic import PositiveInt

from tts.base import answer_classes, selectable
from tts.errors import BudgetSpent
from tts.prompting import without_thoughts
from tts.session import Session
from tts.strategies.company import Company, Prompted, show, summary
from tts.types import Candidate, Problem, Sample

CHOOSE = """\
This is a task, with several answers to it:

<task>
$problem
</task>

$candidates

Compare them: where they differ, check who is right. At most one needs to be right. End with a line that says which \
answer is the best, in this form:
Choice: its number"""
CHOICE = re.compile(r"choice\W{0,12}(?:answer\W{0,4})?(?:number\W{0,4})?(\d{1,4})\b", re.IGNORECASE)


class GenSelect(Company):
    """N answers, of which a model chooses by reading them: `runs` times, among `window` at a time, in shuffled order.

    The answer chosen most often wins, equal answers counted together. Where no choice can be read, the vote decides.
    """

    n: PositiveInt = 8
    """Answers."""
    window: PositiveInt = 8
    """Answers that are compared at a time."""
    runs: PositiveInt = 1
    """Comparisons."""
    summarise: bool = False
    """Whether summaries are compared, which the model writes of each answer first."""
    prompt: Prompted = CHOOSE
    """What the model is asked, which is to end with `Choice: 2`."""

    async def search(self, problem: Problem, session: Session) -> AsyncIterator[Candidate]:
        """Every answer when it is there, and the last one again with the choices, which are made when all are."""
        found: list[Candidate] = []
        async for one in self.voting(problem, session, self.drawn(problem, session), []):
            found.append(one)
            yield one
        there = sorted(selectable(found), key=lambda one: one.spawned)
        if len(there) < 2:
            return
        made: list[Sample] = []
        choices: list[int] = []
        spent: BudgetSpent | None = None
        try:
            if self.summarise:
                there = await session.together(summary(problem, session, one, made) for one in there)
            await session.together(
                self._choose(problem, session.at((1, run)), there, made, choices) for run in range(self.runs)
            )
        except BudgetSpent as error:
            spent = error
        last = next(one for one in found if one.id == there[-1].id)
        charges = last.charges.union(*(one.charges for one in (*made, *there)))
        yield replace(last, charges=charges, notes={**last.notes, "choices": sorted(choices)})
        if spent is not None:
            raise spent

    async def _choose(
        self, problem: Problem, session: Session, there: Sequence[Candidate], made: list[Sample], choices: list[int]
    ) -> None:
        """Add the id of what a model chooses among a window of `there` to the `choices`."""
        shown = [there[i] for i in session.rng.permutation(len(there))[: self.window].tolist()]
        said = await show(session, problem, shown, self.prompt, inner=True)
        if said is None:
            return
        made.append(said)
        numbers = [int(number) for number in CHOICE.findall(without_thoughts(said.text))]
        if numbers and 1 <= numbers[-1] <= len(shown):
            choices.append(shown[numbers[-1] - 1].id)
        else:
            session.ledger.failures.append("a choice cannot be read: it does not end with `Choice: NUMBER`")

    def select(self, candidates: Sequence[Candidate]) -> Candidate | None:
        """What was chosen most often, the earliest among equals; among fewer than all answers, what a vote elects."""
        classes = dict(
            zip((one.id for one in candidates), answer_classes([one.notes for one in candidates]), strict=True)
        )
        chosen = [one for mark in candidates for one in mark.notes.get("choices", ()) if one in classes]
        if not chosen:
            return self.elect(candidates)
        votes = Counter(classes[one] or one for one in chosen)
        most = max(votes.values())
        return next(one for one in candidates if one.id in chosen and votes[classes[one.id] or one.id] == most)
