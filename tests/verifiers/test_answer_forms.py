"""`choice`, `regex`, `json_schema` and `python_expr`: what they accept, and what cannot hold them up."""

# ruff: noqa: E501 - a program is read more easily on one line

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tts import registry
from tts.base import Verifier
from tts.errors import ConfigError, MissingExtra
from tts.resources import Resources
from tts.session import Session
from tts.types import Problem, Verdict, total
from tts.verifiers.choice import Choice
from tts.verifiers.json_schema import JsonSchema
from tts.verifiers.python_expr import PythonExpr
from tts.verifiers.regex import Regex

PROBLEM = Problem.from_prompt("Which?", metadata={"target": 24})


async def judged(verifier: Verifier, text: str, resources: Resources | None = None) -> Verdict:
    session = Session(PROBLEM, {}, resources=resources)
    return await session.verify(session.candidate(text), verifier)


# -- choice --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("Answer: C", "C"),
        ("The answer is (c).", "C"),
        (r"\boxed{\text{(C)}}", "C"),
        (r"\boxed{\text{C}}", "C"),
        ("**Answer:** C) the mitochondrion", "C"),
        ("Answer: C. the mitochondrion", "C"),
        ("The correct answer is option C.", "C"),
        ("It must be B or C.\nBut A is wrong.\nAnswer: B", "B"),
        ("Answer: the mitochondrion", "C"),
        ("C", "C"),
        ("(C)", "C"),
        ("So it is\n\n**C**", "C"),
        ("Everything points to (C)", "C"),
        ("Answer: E", None),
        ("Answer: A large cell", None),
        ("I cannot say.\nSorry", None),
        (r"so \boxed{C", None),
    ],
)
def test_the_letter_is_found_however_it_is_announced(text: str, letter: str | None):
    options = ("nucleus", "ribosome", "the mitochondrion", "membrane")
    assert Choice(options=options).parse(text) == letter


async def test_a_choice_is_compared_by_its_letter():
    assert (await judged(Choice(reference="(b)"), "Answer: B")).passed
    assert not (await judged(Choice(reference="B"), "Answer: C")).passed
    assert (await judged(Choice(reference="J", letters="ABCDEFGHIJ"), "Answer: J")).passed
    with pytest.raises(ConfigError, match="not a letter"):
        registry.make("verifiers", "choice:reference=nucleus")


# -- regex ---------------------------------------------------------------------------------------------------------


async def test_a_form_is_checked_without_a_reference():
    date = registry.make("verifiers", r'regex:pattern="\\d{4}-\\d\\d-\\d\\d",whole=true')
    date.ready(PROBLEM)
    assert (await judged(date, " 2024-05-01\n")).passed
    refused = await judged(date, "It was 2024-05-01")
    assert (refused.passed, refused.feedback) == (False, r"the text must match \d{4}-\d\d-\d\d")
    polite = Regex(pattern="(?i)as an ai", absent=True)
    assert (await judged(polite, "Sure.")).passed
    assert not (await judged(polite, "As an AI, I")).passed


async def test_what_a_pattern_finds_last_is_compared_and_votes():
    verifier = Regex(pattern=r"Result: (?:about )?(?P<answer>\d+)", reference="Result: 42")
    assert (await judged(verifier, "Result: 7\nResult: about 42")).passed
    assert not (await judged(verifier, "Result: 42\nResult: 7")).passed
    assert Regex(pattern=r"(\d+) apples").parse("3 apples, no: 4 apples") == "4"
    assert Regex(pattern=r"\d+").parse("none") is None


async def test_a_pattern_without_end_has_no_match_soon():
    verdict = await judged(Regex(pattern="(a|aa)+$"), "a" * 60 + "b")
    assert verdict.passed is False


def test_a_pattern_that_is_none_is_named():
    with pytest.raises(ConfigError, match=r"'\('"):
        registry.make("verifiers", 'regex:pattern="("')


def test_other_threads_take_no_time_from_a_search():
    search = registry.make("verifiers", 'regex:pattern="(a|aa)+b|c$"').parse
    text = "a" * 22 + "c"  # takes some hundredths of a second
    with ThreadPoolExecutor(16) as threads:
        assert list(threads.map(search, [text] * 32)) == [search(text)] * 32
    began = time.process_time()
    assert search("a" * 60 + "c") is None
    assert time.process_time() - began < 2


# -- json_schema ---------------------------------------------------------------------------------------------------

PERSON = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}


