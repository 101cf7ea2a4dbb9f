"""The first m tests of a suite, of whatever kinds it has."""

import pytest

from tts.verifiers.unit_tests import Call, InputOutput, Reference, TestSuite

SUITE = TestSuite(
    entry_point="f",
    calls=(Call(args=(1,), expected=1), Call(args=(2,), expected=2)),
    reference=Reference(program="def f(x):\n    return x\n", inputs=((3,), (4,))),
    asserts=("assert f(5) == 5", "assert f(6) == 6"),
    check="def check(candidate):\n    assert candidate(7) == 7\n",
    stdin=(InputOutput(input="8", output="8"),),
)


@pytest.mark.parametrize("most", range(1, 11))
def test_a_weaker_suite_is_a_prefix(most: int):
    weaker = SUITE.first(most)
    assert len(weaker) == min(most, len(SUITE))
    assert (len(weaker.calls), len(weaker.asserts)) == (min(most, 2), min(max(most - 4, 0), 2))
    assert bool(weaker.check) == (most >= 7)
    assert (weaker == SUITE) == (weaker.fingerprint == SUITE.fingerprint) == (most >= len(SUITE))
