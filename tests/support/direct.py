"""The verifier that element checks are compared with: of each element it asks whether the answer has it."""

from __future__ import annotations

import asyncio
from typing import ClassVar

from tts.base import Verifier
from tts.prompting import reply, shown
from tts.session import Session
from tts.types import Candidate, Problem, Verdict
from tts.verifiers.element_check import ElementCheck

ASK = "<content>\n$answer\n</content>\n\nIs this true: $statement? Say yes or no."


class DirectQuestions(Verifier):
    """The share of the elements to which the judge says yes."""

    roles: ClassVar[frozenset[str]] = frozenset({"judge"})

    async def verify(self, problem: Problem, candidate: Candidate, session: Session) -> Verdict:
        check = ElementCheck()
        elements = await session.once(("elements", check.spec), lambda inner: check._elements(problem, inner))

        async def has(statement: str) -> bool:
            asked = await shown(session, ASK, candidate, statement=statement)
            return await reply(session, asked, lambda said: said.strip().lower().startswith("yes"), role="judge")

        said = await asyncio.gather(*(has(element.text) for element in elements.values()))
        return Verdict(sum(said) / len(said), all(said))
