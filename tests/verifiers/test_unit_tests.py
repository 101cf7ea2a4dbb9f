from __future__ import annotations

import asyncio
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from tts.errors import ConfigError
from tts.session import Session
from tts.types import Problem, Verdict
from tts.verifiers.runner import ProgramRunner
from tts.verifiers.unit_tests import TestSuite, UnitTests

NEXT = {"entry_point": "f", "calls": [{"args": [1], "expected": 2}, {"args": [2], "expected": 3}]}
RIGHT = "def f(x):\n    return x + 1\n"


async def judged(code: str, tests: dict[str, Any] = NEXT, **limits: Any) -> Verdict:
    problem = Problem(id="p", messages="", tests=tests)
    session = Session(problem, {})
    return await UnitTests(**{"timeout": 20.0, **limits}).verify(problem, session.candidate(code), session)


def alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    try:
        os.kill(pid, 0)
        return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


async def gone(pid: int) -> bool:
    """Whether a process ends within ten seconds."""
    for _ in range(1000):
        if not alive(pid):
            return True
        await asyncio.sleep(0.01)
    return False


async def test_a_right_program_passes():
    verdict = await judged(RIGHT)
    assert (verdict.passed, verdict.score, verdict.feedback) == (True, 1.0, "")
    assert verdict.details == {"kind": "passed", "passed": 2, "total": 2, "outcomes": ["passed", "passed"]}


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        ("def f(x): return x", "wrong", "f(1): expected 2, got 1"),
        ("def f(x): return None", "wrong", "got None"),
        ("def f(x): return 1 / 0", "error", "f(1): ZeroDivisionError: division by zero"),
        ("def f(x): assert False, 'never'", "wrong", "AssertionError: never"),
        ("def f(x): return f(x)", "error", "RecursionError"),
        ("def g(x): return x", "error", "does not define f"),
        ("def f(x) return x", "error", "SyntaxError"),
        ("import nothing_of_the_kind\ndef f(x): return x", "error", "ModuleNotFoundError"),
        ("import sys\nsys.exit(0)\ndef f(x): return x + 1", "error", "SystemExit"),
        ("def f(x): exit()", "error", "SystemExit"),
        ("import os\ndef f(x): os._exit(0)", "crashed", "ended itself with exit status 0"),
        ("import os\ndef f(x): os.abort()", "crashed", "SIGABRT"),
        ("import os\ndef f(x): os.kill(0, 9)", "crashed", "SIGKILL"),
        ("def f(x): return 'a' * 10**11", "memory", "MemoryError"),
        ("def f(x):\n    while True: print('a' * 1000)", "output", "too much output"),
        ("def f(x):\n    import os\n    while True: os.write(2, b'a' * 1000)", "output", "too much output"),
        ("class Odd:\n    def __repr__(self): 1 / 0\ndef f(x): return Odd()", "wrong", "repr raises"),
        ("", "error", "no program"),
    ],
)
async def test_a_program_that_fails_says_how(code: str, kind: str, words: str):
    verdict = await judged(code)
    assert (verdict.passed, verdict.details["kind"]) == (False, kind)
    assert verdict.details["passed"] == 0
    assert words in verdict.feedback


@pytest.mark.parametrize(
    "code",
    [
        "def f(x):\n    while True: pass",
        "while True: pass\ndef f(x): return x + 1",
        "import time\ndef f(x): time.sleep(1000)",
        "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\ndef f(x): time.sleep(1000)",
        "def f(x):\n    while True:\n        try:\n            while True: pass\n        except BaseException: pass",
    ],
)
async def test_a_program_that_hangs_is_ended(code: str):
    verdict = await judged(code, timeout=0.5)
    assert (verdict.passed, verdict.details["kind"]) == (False, "timeout")


async def test_what_passed_before_a_hang_counts():
    verdict = await judged("def f(x):\n    while x > 1: pass\n    return x + 1", timeout=0.5)
    assert verdict.score == 0.5
    assert verdict.details["outcomes"] == ["passed", "timeout"]


