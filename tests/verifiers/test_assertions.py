"""Assertions as calls: which are turned, what is called, and when a value is right."""

from __future__ import annotations

import ast
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tts.verifiers.programs.asserts import Untranslatable, translate_assert, translate_check
from tts.verifiers.programs.safe_eval import NotPlain, evaluate
from tts.verifiers.sandbox import Opaque, decode


def computed(source: str, **names: Any) -> Any:
    return evaluate(ast.parse(source, mode="eval").body, names)


# -- plain expressions ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "source",
    [
        "1 + 2 * 3 ** 4 // 5 % 6 - 7 / 8",
        "-1 < 2 <= 2 != 3",
        "[1, *(2, 3)][1:] + [4]",
        "{'a': 1, **{'b': 2}}['b']",
        "1 if [] else 'x' * 3",
        "set([1, 2]) == {2, 1} and not None or 0",
        "sorted('cab', reverse=True)",
        "sum(i * j for i in range(5) for j in (1, 2) if i % 2)",
        "{k: v for k, v in zip('ab', [1, 2])}",
        "abs(round(-2.567, 1)), min(3, 1), max([1, 2]), len('abc')",
        "'a,b'.split(',') + ['x'.upper()]",
        "isinstance(True, int) and isinstance((1, 2), (list, tuple))",
        "1 in [1, 2] and 3 not in (1,) and None is None",
        "complex(1, 2) * 1j",
    ],
)
def test_an_expression_has_the_value_that_python_gives_it(source: str):
    assert computed(source) == eval(source)


@given(st.recursive(st.integers() | st.floats(allow_nan=False) | st.text() | st.booleans() | st.none(), st.lists))
def test_any_literal_is_its_own_value(value: Any):
    assert computed(repr(value), inf=float("inf")) == value


@pytest.mark.parametrize(
    "source",
    [
        "open('x')",
        "__import__('os')",
        "().__class__",
        "''.join(['a'])",
        "(lambda: 1)()",
        "f'{1}'",
        "math.factorial(3)",
        "unknown",
        "'%1000000000d' % 1",
        "10 ** 10 ** 10",
        "'a' * 10 ** 9",
        "[0] * 10 ** 9",
        "range(10 ** 9)",
        "[x for x in range(1000) for y in range(1000) for z in range(1000)]",
        "1 << 10 ** 9",
        "type('X', (), {})",
    ],
)
def test_what_is_not_plain_or_too_large_is_refused(source: str):
    with pytest.raises((NotPlain, TypeError)):
        computed(source)


# -- assertions ----------------------------------------------------------------------------------------------------


def called(source: str) -> list[str]:
    cases = translate_assert(source, {"f": "f"})
    return [f"{call.path}{decode(call.args)}" for case in cases for call in case.calls]


def complaint(source: str, *values: Any) -> str:
    (case,) = translate_assert(source, {"f": "f"})
    return case.complaint(values)


@pytest.mark.parametrize(
    ("source", "value", "wrong"),
    [
        ("assert f(1) == 2", 2, 3),
        ("assert 2 == f(1)", 2, 3),
        ("assert f(1) == 2, 'because'", True + 1, None),
        ("assert f(1) == 1.0", True, 0),
        ("assert f(1) == [1, (2, 'x')]", [1, (2, "x")], [1, [2, "x"]]),
        ("assert abs(f(1) - 2.0 / 3.0) < 1e-6", 0.66666666, 0.6667),
        ("assert math.isclose(f(1), 3, rel_tol=0.001)", 3.001, 3.1),
        ("assert f(1)", "yes", ""),
        ("assert not f(1)", [], [0]),
        ("assert f(1) is True", True, 1),
        ("assert f(1) is None", None, 0),
        ("assert f(1) in (1, 2)", 2, 3),
        ("assert f(1) != 2", 3, 2),
        ("assert 1 < f(1) <= 3", 3, 1),
        ("assert set(f(1)) == set([1, 2])", [2, 1, 1], [2]),
        ("assert tuple(f(1)) == tuple([1, 2])", [1, 2], [2, 1]),
        ("assert sorted(f(1)) == [1, 2]", [2, 1], [2, 2]),
        ("assert f(1)[0] == 5 and len(f(1)) == 2", None, None),
        ("assert isinstance(f(1), list)", [], ()),
        ("assert f(1).lower() == 'a'", "A", "B"),
    ],
)
def test_a_condition_is_judged_on_the_value(source: str, value: Any, wrong: Any):
    cases = translate_assert(source, {"f": "f"})
    assert len(cases) == 1
    if value is None and wrong is None:
        assert len(cases[0].calls) == 2
        return
    assert complaint(source, value) == ""
    assert complaint(source, wrong) != ""


