"""Programs that want to be right without computing anything: none is accepted, of any kind of test."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.judging import Judged

SUITES: dict[str, dict[str, Any]] = {
    "calls": {"entry_point": "f", "calls": [{"args": [1], "expected": 2}, {"args": [5], "expected": 6}]},
    "asserts": {
        "asserts": ["assert f(1) == 2", "assert abs(f(5) - 6) < 1e-6", "assert f(2) in [3]", "assert not f(-1)"]
    },
    "check": {
        "entry_point": "f",
        "check": "def check(candidate):\n    assert candidate(1) == 2\n    assert 6 == candidate(5)",
    },
    "interpreter": {
        "entry_point": "f",
        "asserts": [
            "for x in [f(0), 5]:\n    assert f(x) == x + 1",
            "assert isinstance(f(f(1)), int) and abs(f(f(1)) - 3) < 1",
        ],
    },
    "interactions": {
        "entry_point": "F",
        "interactions": [
            {"calls": [{"method": "f", "args": [1], "expected": 2}, {"method": "f", "args": [5], "expected": 6}]}
        ],
    },
    "reference": {
        "entry_point": "f",
        "reference": {"program": "def f(x): return x + 1", "inputs": [[1], [5]], "atol": 1e-6},
    },
    "checker": {
        "entry_point": "f",
        "calls": [{"args": [1], "expected": 2}],
        "checker": "def accepts(given, got, expected):\n    return got == expected",
    },
    "stdin": {"stdin": [{"input": "1", "output": "2"}, {"input": "5", "output": "6"}]},
}

EVERYTHING = """
class Equal:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __lt__(self, other): return True
    __le__ = __gt__ = __ge__ = __contains__ = __lt__
    def __hash__(self): return 0
    def __sub__(self, other): return 0
    __rsub__ = __add__ = __radd__ = __sub__
    def __abs__(self): return 0
    def __bool__(self): return False
    def __float__(self): return 0.0
    def __len__(self): return 0
    def __iter__(self): return iter(())
    def __getattr__(self, name): return Equal()
    def __call__(self, *args): return Equal()
    def __repr__(self): return "2"
    def __reduce__(self): return (eval, ("True",))
    __class__ = int
