"""Parameters are data: known names are checked, any other goes through `extra_body`, none becomes an argument."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tests.support.double import ModelDouble
from tests.support.solving import PROBLEM, PROMPT, draw, endpoint
from tts.calls import Calls
from tts.errors import ConfigError
from tts.runs.config import Grid
from tts.sampler import Endpoint, Sampler, protocol
from tts.sampler.parameters import KNOWN, NOT_SAMPLING, check_params, merged
from tts.session import Session
from tts.types import Budget

OURS = sorted(
    {
        name
        for function in (Sampler.sample, Session.sample, Session.propose, Calls.samples, protocol.request)
        for name in inspect.signature(function).parameters
    }
    | {"self", "pictures", "role", "ledger", "stop_when", "images", "on_sample", "place", "spawns", "__class__"}
)
"""Names of arguments that parameters pass by on their way."""


@pytest.mark.parametrize("capped", [False, True])
@pytest.mark.parametrize("name", [name for name in OURS if name not in NOT_SAMPLING])
async def test_a_parameter_with_the_name_of_an_argument_is_a_field_of_the_body(name, capped):
    async with ModelDouble() as double, Sampler(endpoint(double)) as sampler:
        budget = Budget(requests=9) if capped else None
        session = Session(PROBLEM, {"policy": sampler}, sampling={name: "x"}, budget=budget)
        assert len([sample async for sample in session.sample(n=2)]) == 2
        assert double.requests[-1].body[name] == "x"


async def test_extra_fields_come_into_the_body_but_replace_nothing_of_ours():
    params = {
        "temperature": 0.5,
        "extra_body": {"a": {"b": 1}, "model": "other", "messages": [], "n": 9, "stream": True},
    }
    async with ModelDouble() as double, Sampler(endpoint(double)) as sampler:
        session = Session(PROBLEM, {"policy": sampler}, sampling=params)
        assert len([sample async for sample in session.sample(extra_body={"c": 2})]) == 1
    body = double.requests[-1].body
    assert body["a"] == {"b": 1}
    assert body["c"] == 2
    assert body["model"] == "test-model"
    assert body["messages"] == list(PROMPT)
    assert not {"n", "stream", "extra_body"} & body.keys()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=4,
)
NAMES = st.sampled_from([*OURS, *sorted(KNOWN), "extra_body"]) | st.text(max_size=8)


@given(st.dictionaries(NAMES, JSON, max_size=6), st.dictionaries(NAMES, JSON, max_size=6))
def test_any_table_of_parameters_makes_a_body(first, second):
    path, body = protocol.request(PROMPT, "m", merged(first, second))
    assert path == "/chat/completions"
    assert (body["model"], body["messages"]) == ("m", list(PROMPT))


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("temprature", "temperature"),
        ("temperatur", "temperature"),
        ("Temperature", "temperature"),
        ("top_z", "top_"),
        ("top-p", "top_p"),
        ("topk", "top_k"),
        ("max_token", "max_tokens"),
        ("maxtokens", "max_tokens"),
        ("presence_penality", "presence_penalty"),
        ("stops", "stop"),
        ("sed", "seed"),
        ("xyzzy", "extra_body.xyzzy"),
    ],
)
def test_a_misspelt_parameter_is_refused_with_what_was_meant(written, meant):
    with pytest.raises(ValueError, match=meant):
        check_params({written: 1})
    with pytest.raises(ValidationError, match=meant):
        Endpoint(model="m", base_url="http://a/v1", params={written: 1})
    table: dict[str, Any] = {"task": "sat3", "strategies": "single", "models": {"m": {"base_url": "http://a/v1"}}}
    with pytest.raises(ConfigError, match=meant):
        Grid.parse({**table, "sampling": {written: 1}})
    assert check_params({"extra_body": {written: 1}})


@pytest.mark.parametrize(
    "params",
    [
        {"temperature": "hot"},
        {"temperature": True},
        {"temperature": float("nan")},
        {"top_k": 2.5},
        {"max_tokens": "many"},
        {"extra_body": "a"},
        {"extra_body": {"messages": []}},
        {"n": 3},
    ],
)
def test_a_value_that_cannot_be_is_refused(params):
    with pytest.raises(ValueError, match=f"{next(iter(params))}|messages"):
        check_params(params)


def test_known_parameters_of_the_usual_servers_pass():
    params = {"temperature": 0, "top_k": 20, "min_p": 0.1, "stop": ["a"], "chat_template_kwargs": {"a": 1}, "seed": 1.0}
    assert check_params(params) == params


async def test_a_seed_that_is_no_number_is_for_the_server_to_refuse():
    async with ModelDouble() as double, Sampler(endpoint(double)) as sampler:
        session = Session(PROBLEM, {"policy": sampler}, sampling={"seed": "abc"}, seed=3)
        assert len([sample async for sample in session.sample(n=2)]) in (0, 2)
    assert double.requests[0].body["seed"] == "abc"


async def test_parameters_may_still_be_written_by_name():
    async with ModelDouble() as double, Sampler(endpoint(double)) as sampler:
        await draw(sampler, 1, temperature=0.5, max_tokens=3)
    assert double.requests[-1].body["temperature"] == 0.5
