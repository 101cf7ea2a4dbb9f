"""Answers as models write them: in many languages, with remarks behind them, in boxes and thoughts; what is equal."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tts.resources import Resources
from tts.session import Session
from tts.types import Problem
from tts.verifiers.choice import Choice
from tts.verifiers.exact_answer import ExactAnswer
from tts.verifiers.math_answer import MathAnswer
from tts.verifiers.numeric_answer import NumericAnswer

PROBLEM = Problem.from_prompt("How much?")
OPTIONS = ("nucleus", "ribosome", "the mitochondrion", "membrane")

NUMBERS = [
    ("\\boxed{2\\frac12}", "2.5"),
    ("\\boxed{1 234 567}", "1234567"),
    ("Answer: 1'234.5", "1234.5"),
    ("Answer: 1,00,000", "100000"),
    ("Answer: 12,34,567", "1234567"),
    ("Answer: 1.2 × 10⁻⁵", "1.2e-05"),
    ("Answer: –3", "-3"),
    ("Answer: 1 million", "1000000"),
    ("Answer: $1.5 million", "1500000"),
    ("Answer: 2 Millionen", "2000000"),
    ("Answer: 3 Milliarden", "3000000000"),
    ("Answer: 1.234.567", "1234567"),
    ("Answer: 1.234,56", "1234.56"),
    ("Answer: 1 234,56 €", "1234.56"),
    ("Answer: 2½", "2.5"),
    ("Answer: 2 1/2", "2.5"),
    ("Answer: ¾", "0.75"),
    ("Answer: -2\\tfrac{3}{4}", "-2.75"),
    ("Answer: １２３", "123"),
    ("Answer: ٣", "3"),
    ("Answer: 3万", "30000"),
    ("Answer: 12^{\\text{th}} \\text{ grade}", "12"),
    ("Answer: 12th", "12"),
    ("\\boxed{60^\\circ}", "60"),
    ("Answer: 18 (eggs sold: 9 x 2)", "18"),
    ("Answer: 18, since 9 x 2 = 18", "18"),
    ("Answer: 18 eggs at 2 dollars each", "18"),
    ("Answer: 3 and 4", None),
    ("Answer: 9 x 2 = 18", "18"),
    ("The answer is 18 because 9 times 2 is 18.", "18"),
    ("Answer: In 3 hours she drives **180** miles", "180"),
    ("Answer: 18 of the 20 apples", "18"),
    ("\\boxed{\\text{Answer: } 12}", "12"),
    ("\\textbf{Answer: } 12", "12"),
    ("\\textbf{Answer: 12}", "12"),
    ("\\text{The answer is } 12", "12"),
    ("\\fbox{Answer: \\boxed{12}}", "12"),
    ("\\boxed{42}. I checked; the answer is correct.", "42"),
    ("#### 18\n\nQuestion: How many?\nx\n#### 3", "18"),
    ("The answer is 18.\n\nQ: How many?\nA: The answer is 3.", "18"),
    ("<think>maybe \\boxed{24}?</think> In total 72", "72"),
    ("<think>maybe \\boxed{24}?", None),
    ("<think>24", None),
    ("<answer>72</answer>", "72"),
    ("<answer>\n72\n</answer> 99", "72"),
    ("答案：18", "18"),
    ("Die Antwort ist 18.", "18"),
    ("La réponse est 18.", "18"),
    ("Ответ: 18", "18"),
    ("정답: 18", "18"),
    ("Answer - 3", "3"),
    ("Answer: -3", "-3"),
    ("Answer: - 3", "-3"),
    ("Answer: 1{,}234", "1234"),
    ("Answer: 1\\,234\\,567", "1234567"),
    ("Answer: 1 234 567", "1234567"),
    ("Answer: 1_000_000", "1000000"),
    ("Answer: 5 × 10^3", "5000"),
    ("Answer: 5·10^3", "5000"),
    ("Answer: 1.2E−5", "1.2e-05"),
    ("Answer: \\pm 3", None),
    ("Answer: 5 m²", "5"),
    ("#### 1. First step\nadd 3\nso 7", "7"),
    ("**Answer: 12**", "12"),
    ("The final answer to the question is 12.", "12"),
    ("Answer (in cm): 12", "12"),
    ("Answer: 5/8", "0.625"),
    ("Answer: 1 ⁄ 4", "0.25"),
    ("Answer: 2.5k", "2.5"),
    ("\\boxed{1{,}234.5}", "1234.5"),
    ("Answer: 3 to 5", None),
    ("Answer: 3–5", None),
    ("Answer: 20% of 50 = 10", "10"),
    ("Answer: approximately 3.14", "3.14"),
    ("Answer: $18$", "18"),
    ("x\n\nAnswer: \\(\\frac{3}{4}\\)", "0.75"),
    ("Answer: 100 200 300", "100200300"),
    ("First 3 200 then\n5", "5"),
    ("Answer: 7 thousand", "7000"),
    ("Answer: 2 hundred thousand", "200000"),
    ("\\boxed{\\text{18 eggs}}", "18"),
    ("\\boxed{18 \\text{ million}}", "18000000"),
    ("Answer: 10⁻⁵", "1e-05"),
    ("Answer: 10^{-5}", "1e-05"),
    ("Answer: 1.2*10^(-5)", "1.2e-05"),
    ("Answer: -10^3", "-1000"),
    ("Answer: —3", "-3"),
    ("Answer: minus 3", "-3"),
    ("Answer: 12:30", None),
    ("Answer: 0x1F", None),
    ("Answer: 3 4", None),
    ("Answer: 2 million 300 thousand", None),
    ("Answer: 18 - that is 9 x 2", "18"),
    ("Answer: 18 = 9 x 2", "18"),
    ("The answer is not 19 but 18", "18"),
    ("The answer is 18. The answer is not 19.", "18"),
    ("Answer: ...18", "18"),
    ("**Final Answer**\n\n18 eggs from 9", "18"),
    ("Answer: 18 / day, 9 eggs", "18"),
    ("Answer: 𝟏𝟖", "18"),
    ("Answer:\u200b 18\u200b", "18"),
    ('{"answer": 18, "eggs": 9}', "18"),
    ("<final_answer>18</final_answer> from 9", "18"),
    ("Answer => 18\nfrom 9", "18"),
    *((f"Answer: 18\n\n{more}\nfoo\nAnswer: 3", "18") for more in (
        "Q2. x", "### Question", "**Question 2**", "Next question: x", "Example 2:", "## Problem", "User: x",
    )),
    *((f"Answer: 18{end}foo\nAnswer: 3", "18") for end in (
        "<|endoftext|>", "<|im_end|>\n", "<|eot_id|>", "<end_of_turn>\n", "</s> ", " [INST] ",
    )),
]  # fmt: skip

TEXTS = [
    ("<answer>B</answer>", "B"),
    ("<think>x\\boxed{A}</think><answer>B</answer>", "B"),
    ("\\boxed{42}. So the answer is correct.", "42"),
    ("Answer: 42. The answer is correct.", "42"),
    ("the answer is valid", "valid"),
    ("<answer>Paris", "Paris"),
    ("\\boxed{\\bm{\\text{Paris}}}", "Paris"),
    ("答案是巴黎。", "巴黎"),
    ("<think>Paris", None),
    ("\\boxed{\\ 7\\ }", "7"),
    ("\\boxed{\\large 6}", "6"),
    ("\\boxed{{\\large 6}}", "6"),
    ("\\boxed{$6$}", "6"),
    ("Answer: \\[ 6 \\]", "6"),
    ("Answer: \\(6\\)", "6"),
    ("Answer: Paris (the capital)", "Paris (the capital)"),
    ('```json\n{"answer": "Paris, \\"the\\" city", "sure": true}\n```', 'Paris, "the" city'),
    ("The answer is St. Louis. It is big.", "St. Louis"),
    ("【答案】巴黎", "巴黎"),
]

CHOICES = [
    ("The answer is B because it is heavier.", "B"),
    ("Answer: B (12 m/s)", "B"),
    ("答案：B", "B"),
    ("Answer - B", "B"),
    ("答案是B，因为它最大。", "B"),
    ("答案：选项B", "B"),
    ("Die Antwort ist B.", "B"),
    ("La respuesta es B", "B"),
    ("Answer: **B** because", "B"),
    ("The answer is (B) 12 m/s", "B"),
    ("\\boxed{\\textbf{(B)}\\ 12}", "B"),
    ("\\boxed{\\mathrm{B}}", "B"),
    ("Answer: A because of mass", "A"),
    ("Answer: A large cell", None),
    ("Answer: B or C", None),
    ("Answer: B and C", None),
    ("The answer is clearly B", "B"),
    ("The correct answer is option B since x", "B"),
    ("<answer>B</answer>", "B"),
    ("<answer>\n(B) 12\n</answer>", "B"),
    ("<think>A \\boxed{A}</think> so B\n\nB", "B"),
    ("<think>Answer: B", None),
    ("Answer: B is the only one", "B"),
    ("Answer: B ribosome", "B"),
    ("Answer: I think it is (B)", "B"),
    ("Ответ: B", "B"),
    ("정답: B", "B"),
    ("The answer is B, not C.", "B"),
    ("Answer: B.", "B"),
    ("Answer: B\n\nQuestion: x\nAnswer: C", "B"),
    ("Answer — B", "B"),
    ("Answer: Because it is big", None),
    ("Answer: [B]", "B"),
    ('Answer: "B"', "B"),
    ("Answer:B", "B"),
    ("answer: b", "B"),
    ("The answer is: D) membrane", "D"),
    ("Answer is D", "D"),
    ("答案 B", None),
    ("故选B。", "B"),
    ("Answer: C: mito", "C"),
    ("Answer: B = 12", "B"),
    ("Answer: C'est", None),
    ("Answer: $B$", "B"),
    ("Answer: B/C", None),
    ("The best answer is the mitochondrion", "C"),
    ("the answer would be B", "B"),
    ("答えはBです", "B"),
    ("Answer: option (b)", "B"),
    ("So the answer is A.", "A"),
    ("Answer: A", "A"),
    ("Answer: A (mass)", "A"),
    ("Answer: a", "A"),
    ("Answer: A - the nucleus", "A"),
    ("Answer -> B", "B"),
    ("Answer-B", "B"),
    ("Working: A.\n\nAns: B", "B"),
    ("答案应该是B", "B"),
    ("正确选项是B", "B"),
    ("La risposta corretta è B", "B"),
    ("Answer → B", "B"),
    ("Answer: 【B】", "B"),
    ("Answer: 「B」", "B"),
    ("【答案】B", "B"),
    ("正解はB", "B"),
    ("Answer: Ｂ", "B"),
    ("Answer:\u200bB", "B"),
    ('{"answer": "B", "reason": "C is wrong"}', "B"),
    ("<final_answer>B</final_answer>", "B"),
    ("Answer: The ribosome.", "B"),
    ("The answer is the second option, B.", "B"),
]

FORMULAS = [
    ("Answer: 18 (eggs sold: 9 x 2)", "18"),
    ("The answer is $18$ because 9 times 2.", "18"),
    ("So \\(\\boxed{1}\\) and \\(\\boxed{-2}\\).", "1, -2"),
    ("So \\[\\boxed{1}\\], \\[\\boxed{-2}\\]", "1, -2"),
    ("So $\\boxed{1}$, and $\\boxed{-2}$", "1, -2"),
    ("\\boxed{1} or \\boxed{2}", "1, 2"),
    ("\\boxed{1}; \\boxed{2}; \\boxed{3}", "1, 2, 3"),
    ("First \\boxed{3}. No, wrong. It is \\boxed{4}", "4"),
    ("<think>\\boxed{24}</think> In total $72$", "72"),
    ("<think>\\boxed{24}", None),
    ("\\boxed{42}. I checked it: the answer is correct.", "42"),
    ("\\boxed{\\text{Answer: }12}", "12"),
    ("Answer: \\(\\frac{1}{2}\\), since it is half.", "\\frac{1}{2}"),
    ("The answer is 3 (mod 5).", "3 (mod 5)"),
]

PAIRS = [
    ("\\frac{1}{2004!}", "\\frac{1}{2006!}", False),
    ("2^{-99}", "2^{-98}", False),
    ("1-2^{-100}", "1-2^{-99}", False),
    ("\\mathrm{e}", "e", True),
    ("exp(16)", "e^{16}", True),
    ("sin(1)", "\\sin 1", True),
    ("14 + -1i", "14 - i", True),
    ("\\bm{6}", "6", True),
    ("\\large 6", "6", True),
    ("\\ 7\\ ", "7", True),
    ("0.\\overline3", "\\frac13", True),
    ("x¹⁰", "x^{10}", True),
    ("\\varnothing", "\\emptyset", True),
    ("x<2 or x>3", "(-\\infty,2)\\cup(3,\\infty)", True),
    ("x<2 or x>3", "x<2 \\text{ or } x>3", True),
    ("e^{i\\pi/3}", "\\frac12+\\frac{\\sqrt3}{2}i", True),
    ("e^{iπ/3}", "e^{i\\pi/3}", True),
    ("\\cos 20^\\circ", "\\sin 70^\\circ", True),
    ("√(1/n)", "\\frac{1}{\\sqrt n}", True),
    (".000067", ".0000672", False),
    ("6.7e-5", "6.72e-5", False),
    ("12^{\\text{th}} \\text{ grade}", "12", True),
    ("\\text{about } x", "5", False),
    ("10^{-30}", "10^{-31}", False),
    ("e^{-1000}", "e^{-1001}", False),
    ("e^{-1000}", "\\frac{1}{e^{1000}}", True),
    ("\\sqrt2", "1.414214", True),
    ("\\sqrt2", "1.41", False),
    ("\\pi", "3.141593", True),
    ("\\pi", "3.14", False),
    ("\\sqrt{x^2}", "x", False),
    ("|x|", "x", False),
    ("2\\ln x", "\\ln x^2", True),
    ("y=2x+1", "2x-y+1=0", True),
    ("y=2x+1", "y=2x+2", False),
    ("x \\ge 2", "[2,\\infty)", True),
    ("x>2", "y>2", False),
    ("x\\geq 2", "2 \\le x", True),
    ("1<x\\le 3", "(1,3]", True),
    ("1<x\\le 3", "(1,3)", False),
    ("0.1\\overline{6}", "\\frac16", True),
    ("0.(3)", "\\frac13", True),
    ("0.\\bar{3}", "1/3", True),
    ("\\tan 45^\\circ", "1", True),
    ("\\sin^2 30^\\circ", "1/4", True),
    ("45^\\circ", "45", True),
    ("\\operatorname{sin} 1", "\\sin(1)", True),
    ("\\{\\}", "\\emptyset", True),
    ("∅", "\\emptyset", True),
    ("\\log_2 8", "3", True),
    ("log₂ 8", "3", True),
    ("ln(2)", "\\ln 2", True),
    ("5 sec", "5", True),
    ("\\text{12 apples}", "12", True),
    ("2^{100}+1", "2^{100}", False),
    ("\\frac{1}{10^{50}}", "0", False),
    ("\\boldsymbol{\\frac12}", "0.5", True),
    ("12\\text{th}", "12", True),
    ("12th", "12", True),
    ("\\cos(20^{\\circ})", "\\sin(70^\\circ)", True),
    ("3i-2", "-2+3i", True),
    ("(x+1)^2", "x^2+2x+1", True),
    ("e^{2}", "\\mathrm{e}^2", True),
    ("\\text{e}^2", "e^2", True),
    ("\\binom{n}{2}", "\\frac{n(n-1)}{2}", True),
    ("n!", "(n-1)!", False),
    ("\\frac{1}{3}", "0.333333", True),
    ("\\frac{1}{14880}", "0.000067", False),
    ("C", "C", True),
    ("x^2+y^2=1", "y^2=1-x^2", True),
    ("\\infty", "\\infty", True),
    ("-\\infty", "\\infty", False),
    ("10 m", "10", True),
    ("10 m", "10 cm", False),
    ("f(x)=x+1", "x+1", True),
    ("\\sqrt{1/n}", "\\frac{\\sqrt n}{n}", True),
    ("\\frac{\\pi}{3}", "60^\\circ", False),
    ("(\\sin 1, 2)", "(sin(1),2)", True),
    ("\\text{Grade } 12", "12", True),
    ("2.5\\times10^{-7}", "2.6\\times10^{-7}", False),
    ("\\begin{pmatrix}10^{-20}\\\\1\\end{pmatrix}", "\\begin{pmatrix}10^{-21}\\\\1\\end{pmatrix}", False),
    ("x \\in (1,2)", "(1,2)", True),
    ("x\\neq 3", "x \\ne 3", True),
    ("10^{-12}", "1e-12", True),
    ("2**10", "1024", True),
    ("asin(1)", "\\frac{\\pi}{2}", True),
    ("lg 100", "2", True),
    ("\\color{red}6", "6", True),
    ("\\textcolor{red}{6}", "6", True),
    ("\\hspace{1mm}6\\phantom{.}", "6", True),
    ("0.\\dot{1}4285\\dot{7}", "\\frac17", True),
    ("0.3̅", "\\frac13", True),
    ("2ˣ", "2^x", True),
    ("𝑥²", "x^2", True),
    ("2⅔", "\\frac83", True),
    ("\\text{no solution}", "\\emptyset", True),
    ("\\O", "\\emptyset", True),
    ("x<2 \\lor x>3", "(-\\infty,2)\\cup(3,\\infty)", True),
    ("x<2, x>3", "(-\\infty,2)\\cup(3,\\infty)", True),
    ("x>0 \\text{ and } x<2", "(0,2)", True),
    ("x>0, x<2", "[0,2]", False),
    ("\\{x \\mid x<2\\}", "(-\\infty,2)", True),
    ("\\{x : 0<x\\le 2\\}", "(0,2]", True),
    ("\\mathbb{R}", "(-\\infty,\\infty)", True),
    ("√((a+b)/2)", "\\sqrt{\\frac{a+b}{2}}", True),
    ("∛8", "2", True),
    ("2^{3}\\sqrt{2}", "8\\sqrt2", True),
    ("\\sqrt[3]8", "2", True),
    ("\\nicefrac{1}{2}", "0.5", True),
    ("\\text{Grade 12}", "12", True),
    ("12\\text{ th grade}", "12", True),
    ("\\langle 1,2\\rangle", "(1,2)", True),
    ("3 \\pmod 5", "3 (mod 5)", True),
    ("€18", "18", True),
    ("at most 12", "12", False),
    ("€18", "\\$18", False),
    ("—3", "-3", True),
    ("\\{10, 10\\text{ m}\\}", "\\{10\\text{ m}, 10\\text{ cm}\\}", True),
]


@pytest.mark.parametrize(("text", "answer"), NUMBERS)
def test_the_number_that_is_stated_is_read(text: str, answer: str | None):
    assert NumericAnswer().parse(text) == answer


@pytest.mark.parametrize(("text", "answer"), TEXTS)
def test_the_text_that_is_announced_is_read(text: str, answer: str | None):
    assert ExactAnswer().parse(text) == answer


@pytest.mark.parametrize(("text", "letter"), CHOICES)
def test_the_letter_is_read_whatever_follows_it(text: str, letter: str | None):
    assert Choice(options=OPTIONS).parse(text) == letter


@pytest.mark.parametrize(("text", "answer"), FORMULAS)
def test_the_formula_that_is_stated_is_read(text: str, answer: str | None):
    assert MathAnswer().parse(text) == answer


def test_tiny_numbers_differ():
    reader = NumericAnswer()
    assert not reader.same("1e-12", "2e-12")
    assert reader.parse("Answer: 1e-390") != reader.parse("Answer: 2e-390")


async def test_expressions_are_equal_exactly_if_they_mean_the_same(resources: Resources):
    session = Session(PROBLEM, {}, resources=resources)

    async def judged(reference: str, answer: str) -> bool | None:
        verdict = await session.verify(session.candidate(rf"\boxed{{{answer}}}"), MathAnswer(reference=reference))
        return verdict.passed

    wrong = [
        (one, other)
        for one, other, same in PAIRS
        if [await judged(one, other), await judged(other, one)] != [same, same]
    ]
    assert wrong == []


# -- recorded outputs ------------------------------------------------------------------------------------------------

CUT = "cut off behind its thought, in which the recorded answer is; what there is announces nothing"
UNCLOSED = "cut off inside its box"
DIFFERENCES = {
    ("13", r"\gcd(n + 7, 2n + 1)"): CUT,
    ("-5", None): CUT,
    ("850", "|13z - 1|^2"): CUT,
    ("2", "To find"): CUT,
    ("406", "k"): CUT,
    ("14", "2"): CUT,
    ("14", "33"): CUT,
    ("1/4", "x"): CUT,
    ("y = 2x + 3", "2x + 1"): CUT,
    (r"\frac{\sqrt{3}}{3}", r"\sqrt{\frac{1}{729}}"): CUT,
    ("13/6", r"\frac{5}{\sqrt{80}}"): CUT,
    ("5/9", None): UNCLOSED,
    (r"\dfrac{\sqrt{3}}{3}", None): UNCLOSED,
    ("invalid", "10"): "the recorded extraction missed the answer",
}
LONG = {"12", "13/6"}
"""Recorded answers of two more that are cut off within their first line."""


def recorded_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]


async def test_recorded_outputs_are_graded_as_recorded(resources: Resources, real_data: Any):
    rows = recorded_rows(real_data("math_outputs.jsonl.gz"))
    session = Session(PROBLEM, {}, resources=resources)

    async def passed(text: str, truth: str) -> bool | None:
        return (await session.verify(session.candidate(text), MathAnswer(reference=truth))).passed

    recorded = [row["recorded_final_answer"] for row in rows]
    ours = await asyncio.gather(*(passed(row["text"], row["truth"]) for row in rows))
    theirs = await asyncio.gather(
        *(passed(rf"\boxed{{{said}}}", row["truth"]) for said, row in zip(recorded, rows, strict=True))
    )
    differ = Counter(
        (said, MathAnswer().parse(row["text"]))
        for said, row, our, their in zip(recorded, rows, ours, theirs, strict=True)
        if our != their
    )
    unexplained = [one for one in differ if one not in DIFFERENCES and not (one[0] in LONG and "To " in str(one[1]))]
    assert unexplained == []
    assert differ.total() == 16
    assert len(rows) == 800
