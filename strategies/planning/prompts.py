"""What a model is asked when it plans before it answers: named sets of prompts, each of which can be replaced.

The roles of the prompts are those of Wang et al. 2024 (arXiv 2409.03733), section 4 and appendix; the words are ours.
As there, programs are asked for with two examples, in the form of a function and of a program that reads its input.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict

from tts.prompting import Plain, by_name, fill, json_of, problem_text, template
from tts.settings import Documented
from tts.types import Message, Problem


class Observations(BaseModel):
    """The form in which observations are given."""

    model_config: ClassVar[ConfigDict] = ConfigDict(json_schema_extra={"additionalProperties": False})

    observations: list[str]


class Prompts(Documented):
    """One set. `$problem` is the problem's text, `$observations` a list with dashes, `$plan` what is followed."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid")

    system: Plain = ""
    """The system message of every call; none if empty."""
    observe: Annotated[str, template("problem", "count")]
    """Asks for `$count` observations on the problem."""
    derive: Annotated[str, template("problem", "count", "observations")]
    """Asks for what follows from observations."""
    refine: tuple[Plain, ...] = ()
    """Further turns after `observe` and `derive`; the answer to the last one is read."""
    form: Literal["schema", "json", "lines"] = "schema"
    """How observations are given: as a JSON object with a list `observations`, to which the server is asked to hold
    the model (`schema`) or not (`json`), or one a line."""
    nothing: Plain = ""
    """Stands for `$observations` where there are none. If empty, `observe` and `idea` are asked there instead of
    `derive` and `sketch`."""
    idea: Annotated[str, template("problem")]
    """Asks for a plan without observations."""
    sketch: Annotated[str, template("problem", "observations")]
    """Asks for a plan that uses the observations."""
    criticise: Annotated[str, template("problem", "plan")] = ""
    """Asks what is wrong with a plan; left out if empty."""
    fix: Annotated[str, template("problem", "plan")]
    """Asks for a better plan: in the conversation that `criticise` began, if there is one."""
    pseudocode: Annotated[str, template("problem", "plan")] = ""
    """Asks for the plan in exact steps; left out if empty."""
    answer: Annotated[str, template("problem", "plan")]
    """Asks for the answer that follows the plan."""
    direct: Annotated[str, template("problem")]
    """Asks for the answer at once: repeated sampling in the same manner."""

    @property
    def spec(self) -> str:
        """The name of the set, if it is one of `SETS`."""
        return next((name for name, known in SETS.items() if known == self), "prompts of one's own")

    def dialogue(self, *turns: str) -> list[Message]:
        """The user's turns and the model's answers in turn, behind the system message."""
        said: list[Message] = [{"role": "system", "content": fill(self.system)}] if self.system else []
        said += [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(turns)]
        return said

    def ask_directly(self, problem: Problem) -> list[Message]:
        """The question for an answer without a plan."""
        return self.dialogue(fill(self.direct, problem=problem_text(problem)))

    @property
    def reader(self) -> Callable[[str], list[str]]:
        """Reads a model's observations, each once. It raises `ValueError` where there are none."""
        return _from_lines if self.form == "lines" else _from_json


def _from_json(text: str) -> list[str]:
    return _distinct(json_of(Observations)(text).observations)


_BULLET = re.compile(r"^\s*(?:[-*•]|\(?\d{1,3}[.):])\s+")


def _from_lines(text: str) -> list[str]:
    return _distinct([_BULLET.sub("", line) for line in text.splitlines()])


def _distinct(observations: list[str]) -> list[str]:
    """Each observation once, white space aside."""
    found = list(dict.fromkeys(filter(None, (" ".join(text.split()) for text in observations))))
    if not found:
        raise ValueError("there are no observations in it")
    return found


_SHOWN = (
    (
        "Complete `longest_run(text)`, which gives the length of the longest run of equal letters in text.",
        """\
longest = current = 0; before = nothing
for each letter: current = current + 1 if it is equal to before, else 1; raise longest to current; before = letter
give longest, which is 0 for an empty text""",
        """\
def longest_run(text):
    longest = current = 0
    before = None
    for letter in text:
        current = current + 1 if letter == before else 1
        longest = max(longest, current)
        before = letter
    return longest""",
    ),
    (
        "The input has n in its first line and n whole numbers in its second. Print how many are above their mean.",
        """\
read n and the numbers
total = their sum; a number is above the mean if number * n > total, which needs no fractions
print how many are""",
        """\
n = int(input())
numbers = list(map(int, input().split()))
total = sum(numbers)
print(sum(number * n > total for number in numbers))""",
    ),
)
"""Problems with an outline and its program, one for each form of problem."""


def _examples(*, outline: bool) -> str:
    """The examples of `_SHOWN` as the prompts show them."""
    parts = [
        f"Problem: {problem}\n" + f"Outline:\n{plan}\n" * outline + f"Reply:\n```python\n{program}\n```"
        for problem, plan, program in _SHOWN
    ]
    return "\n\n".join(parts)


