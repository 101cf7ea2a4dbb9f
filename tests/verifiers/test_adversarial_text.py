"""Whatever a model writes, every verifier answers soon, and nothing else waits for it."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import replace
from itertools import cycle
from typing import Any

import pytest

from tests.support.lag import MOST, loop_lag, standstill
from tts import MockModel, registry
from tts.base import AnswerVerifier
from tts.prompting import json_of, without_thoughts
from tts.resources import Resources
from tts.session import Session
from tts.solving import open_models
from tts.types import Candidate, Problem, Sample, Verdict, total
from tts.verifiers import math_answer
from tts.verifiers.answers.extraction import final_answers, last_number, parse_number, stated_number
from tts.verifiers.answers.math_forms import normal, read
from tts.verifiers.generated_tests import _asserts
from tts.verifiers.judge import Judgement

MEGABYTE = 1_000_000
LAG = 0.1
"""Seconds; what is held to is 0.05, and the rest is the noise of a busy machine."""
CPU_SECONDS = 1.0

UNITS = {
    **{
        f"spaces {name}": unit
        for name, unit in (("plain", " "), ("line breaks", "\n"), ("carriage", "\r\n"), ("nbsp", "\u00a0"))
    },
    **{f"sign {unit!a}": unit for unit in "{}[]()\\$#*_`^9aé½⁵－答😀\x00\ufeff\u2028\"'<>&,.-="},
    "hashes": "#### ",
    "hashes and spaces": "####" + " " * 300,
    "boxes": r"\boxed{",
    "closed boxes": r"\boxed{1}",
    "answers": "answer: ",
    "answers to": "the answer to ",
    "answer tags": "<answer>",
    "thoughts": "<think>",
    "thoughts and ends": "<think>a</think>",
    "half tags": "<think ",
    "channels": "<|channel|>analysis",
    "texts": r"\text{a} ",
    "open texts": r"\text{",
    "fractions": r"\frac{1}{2}",
    "open fractions": r"\frac{",
    "roots": r"\sqrt{",
    "powers of ten": r"\times 10^11",
    "towers": "9^",
    "cities": "27 -> 28 -> ",
    "two digits": "27",
    "numbers": "1 234 ",
    "more numbers": "1,11,",
    "points": "1.111",
    "objects": '{"grade": 1}',
    "open objects": '{"grade":',
    "empty objects": "{}",
    "lists": "[[],",
    "questions": "Question: ",
    "assertions": "assert f(1) == 1\n",
    "fences": "```python\n",
    "choices": "(A) or ",
    "truths": "True, ",
    "slots": "Monday 09:00-10:30 ",
    "matrices": r"\begin{pmatrix}1&2\\",
    "plus or minus": r"1\pm",
    "sums": r"\sum_{k=1}^{10^9} k!+",
    "relations": "x<2 or ",
    "both": "x>2 and ",
    "signs": "2³𝑥⅔", "accents": "3\u0305", "dots": r"\dot{3}", "square roots": "√((", "tags": "<final_answer ",
    "keys": '"answer": "', "remarks": "(a) [b", "headings": "## Question 1", "ends": "</s>", "brackets": "【答案】",
    "arrows": "answer -> ", "builders": r"\{x \mid ", "layout": r"\hspace{", "units": r"3\text{ th a} ",
    "grades": "Grade ab ", "minus": "minus ", "sides": "1 = ", "colours": r"\color{", "backticks": "```a",
    "aab": "a" * 30 + "b",
}  # fmt: skip
AROUND = {
    "alone": "{}",
    "announced": "Answer: {}",
    "boxed": r"\boxed{{{}}}",
    "headed": "#### {}",
    "tagged": "<answer>{}</answer>",
    "thought": "<think>{}</think>42",
    "quoted": '{{"grade": "{}"}}',
}
SHAPES = [(unit, around, MEGABYTE) for unit in UNITS for around in ("alone", "announced")]
SHAPES += [(unit, around, 400) for unit in UNITS for around in AROUND]
SHAPES += [(unit, around, 9_000) for unit in UNITS for around in ("boxed", "quoted", "headed")]
NEARLY = [
    r"\boxed{5" + r"\text{a} " * 28 + "+}",
    r"\boxed{" + r"2\times 10^11" * 25 + "x}",
    "Answer: " + " -> ".join(["27"] * 27) + " and home",
    "Answer: " + "27" * 27 + " and home",
    "x" + "\n" * 40_000 + "- y",
    "{" * 200_000,
    '{"a":' * 100_000,
    "####" + " " * 2_000 + "x\n" * 2,
    "(" * 500 + "1" + ")" * 500,
    r"\boxed{" + "((1,2)," * 60 + "3" + ")" * 60 + "}",
    r"\boxed{9^{9^{9^{9}}}}",
    r"\boxed{\int_0^1 x^{x^{x}} e^{\sin(x^{9999})} dx}",
    r"\boxed{(x+y+z)^{99999}}",
    "\ud83d" * 1000,
]


def text_of(unit: str, around: str, size: int) -> str:
    return AROUND[around].format(UNITS[unit] * (size // len(UNITS[unit])))


TEXTS = [text_of(*shape) for shape in SHAPES] + NEARLY
FAMILIES = list(zip(UNITS, cycle(AROUND), cycle((400, 400, 9_000)), strict=False))
SOME = (
    [text_of(unit, "announced", MEGABYTE) for unit in list(UNITS)[::4]]
    + [text_of(*shape) for shape in FAMILIES]
    + NEARLY
)
FEW = [text_of(*shape) for shape in FAMILIES] + TEXTS[:: len(TEXTS) // 9] + NEARLY
"""For verifiers that start a program for every text: one of each family, and a few long ones."""

MEETING: dict[str, Any] = {
    "free": {"Ann": {"Monday": [(540, 720)]}}, "duration": 60, "buffer": 0, "not_before": None, "not_after": None,
    "weekdays_only": True, "forbidden": None, "earliest": False,
}  # fmt: skip
DISTANCES = [[abs(a - b) for a in range(30)] for b in range(30)]
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"properties": {"x": {"pattern": "^(a|aa)+$"}}}}}]
PROBLEM = Problem.from_prompt(
    "Which?",
    answer="numeric_answer",
    tests={"entry_point": "f", "asserts": ["assert f(1) == 1"]},
    metadata={
        "target": 24, "clauses": [(1, -2)], "variables": 2, "meeting": MEETING, "distances": DISTANCES, "tools": TOOLS,
    },
)  # fmt: skip

PARAMETERS: dict[str, dict[str, Any]] = {
    "exact_answer": {"reference": "Paris"},
    "numeric_answer": {"reference": "18"},
    "math_answer": {"reference": r"\frac{\sqrt{3}}{3}"},
    "choice": {"reference": "B", "options": ("one", "two", "three", "four")},
    "regex": {"pattern": "(a|aa)+$"},
    "json_schema": {"definition": {"type": "object", "properties": {"grade": {"pattern": "^(a|aa)+$"}}}},
    "tool_call": {},
    "constraints": {
        "constraints": [
            {"kind": "words_at_most", "value": "3"}, {"kind": "paragraphs", "value": "2"},
            {"kind": "bullets", "value": "2"}, {"kind": "heading", "value": "a"}, {"kind": "has", "value": "a"},
            {"kind": "language", "value": "German"},
        ]
    },
    "requested_length": {"words": 100},
    "sat_assignment": {}, "tour": {}, "meeting_slot": {"best": "any"}, "agreement": {},
    "judge": {}, "self_check": {}, "patch": {"reference": "+x"}, "folder_tests": {}, "folder_command": {},
    "python_expr": {"expression": "len(answer) < 9 and len(text) < 9"},
}  # fmt: skip
IN_PROGRAMS = {"folder_tests", "folder_command", "math_answer", "json_schema", "tool_call", "python_expr", "regex"}
ELSEWHERE = {
    "all_of": "asks other verifiers", "any_of": "asks other verifiers", "weighted": "asks other verifiers",
    "rank_fusion": "asks other verifiers", "cascade": "asks other verifiers", "staged": "asks other verifiers",
    "cached": "asks another verifier",
    "deduplicated": "asks another verifier", "noisy": "asks another verifier", "oracle": "asks the truth",
    "mean_logprob": "reads numbers", "self_certainty": "reads numbers", "min_window_confidence": "reads numbers",
    "logprob_contrast": "reads numbers",
    "logprob_judge": "reads numbers", "outcome_reward": "reads numbers", "process_reward": "reads numbers",
    "embedding_similarity": "reads numbers", "pairwise": "reads JSON as judge does",
    "element_check": "reads JSON as judge does", "generated_tests": "reads texts with an extractor below",
    "unit_tests": "runs programs: see the tests of the sandbox", "behaviour": "runs programs as unit_tests does",
    "reproduction_tests": "runs folders as folder_command does",
}  # fmt: skip


async def test_every_verifier_is_tried_or_said_to_read_no_text():
    ours = {name for name in registry.names("verifiers") if registry.load("verifiers", name).__module__[:4] == "tts."}
    assert set(PARAMETERS) | set(ELSEWHERE) == ours


@pytest.mark.parametrize("name", PARAMETERS)
async def test_every_verifier_answers_any_text_soon(name: str, resources: Resources, monkeypatch: pytest.MonkeyPatch):
    soon = replace(math_answer.JOB.limits, case_cpu_seconds=0.1)  # of what takes 0.4 s there are other tests
    monkeypatch.setattr(math_answer, "JOB", replace(math_answer.JOB, limits=soon))
    verifier = registry.make("verifiers", {"name": name, **PARAMETERS[name]})
    texts = FEW if name in IN_PROGRAMS else SOME
    said = iter(texts)
    slow: list[tuple[str, int, float, float]] = []
    async with open_models({role: MockModel(lambda request: next(said)) for role in ("policy", "judge")}) as models:
        session = Session(PROBLEM, models, resources=resources)
        await session.verify(session.candidate("Answer: 1"), verifier)  # programs start slowly the first time
        for text in texts:
            candidate = session.candidate(text)
            if name == "tool_call":
                candidate = called(candidate, text)
            seconds, worst, verdict = await measured(session, candidate, verifier)
            if seconds > CPU_SECONDS or worst > LAG:
                seconds, worst, verdict = await measured(session, candidate, verifier)  # alone, before it is believed
            if seconds > CPU_SECONDS or worst > LAG:
                slow.append((ascii(text[:40]), len(text), seconds, worst))
            assert not verdict.details.get("error") or "UnicodeEncodeError" not in verdict.details["error"]
    assert slow == []


def called(candidate: Candidate, text: str) -> Candidate:
    """The candidate as a call with `text` for its arguments."""
    call = {"type": "function", "function": {"name": "f", "arguments": text}}
    return replace(candidate, content="", samples=(Sample("", tool_calls=(call,)),))


async def measured(session: Session, candidate: Candidate, verifier: Any) -> tuple[float, float, Verdict]:
    """CPU seconds of the verdict, seconds that it held up the loop, and itself."""
    process, thread = time.process_time(), time.thread_time()
    async with loop_lag() as lag:
        verdict = await session.verify(candidate, verifier)
    own, on_loop = time.process_time() - process, time.thread_time() - thread
    return max(own, total(verdict.charges).verifier_seconds), min(lag.worst, on_loop), verdict


READERS = {
    "final_answers": final_answers,
    "without_thoughts": without_thoughts,
    "last_number": last_number,
    "parse_number": parse_number,
    "stated_number": stated_number,
    "math notation": lambda text: read(normal(text)),
    "json_of": json_of(Judgement),
    "asserts": _asserts,
}


@pytest.mark.parametrize("name", READERS)
async def test_every_reader_is_soon_done_with_any_text(name: str):
    slow: list[tuple[str, int, float]] = []
    for text in TEXTS[::2] + NEARLY:
        seconds = cpu_seconds(READERS[name], text)
        if seconds > LAG:
            seconds = cpu_seconds(READERS[name], text)
        if seconds > LAG:
            slow.append((ascii(text[:40]), len(text), seconds))
    assert slow == []


def cpu_seconds(reader: Any, text: str) -> float:
    begun = time.process_time()
    with suppress(ValueError):  # it cannot be read, and says so
        reader(text)
    return time.process_time() - begun


async def test_a_vote_over_hard_expressions_costs_no_more_for_each_than_one(resources: Resources):
    hard = [rf"\boxed{{\sum_{{k=1}}^{{10^{{{n}}}}} \frac{{1}}{{k!+{n}}}}}" for n in range(9, 15)]
    reader: AnswerVerifier = registry.make("verifiers", "math_answer")

    async def vote() -> None:
        session, known = Session(PROBLEM, {}, resources=resources), list[str]()
        voted = [await session.classify(session.candidate(text), reader, known) for text in hard]
        assert len({one.notes["answer"] for one in voted}) == len(hard)
        assert total(frozenset[Any]().union(*(one.charges for one in voted))).verifier_seconds < len(hard) * CPU_SECONDS

    assert await standstill(vote) < MOST
