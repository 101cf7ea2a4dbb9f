"""A request taken apart into elements, each checked against a description made by someone who never saw the request.

"PRIS" (arXiv 2512.03534), element-level factual correction: text is compared with text, because a model that is asked
whether an answer has something tends to say yes. Only what the description leaves open is asked, openly. Answers may
be texts, programs or pictures; for pictures the judge must be a model that sees.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar

from tts.base import Verifier
from tts.prompting import constrained, fill, json_of, problem_text, reply, shown, template
from tts.session import Session
from tts.types import Candidate, Problem, Verdict
from tts.verifiers.elements.forms import (
    COMPARE,
    DECOMPOSE,
    DESCRIBE,
    FINAL,
    FIRST,
    MEASURED,
    PROBE,
    TESTS,
    Answers,
    Element,
    Elements,
    Finding,
    Findings,
)
from tts.verifiers.programs.extract import extract_program
from tts.verifiers.programs.facts import program_facts
from tts.verifiers.unit_tests import Kind, TestSuite, UnitTests

Found = dict[int, Finding]
"""What is known of the elements, by their numbers from 1."""


class ElementCheck(Verifier):
    """Scores by the elements of the request that are met: core ones first, extra ones only between equals.

    Accepts where all core elements are met. Needs a model for the role `judge`: one request to take the problem apart,
    then two for each candidate, and two more where something stays open. `details` has the `elements`, each with
    whether it is `met` and `why`; `feedback` says which are not met. An answer that cannot be read, twice, leaves the
    candidate without a score.
    """

    roles: ClassVar[frozenset[str]] = frozenset({"judge"})

    decompose: Annotated[str, template("problem", "tests")] = DECOMPOSE
    """Asks for the elements."""
    describe: Annotated[str, template("answer")] = DESCRIBE
    """Asks for the description; the request is not in it."""
    compare: Annotated[str, template("evidence", "choices", "statements")] = COMPARE
    """Asks what the evidence says of each element."""
    probe: Annotated[str, template("answer", "questions")] = PROBE
    """Asks the open questions; what is hoped for is not in it."""
    tests: bool = False
    """For programs: elements that a test can decide are decided by running it, which no reading overrules; for the
    others, what can be read off the program for certain stands beside its description."""

    @property
    def tells_elements(self) -> bool:
        """It does."""
        return True

    async def verify(self, problem: Problem, candidate: Candidate, session: Session) -> Verdict:
        """Gather evidence from the strongest on, until every element is decided."""
        elements = await session.once(("elements", self.spec), lambda inner: self._elements(problem, inner))
        found = await self._tested(elements, candidate, session) if self.tests else {}
        if left := [i for i in elements if i not in found]:
            evidence = await reply(session, await shown(session, self.describe, candidate), _said, role="judge")
            if self.tests:
                evidence = fill(MEASURED, facts="\n".join(_facts(candidate)), description=evidence)
            found |= await self._compared(elements, left, evidence, FIRST, session)
        if left := [i for i in elements if found[i].finding == "neutral"]:
            told = await self._probed(elements, left, candidate, session)
            found |= await self._compared(elements, left, told, FINAL, session)
        return self._verdict(elements, found)

    async def _elements(self, problem: Problem, session: Session) -> dict[int, Element]:
        prompt = fill(self.decompose, problem=problem_text(problem), tests=TESTS if self.tests else "")
        form = await reply(session, prompt, json_of(Elements), role="judge", **constrained(Elements))
        return dict(enumerate(form.elements, 1))

    async def _tested(self, elements: dict[int, Element], candidate: Candidate, session: Session) -> Found:
        """The elements that running the program decides: an exception may be the test's own fault, and does not."""
        tests = {i: element.test for i, element in elements.items() if element.test.lstrip().startswith("assert")}
        if not tests:
            return {}
        verdict = await session.verify(candidate, UnitTests(tests=TestSuite(asserts=tuple(tests.values()))))
        found: Found = {}
        for (i, test), kind in zip(tests.items(), verdict.details.get("outcomes", ()), strict=False):
            if kind == Kind.passed:
                found[i] = Finding(number=i, why=f"`{test}` holds", finding="entailed")
            elif kind == Kind.wrong:
                found[i] = Finding(number=i, why=f"`{test}` fails", finding="contradicted")
        return found

    async def _compared(
        self, elements: dict[int, Element], left: Sequence[int], evidence: str, choices: str, session: Session
    ) -> Found:
        """What `evidence` says of the elements `left`."""

        def read(text: str) -> Found:
            found = {one.number: one for one in json_of(Findings)(text).findings}
            if sorted(found) != list(left):
                raise ValueError(f"findings on {sorted(found)} instead of {list(left)}")
            if choices == FINAL and any(one.finding == "neutral" for one in found.values()):
                raise ValueError("a statement is left undecided")
            return found

        statements = "\n".join(f"{i}. {elements[i].text}" for i in left)
        prompt = fill(self.compare, evidence=evidence, choices=choices, statements=statements)
        return await reply(session, prompt, read, role="judge", **constrained(Findings))

    async def _probed(
        self, elements: dict[int, Element], left: Sequence[int], candidate: Candidate, session: Session
    ) -> str:
        """Questions on the elements `left`, with their answers."""
        asked = [elements[i].question for i in left]

        def read(text: str) -> list[str]:
            answers = json_of(Answers)(text).answers
            if len(answers) != len(asked):
                raise ValueError(f"{len(answers)} answers to {len(asked)} questions")
            return answers

        questions = "\n".join(f"{i}. {q}" for i, q in enumerate(asked, 1))
        prompt = await shown(session, self.probe, candidate, questions=questions)
        answers = await reply(session, prompt, read, role="judge", **constrained(Answers))
        return "\n".join(f"{question} {told}" for question, told in zip(asked, answers, strict=True))

    def _verdict(self, elements: dict[int, Element], found: Found) -> Verdict:
        met = {i: found[i].finding == "entailed" for i in elements}
        core, extra = ([met[i] for i in elements if elements[i].kind == kind] for kind in ("core", "extra"))
        score = (sum(core) + sum(extra) / (len(extra) + 1)) / (len(core) + 1)
        missed = [f"Not met: {elements[i].text} ({found[i].why})" for i in elements if not met[i]]
        table = [
            {"text": element.text, "kind": element.kind, "met": met[i], "why": found[i].why}
            for i, element in elements.items()
        ]
        return Verdict(score, all(core), "\n".join(missed), {"elements": table})


def _facts(candidate: Candidate) -> list[str]:
    program = extract_program(candidate.content)
    return ["There is no program."] if program is None else program_facts(program)


def _said(text: str) -> str:
    """A text that is not empty."""
    if not text.strip():
        raise ValueError("it says nothing")
    return text
