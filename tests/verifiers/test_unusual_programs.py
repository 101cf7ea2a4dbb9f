"""Programs that are right in an unusual way, and programs that are wrong in one: each has the verdict it deserves."""

# ruff: noqa: E501 - a program is read more easily on one line

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from tests.support.judging import NEXT, Judged

RIGHT: dict[str, tuple[str, str]] = {
    "a generator that is listed": ("def f(n):\n    yield from range(n)", "assert list(f(3)) == [0, 1, 2]"),
    "a map that is sorted": ("def f(x): return map(abs, x)", "assert sorted(f([-2, 1])) == [1, 2]"),
    "a range that is a set": ("def f(n): return range(n)", "assert set(f(3)) == {0, 1, 2}"),
    "a range that is listed": ("def f(n): return range(n)", "assert list(f(3)) == [0, 1, 2] and len(f(3)) == 3"),
    "a deque": (
        "from collections import deque\ndef f(x): return deque(x)",
        "assert list(f([1, 2])) == [1, 2] and len(f([1])) == 1",
    ),
    "a view": ("def f(x): return x.keys()", "assert sorted(f({'b': 1, 'a': 2})) == ['a', 'b']"),
    "a view of values": ("def f(x): return x.values()", "assert sum(f({'b': 1, 'a': 2})) == 3"),
    "a zip": ("def f(x, y): return zip(x, y)", "assert list(f([1], [2])) == [(1, 2)]"),
    "a filter": ("def f(x): return filter(None, x)", "assert tuple(f([0, 1])) == (1,)"),
    "an endless generator": (
        "import itertools\ndef f(): return itertools.count(5)",
        "g = f()\nassert [next(g), next(g)] == [5, 6]",
    ),
    "in place": ("def f(x): x.sort()", "x = [3, 1]\nf(x)\nassert x == [1, 3]"),
    "in place, nested": (
        "def f(x):\n    for row in x: row.reverse()",
        "row = [1, 2]\nx = [row, [3]]\nf(x)\nassert x == [[2, 1], [3]] and row == [2, 1]",
    ),
    "in place, a dict and a set": (
        "def f(d, s):\n    d['a'] = 1\n    s.add(2)\n    del d['b']",
        "d, s = {'b': 0}, set()\nf(d, s)\nassert d == {'a': 1} and s == {2}",
    ),
    "in place and returned": (
        "def f(x):\n    x.append(1)\n    return x",
        "x = []\ny = f(x)\nassert y is x and x == [1]",
    ),
    "in place by keyword": ("def f(*, x): x.clear()", "x = [3, 1]\nf(x=x)\nassert x == []"),
    "an exception of its own": (
        "class Bad(ValueError): pass\ndef f(x): raise Bad('no', 3)",
        "try:\n    f(1)\n    assert False\nexcept ValueError as e:\n    assert e.args == ('no', 3) and type(e).__name__ == 'Bad'",
    ),
    "an exception of its own by name": (
        "class Bad(Exception): pass\ndef f(x): raise Bad('no')",
        "try:\n    f(1)\n    assert False\nexcept Bad as e:\n    assert str(e) == 'no'",
    ),
    "an exception with words and attributes": (
        "class Bad(Exception):\n    def __init__(self, code):\n        super().__init__(code)\n        self.code = code\n"
        "    def __str__(self): return f'code {self.code}'\ndef f(x): raise Bad(7)",
        "try:\n    f(1)\n    assert False\nexcept Bad as e:\n    assert e.code == 7 and str(e) == 'code 7'",
    ),
    "a KeyError's arguments": (
        "def f(x): return x['b']",
        "try:\n    f({})\n    assert False\nexcept KeyError as e:\n    assert e.args == ('b',)",
    ),
    "a Fraction": ("from fractions import Fraction\ndef f(x): return Fraction(1, x)", "assert f(2) == 0.5"),
    "a Fraction for a Fraction": (
        "from fractions import Fraction\ndef f(x): return x / 2",
        "from fractions import Fraction\nassert f(Fraction(1, 3)) == Fraction(1, 6)",
    ),
    "a Decimal": ("from decimal import Decimal\ndef f(x): return Decimal(x)", "assert f('0.5') == 0.5"),
    "a date": (
        "import datetime\ndef f(y): return datetime.date(y, 1, 2)",
        "import datetime\nassert f(2020) == datetime.date(2020, 1, 2)",
    ),
    "a time span": (
        "from datetime import timedelta\ndef f(n): return timedelta(days=n)",
        "from datetime import timedelta\nassert f(-2) == timedelta(days=-2)",
    ),
    "a moment with a zone": (
        "from datetime import datetime, timezone\ndef f(n): return datetime.fromtimestamp(n, timezone.utc)",
        "from datetime import datetime, timezone\nassert f(0) == datetime(1970, 1, 1, tzinfo=timezone.utc)",
    ),
    "a bytearray": ("def f(x): return bytearray(x)", "assert f([1, 2]) == b'\\x01\\x02'"),
    "an integer of sympy": ("import sympy\ndef f(x): return sympy.Integer(x) + 1", "assert f(2) == 3"),
    "a rational number of sympy": (
        "import sympy\ndef f(x): return sympy.Rational(1, x)",
        "import sympy\nassert f(2) == sympy.Rational(1, 2)",
    ),
    "a number of numpy": ("import numpy\ndef f(x): return numpy.int64(x)", "assert f(2) == 2"),
    "a class with a length": (
        "class Box:\n    def __init__(self, n): self.n = n\n    def __len__(self): return self.n\ndef f(n): return Box(n)",
        "assert len(f(3)) == 3",
    ),
    "a class that is iterated and indexed": (
        "class Box:\n    def __getitem__(self, i): return [4, 5][i]\ndef f(n): return Box()",
        "assert list(f(3)) == [4, 5] and f(3)[1] == 5 and 5 in f(3)",
    ),
    "a class with words": (
        "class Box:\n    def __str__(self): return 'box'\n    __repr__ = __str__\ndef f(n): return Box()",
        "assert str(f(3)) == 'box' and f'{f(3)}' == 'box'",
    ),
    "a lambda is given": ("def f(g, x): return list(map(g, x))", "assert f(lambda v: v * 2, [1, 2]) == [2, 4]"),
    "a function of the test is given": (
        "def f(g, x): return [v for v in x if g(v)]",
        "def even(v): return v % 2 == 0\nassert f(even, [1, 2]) == [2]",
    ),
    "a lambda that calls the program": (
        "def f(g, n): return 1 if n == 0 else g(n - 1) + 1",
        "assert f(lambda n: f(lambda m: 0, n), 1) == 2",
    ),
    "a lambda that raises": (
        "def f(g):\n    try:\n        g(1)\n    except ValueError as e: return str(e)",
        "def bad(x): raise ValueError('no')\nassert f(bad) == 'no'",
    ),
    "a key of a sort is given": ("def f(x, key): return sorted(x, key=key)", "assert f([-2, 1], key=abs) == [1, -2]"),
    "a generator is given": ("def f(x): return sum(x)", "assert f(v for v in (1, 2)) == 3"),
    "an object of the test is given": (
        "def f(node): return 0 if node is None else node.value + f(node.next)",
        "class Node:\n    def __init__(self, value, next=None): self.value, self.next = value, next\n"
        "assert f(Node(1, Node(2))) == 3",
    ),
    "a deque and a Counter are given": (
        "def f(x, y): return x.popleft() + y['a']",
        "from collections import Counter, deque\nassert f(deque([1]), Counter('aa')) == 3",
    ),
    "its own object is handed back": (
        "class P:\n    def __init__(self, x): self.x = x\ndef f(p): return p.x",
        "assert f(P(4)) == 4",
    ),
    "a view that becomes a dict": ("def f(x): return {1: x}.items()", "assert dict(f(2)) == {1: 2}"),
    "in place, asked in the same breath": (
        "def f(m): m[0][0] = 5",
        "m = [[1]]\nassert f(m) is None and m[0] == [5]",
    ),
    "in place, inside a tuple": ("def f(t): t[0].append(1)", "t = ([],)\nf(t)\nassert t == ([1],)"),
    "objects of the test are linked anew": (
        "def f(head):\n    last = None\n    while head:\n        head.next, last, head = last, head, head.next\n    return last",
        "class N:\n    def __init__(self, v, n=None): self.v, self.next = v, n\n"
        "first = N(1, N(2, N(3)))\nh, out = f(first), []\nwhile h:\n    out.append(h.v)\n    h = h.next\n"
        "assert out == [3, 2, 1] and first.next is None",
    ),
    "an object of the test comes back": (
        "def f(a, b): return a if a is b else b",
        "class N: pass\na, b = N(), N()\nassert f(a, a) is a and f(a, b) is b",
    ),
    "an exception of a module": (
        "import json\ndef f(x): return json.loads(x)",
        "import json\ntry:\n    f('{')\n    assert False\nexcept json.JSONDecodeError as e:\n    assert type(e).__name__ == 'JSONDecodeError'",
    ),
    "methods of a Counter": (
        "from collections import Counter\ndef f(s): return Counter(s)",
        "from collections import Counter\nassert f('aab').most_common(1) == [('a', 2)]\n"
        "assert f('aab') - Counter('a') == Counter('ab') and f('aab') == {'a': 2, 'b': 1}",
    ),
    "a defaultdict that grows": (
        "from collections import defaultdict\ndef f(s): return defaultdict(list, {s: [1]})",
        "d = f('a')\nd['z'].append(2)\nassert d == {'a': [1], 'z': [2]}",
    ),
    "the fields of a named tuple": (
        "from collections import namedtuple\nP = namedtuple('P', 'x y')\ndef f(a): return [P(a, a + 1)]",
        "p = f(1)[0]\nassert p == (1, 2) and p.y == 2 and p._asdict() == {'x': 1, 'y': 2}",
    ),
    "what a context manager gives": (
        "from contextlib import contextmanager\n@contextmanager\ndef f(x): yield x + 1",
        "with f(1) as y:\n    assert y == 2",
    ),
    "arrays that are compared": (
        "import numpy as np\ndef f(x): return np.arange(x)",
        "import numpy as np\nassert (f(3) == np.array([0, 1, 2])).all()",
    ),
    "many items": ("def f(n): return list(range(n))", "assert f(10**5) == list(range(10**5))"),
    "a long text": ("def f(n): return 'ab' * n", "assert f(10**6) == 'ab' * 10**6"),
    "many items, counted": ("def f(n): return [0] * n", "assert len(f(10**5)) == 10**5"),
    "2 GB": ("def f(n):\n    a = bytes(2 * 10**9)\n    return len(a) and n", "assert f(1) == 1"),
    "100 threads": (
        "import threading, time\ndef f(n):\n    b = threading.Barrier(n + 1)\n"
        "    t = [threading.Thread(target=b.wait) for _ in range(n)]\n    [x.start() for x in t]\n    b.wait()\n"
        "    [x.join() for x in t]\n    return n",
        "assert f(100) == 100",
    ),
    "a lock of multiprocessing": (
        "import multiprocessing\ndef f(n):\n    with multiprocessing.Lock(): return n",
        "assert f(1) == 1",
    ),
}