"""

PROGRAMS = {
    "an object that equals everything": EVERYTHING + "def f(x): return Equal()\nprint(Equal())",
    "an int that equals everything": (
        "class Int(int):\n"
        "    def __eq__(self, other): return True\n"
        "    def __ne__(self, other): return False\n"
        "    def __sub__(self, other): return 0\n"
        "    __rsub__ = __sub__\n"
        "    def __abs__(self): return 0\n"
        "    def __index__(self): return 2\n"
        "    __int__ = __index__\n"
        "    def __repr__(self): return '2'\n"
        "    def __bool__(self): return False\n"
        "    def __hash__(self): return 2\n"
        "def f(x): return Int(77)"
    ),
    "a float that is near everything": (
        "class Float(float):\n"
        "    def __eq__(self, other): return True\n"
        "    def __sub__(self, other): return 0.0\n"
        "    __rsub__ = __sub__\n"
        "    def __float__(self): return 2.0\n"
        "def f(x): return Float('77')"
    ),
    "a list and a str of other equality": (
        "class Text(str):\n    def __eq__(self, other): return True\n    __hash__ = str.__hash__\n"
        "class Items(list):\n    def __eq__(self, other): return True\n    def __iter__(self): return iter([2])\n"
        "def f(x): return Items([Text('?')])"
    ),
    "NaN": "def f(x): return float('nan')",
    "patched builtins": (
        "import builtins, math, operator\n"
        "builtins.abs = lambda x: 0\nbuiltins.isinstance = lambda x, y: True\nbuiltins.type = lambda x: int\n"
        "builtins.len = lambda x: 1\nbuiltins.sorted = lambda *x, **y: []\nbuiltins.all = lambda x: True\n"
        "builtins.AssertionError = type('Never', (BaseException,), {})\n"
        "math.isclose = lambda *x, **y: True\noperator.eq = lambda x, y: True\n"
        "def f(x): return -7"
    ),
    "patched encoder": (
        "import json, sys\n"
        "json.dumps = json.encoder.encode_basestring = lambda *x, **y: '2'\n"
        "for module in list(sys.modules.values()):\n"
        "    for name in ('encode', 'dumps', 'same', 'equal', 'encode_value'):\n"
        "        if hasattr(module, name):\n"
        "            try: setattr(module, name, lambda *x, **y: '2')\n"
        "            except Exception: pass\n"
        "def f(x): return -7"
    ),
    "checks of its own": "def check(candidate): pass\ndef accepts(*args): return True\ndef f(x): return -7",
    "an early end": "import sys\ndef f(x): sys.exit(0)\nsys.exit(0)",
    "a hard end": "import os\ndef f(x): os._exit(0)\nos._exit(0)",
    "a hard end in the call": "import os\ndef f(x): os._exit(0)",
    "an exception that ends well": "def f(x): raise SystemExit(0)",
    "a forged word of success": (
        "import os, sys\n"
        'words = b\'passed\\n{"passed": true}\\n["ok", [2, 6]]\\nok 2\\n{"status": "ok", "values": [2]}\\n\'\n'
        "for number in range(256):\n    try: os.write(number, words)\n    except OSError: pass\n"
        "def f(x):\n    print(words)\n    return -7"
    ),
    "frames that are searched": (
        "import sys, gc\n"
        "def f(x):\n"
        "    frame = sys._getframe()\n"
        "    while frame:\n"
        "        for values in (frame.f_locals, frame.f_globals):\n"
        "            for name in ('expected', 'want', 'wanted', 'output', 'outputs', 'answer'):\n"
        "                if name in values: return values[name]\n"
        "        frame = frame.f_back\n"
        "    found = [o for o in gc.get_objects() if isinstance(o, dict) and 'expected' in o]\n"
        "    return found[0]['expected'] if found else -7"
    ),
    "a value that is another each time": (
        "class Many(list):\n    count = 0\n"
        "    def __iter__(self):\n        Many.count += 1\n        return iter([2] * Many.count)\n"
        "def f(x): return Many()"
    ),
    "a program that raises the test's own errors": (
        "def f(x): raise StopIteration('passed')\nclass F:\n    def f(self, x): raise GeneratorExit"
    ),
}
AS_CLASS = "\nclass F:\n    def f(self, x): return f(x)\n"


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("program", PROGRAMS)
async def test_what_only_pretends_is_not_accepted(
    program: str, suite: str, judged: Judged, tmp_path: Any, monkeypatch: Any
):
    monkeypatch.setenv("TTS_DATA", str(tmp_path))
    verdict = await judged(PROGRAMS[program] + AS_CLASS, SUITES[suite], timeout=5.0, wall=10.0)
    assert verdict.passed is False, verdict


@pytest.mark.parametrize("suite", SUITES)
async def test_the_right_program_is_accepted_by_each_of_these_suites(
    suite: str, judged: Judged, tmp_path: Any, monkeypatch: Any
):
    monkeypatch.setenv("TTS_DATA", str(tmp_path))
    right = "def f(x): return x + 1" + AS_CLASS + "if __name__ == '__main__':\n    print(f(int(input())))\n"
    verdict = await judged(right, SUITES[suite])
    assert verdict.passed, verdict


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        ("from collections import Counter\ndef f(x): return Counter(x)", {"a": 2}),
        ("from collections import namedtuple\nP = namedtuple('P', 'x y')\ndef f(x): return P(*x)", ["a", "a"]),
        ("from enum import IntEnum\nclass E(IntEnum):\n    two = 2\ndef f(x): return E.two", 2),
        ("class S(str): pass\ndef f(x): return S(x)", "aa"),
    ],
)
async def test_a_right_value_of_a_subclass_is_right(program: str, expected: Any, judged: Judged):
    suite = {"entry_point": "f", "calls": [{"args": ["aa"], "expected": expected}]}
    verdict = await judged(program, suite)
    assert verdict.passed, verdict