CODE = Prompts(
    system="You are a seasoned programmer who solves hard problems and explains precisely.",
    observe="""\
Here is a programming problem.

$problem

Before any solution: find $count things about it that are true, useful and not obvious at first sight, such as
properties of the input, invariants, equivalent formulations, borderline cases, or structures that would make it easy.
Be inventive; do not stop at what anyone would notice. Think each one through in a paragraph or two, then state it in
one sentence. Neither solve the problem nor write code.""",
    derive="""\
Here is a programming problem.

$problem

These observations on it are correct and will help:

$observations

What do they imply? First name what follows from each of them, and from several together, and say why. Then derive
from that new observations which nobody has written down yet: true, useful, and a step closer to a solution. Neither
solve the problem nor write code.""",
    refine=(
        "List the new observations alone, one a line, without the reasoning.",
        "Keep only those that will help most to solve the problem, each understandable by itself. List them again.",
        'Give that list as JSON of exactly this form and nothing else: {"observations": ["first", "second"]}',
    ),
    nothing="(none: no observation is needed)",
    idea="""\
Here is a programming problem.

$problem

Think of an approach that not everybody would try first, and describe a complete solution by it in plain language:
what is computed, in which order, why it is correct, how borderline cases come out, and that it is fast enough. Do not
write code.""",
    sketch="""\
Here is a programming problem.

$problem

Use these observations, which are correct:

$observations

Describe a complete solution in plain language, as the author of the problem would in an editorial. Where a step rests
on an observation, quote that observation before the step. Cover borderline cases. Do not write code.""",
    criticise="""\
You coach a student of programming. The problem is:

$problem

The student proposes:

$plan

This may be wrong. Say what is wrong or missing in it, and give a small input on which it would fail.""",
    fix="Taking your criticism into account, how would you solve it instead? Describe the whole corrected solution in"
    " plain language, without code.",
    pseudocode="""\
Here is a programming problem.

$problem

And a solution in words:

$plan

Follow that solution exactly and write it as high-level pseudocode.""",
    answer=f"""\
Two examples of problems, outlines and programs that follow them:

{_examples(outline=True)}

Write the program that solves this problem.

$problem

Follow this outline:

$plan

Keep to the names and the signature that the problem gives. Reply with the whole program in one fenced code block.""",
    direct=f"""\
Two examples of problems and programs:

{_examples(outline=False)}

Write the program that solves this problem.

$problem

Keep to the names and the signature that the problem gives. Reply with the whole program in one fenced code block.""",
)
"""For programs."""

GENERAL = CODE.model_copy(
    update={
        "system": "You solve hard problems with care and explain precisely.",
        "observe": """\
Here is a problem.

$problem

Before any solution: find $count things about it that are true, useful and not obvious at first sight, such as hidden
assumptions, equivalent formulations, special cases, quantities that do not change, or what the answer must look like.
Think each one through in a paragraph or two, then state it in one sentence. Do not solve the problem yet.""",
        "derive": """\
Here is a problem.

$problem

These observations on it are correct and will help:

$observations

What do they imply? First name what follows from each of them, and from several together, and say why. Then derive
from that new observations which nobody has written down yet: true, useful, and a step closer to a solution. Do not
solve the problem yet.""",
        "idea": """\
Here is a problem.

$problem

Think of an approach that not everybody would try first, and describe how to solve the problem by it, step by step,
without carrying it out.""",
        "sketch": """\
Here is a problem.

$problem

Use these observations, which are correct:

$observations

Describe step by step how to solve the problem, without carrying it out. Where a step rests on an observation, quote
that observation before the step.""",
        "criticise": """\
You coach a student. The problem is:

$problem

The student wants to solve it like this:

$plan

This may be wrong. Say what is wrong or missing in it, and where it would lead to a wrong answer.""",
        "fix": "Taking your criticism into account, how would you solve it instead? Describe the whole corrected way,"
        " without carrying it out.",
        "pseudocode": "",
        "answer": "$problem\n\nFollow this plan:\n\n$plan",
        "direct": "$problem",
    }
)
"""For any other problem; the problem itself says how the answer is to be given."""

LAB = Prompts(
    form="json",
    observe="$problem\n\nObserve.",
    derive="$problem\n\nObserved:\n$observations\n\nObserve more.",
    idea="$problem\n\nPlan.",
    sketch="$problem\n\nObserved:\n$observations\n\nPlan.",
    fix="$problem\n\nWrong plan:\n$plan\n\nPlan.",
    answer="$problem\n\nPlan:\n$plan\n\nWrite the code.",
    direct="$problem",
)
"""For the lab models, which were trained on exactly these."""

SETS = {"code": CODE, "general": GENERAL, "lab": LAB}


PromptsField = Annotated[Prompts, *by_name(SETS)]
"""A set of prompts: `code`, `general`, `lab`, or one of them with some replaced: `code(sketch="...")`."""