def test_objects_that_are_no_plain_data_equal_nothing():
    odd = Opaque("Equal")
    for source in (
        "f(1) == 2",
        "f(1) in [2]",
        "abs(f(1) - 2) < 1",
        "f(1) is True",
        "not f(1)",
        "f(1) <= 2",
        "len(f(1)) == 1",
    ):
        assert complaint(f"assert {source}", odd)
    assert complaint("assert f(1) == f(2)", odd, odd)


def test_a_failure_is_told_with_call_expected_and_got():
    assert complaint("assert f([1], k='a') == 2", 3) == "f([1], k='a'): expected 2, got 3"
    assert complaint("assert 2 == f(1)", 3) == "f(1): expected 2, got 3"
    assert complaint("assert set(f(1)) == {2}", [3]) == "set(f(1)): expected {2}, got {3}"
    assert complaint("assert f(1) > 2", 1) == "assert f(1) > 2 does not hold; f(1) gave 1"
    assert "TypeError" in complaint("assert abs(f(1) - 2) < 1", None)


def test_calls_are_found_with_their_arguments_computed():
    assert called("assert f(2 * 3, 'a' + 'b') == g((1,))") == ["f(6, 'ab')", "g((1,),)"]
    assert called("for i in range(3):\n    assert f(i) == i") == ["f(0,)", "f(1,)", "f(2,)"]
    assert called("cases = [(1, 2), (3, 4)]\nfor a, b in cases:\n    assert f(a) == b") == ["f(1,)", "f(3,)"]


def test_a_function_under_test_may_have_a_builtins_name():
    (case,) = translate_assert("assert sum(2, 3) == 5", {"sum": "sum"})
    assert case.calls[0].path == "sum"
    (case,) = translate_assert("assert max(2, 3) == 3", {})
    assert case.calls[0].path == "max"


@pytest.mark.parametrize(
    "source",
    [
        "assert f(f(1)) == 2",
        "x = f(1)\nassert x == 2",
        "x = [1]\nassert f(x) == x",
        "import random\nassert f(random.random()) < 1",
        "assert helper(f(1)) == 2",
        "assert f(1) == 2 or f(2) == 3",
        "assert f(1) == (f(2) if True else 0)",
        "assert f(lambda x: x) == 2",
        "assert f(1).size == 2",
        "assert all(f(i) == i for i in range(3))",
        "try:\n    f(1)\nexcept ValueError:\n    pass",
        "with open('x') as y:\n    assert f(y)",
        "assert sys.getsizeof(f(1)) == 2",
        "assert f(",
        "assert False",
    ],
)
def test_what_needs_an_interpreter_is_left_to_one(source: str):
    with pytest.raises(Untranslatable):
        translate_assert(source, {"f": "f"}, frozenset({"helper"}))


def test_a_check_function_is_all_of_its_assertions():
    source = """METADATA = {'author': 'x'}

def check(candidate):
    'Checks.'
    assert True
    assert candidate(1) == 2
    assert candidate(2) == 3
"""
    cases = translate_check(source, {"candidate": "f", "f": "f"})
    assert [case.calls[0].path for case in cases] == ["f", "f"]
    renamed = translate_check("def check(solve):\n    assert solve(1) == f(2)", {"candidate": "f", "f": "f"})
    assert [call.path for call in renamed[0].calls] == ["f", "f"]
    with pytest.raises(Untranslatable):
        translate_check("def check(a, b):\n    pass", {"candidate": "f"})