async def test_the_cpu_time_is_the_programs_own():
    sleeping = await judged("import time\ndef f(x):\n    time.sleep(0.3)\n    return x + 1")
    working = "import time\ndef f(x):\n    while time.process_time() < 0.4: pass\n    return x + 1"
    assert sleeping.cpu_seconds < 0.2
    assert 0.35 < (await judged(working)).cpu_seconds < 0.8


async def test_ordinary_things_are_allowed():
    code = """
import dataclasses, os, subprocess, threading
from dataclasses import dataclass
@dataclass
class Box:
    value: "int"
threading.Thread(target=threading.Event().wait, daemon=True).start()
print("noise", file=open("own-file", "w"))
print('{"kind": "passed"}')
def f(x):
    numbers = []
    thread = threading.Thread(target=lambda: numbers.append(x + 1))
    thread.start(); thread.join()
    return Box(numbers[0]).value
"""
    assert (await judged(code)).passed


async def test_what_the_program_prints_does_not_decide():
    verdict = await judged('print(\'{"kind": "passed"}\\n\' * 9)\nimport os\nos._exit(0)\ndef f(x): return 0')
    assert verdict.passed is False


async def test_a_fork_of_the_program_adds_no_outcomes():
    verdict = await judged("import os\ndef f(x):\n    os.fork()\n    return x + 1")
    assert verdict.details["outcomes"] == ["passed", "passed"]


async def test_environment_and_folder_are_empty_and_the_folder_is_removed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setenv("SECRET_KEY", "hidden")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    code = "import os\nopen('left', 'w')\ndef f(x): return [os.environ.get('SECRET_KEY'), os.listdir('.')]"
    verdict = await judged(code, {"entry_point": "f", "calls": [{"args": [1], "expected": [None, ["left"]]}]})
    assert verdict.passed, verdict.feedback
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("ending", ["return x + 1", "os._exit(0)", "time.sleep(1000)"])
async def test_no_process_is_left(ending: str, tmp_path: Path):
    noted = tmp_path / "pid"
    code = f"""
import os, subprocess, time
def f(x):
    child = subprocess.Popen(["/bin/sleep", "1000"])
    open({str(noted)!r}, "w").write(str(child.pid))
    {ending}
"""
    await judged(code, timeout=1.0)
    assert await gone(int(noted.read_text()))


async def test_cancelling_ends_the_program(tmp_path: Path):
    noted = tmp_path / "pids"
    code = f"""
import os, time
def f(x):
    with open({str(noted)!r} + "~", "w") as file:
        file.write(f"{{os.getpid()}} {{os.getppid()}}")
    os.rename({str(noted)!r} + "~", {str(noted)!r})
    time.sleep(1000)
"""
    task = asyncio.create_task(judged(code, timeout=60))
    while not noted.exists():
        assert not task.done()
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    for pid in map(int, noted.read_text().split()):
        assert await gone(pid)


async def test_no_more_programs_run_at_once_than_there_are_cores(tmp_path: Path):
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    code = f"""
import os, time
def f(x):
    begin = time.monotonic()
    time.sleep(0.1)
    open(os.path.join({str(tmp_path)!r}, str(os.getpid())), "w").write(f"{{begin}} {{time.monotonic()}}")
    return x
"""
    problem = Problem(id="p", messages="", tests={"entry_point": "f", "calls": [{"args": [1], "expected": 1}]})
    session = Session(problem, {})
    candidates = [session.candidate(code) for _ in range(3 * cores)]
    verdicts = await asyncio.gather(*(UnitTests().verify(problem, one, session) for one in candidates))
    assert all(verdict.passed for verdict in verdicts)
    spans = [tuple(map(float, (tmp_path / name).read_text().split())) for name in os.listdir(tmp_path)]
    assert len(spans) == len(candidates)
    assert max(sum(begin <= start < end for begin, end in spans) for start, _ in spans) <= cores


async def test_calls_compare_as_json_does():
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


async def test_assertions_are_counted_one_by_one_and_explained():
    suite = {"setup": "import math", "asserts": ["assert f(4) == 2", "assert math.isclose(f(9), 3)", "assert f(1)"]}
    assert (await judged("def f(x): return x ** 0.5", suite)).passed
    verdict = await judged("def f(x): return 2", suite)
    assert verdict.details["outcomes"] == ["passed", "wrong", "passed"]
    assert verdict.feedback == "2 of 3 tests passed; assert math.isclose(f(9), 3): AssertionError"
    assert "f(4): expected 2, got 5" in (await judged("def f(x): return 5", suite)).feedback