@pytest.mark.parametrize("name", RIGHT)
async def test_a_right_program_is_accepted(name: str, judged: Judged):
    program, test = RIGHT[name]
    space: dict[str, Any] = {}
    exec(program + "\n" + test, space) if "2 GB" not in name else None  # as the peers do
    for suite in (
        {"entry_point": "f", "asserts": [test]},
        {"entry_point": "f", "check": "def check(candidate):\n" + "".join(f"    {x}\n" for x in test.split("\n"))},
    ):
        verdict = await judged(program, suite)
        assert verdict.passed, verdict


WRONG: dict[str, tuple[str, str]] = {
    "stops a map": ("def f(x): raise StopIteration", "assert all(map(lambda x: f(x) == x + 1, [1, 2]))"),
    "stops a zip": (
        "def f(x): raise StopIteration",
        "for got, want in zip(map(f, [1, 2]), [2, 3]):\n    assert got == want",
    ),
    "stops with a class of its own": (
        "class Stop(StopIteration): pass\ndef f(x): raise Stop",
        "assert all(map(lambda x: f(x) == x + 1, [1, 2]))",
    ),
    "stops by next": ("def f(x): return next(iter(()))", "assert list(map(f, [1])) == []"),
    "helps the test": ("def f(x): return 0\ndef same(a, b): return True", "assert same(f(2), 4)"),
    "helps the test with what is expected": (
        "def f(x): return Near()\nclass Near:\n    def __eq__(self, other): return True\ndef near(x): return 0\n"
        "def f(x): return 0",
        "assert f(2) == near(4)",
    ),
    "helps the test by a variable": (
        "def f(x): return 0\ndef near(x): return 0",
        "expected = near(4)\nwanted = expected\nassert f(2) == wanted",
    ),
    "contains everything": (
        "class All:\n    def __contains__(self, x): return True\n    def __iter__(self): return iter(())\ndef f(x): return All()",
        "assert 4 in f(2)",
    ),
    "is near everything": (
        "class All:\n    def __sub__(self, x): return 0\n    __rsub__ = __sub__\n    def __abs__(self): return 0\ndef f(x): return All()",
        "assert abs(f(2) - 4) < 1e-6",
    ),
    "equals everything": (
        "class All:\n    def __eq__(self, x): return True\n    __hash__ = None\ndef f(x): return [All()]",
        "assert list(f(2)) == [4] or f(2)[0] == 4",
    ),
    "NaN in a list": ("def f(x): return [float('nan')]", "assert f(1) == [float('nan')]"),
    "NaN in a list, math's own": ("import math\ndef f(x): return [math.nan]", "assert f(1) == [math.nan]"),
    "changes what it is given, asked in the same breath": (
        "def f(m): m[0] = 5",
        "m = [1]\nassert f(m) is None and m == [1]",
    ),
    "changes what it is given": (
        "def f(x):\n    x.append(2)\n    return x",
        "x = [1]\nassert f(x) == [1, 2]\nassert x == [1]",
    ),
    "is too large to compare": ("def f(n): return list(range(n - 1)) + [0]", "assert f(10**5) == list(range(10**5))"),
    "looks into what is lent": (
        "def f(g): return g.__globals__",
        "wanted = 4\ndef g(): pass\nassert f(g) == 4 or f(g)['wanted'] == 4",
    ),
    "a context manager that takes back failures": (
        "class C:\n    def __enter__(self): return 1\n    def __exit__(self, *a): return True\ndef f(x): return C()",
        "with f(1) as y:\n    assert y == 2",
    ),
    "a tuple with fields that equals everything": (
        "class P(tuple):\n    _fields = ('x',)\n    def __eq__(self, other): return True\n    x = 2\ndef f(x): return P((1,))",
        "p = f(1)\nassert p == (2,) and p.x == 2",
    ),
    "a Counter that equals everything": (
        "from collections import Counter\nclass C(Counter):\n    def __eq__(self, other): return True\n"
        "def f(x): return C('a')",
        "from collections import Counter\nassert f(1) == Counter('b')",
    ),
    "an array of another shape": (
        "import numpy as np\ndef f(x): return np.array([])",
        "import numpy as np\nassert (f(3) == np.array([1])).all()",
    ),
    "raises the test's own error": ("def f(x): raise AssertionError", "assert f(1) == 2"),
}


