"""A draft and a target whose tokenizers truly differ: an embedded model with random weights, and a bundled one."""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate
from pathlib import Path

import pytest

from tests.support.double import ModelDouble
from tests.support.small_llama import write_model
from tts.lab.engine.models import model_place
from tts.lab.engine.tokenizer import Tokenizer
from tts.sampler import Endpoint
from tts.sampler.scoring import score
from tts.solving import open_models, open_session, solve
from tts.strategies.single import Single
from tts.strategies.speculation.steps import Pair, _look
from tts.types import Problem

PROBLEM = Problem.from_prompt("Start with 37, add 58, multiply by 4.", answer="numeric_answer")
TARGET = "lab-target"


@pytest.fixture
def models(tmp_path: Path) -> dict[str, Endpoint]:
    write_model(tmp_path / "stranger")
    params = {"temperature": 1.0, "seed": 3}
    return {
        "draft": Endpoint(model="stranger", base_url=f"embedded://{tmp_path}/stranger", params=params),
        "target": Endpoint(model=TARGET, base_url=f"embedded://{TARGET}", params=params),
    }


async def test_models_with_other_tokenizers_are_told_apart_and_work_on_texts(models: dict[str, Endpoint]):
    result = await solve(PROBLEM, "atts:n=3,rounds=2,draft_tokens=9,target_tokens=9", models, stop_early=False)
    assert not result.failures
    words = Tokenizer(model_place(TARGET))
    head = words.render(PROBLEM.messages, open_turn=True)  # type: ignore[arg-type]
    checked = 0
    async with open_models(models) as samplers:
        session = open_session(PROBLEM, Single(), {**samplers, "policy": samplers["target"]})
        assert not (await _look(session)).same_tokens
        for candidate in result.candidates:
            assert candidate.content == "".join(sample.text for sample in candidate.samples)
            before, turns = "", iter(candidate.notes["turns"])
            for sample in candidate.samples:
                turn = next(turns, None) if sample.role == "draft" else None
                if turn is not None:
                    ids = words.encode(head + before + sample.text)
                    begins = [0, *accumulate(len(words.pieces[i]) for i in ids)]
                    first = bisect_left(begins, len((head + before).encode()))
                    apart = await score(samplers["target"], ids[:first], ids[first:])
                    assert turn["tokens"] == len(ids) - first
                    assert turn["score"] == pytest.approx(apart.mean, abs=1e-4)
                    checked += 1
                before += sample.text
    assert checked >= 3


@pytest.mark.parametrize("strategy", ["atts", "atts_sync"])
async def test_a_draft_that_ends_at_once_has_nothing_to_be_scored(strategy: str, monkeypatch: pytest.MonkeyPatch):
    async def strangers(session: object) -> Pair:
        return Pair(False, {"draft": "", "target": ""})

    monkeypatch.setattr("tts.strategies.speculation.steps._look", strangers)
    async with ModelDouble(models=("draft", "target"), answer=lambda request, rng: "") as double:
        models = {name: Endpoint(model=name, base_url=double.base_url) for name in double.models}
        result = await solve(PROBLEM, f"{strategy}:n=2,draft_tokens=9,target_tokens=9", models)
    assert result.ended == "complete"
    assert [candidate.content for candidate in result.candidates] == ["", ""]
    assert not result.failures