async def test_a_check_function_is_one_test():
    suite = {
        "entry_point": "f",
        "check": "def check(candidate):\n    assert candidate(1) == 2\n    assert candidate(2) == 3",
    }
    assert (await judged(RIGHT, suite)).passed
    verdict = await judged("def f(x): return 2", suite)
    assert (verdict.score, verdict.details["kind"]) == (0.0, "wrong")


async def test_a_script_is_judged_by_what_it_prints():
    suite = {"stdin": [{"input": "1 2\n", "output": "3\n"}, {"input": "5 5", "output": "10"}]}
    code = "import threading\ndef main():\n    print(sum(map(int, input().split())), end='  \\n\\n')\n"
    started = code + "if __name__ == '__main__':\n    threading.Thread(target=main).start()"
    assert (await judged(started, suite)).passed
    verdict = await judged("print(3)", suite)
    assert verdict.details["outcomes"] == ["passed", "wrong"]
    assert "expected output '10', got '3" in verdict.feedback
    assert (await judged("print(3)\nexit(0)", {"stdin": suite["stdin"][:1]})).passed
    failing = await judged("print(3)\n1 / 0", suite)
    assert (failing.details["kind"], failing.score) == ("error", 0.0)
    assert "ZeroDivisionError" in failing.feedback


async def test_kinds_of_tests_combine():
    suite = {**NEXT, "asserts": ["assert f(0) == 1"], "stdin": [{"input": "", "output": "ready"}]}
    verdict = await judged(RIGHT + "print('ready')", suite)
    assert verdict.passed
    assert verdict.details["total"] == 4


async def test_scripts_behind_one_that_hangs_are_not_run():
    suite = {
        "stdin": [{"input": "go", "output": "go"}, {"input": "wait", "output": ""}, {"input": "go", "output": "go"}]
    }
    code = "word = input()\nwhile word == 'wait': pass\nprint(word)"
    verdict = await judged(code, suite, timeout=0.5)
    assert verdict.details["outcomes"] == ["passed", "timeout"]
    assert verdict.score == pytest.approx(1 / 3)


async def test_a_body_completes_the_prompt():
    suite = {**NEXT, "prompt": 'def f(x):\n    """The next number."""\n'}
    assert (await judged("    return x + 1\n", suite)).passed


@pytest.mark.parametrize("tests", [None, {}, {"entry_point": "f", "asserts": []}])
async def test_no_tests_is_no_verdict(tests: dict[str, Any] | None):
    problem = Problem(id="p", messages="", tests=tests)
    session = Session(problem, {})
    verdict = await UnitTests().verify(problem, session.candidate(RIGHT), session)
    assert (verdict.passed, verdict.score, verdict.details["kind"]) == (None, None, "untested")


async def test_tests_of_another_form_are_an_error():
    with pytest.raises(ConfigError, match="TestSuite"):
        await judged(RIGHT, {"inputs": [1]})
    with pytest.raises(ValidationError, match="entry_point"):
        TestSuite.model_validate({"calls": [{"args": [], "expected": 1}]})


async def test_feedback_is_short():
    verdict = await judged("def f(x): return 'a' * 100_000")
    assert len(verdict.feedback) < 600
    verdict = await judged("def f(x): raise ValueError('a' * 100_000)")
    assert len(verdict.feedback) < 600


async def test_a_broken_interpreter_is_not_the_programs_fault(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr("tts.verifiers.runner.HARNESS", tmp_path / "absent.py")
    with pytest.raises(RuntimeError, match="could not be run"):
        await ProgramRunner().run("", [{"input": ""}], timeout=1, memory=1 << 30, output=1 << 20)


async def test_the_configuration_makes_an_equal_verifier():
    verifier = UnitTests(tests=TestSuite.model_validate(NEXT), timeout=3)
    assert UnitTests(**{key: value for key, value in verifier.config().items() if key != "name"}) == verifier