@pytest.mark.parametrize("name", WRONG)
async def test_a_wrong_program_is_not(name: str, judged: Judged):
    program, test = WRONG[name]
    for suite in (
        {"entry_point": "f", "asserts": [test]},
        {"entry_point": "f", "check": "def check(candidate):\n" + "".join(f"    {x}\n" for x in test.split("\n"))},
    ):
        verdict = await judged(program, suite)
        assert verdict.passed is False, verdict


CONTAINMENT = {
    "lowers its limit of CPU time": (
        "import resource\nresource.setrlimit(resource.RLIMIT_CPU, (0, 0))\nwhile True: pass\ndef f(x): return 0",
        NEXT,
    ),
    "lowers it in the call": (
        "import resource\ndef f(x):\n    resource.setrlimit(resource.RLIMIT_CPU, (0, 0))\n    while True: pass",
        NEXT,
    ),
    "lowers its limit of memory": (
        "import resource\ndef f(x):\n    resource.setrlimit(resource.RLIMIT_AS, (0, 0))\n    return bytearray(10**7)",
        NEXT,
    ),
    "lowers its limit of files": ("import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))", NEXT),
    "makes the checker slow": (
        "def f(x): return 10**9",
        {
            **NEXT,
            "checker": "def accepts(given, got, expected):\n    for _ in range(got): pass\n    return got == expected",
        },
    ),
    "makes the checker large": (
        "def f(x): return 10**12",
        {**NEXT, "checker": "def accepts(given, got, expected):\n    return len(bytes(got)) == expected"},
    ),
    "makes the checker end": (
        "def f(x): return 0",
        {**NEXT, "checker": "import os\ndef accepts(given, got, expected):\n    return got == expected or os._exit(0)"},
    ),
    "forges answers for the checker": (
        'import os\nos.write(3, b\'["ok",[],"",""]\\n\' * 5)\ndef f(x): return 0',
        {**NEXT, "checker": "def accepts(given, got, expected):\n    return True"},
    ),
    "answers the checker with too much": (
        "def f(x): return 'x' * 10**6",
        {**NEXT, "checker": "def accepts(given, got, expected):\n    return got == expected"},
    ),
    "says that loading was too large": ('import os\nos.write(3, b\'["large",[],"",""]\\n\')\ndef f(x): return 0', NEXT),
    "says that loading was too large, to the tests": (
        'import os\nos.write(3, b\'["large",[],"",""]\\n\')\ndef f(x): return 0',
        {"entry_point": "f", "asserts": ["import random\nassert f(1) == random.choice([2])"]},
    ),
    "says more than is read": ("import os\nos.write(3, b'[' * 10**6 + b'\\n')\ndef f(x): return 0", NEXT),
    "guesses what stands for a large answer": (
        'import os\nos.write(3, b\'["ok",[],"",""]\\n["large",[""],"",""]\\n\')\ndef f(x): return 0',
        {"entry_point": "f", "calls": [{"args": [1], "expected": 2}]},
    ),
    "says nothing the tests know": (
        'import os\nos.write(3, b\'["ask",[[0,"","",""]],"",""]\\n\' * 9)\ndef f(x): return 0',
        {"entry_point": "f", "asserts": ["assert f(f(1)) == 3"]},
    ),
    "returns an object that is handed on": (
        "def f(x): return object()",
        {"entry_point": "f", "asserts": ["assert f(f(1)) == 3", "assert g(object()) == 1"]},
    ),
}


