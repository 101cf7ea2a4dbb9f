"""The codec keeps plain data exactly and refuses everything else."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tts.verifiers.sandbox.child.codec import Opaque, decode, encode

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
hashable = st.recursive(scalars, lambda inner: st.tuples(inner, inner) | st.frozensets(inner), max_leaves=5)
plain = st.recursive(
    scalars | st.complex_numbers(allow_nan=False),
    lambda inner: st.lists(inner) | st.tuples(inner) | st.dictionaries(hashable, inner) | st.sets(hashable),
    max_leaves=20,
)


def shape(value: Any) -> Any:
    """The value with all its types."""
    if isinstance(value, dict):
        return dict, [(shape(k), shape(v)) for k, v in value.items()]
    if isinstance(value, list | tuple):
        return type(value), [shape(item) for item in value]
    return type(value), repr(value) if isinstance(value, float | complex) else value


@given(plain)
def test_plain_data_comes_back_with_its_types(value: Any) -> None:
    text = encode(value)
    assert shape(decode(text)) == shape(value)
    assert "\n" not in text


def test_not_a_number_comes_back() -> None:
    assert math.isnan(decode(encode(math.nan)))
    assert decode(encode([math.inf, -math.inf])) == [math.inf, -math.inf]


def test_what_is_not_plain_is_equal_to_nothing() -> None:
    foreign = decode(encode(object()))
    assert isinstance(foreign, Opaque)
    assert foreign != foreign
    assert foreign.type == "object"
    assert decode(encode(foreign)).type == "object"


def test_cycles_and_depth_end_somewhere() -> None:
    cycle: list[Any] = []
    cycle.append(cycle)
    assert "{" in encode(cycle)
    decode(encode(cycle))


@given(st.text())
def test_text_that_is_not_ours_is_refused_or_plain(text: str) -> None:
    try:
        decode(text)
    except ValueError:
        return


@pytest.mark.parametrize(
    "text",
    [
        "", "{}", '{"x":1}', '{"t":5}', '{"t":[],"s":[]}', '{"d":[[1]]}', '{"d":[[[],1]]}', '{"s":[[]]}', '{"i":"zz"}',
        '{"i":5}', '{"f":"1"}', '{"c":["1"]}', '{"b":"x"}', "NaN", "Infinity", "[" * 100_000, "9" * 5000,
        encode({(2**61 - 1) * i for i in range(2999)}),
        '{"t":[' * 300 + "]}" * 300,
    ],
    ids=lambda text: text[:20] or "empty",
)  # fmt: skip
def test_malformed_text_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        decode(text)
