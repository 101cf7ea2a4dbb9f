"""Candidates and judges whose opinions are known: an answer says how good it is, a judge reads it or does not."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tests.support.answers import question
from tests.support.double import ModelDouble
from tests.support.solving import endpoint
from tts.sampler import Endpoint

Say = Callable[[str, np.random.Generator], str]
"""(what is asked, generator) -> what is said."""


def speaking(**models: Say) -> dict[str, Any]:
    """Settings of a double that serves `models`, each a function."""

    def answer(request: dict[str, Any], rng: np.random.Generator) -> str:
        return models[request["model"]](question(request), rng)

    return {"models": tuple(models), "answer": answer}


def roles(double: ModelDouble, **settings: Any) -> Mapping[str, Endpoint]:
    """Every model of the double in the role it is called by."""
    return {name: endpoint(double, model=name, **settings) for name in double.models}


def quality(text: str) -> list[int]:
    """How good the answers in a prompt are, as they say: `quality 7`."""
    return [int(number) for number in re.findall(r"quality (\d+)", text)]


def policy(asked: str, rng: np.random.Generator) -> str:
    """An answer of a quality from 1 to 10."""
    return f"Some answer of quality {rng.integers(1, 11)}.{' ' * int(rng.integers(0, 1000))}"


def grade(asked: str, rng: np.random.Generator) -> str:
    """An honest grade."""
    return json.dumps({"reasons": "as it says", "grade": quality(asked)[0]})


def prefer(asked: str, rng: np.random.Generator) -> str:
    """An honest preference."""
    first, second = quality(asked)
    return json.dumps({"better": "tie" if first == second else "first" if first > second else "second"})