@pytest.mark.parametrize("name", CONTAINMENT)
async def test_what_a_program_causes_is_never_the_machinerys_fault(name: str, judged: Judged):
    program, suite = CONTAINMENT[name]
    verdict = await judged(program, suite, timeout=0.3, wall=4.0)
    assert verdict.passed is False, verdict
    assert "infra" not in verdict.details["outcomes"]


LARGE = {
    "a list": ("def f(n): return list(range(n))", list(range(20_000)), True),
    "a tuple for a list": ("def f(n): return tuple(range(n))", list(range(20_000)), True),
    "an object in another order": (
        "def f(n): return {str(i): i for i in reversed(range(n))}",
        {str(i): i for i in range(20_000)},
        True,
    ),
    "floats that are rounded": (
        "def f(n): return [i / 7 + 1e-13 for i in range(n)]",
        [i / 7 for i in range(20_000)],
        True,
    ),
    "a text": ("def f(n): return 'ab' * n", "ab" * 20_000, True),
    "a text with one wrong letter": ("def f(n): return 'ab' * (n - 1) + 'aa'", "ab" * 20_000, False),
    "a list with one wrong item": ("def f(n): return list(range(n - 1)) + [n]", list(range(20_000)), False),
    "a float for an integer, near": (
        "def f(n): return [*range(n - 1), n - 1 + 1e-9]",
        list(range(20_000)),
        False,
    ),
}


