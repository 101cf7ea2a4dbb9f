# ruff: noqa: E501 - a program is read more easily on one line

from __future__ import annotations

import base64
import json
import os
import pickle
import zlib
from typing import Any

import pytest

from tts.errors import ConfigError
from tts.session import Session
from tts.tasks.livecodebench import livecodebench_suites
from tts.types import Problem
from tts.verifiers.unit_tests import TestSuite, UnitTests

FUNCTIONAL = [{"input": "[1, 2]\n3", "output": "[4, 5]", "testtype": "functional"}]
HIDDEN = [{"input": "[]\n1", "output": "[]", "testtype": "functional"}]


def packed(value: Any) -> str:
    return base64.b64encode(zlib.compress(pickle.dumps(value))).decode()


def record(public: Any, private: str, name: str | None = None) -> dict[str, Any]:
    return {
        "public_test_cases": json.dumps(public),
        "private_test_cases": private,
        "metadata": json.dumps({"func_name": name} if name else {}),
    }


async def passes(suite: TestSuite, program: str) -> bool | None:
    problem = Problem(id="p", messages="")
    session = Session(problem, {})
    return (await UnitTests(tests=suite).verify(problem, session.candidate(program), session)).passed


async def test_functions_may_be_methods_of_solution_or_stand_alone():
    public, hidden = livecodebench_suites(record(FUNCTIONAL, packed(json.dumps(HIDDEN)), "add"))
    assert (len(public), len(hidden)) == (1, 2)
    method = "class Solution:\n    def add(self, xs, y):\n        return [x + y for x in xs]\n"
    assert await passes(hidden, method)
    assert await passes(hidden, "def add(xs, y):\n    return tuple(x + y for x in xs)\n")
    assert not await passes(hidden, method.replace("x + y", "x - y"))
    assert not await passes(hidden, "class Solution:\n    pass\n")


async def test_standard_input_compares_numbers_by_value():
    tests = [{"input": "3\n", "output": "1.50\nyes\n", "testtype": "stdin"}]
    public, hidden = livecodebench_suites(record(tests, json.dumps(tests)))
    assert len(hidden) == 2
    assert await passes(public, "print(int(input()) / 2)\nprint('yes')")
    assert not await passes(public, "print(1.4)\nprint('yes')")


def test_a_pickle_that_runs_code_is_refused(tmp_path: Any):
    class Payload:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "made"),)

    with pytest.raises(ConfigError, match="cannot be unpacked"):
        livecodebench_suites(record(FUNCTIONAL, packed(Payload()), "add"))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "broken",
    [
        {},
        record(FUNCTIONAL, "[]"),
        record([{"input": "1", "output": "1", "testtype": "telepathy"}], "[]", "f"),
        record(FUNCTIONAL, "no base64", "f"),
        record([{"input": "[1", "output": "1", "testtype": "functional"}], "[]", "f"),
    ],
)
def test_a_record_of_another_form_is_named(broken: dict[str, Any]):
    with pytest.raises(ConfigError, match="LiveCodeBench"):
        livecodebench_suites(broken)


@pytest.mark.parametrize(
    "program",
    [
        "class Solution:\n    def add(self, xs: List[int], y: Optional[int] = None) -> List[int]:\n        return [x + y for x in xs]",
        "def add(xs, y):\n    heapq.heapify(xs)\n    return [x + y for x in xs] if Counter(xs) else []",
        "def add(xs, y):\n    return [x + y for x in deque(xs)] if gcd(4, 6) == 2 and math.inf == inf else []",
        "from __future__ import annotations\n@lru_cache(None)\ndef one(x): return x\ndef add(xs: Any, y): return [one(x) + y for x in xs]",
        "def down(k): return 0 if k == 0 else 1 + down(k - 1)\ndef add(xs, y):\n    assert down(40_000) == 40_000\n    return [x + y for x in xs]",
        "def add(xs, y):\n    assert abs(-2) == 2 and pow(2, 5, 3) == 2 and random.random() < 1\n    return list(map(add_ := (lambda x: x + y), xs))",
    ],
)  # fmt: skip
async def test_programs_have_the_imports_and_the_recursion_of_the_benchmark(program: str):
    _, hidden = livecodebench_suites(record(FUNCTIONAL, packed(json.dumps(HIDDEN)), "add"))
    assert await passes(hidden, f"```python\n{program}\n```")


@pytest.mark.parametrize(
    "program",
    [
        "print(int(sys.stdin.readline()) / 2)",
        "print(sum(Counter([int(input())]).keys()) / 2)",
        "def down(k): return 0 if k == 0 else 1 + down(k - 1)\ndown(5_000)\nprint(int(stdin.read()) / 2)",
    ],
)
async def test_scripts_have_them_too(program: str):
    tests = [{"input": "3\n", "output": "1.50\n", "testtype": "stdin"}]
    public, _ = livecodebench_suites(record(tests, "[]"))
    assert await passes(public, program)


@pytest.mark.parametrize(
    ("printed", "expected"),
    [("9007199254740992", "9007199254740993"), ("1_0", "10"), ("1e24", f"{10**24 + 1}"), ("5000000.5", "5000000")],
)
async def test_standard_output_is_compared_exactly(printed: str, expected: str):
    tests = [{"input": "", "output": expected, "testtype": "stdin"}]
    public, _ = livecodebench_suites(record(tests, "[]"))
    assert not await passes(public, f"print({printed!r})")
    assert await passes(public, f"print({expected!r})")
