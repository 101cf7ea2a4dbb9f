"""A request taken apart into elements, each checked against a description by someone who never saw the request.

"PRIS" (arXiv 2512.03534), element-level factual correction: text is compared with text, because a model that is asked
whether an answer has something tends to say yes. Only what the description leaves open is asked about, with open
questions. Answers may be texts, programs or images; for images the judge must be a vision model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, Field

from tts.base import Verifier
from tts.prompting import constrained, filled, json_of, reply, shown, template
from tts.session import Session
from tts.types import Candidate, Problem, Scale, Verdict
from tts.verifiers.programs.extract import extract_program, program_facts
from tts.verifiers.unit_tests import Kind, TestSuite, UnitTests

DECOMPOSE = """\
Take this request apart into requirements that can be checked one by one: each says one thing, none says what another
does, and together they say all of it. Core are those that decide whether the request is met; extra ones are matters of
style.

<request>
$problem
</request>

For each, also write an open question whose answer, from somebody who sees the result, tells whether it is met without
giving away what is hoped for. $tests
Reply with JSON: {"elements": [{"text": "...", "kind": "core" or "extra", "question": "...", "test": "" or a test}]}"""

DESCRIBE = """\
Describe this for somebody who cannot see it. Of a text or program: what it does or says, how it is built, its form,
length, language and every particular that could matter. Of a picture: everything in it, how many of each, their
colours and places, its style, and any writing. Say what is there, and not what might have been meant.

<content>
$answer
</content>"""

COMPARE = """\
<evidence>
$evidence
</evidence>

What does this evidence say of each statement? $choices Take nothing for granted that it does not say.

<statements>
$statements
</statements>

Reply with JSON: {"findings": [{"number": of the statement, "why": "briefly", "finding": "..."}]}, one for each."""

PROBE = """\
<content>
$answer
</content>

Answer each question about this content from what is there, precisely.

<questions>
$questions
</questions>

Reply with JSON: {"answers": ["...", ...]}, one for each, in their order."""

MEASURED = """\
What is certain, whatever the description says:
$facts

A description:
$description"""

TESTS = "Where running a program can decide it, give a Python assert statement as the test."
FINAL = "entailed: it follows; contradicted: it does not."
FIRST = "entailed: it follows; contradicted: the opposite follows; neutral: the evidence does not tell."


class Element(BaseModel):
    """A requirement that can be checked on its own."""

    text: str
    kind: Literal["core", "extra"]
    question: str
    test: str = ""


class Elements(BaseModel):
    """A request, taken apart."""

    elements: list[Element] = Field(min_length=1)


class Entailment(BaseModel):
    """What the evidence says about one requirement."""

    number: int
    why: str = ""
    finding: Literal["entailed", "contradicted", "neutral"]


class Findings(BaseModel):
    """What the evidence says about several."""

    findings: list[Entailment]


class Answers(BaseModel):
    """Answers to open questions."""

    answers: list[str]


Found = dict[int, Entailment]
"""What is known about the elements, by their numbers from 1."""


class ElementCheck(Verifier):
    """Scores by the elements of the request that are met: by the core ones, with the extra ones to break ties.

    Accepts if all core elements are met. Needs a model for the role `judge`: one request to take the problem apart, two
    per candidate, and two more where something stays open. `details` has the `elements`, each with whether it is `met`
    and `why`; `feedback` lists those that are not met. A candidate gets no score if the judge's answer cannot be read
    twice in a row.
    """

    roles: ClassVar[frozenset[str]] = frozenset({"judge"})
    scale: ClassVar[Scale | None] = "positive"

    decompose: Annotated[str, template("problem", "tests")] = DECOMPOSE
    """Prompt that asks for the elements."""
    describe: Annotated[str, template("answer")] = DESCRIBE
    """Prompt that asks for the description; it does not contain the request."""
    compare: Annotated[str, template("evidence", "choices", "statements")] = COMPARE
    """Prompt that asks what the evidence says about each element."""
    probe: Annotated[str, template("answer", "questions")] = PROBE
    """Prompt that asks the open questions; it does not contain the hoped-for answers."""
    tests: bool = False
    """For programs: elements that a test can decide are decided by running it, and no judgement overrules that; for
    the others, facts that can be read off the program for certain accompany its description."""

    @property
    def tells_elements(self) -> bool:
        return True

    async def verify(self, problem: Problem, candidate: Candidate, session: Session) -> Verdict:
        """Gather evidence, the strongest first, until every element is decided."""
        elements = await session.once(("elements", self.spec), lambda inner: self._elements(problem, inner))
        found = await self._tested(elements, candidate, session) if self.tests else {}
        if left := [i for i in elements if i not in found]:
            evidence = await reply(session, await shown(session, self.describe, candidate), _said, role="judge")
            if self.tests:
                evidence = await filled(MEASURED, facts="\n".join(_facts(candidate)), description=evidence)
            found |= await self._compared(elements, left, evidence, FIRST, session)
        if left := [i for i in elements if found[i].finding == "neutral"]:
            told = await self._probed(elements, left, candidate, session)
            found |= await self._compared(elements, left, told, FINAL, session)
        return self._verdict(elements, found)

    async def _elements(self, problem: Problem, session: Session) -> dict[int, Element]:
        prompt = await filled(self.decompose, problem=problem, tests=TESTS if self.tests else "")
        form = await reply(session, prompt, json_of(Elements), role="judge", **constrained(Elements))
        return dict(enumerate(form.elements, 1))

    async def _tested(self, elements: dict[int, Element], candidate: Candidate, session: Session) -> Found:
        """The elements that tests decide. An exception decides nothing: it may be the test's fault."""
        tests = {i: element.test for i, element in elements.items() if element.test.lstrip().startswith("assert")}
        if not tests:
            return {}
        verdict = await session.verify(candidate, UnitTests(tests=TestSuite(asserts=tuple(tests.values()))))
        found: Found = {}
        for (i, test), kind in zip(tests.items(), verdict.details.get("outcomes", ()), strict=False):
            if kind == Kind.passed:
                found[i] = Entailment(number=i, why=f"`{test}` holds", finding="entailed")
            elif kind == Kind.wrong:
                found[i] = Entailment(number=i, why=f"`{test}` fails", finding="contradicted")
        return found

    async def _compared(
        self, elements: dict[int, Element], left: Sequence[int], evidence: str, choices: str, session: Session
    ) -> Found:
        """What `evidence` says about the elements `left`."""

        def read(text: str) -> Found:
            found = {one.number: one for one in json_of(Findings)(text).findings}
            if sorted(found) != list(left):
                raise ValueError(f"findings on {sorted(found)} instead of {list(left)}")
            if choices == FINAL and any(one.finding == "neutral" for one in found.values()):
                raise ValueError("a statement is left undecided")
            return found

        statements = "\n".join(f"{i}. {elements[i].text}" for i in left)
        prompt = await filled(self.compare, evidence=evidence, choices=choices, statements=statements)
        return await reply(session, prompt, read, role="judge", **constrained(Findings))

    async def _probed(
        self, elements: dict[int, Element], left: Sequence[int], candidate: Candidate, session: Session
    ) -> str:
        """Questions about the elements `left`, with their answers."""
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
    if not text.strip():
        raise ValueError("it says nothing")
    return text