@pytest.mark.parametrize("name", LARGE)
@pytest.mark.parametrize("container", [False, True])
async def test_a_large_answer_is_judged_like_a_small_one(name: str, container: bool, judged: Judged):
    program, expected, right = LARGE[name]
    suite: dict[str, Any] = {"entry_point": "f", "calls": [{"args": [20_000], "expected": expected}]}
    if container:
        suite["container"] = "Solution"
        program = "class Solution:\n    " + program.replace("f(n)", "f(self, n)")
    verdict = await judged(program, suite)
    assert verdict.passed is right, verdict


async def test_what_a_failed_case_returned_before_is_not_too_much(judged: Judged):
    program = "class F:\n    def a(self): return [0] * 50_000\n    def b(self): raise KeyError(3)"
    calls = [{"method": "a", "expected": [0] * 50_000}, {"method": "b", "expected": 1}]
    verdict = await judged(program, {"entry_point": "F", "interactions": [{"calls": calls}]})
    assert verdict.details["outcomes"] == ["error"]


LINES = "\n".join(map(str, range(200_000)))


@pytest.mark.parametrize(
    ("program", "right"),
    [
        ("for i in range(200_000): print(i)", True),
        ("print(*range(200_000), sep='\\n')", True),
        ("for i in range(200_000): print(i if i != 199_999 else 0)", False),
        ("for i in range(199_999): print(i)", False),
    ],
)
@pytest.mark.parametrize("output", ["lines", "tokens", "numbers"])
async def test_two_hundred_thousand_lines_of_output_are_read(program: str, right: bool, output: str, judged: Judged):
    verdict = await judged(program, {"stdin": [{"input": "", "output": LINES}], "output": output})
    assert verdict.passed is right, verdict
    assert verdict.details["kind"] == ("passed" if right else "wrong")


