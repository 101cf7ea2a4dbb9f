"""What `element_check` asks of its judge, and the forms of the answers."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

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
    """One requirement."""

    text: str
    kind: Literal["core", "extra"]
    question: str
    test: str = ""


class Elements(BaseModel):
    """A request taken apart."""

    elements: list[Element] = Field(min_length=1)


class Finding(BaseModel):
    """What the evidence says of one requirement."""

    number: int
    why: str = ""
    finding: Literal["entailed", "contradicted", "neutral"]


class Findings(BaseModel):
    """What the evidence says of several."""

    findings: list[Finding]


class Answers(BaseModel):
    """Answers to open questions."""

    answers: list[str]
