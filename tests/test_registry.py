"""Specs: what a text stands for, and that every plug-in's own text makes it again."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from tts import Verifier, registry
from tts.base import VerifierField
from tts.cli.common import checked
from tts.errors import ConfigError, MissingExtra, complaints
from tts.gateway.settings import GatewayLimits, Key
from tts.registry import short_names
from tts.runs import Experiment
from tts.sampler import Endpoint
from tts.types import Budget


class Rated(Verifier):
    """A verifier with a parameter of every kind."""

    name: ClassVar[str] = "rated_in_test"
    words: str = ""
    number: float = 0.0
    many: tuple[str, ...] = ()
    flag: bool = False
    nothing: int | None = 7
    inner: VerifierField | None = None
    parts: tuple[VerifierField, ...] = ()


registry.register("verifiers", Rated)

texts = st.text() | st.sampled_from(["42", "true", "none", "a,b", "f(x=1)", "[a]", '"', "back\\", "a=b", " a ", "-1e5"])
leaves = st.builds(
    Rated,
    words=texts,
    number=st.floats(allow_nan=False, allow_infinity=False),
    many=st.lists(texts, max_size=3).map(tuple),
    flag=st.booleans(),
    nothing=st.none() | st.integers(-9, 9),
)
verifiers = st.builds(Rated, words=texts, inner=st.none() | leaves, parts=st.lists(leaves, max_size=2).map(tuple))


@given(verifiers)
def test_a_plug_in_is_made_again_from_its_spec_and_from_its_configuration(verifier: Rated):
    assert registry.make("verifiers", verifier.spec) == verifier
    assert registry.make("verifiers", verifier.config()) == verifier


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5", 5),
        ("0.5", 0.5),
        ("true", True),
        ("None", None),
        ('"5"', "5"),
        ('"\\n"', "\n"),
        ('"\n"', "\n"),
        ("\n", "\n"),
        ("\n\n", "\n\n"),
        ("a word", "a word"),
        ("/tmp/a-1.5/x.jsonl", "/tmp/a-1.5/x.jsonl"),
        ("2024-05-01", "2024-05-01"),
        ("http://here:80/v1", "http://here:80/v1"),
        ("[1,2]", [1, 2]),
        ("[a,f(x=1)]", ["a", {"name": "f", "x": 1}]),
        ('{"a":[1,2]}', {"a": [1, 2]}),
        ('f(x="a,)",y=g(z=1))', {"name": "f", "x": "a,)", "y": {"name": "g", "z": 1}}),
    ],
)
def test_a_value_is_json_a_nested_spec_a_list_or_text(text: str, value: Any):
    assert registry.parse_spec(f"name:key={text},last=1") == ("name", {"key": value, "last": 1})
    assert registry.parse_spec(f"name(key={text}, last=1)") == ("name", {"key": value, "last": 1})
    for spec in (f"name:key={text}", f"name(key={text})"):
        assert registry.parse_spec(spec) == ("name", {"key": value})


@pytest.mark.parametrize("spec", ["name:key", "name:=1", "name:a=1,b", "name(key)"])
def test_what_is_not_key_and_value_is_refused_with_the_form_to_write(spec: str):
    with pytest.raises(ConfigError, match="write name:key=value,key=value"):
        registry.parse_spec(spec)


def test_a_strategys_spec_says_how_many_samples_even_where_that_is_the_default():
    for name in registry.names("strategies"):
        if registry.load("strategies", name).model_fields.keys() & {"n", "k"}:
            try:
                made = registry.make("strategies", name)
            except ConfigError:  # it needs more than its name
                continue
            assert re.search(r"\b(n|k)=\d+", made.spec)
            assert registry.make("strategies", made.spec) == made


@pytest.mark.parametrize("value", [None, True, 3, 2.5, float("nan"), "x", [], [1], {}, {"a": 1}])
def test_complaints_are_in_plain_words(value: object):
    endpoint = {"model": "m", "base_url": "http://h/v1"}
    table = {"task": "lab_math", "strategies": ["single"], "models": {"m": endpoint}}
    groups: tuple[registry.Group, ...] = ("strategies", "verifiers", "tasks")
    makes: list[Callable[[], object]] = [
        partial(registry.make, group, {"name": name, parameter: value})
        for group in groups
        for name in registry.names(group)
        for parameter in (*registry.load(group, name).model_fields, "absent")
    ]
    makes += [partial(Experiment.parse, {**table, parameter: value}) for parameter in (*Experiment.model_fields, "no")]
    makes += [partial(checked, Endpoint, **{**endpoint, parameter: value}) for parameter in Endpoint.model_fields]
    said = []
    for make in makes:
        with suppress(MissingExtra):
            try:
                make()
            except ConfigError as error:
                said.append(str(error))
    assert said
    assert not [
        words for words in said if re.search(r"Input should|Extra inputs|unable to|pydantic|instance of", words)
    ]


specs = st.builds(
    lambda name, values: f"{name}:" + ",".join(f"{key}={value}" for key, value in sorted(values.items())),
    st.sampled_from(["vote", "best"]),
    st.dictionaries(
        st.sampled_from(["n", "answer", "calibration"]),
        st.sampled_from(["4", "8", "behaviour(mutants=40,seed=1)", "/a/long/folder/with/a/calibration.json"]),
        min_size=1,
    ),
)


@given(st.lists(specs, unique=True))
def test_short_names_tell_apart_what_the_whole_ones_do(some: list[str]):
    names = short_names(some)
    assert len({names.get(spec, spec) for spec in some}) == len(some)
    assert all(len(name) < len(spec) for spec, name in names.items())


def test_a_short_name_keeps_the_numbers_the_verifier_and_what_differs():
    common = "calibration=/a/long/folder/cal.json"
    vote, best = f"cascade:{common},by=agreement,n=4", f"cascade:{common},by=score,n=4,verifier=judge"
    assert short_names([vote, best, "self_consistency:n=4"]) == {
        vote: "cascade:by=agreement,n=4",
        best: "cascade:by=score,n=4,verifier=judge",
    }


@pytest.mark.parametrize(
    ("kind", "fields", "at"),
    [
        (Endpoint, {"model": "m", "base_url": "http://x/v1", "max_concurrency": 10**400}, "max_concurrency"),
        (Endpoint, {"model": "m", "base_url": "http://x/v1", "params": {"max_tokens": 10**400}}, "params"),
        (Endpoint, {"model": "m", "base_url": "http://x/v1", "card": {"layers": 10**400}}, "card.layers"),
        (Budget, {"requests": 10**400}, "requests"),
        (Key, {"sha256": "0" * 64, "requests_per_minute": 10**400}, "requests_per_minute"),
        (GatewayLimits, {"drain_seconds": 2**63}, "drain_seconds"),
        (Rated, {"nothing": -(10**400)}, "nothing"),
    ],
)
def test_a_number_that_nothing_can_count_is_refused_by_name(kind: type[BaseModel], fields: dict[str, Any], at: str):
    with pytest.raises(ValidationError) as raised:
        kind.model_validate(fields)
    assert re.fullmatch(rf"{re.escape(at)}: (max_tokens )?must be less than 2\^63", complaints(raised.value))


def test_so_is_one_of_an_experiment():
    table = {"task": "lab_math", "strategies": "single", "models": {"m": {"base_url": "http://x/v1"}}}
    with pytest.raises(ConfigError, match=r"seeds: must be less than 2\^63"):
        Experiment.parse(table | {"seeds": [2**63]})


def test_texts_are_as_long_as_they_like():
    assert registry.make("verifiers", f"rated_in_test:words={10**400}").words == str(10**400)
