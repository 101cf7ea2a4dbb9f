"""Which verifier reads the answers to a prompt that says nothing of it."""

from __future__ import annotations

import re
from importlib.util import find_spec

_PROGRAM = re.compile(
    r"```|\bdef \w+\(|\b(?:write|implement|complete|fix|code)\b.{0,80}"
    r"\b(?:function|program|method|class|script|query)\b",
    re.I | re.S,
)
_OPTION = re.compile(r"(?:^|\s)[(\[]?([A-J](?=[).\]:])|[a-j](?=\)))[).\]:]\s+\S", re.M)
_EXPRESSION = r"\b(?:in terms of|simplif|factori[sz]e|derivative|polynomial)|(?:^|[.:?!] )(?:factor|expand)\b"
_SYMBOLIC = re.compile(_EXPRESSION, re.I)
_MATHEMATICS = re.compile(
    _EXPRESSION + r"|\\boxed|\\[dt]?frac|\\sqrt|\$[^$]*[\\^_=][^$]*\$|\b(?:solve for|integral)"
    r"|\b\d*[a-z] ?(?:\^|\*\*) ?\d|\b\d*[a-z] ?[-+] ?\d+ ?=",
    re.I,
)
_NUMBER = re.compile(
    r"\bhow (?:many|much|old|far|long|tall|fast|often|big|large|heavy)\b|\d\s*(?:[-+*/×÷·^%−]|\*\*)\s*\d|"
    r"\b(?:sum|product|difference|quotient|average|mean|median|total|percent|percentage|probability|remainder|"
    r"number of|calculate|compute|evaluate)\b",
    re.I,
)


def reader_for(prompt: str) -> str | None:
    """The spec of the verifier that reads answers to `prompt`, judged by its words; None if it asks for a program.

    What programs do can be compared only on tests, which a prompt alone does not have.
    """
    if _PROGRAM.search(prompt):
        return None
    letters = "".join(dict.fromkeys(_OPTION.findall(prompt))).upper()
    if len(letters) > 1 and "ABCDEFGHIJ".startswith(letters):
        return f"choice:letters={letters}"
    if _MATHEMATICS.search(prompt):
        if find_spec("math_verify") is not None:
            return "math_answer"
        if _SYMBOLIC.search(prompt):  # a number read out of an expression would be a wrong answer
            return "exact_answer"
    return "numeric_answer" if _NUMBER.search(prompt) else "exact_answer"