async def test_a_checker_that_cannot_take_the_right_answer_is_no_verdict(judged: Judged):
    suite = {**NEXT, "checker": "import os\ndef accepts(given, got, expected):\n    os._exit(0)"}
    assert (await judged("def f(x): return x + 1", suite)).details["kind"] == "infra"


# -- nothing that a program or a test says keeps the event loop -----------------------------------------------------

COLLIDING = "[(2**61 - 1) * i for i in range(1, 50_000)]"
HEAVY = {
    "a sum in an assertion": (
        "def f(x): return 0",
        ["assert f(1) == sum(sum(range(10**6)) for _ in range(10**5))"],
    ),
    "large constants": ("def f(x): return 0", ["assert f([[[[0] * 99] * 999] * 999] * 999) == 0"]),
    "constants that are compared": (
        "def f(x): return 0",
        ["assert [[[1] * 999] * 999] * 99 == [[[1] * 999] * 999] * 99 and f(1) == 1"],
    ),
    "colliding integers as a set": (f"def f(x): return {COLLIDING}", ["assert set(f(1)) == {1, 2}"]),
    "colliding integers in a set": (f"def f(x): return set({COLLIDING}[:20_000])", ["assert f(1) == {1, 2}"]),
    "colliding integers in a call": (f"def f(x): return {COLLIDING}", ["assert len({v for v in f(1)}) == 2"]),
    "quadratic search": (
        "def f(x): return list(range(20_000))",
        ["assert [v for v in f(1) if v not in f(2)] == [1] and f(3) == 0"],
    ),
    "a long range": ("def f(x): return range(10**15)", ["assert sum(f(1)) == 3", "assert 'a' in f(1)"]),
    "a large power": ("def f(x): return 0", ["assert f(1) == 7 ** 10 ** 7 % 10"]),
    "a round number": ("def f(x): return 5", ["assert round(f(1), -10**9) == 3"]),
    "a long decimal": (
        "from decimal import Decimal\ndef f(x): return Decimal('1e999999999')",
        ["assert int(f(1)) == 3", "assert round(f(1)) == 3", "assert f(1) == 3"],
    ),
    "a large fraction": (
        "from fractions import Fraction\ndef f(x): return Fraction(3**90000, 2**90000)",
        ["assert f(1) + f(1) == 3", "assert f(1) == 3"],
    ),
    "many nested lists": ("def f(x): return [[]] * 30_000", ["assert f(1) == [[]]", "assert sorted(f(1)) == 1"]),
    "many answers": (
        'import os\nos.write(3, b\'["ok",[],"",""]\\n\' * 500_000)\ndef f(x): return 0',
        ["assert f(1) == 1"],
    ),
}


@pytest.mark.parametrize("name", HEAVY)
async def test_the_event_loop_goes_on(name: str, judged: Judged):
    program, asserts = HEAVY[name]
    lags: list[float] = []

    async def probe() -> None:
        while True:
            before = time.thread_time()  # work on the loop, whatever else the machine does
            await asyncio.sleep(0.001)
            lags.append(time.thread_time() - before)

    await judged("def f(x): return 1", NEXT)
    watching = asyncio.create_task(probe())
    await asyncio.sleep(0.01)
    used = time.process_time()
    verdict = await judged(program, {"entry_point": "f", "asserts": asserts}, timeout=0.3, wall=6.0)
    used = time.process_time() - used
    watching.cancel()
    assert verdict.passed is False, verdict
    assert verdict.details["kind"] != "infra"
    assert used < 2, used
    assert max(lags) < 0.1, max(lags)
