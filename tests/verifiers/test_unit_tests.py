from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pydantic import ValidationError

from tests.support.judging import NEXT, Judged
from tests.support.lag import MOST, standstill
from tts.errors import ConfigError
from tts.resources import Resources
from tts.session import Session
from tts.types import Problem
from tts.verifiers.programs.judging import VerdictCache
from tts.verifiers.sandbox import CaseResult, Job, JobResult, Sandbox
from tts.verifiers.unit_tests import TestSuite, UnitTests

RIGHT = "def f(x):\n    return x + 1\n"


class Counted:
    """Counts the programs that a sandbox runs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.jobs: list[Job] = []
        run = Sandbox.run

        async def counting(sandbox: Sandbox, job: Job) -> JobResult:
            self.jobs.append(job)
            return await run(sandbox, job)

        monkeypatch.setattr(Sandbox, "run", counting)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counted:
    return Counted(monkeypatch)


# -- verdicts ------------------------------------------------------------------------------------------------------


async def test_a_right_program_passes(judged: Judged):
    verdict = await judged(RIGHT)
    assert (verdict.passed, verdict.score, verdict.feedback) == (True, 1.0, "")
    assert verdict.details.pop("isolation")  # type: ignore[attr-defined]
    assert verdict.details == {"kind": "passed", "passed": 2, "total": 2, "outcomes": ["passed", "passed"]}


LONG = "x" * 27_000
LARGE: dict[str, dict[str, Any]] = {
    "asserts": {"asserts": [f"assert f({LONG!r}, {i}) == {LONG!r}" for i in range(700)]},
    "calls": {"calls": [{"args": [LONG, i], "expected": LONG} for i in range(700)]},
}


@pytest.mark.parametrize("form", LARGE)
async def test_many_large_tests_hold_up_nobody_and_allow_as_much_as_they_expect(form: str, judged: Judged):
    await judged(RIGHT)  # the sandbox has started

    async def judge() -> None:
        assert (await judged("def f(x, i): return x", {"entry_point": "f", **LARGE[form]})).passed

    assert await standstill(judge) < MOST


def test_a_fingerprint_tells_suites_apart():
    suites: list[dict[str, Any]] = [
        {},
        {"setup": "ab"},
        {"setup": "a", "prompt": "b"},
        {"asserts": ["assert 1", "assert 2"]},
        {"asserts": ["assert 1assert 2"]},
        {"stdin": [{"input": "a", "output": "b"}]},
        {"stdin": [{"input": "ab", "output": ""}]},
        {"calls": [{"args": [1], "expected": 1}], "entry_point": "f"},
        {"calls": [{"args": ["1"], "expected": 1}], "entry_point": "f"},
        {"calls": [{"args": [[]], "expected": 1}], "entry_point": "f"},
    ]
    assert len({TestSuite(**suite).fingerprint for suite in suites}) == len(suites)
    assert TestSuite(**suites[3]).fingerprint == TestSuite(**suites[3]).fingerprint
    assert TestSuite(**suites[3]).first(1).fingerprint != TestSuite(**suites[3]).fingerprint


@pytest.mark.parametrize(
    "ending",
    [
        "assert f(1) == 3",
        "print(f(None))",
        "x = int(input())\nprint(f(x))",
        "exit()",
        "for x in (1, 2):\n    assert f(x) < 0",
    ],
)
async def test_what_an_answer_says_of_itself_behind_its_definitions_does_not_count(ending: str, judged: Judged):
    assert (await judged(f"{RIGHT}\n{ending}\n")).passed
    wrong = await judged(f"def f(x): return x\n{ending}\n")
    assert (wrong.passed, wrong.details["kind"]) == (False, "wrong")


async def test_a_failure_among_its_definitions_does_count(judged: Judged):
    verdict = await judged(f"{RIGHT}assert f(1) == 3\ndef g(): pass\n")
    assert (verdict.passed, verdict.details["kind"]) == (False, "error")


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        ("def f(x): return x", "wrong", "f(1): expected 2, got 1"),
        ("def f(x): return None", "wrong", "got None"),
        ("def f(x): return 1 / 0", "error", "f(1): ZeroDivisionError: division by zero"),
        ("def f(x): assert False, 'never'", "error", "AssertionError: never"),
        ("def f(x): return f(x)", "error", "RecursionError"),
        ("a = 1", "error", "NameError"),
        ("def f(x) return x", "error", "SyntaxError"),
        ("import nothing_of_the_kind\ndef f(x): return x", "error", "ModuleNotFoundError"),
        ("import sys\nsys.exit(0)\ndef f(x): return x + 1", "error", "SystemExit"),
        ("import os\ndef f(x): os._exit(0)", "crashed", ""),
        ("import os\ndef f(x): os.abort()", "crashed", ""),
        ("def f(x): return 'a' * 10**11", "memory", ""),
        ("def f(x):\n    while True: print('a' * 1000)", "output", "too much output"),
        ("class Odd:\n    def __repr__(self): 1 / 0\ndef f(x): return Odd()", "wrong", "got an object of type Odd"),
        ("", "error", "no program"),
    ],
)
async def test_a_program_that_fails_says_how(code: str, kind: str, words: str, judged: Judged):
    verdict = await judged(code)
    assert (verdict.passed, verdict.details["kind"]) == (False, kind), verdict
    assert verdict.details["passed"] == 0
    assert words in verdict.feedback


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("def f(x):\n    while True: pass", "cpu"),
        ("while True: pass\ndef f(x): return x + 1", "cpu"),
        ("import time\ndef f(x): time.sleep(1000)", "wall"),
    ],
)
async def test_a_program_that_hangs_is_ended(code: str, kind: str, judged: Judged):
    verdict = await judged(code, timeout=0.5, wall=2.0 if kind == "wall" else 60.0)
    assert (verdict.passed, verdict.details["kind"]) == (False, kind)


async def test_what_passed_before_a_hang_counts(judged: Judged):
    verdict = await judged("def f(x):\n    while x > 1: pass\n    return x + 1", timeout=0.5)
    assert verdict.score == 0.5
    assert verdict.details["outcomes"] == ["passed", "cpu"]


async def test_a_test_may_have_a_limit_of_its_own(judged: Judged):
    verdict = await judged("def f(x):\n    while x > 1: pass\n    return x + 1", test_timeout=0.3)
    assert verdict.details["outcomes"] == ["passed", "cpu"]


async def test_stopping_at_the_first_failure_scores_one_or_nothing(judged: Judged):
    calls = [{"args": [x], "expected": x + 1} for x in range(50)]
    verdict = await judged("def f(x): return x + (x != 3)", {**NEXT, "calls": calls}, stop_at_failure=True)
    assert (verdict.passed, verdict.score) == (False, 0.0)
    assert verdict.details["outcomes"] == ["passed"] * 3 + ["wrong"]
    assert verdict.feedback == "f(3): expected 4, got 3"
    everything = await judged("def f(x): return x + (x != 3)", {**NEXT, "calls": calls})
    assert (everything.passed, everything.score) == (False, 0.98)
    assert everything.feedback == "49 of 50 tests passed; f(3): expected 4, got 3"
    assert (await judged(RIGHT, {**NEXT, "calls": calls}, stop_at_failure=True)).score == 1.0


async def test_feedback_is_short(judged: Judged):
    assert len((await judged("def f(x): return 'a' * 100_000")).feedback) < 600
    assert len((await judged("def f(x): raise ValueError('a' * 100_000)")).feedback) < 600


@pytest.mark.parametrize("tests", [{}, {"entry_point": "f", "asserts": []}])
async def test_no_tests_is_no_verdict(tests: dict[str, Any], judged: Judged):
    verdict = await judged(RIGHT, tests)
    assert (verdict.passed, verdict.score, verdict.details["kind"]) == (None, None, "untested")


async def test_tests_of_another_form_are_an_error(judged: Judged):
    with pytest.raises(ConfigError, match="TestSuite"):
        await judged(RIGHT, {"inputs": [1]})
    with pytest.raises(ValidationError, match="entry_point"):
        TestSuite.model_validate({"calls": [{"args": [], "expected": 1}]})


def test_the_configuration_makes_an_equal_verifier():
    verifier = UnitTests(tests=TestSuite.model_validate(NEXT), timeout=3)
    assert UnitTests(**{key: value for key, value in verifier.config().items() if key != "name"}) == verifier


def test_a_changed_copy_of_a_suite_has_another_fingerprint():
    suite = TestSuite.model_validate(NEXT)
    assert suite.fingerprint == TestSuite.model_validate(NEXT).fingerprint
    assert suite.model_copy(update={"calls": suite.calls[:1]}).fingerprint != suite.fingerprint
    assert suite.model_copy() == suite


def test_other_languages_are_tested_by_standard_input_alone():
    with pytest.raises(ValidationError, match="stdin only"):
        TestSuite.model_validate({**NEXT, "language": "cpp"})


# -- the machinery's own failures ----------------------------------------------------------------------------------


def failing(times: int, monkeypatch: pytest.MonkeyPatch) -> None:
    run, left = Sandbox.run, [times]

    async def broken(sandbox: Sandbox, job: Job) -> JobResult:
        if left[0]:
            left[0] -= 1
            return JobResult(CaseResult("infra", error="no processes left"), (), 0.0, "none")
        return await run(sandbox, job)

    monkeypatch.setattr(Sandbox, "run", broken)


async def test_a_failure_of_the_machinery_is_tried_again(monkeypatch: pytest.MonkeyPatch, judged: Judged):
    failing(2, monkeypatch)
    assert (await judged(RIGHT)).passed


async def test_a_failure_of_the_machinery_that_stays_is_no_verdict(monkeypatch: pytest.MonkeyPatch, judged: Judged):
    failing(3, monkeypatch)
    verdict = await judged(RIGHT)
    assert (verdict.passed, verdict.score, verdict.details["kind"]) == (None, None, "infra")
    assert "no processes left" in verdict.details["reason"]
    assert (await judged(RIGHT)).passed  # and it is not remembered


async def test_results_that_are_missing_are_never_taken_for_passed(monkeypatch: pytest.MonkeyPatch, judged: Judged):
    run = Sandbox.run

    async def forgetful(sandbox: Sandbox, job: Job) -> JobResult:
        result = await run(sandbox, job)
        return JobResult(result.loaded, result.cases[:1], result.cpu_seconds, result.isolation)

    monkeypatch.setattr(Sandbox, "run", forgetful)
    verdict = await judged(RIGHT)
    assert (verdict.passed, verdict.details["kind"]) == (None, "infra")


# -- what is identical runs once -----------------------------------------------------------------------------------


async def test_identical_programs_run_once(counted: Counted, judged: Judged):
    verdicts = await asyncio.gather(*(judged(RIGHT) for _ in range(20)))
    assert all(verdict.passed for verdict in verdicts)
    assert len(counted.jobs) == 1
    repeated = [verdict for verdict in verdicts if verdict.details.get("cached")]
    assert len(repeated) == 19
    assert not any(verdict.cpu_seconds for verdict in repeated)


async def test_other_tests_limits_or_programs_are_not_identical(counted: Counted, judged: Judged):
    await judged(RIGHT)
    await judged(RIGHT + "# more")
    await judged(RIGHT, timeout=19.0)
    await judged(RIGHT, stop_at_failure=True)
    await judged(RIGHT, {**NEXT, "calls": NEXT["calls"][:1]})
    assert len(counted.jobs) == 5


async def test_who_is_cancelled_does_not_take_the_others_along(judged: Judged):
    code = "import time\ndef f(x):\n    time.sleep(0.3)\n    return x + 1"
    first, second = asyncio.create_task(judged(code)), asyncio.create_task(judged(code))
    await asyncio.sleep(0.05)
    first.cancel()
    assert (await second).passed


# -- kinds of tests ------------------------------------------------------------------------------------------------


async def test_calls_compare_as_json_does(judged: Judged):
    suite = {
        "entry_point": "f",
        "calls": [
            {"args": [[1, 2]], "expected": [1, 2]},
            {"args": [0.1 + 0.2], "expected": [0.3]},
            {"args": [{"a": [1]}], "kwargs": {"more": True}, "expected": [{"a": [1]}, True]},
        ],
    }
    code = (
        "def f(x, more=None):\n    if type(x) is list: return tuple(x)\n    return [x] if more is None else (x, more)"
    )
    verdict = await judged(code, suite)
    assert verdict.passed, verdict.feedback
    assert not (await judged("def f(x, more=None): return [x]", suite)).passed


async def test_assertions_are_counted_one_by_one_and_explained(judged: Judged):
    suite = {"setup": "import math", "asserts": ["assert f(4) == 2", "assert math.isclose(f(9), 3)", "assert f(1)"]}
    assert (await judged("def f(x): return x ** 0.5", suite)).passed
    verdict = await judged("def f(x): return 2", suite)
    assert verdict.details["outcomes"] == ["passed", "wrong", "passed"]
    assert verdict.feedback == "2 of 3 tests passed; assert math.isclose(f(9), 3) does not hold; f(9) gave 2"
    assert "f(4): expected 2, got 5" in (await judged("def f(x): return 5", suite)).feedback


async def test_a_check_function_is_one_test(judged: Judged):
    suite = {
        "entry_point": "f",
        "check": "def check(candidate):\n    assert candidate(1) == 2\n    assert candidate(2) == 3",
    }
    assert (await judged(RIGHT, suite)).passed
    verdict = await judged("def f(x): return 2", suite)
    assert (verdict.score, verdict.details["kind"]) == (0.0, "wrong")
    assert verdict.feedback == "f(2): expected 3, got 2"


INTERPRETED = [
    "import random\nfor _ in range(20):\n    x = random.randint(0, 9)\n    assert f(x) == x + 1",
    "assert f(f(1)) == 3",
    "try:\n    f('a')\nexcept TypeError:\n    pass\nelse:\n    assert False, 'it must raise'",
    "assert f(1) == expected(1)",
    "box = Box(3)\nbox.grow(by=2)\nassert box.size == 5 and box.show() == 'Box of 5'",
    "assert all(f(i) == i + 1 for i in range(3))",
    "assert f(sys.maxsize) == sys.maxsize + 1",
]
BOX = """
class Box:
    def __init__(self, size): self.size = size
    def grow(self, by): self.size += by
    def show(self): return f"Box of {self.size}"
