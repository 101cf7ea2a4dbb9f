"""The summary says where more compute makes worse, and where it buys nothing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from tests.support.double import ModelDouble
from tts import Endpoint, Experiment, ModelCard, Run, registry
from tts.base import Verifier
from tts.runs.analysis import summary
from tts.tables import summary_table
from tts.types import Candidate, Problem, Scale


class Flattered(Verifier):
    """Prefers wrong answers."""

    scale: ClassVar[Scale | None] = "positive"

    def check(self, problem: Problem, candidate: Candidate) -> float:
        return float(candidate.content != "42")


async def run(
    tmp_path: Path, specs: list[str], right: float, problems: int = 40, prices: Mapping[str, float] | None = None
) -> Run:
    """With the `prices` of policies by name, the model is a set of them."""
    registry.register("verifiers", Flattered)
    path = tmp_path / "p.jsonl"
    lines = [{"id": f"p{i}", "prompt": f"[[p{i}]] six times seven?", "answer": "42"} for i in range(problems)]
    path.write_text("\n".join(map(json.dumps, lines)))

    def answer(request: dict[str, Any], rng: np.random.Generator) -> str:
        return "42" if rng.random() < right else str(rng.integers(50, 60))

    async with asyncio.timeout(120), ModelDouble(answer=answer, models=("test-model", *(prices or ()))) as double:
        endpoint = Endpoint(model="test-model", base_url=double.base_url, params={"seed": 1})
        models: Any = endpoint
        if prices is not None:
            cards = {
                name: ModelCard(prompt_price_per_million=0, completion_price_per_million=p)
                for name, p in prices.items()
            }
            policies = {name: endpoint.model_copy(update={"model": name, "card": card}) for name, card in cards.items()}
            models = {"set": {f"policy.{name}": policy for name, policy in policies.items()}}
        grid = {"task": f'jsonl:path="{path}"', "models": models, "strategies": specs}
        return await Experiment.parse(grid).run(tmp_path / "run")


async def test_a_curve_that_falls_is_told_and_so_is_what_was_paid_in_vain(tmp_path: Path):
    found = await run(tmp_path, ["single", "best_of_n:n=8,verifier=flattered"], 0.6)
    single, flattered = summary(found)
    assert single["falls"] is None
    assert single["outdone"] is None
    falls = flattered["falls"]
    assert (falls["from_k"], falls["to_k"]) == (1, 8)
    assert falls["from"] == pytest.approx(0.6, abs=0.15)
    assert falls["to"] == pytest.approx(flattered["accuracy"])
    assert falls["low"] <= falls["difference"] <= falls["high"] < 0
    outdone = flattered["outdone"]
    assert outdone["strategy"] == "single"
    assert outdone["times"] > 1
    assert outdone["high"] < 0
    notes = "\n".join(summary_table({"": summary(found)}).notes)
    assert "accuracy falls with more compute" in notes
    assert "times as many tokens, prompts included, as single and is less accurate" in notes


async def test_what_pays_is_not_told_to_be_in_vain(tmp_path: Path):
    found = await run(tmp_path, ["single", "self_consistency:n=15,answer=exact_answer"], 0.4)
    for row in summary(found):
        assert row["falls"] is None
        assert row["outdone"] is None


async def test_what_different_models_cost_is_compared_in_money_and_not_in_tokens(tmp_path: Path):
    small, large = "self_consistency:policies=small,n=2,answer=exact_answer", "single:policies=large"
    found = await run(tmp_path, [small, large], 0.5, prices={"small": 1, "large": 100})
    cheap, dear = summary(found)
    assert cheap["completion_tokens"] > 1.5 * dear["completion_tokens"]
    assert cheap["outdone"] is None
    assert (dear["outdone"]["strategy"], dear["outdone"]["measure"]) == (cheap["strategy"], "money")
    assert dear["outdone"]["times"] == pytest.approx(50, rel=0.2)