@pytest.mark.parametrize(
    ("text", "passed"),
    [
        ('{"age": 3}', True),
        ('Here it is:\n```json\n{"age": 3}\n```\nDone.', True),
        ('The person is {"age": 3}, I think.', True),
        ('{"age": "three"}', False),
        ('{"age": NaN}', False),
        ("three", False),
        ('{"age": 3', False),
        ("[" * 100_000, False),
    ],
)
async def test_json_is_found_and_must_fit(text: str, passed: bool, resources: Resources):
    assert (await judged(JsonSchema(definition=PERSON), text, resources)).passed is passed


async def test_feedback_says_what_does_not_fit_and_where(resources: Resources):
    verdict = await judged(JsonSchema(definition=PERSON), '{"age": "three"}', resources)
    assert verdict.feedback == "$.age: 'three' is not of type 'integer'"
    assert verdict.cpu_seconds > 0
    assert not (await judged(JsonSchema(definition=PERSON, bare=True), 'It is {"age": 3}', resources)).passed


async def test_a_text_made_to_be_slow_is_refused(resources: Resources):
    slow = JsonSchema(definition={"type": "string", "pattern": "^(a|aa)+$"})
    verdict = await judged(slow, json.dumps("a" * 60 + "b"), resources)
    assert verdict.passed is False
    assert "cpu" in verdict.feedback


def test_a_schema_may_be_a_file_and_is_checked_first(tmp_path: Path):
    path = tmp_path / "schema.json"
    path.write_text(json.dumps(PERSON))
    verifier = registry.make("verifiers", f"json_schema:definition={path}")
    assert verifier.definition == PERSON
    assert registry.make("verifiers", verifier.config()) == verifier
    with pytest.raises(ConfigError, match=r"not a JSON schema, at \$\.type"):
        registry.make("verifiers", {"name": "json_schema", "definition": {"type": "thing"}})
    with pytest.raises(ConfigError, match="cannot read the schema"):
        registry.make("verifiers", "json_schema:definition=absent.json")


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("sys").modules, "jsonschema", None)
    with pytest.raises(MissingExtra, match=r"ttscale\[answers\]"):
        JsonSchema(definition=PERSON)


# -- python_expr ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expression", "text", "passed", "score"),
    [
        ("len(text.split()) <= 3", "one two three", True, 1.0),
        ("len(text.split()) <= 3", "one two three four", False, 0.0),
        ("eval(answer) == metadata['target']", "Using all of them.\nAnswer: 4 * (5 + 1)", True, 1.0),
        ("eval(answer) == metadata['target']", "Answer: 4 * 5", False, 0.0),
        ("re.search('cat', text)", "a cat", True, 1.0),
        ("re.search('cat', text)", "a dog", False, 0.0),
        ("-len(text)", "four", None, -4.0),
        ("1 / 0", "", False, 0.0),
        ("eval(answer)", "Answer: 9**9**9", False, 0.0),
    ],
)
async def test_an_expression_decides(
    expression: str, text: str, passed: bool | None, score: float, resources: Resources
):
    verdict = await judged(PythonExpr(expression=expression, timeout=0.5), text, resources)
    assert (verdict.passed, verdict.score) == (passed, score)
    assert total(verdict.charges).verifier_seconds > 0


async def test_an_answer_that_is_evaluated_reaches_nothing(tmp_path: Path, resources: Resources):
    target = tmp_path / "made"
    attack = f"Answer: __import__('pathlib').Path('{target}').write_text('x') or True"
    assert not (await judged(PythonExpr(expression="eval(answer)"), attack, resources)).passed
    assert not target.exists()


def test_what_is_no_expression_is_named():
    with pytest.raises(ConfigError, match="not an expression"):
        registry.make("verifiers", 'python_expr:expression="x = 1"')


@pytest.mark.parametrize(
    ("expression", "answer"),
    [
        ("eval(answer) == 24", "type('E', (), {'__eq__': lambda *a: True})()"),
        ("eval(answer) == metadata['target']", "[m.update(target=0) for m in __import__('gc').get_objects() if type(m) is dict and 'target' in m] and 0"),
        ("eval(answer) in (24, 25)", "type('E', (int,), {'__eq__': lambda *a: True, '__hash__': lambda s: 24})()"),
        ("abs(eval(answer) - 24) < 1e-6", "type('E', (), {'__sub__': lambda *a: 0})()"),
        ("exec(answer) is None", "1"),
    ],
)  # fmt: skip
async def test_an_answer_that_is_evaluated_decides_nothing(expression: str, answer: str, resources: Resources):
    verdict = await judged(PythonExpr(expression=expression), f"Answer: {answer}", resources)
    assert verdict.passed is False, verdict