"""


@pytest.mark.parametrize("test", INTERPRETED)
async def test_what_is_no_plain_comparison_runs_in_an_interpreter_beside(test: str, judged: Judged):
    suite = {"entry_point": "f", "prompt": "def expected(x):\n    return x + 1\n", "asserts": [test]}
    verdict = await judged(RIGHT + BOX, suite)
    assert verdict.passed, verdict
    wrong = await judged("def f(x):\n    return 0\n" + BOX.replace("+= by", "-= by"), suite)
    assert (wrong.passed, wrong.details["kind"]) == (False, "wrong"), wrong


async def test_a_helper_of_the_prompt_is_the_prompts_own_in_a_test(judged: Judged):
    prompt = "def twice(x):\n    return 2 * x\n\n\ndef f(x):\n    pass\n"
    check = "def check(candidate):\n    for i in range(3):\n        assert candidate(twice(i)) == twice(i) + 1"
    suite = {"entry_point": "f", "prompt": prompt, "check": check}
    assert (await judged(RIGHT, suite)).passed
    verdict = await judged("def twice(x):\n    return 0\n\n\ndef f(x):\n    return 1\n", suite)
    assert verdict.passed is False
    assert "f(2) gave 1" in verdict.feedback


async def test_without_an_entry_point_the_prompts_stub_is_not_what_is_tested(judged: Judged):
    prompt = "def f(x):\n    pass\n"
    for test in ("assert f(1) is None", "assert f(f(1)) is None", "assert f(1) == f(f(1))"):
        assert not (await judged(RIGHT, {"prompt": prompt, "asserts": [test]})).passed
        assert not (await judged("    return x + 1\n", {"prompt": prompt, "asserts": [test]})).passed


async def test_a_crash_in_the_middle_of_a_test_is_the_programs(judged: Judged):
    suite = {"entry_point": "f", "asserts": ["assert f(f(1)) == 3", "assert f(f(2)) == 4"]}
    verdict = await judged("import os\ndef f(x): os._exit(0)", suite)
    assert (verdict.passed, verdict.details["outcomes"]) == (False, ["crashed", "crashed"])
    verdict = await judged("def f(x):\n    while True: pass", suite, timeout=0.5)
    assert verdict.details["outcomes"] == ["cpu", "cpu"]


async def test_an_object_is_judged_by_what_its_methods_return(judged: Judged):
    steps = [
        {"method": "push", "args": [1]},
        {"method": "push", "args": [2], "compared": False},
        {"method": "pop", "expected": 2},
        {"method": "size", "expected": 1},
    ]
    suite = {"entry_point": "Stack", "interactions": [{"calls": steps}, {"args": [[7]], "calls": steps[3:]}]}
    code = """
class Stack:
    def __init__(self, items=()): self.items = list(items)
    def push(self, x): self.items.append(x)
    def pop(self): return self.items.pop()
    def size(self): return len(self.items)
"""
    verdict = await judged(code, suite)
    assert verdict.passed, verdict
    wrong = await judged(code.replace("pop()", "pop(0)"), suite)
    assert wrong.details["outcomes"] == ["wrong", "passed"]
    assert "Stack(); push(1); push(2); pop(): expected 2, got 1" in wrong.feedback
    assert "IndexError" in (await judged(code.replace(".append(x)", ".clear()"), suite)).feedback


REFERENCE = {
    "entry_point": "f",
    "reference": {"program": "def f(x):\n    return [x / 3, 1.0]", "inputs": [[1], [2], [10]]},
}


async def test_a_reference_says_what_is_right(judged: Judged, tmp_path: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TTS_DATA", str(tmp_path))
    verdict = await judged("def f(x):\n    return [x * (1 / 3), 1.0]", REFERENCE)
    assert verdict.passed, verdict
    assert verdict.details["total"] == 3
    assert "f(1): expected [0.3" in (await judged("def f(x):\n    return [x // 3, 1.0]", REFERENCE)).feedback
    assert not (await judged("def f(x):\n    return (x / 3, 1.0 + 1e-7)", REFERENCE)).passed


async def test_a_reference_runs_once_and_is_kept(
    judged: Judged, tmp_path: Any, monkeypatch: pytest.MonkeyPatch, counted: Counted
):
    monkeypatch.setenv("TTS_DATA", str(tmp_path))
    await asyncio.gather(*(judged(f"def f(x):\n    return [x / 3, 1.0]  # {i}", REFERENCE) for i in range(5)))
    assert len(counted.jobs) == 6
    async with Resources() as later:
        problem = Problem(id="p", messages="", tests=REFERENCE)
        session = Session(problem, {}, resources=later)
        await UnitTests().verify(problem, session.candidate("def f(x): return 0"), session)
    assert len(counted.jobs) == 7


@pytest.mark.parametrize(
    ("program", "words"),
    [("def f(x): return 1 / 0", "ZeroDivisionError"), ("def f(x): return object()", "not plain data")],
)
async def test_a_reference_that_cannot_be_used_is_an_error(
    program: str, words: str, judged: Judged, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("TTS_DATA", str(tmp_path))
    with pytest.raises(ConfigError, match=words):
        await judged(RIGHT, {"entry_point": "f", "reference": {"program": program, "inputs": [[1]]}})


async def test_a_checker_decides_where_several_answers_are_right(judged: Judged):
    checker = "def accepts(given, got, expected):\n    return sorted(got) == sorted(expected) and len(given) == 1"
    suite = {"entry_point": "f", "calls": [{"args": [2], "expected": [1, 2]}], "checker": checker}
    assert (await judged("def f(x): return [2, 1]", suite)).passed
    verdict = await judged("def f(x): return [2, 2]", suite)
    assert (verdict.passed, verdict.feedback) == (False, "f(2) gave [2, 2], which the checker refuses")
    assert not (await judged("def f(x): return None", suite)).passed
    broken = await judged("def f(x): return [2, 1]", {**suite, "checker": "def accepts("})
    assert (broken.passed, broken.details["kind"]) == (None, "infra")


async def test_a_script_is_judged_by_what_it_prints(judged: Judged):
    suite = {"stdin": [{"input": "1 2\n", "output": "3\n"}, {"input": "5 5", "output": "10"}]}
    code = "import threading\ndef main():\n    print(sum(map(int, input().split())), end='  \\n\\n')\n"
    started = code + "if __name__ == '__main__':\n    threading.Thread(target=main).start()"
    assert (await judged(started, suite)).passed
    verdict = await judged("print(3)", suite)
    assert verdict.details["outcomes"] == ["passed", "wrong"]
    assert verdict.feedback == "1 of 2 tests passed; on the input '5 5': output: expected '10', got '3'"
    assert (await judged("print(3)\nexit(0)", {"stdin": suite["stdin"][:1]})).passed
    failing_one = await judged("print(3)\n1 / 0", suite)
    assert (failing_one.details["kind"], failing_one.score) == ("error", 0.0)
    assert "ZeroDivisionError" in failing_one.feedback


async def test_outputs_may_be_compared_as_numbers_or_by_a_checker(judged: Judged):
    tests = [{"input": "", "output": "0.3333333333"}]
    code = "print(1 / 3 + 1e-8)"
    assert not (await judged(code, {"stdin": tests})).passed
    assert (await judged(code, {"stdin": tests, "output": "numbers"})).passed
    checker = "def accepts(given, got, expected):\n    return got.strip() in ('a', 'b')"
    suite = {"stdin": [{"input": "", "output": "a"}], "checker": checker}
    assert (await judged("print('b')", suite)).passed
    assert "checker refuses the output 'c" in (await judged("print('c')", suite)).feedback


async def test_scripts_behind_one_that_hangs_are_not_run(judged: Judged):
    suite = {
        "stdin": [{"input": "go", "output": "go"}, {"input": "wait", "output": ""}, {"input": "go", "output": "go"}]
    }
    code = "word = input()\nwhile word == 'wait': pass\nprint(word)"
    verdict = await judged(code, suite, timeout=0.5)
    assert verdict.details["outcomes"] == ["passed", "cpu"]
    assert verdict.score == pytest.approx(1 / 3)


async def test_kinds_of_tests_combine(judged: Judged):
    suite = {
        **NEXT,
        "asserts": ["assert f(0) == 1", "assert f(f(0)) == 2"],
        "stdin": [{"input": "", "output": "ready"}],
    }
    verdict = await judged(RIGHT + "print('ready')", suite)
    assert verdict.passed, verdict
    assert verdict.details["total"] == 5


async def test_tests_are_told_as_elements_where_that_is_asked_for(judged: Judged):
    suite = {
        "entry_point": "f",
        "calls": [{"args": [1], "expected": 2}, {"args": [2], "expected": 4}],
        "reference": {"program": "def f(x): return x + 1", "inputs": [[5]]},
        "asserts": ["assert f(0) == 0"],
        "check": "def check(candidate):\n    assert candidate(3) == 4",
        "stdin": [{"input": "3", "output": "ready"}],
    }
    table = (await judged(RIGHT, suite, elements=True)).details["elements"]
    assert [(row["text"], row["met"]) for row in table] == [
        ("f(1) gives 2", True),
        ("f(2) gives 4", False),
        ("f(5) gives what is right", True),
        ("`assert f(0) == 0` holds", False),
        ("all checks pass", True),
        ("on the input '3' it prints 'ready'", False),
    ]
    assert table[1]["why"] == "f(2): expected 4, got 3"
    assert all(bool(row["why"]) != row["met"] for row in table)
    halted = (await judged(RIGHT, suite, elements=True, stop_at_failure=True)).details["elements"]
    assert [row["why"] for row in halted[2:]] == ["it was not run"] * 4
    assert not any(row["met"] for row in (await judged("It is easy.", suite, elements=True)).details["elements"])
    assert "elements" not in (await judged(RIGHT, suite)).details


async def test_a_body_completes_the_prompt(judged: Judged):
    suite = {**NEXT, "prompt": 'def f(x):\n    """The next number."""\n'}
    assert (await judged("    return x + 1\n", suite)).passed


async def test_setup_comes_before_the_program_and_behind_its_future_imports(judged: Judged):
    suite = {**NEXT, "setup": "STEP = 1"}
    assert (await judged("def f(x): return x + STEP", suite)).passed
    code = '"""Doc."""\nfrom __future__ import annotations\nBASE = STEP\ndef f(x: Unknown): return x + BASE'
    assert (await judged(code, suite)).passed


async def test_the_tests_of_a_problem_are_read_once(resources: Resources) -> None:
    verdicts, problem = resources.get(VerdictCache), Problem(id="p", messages="", tests=NEXT)
    suites = await asyncio.gather(*(verdicts.suite(problem) for _ in range(3)))
    assert suites[0] == TestSuite.model_validate(NEXT)
    assert all(one is suites[0] for one in suites)
    assert await verdicts.suite(Problem(id="p", messages="", tests=dict(NEXT))) is not suites[0]
