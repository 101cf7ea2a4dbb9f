"""Prompt redesign on pictures, against servers that draw and a judge that measures."""

from __future__ import annotations

import asyncio
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.direct import DirectQuestions
from tests.support.painter import Painter
from tests.support.vision import Vision
from tests.support.world import accuracy, drawing_world, scenes
from tts.errors import ConfigError
from tts.prompting import problem_text
from tts.session import Session
from tts.solving import open_models, solve
from tts.studies.judging import auroc
from tts.types import Budget, Drawing, Problem, Result
from tts.verifiers.element_check import ElementCheck

STRATEGY = "prompt_redesign:n=8,images=true"
SCENE = scenes(1)[0]


async def drawn(
    folder: Path,
    painter: Painter | None = None,
    vision: Vision | None = None,
    strategy: str = STRATEGY,
    problem: Problem = SCENE,
    image: dict[str, Any] | None = None,
    **options: Any,
) -> Result:
    painter, vision = painter or Painter(fade=0.6), vision or Vision()
    async with asyncio.timeout(120), drawing_world(painter, vision, **(image or {})) as models:
        return await solve(problem, strategy, models, folder=folder, stop_early=False, **options)


async def test_candidates_are_files_named_by_what_is_in_them(tmp_path: Path):
    result = await drawn(tmp_path)
    assert len(result.candidates) == 8
    for candidate in result.candidates:
        data = (tmp_path / candidate.content).read_bytes()
        assert candidate.content == f"images/{sha256(data).hexdigest()}.png"
    assert not list((tmp_path / "images").glob(".part*"))
    assert not result.failures
    assert set(result.spent) == {"image", "judge", "policy"}
    assert result.spent["image"].requests == 8
    assert result.spent["image"].completion_tokens == 0


async def test_the_verdict_on_a_picture_says_what_is_in_it_and_the_request_is_not_shown_beside_it(tmp_path: Path):
    vision = Vision(overlooks=0.5)
    result = await drawn(tmp_path, Painter(keeps=0.6), vision, problem=SCENE)
    for candidate in result.candidates:
        assert candidate.verdict is not None
        table = candidate.verdict.details["elements"]
        assert np.mean([row["met"] for row in table]) == accuracy(SCENE, candidate, tmp_path)
    for request in vision.asked:
        if isinstance(content := request["messages"][0]["content"], list):
            assert problem_text(SCENE) not in content[0]["text"]


async def test_the_seeds_of_the_chosen_pictures_are_used_again_with_each_new_prompt(tmp_path: Path):
    painter = Painter(fade=0.6)
    result = await drawn(tmp_path, painter)
    original = problem_text(SCENE)
    first, second = ([r for r in painter.requests if (r["prompt"] == original) == i] for i in (True, False))
    assert sorted(request["seed"] for request in first) == [0, 1, 2, 3]
    seeds = [request["seed"] for request in second]
    assert len(set(seeds)) == 2
    assert all(seeds.count(seed) == 2 for seed in seeds)
    assert {c.notes["seed"] for c in result.candidates if c.notes["round"] == 1} == set(seeds)


@pytest.mark.parametrize(
    ("habits", "said"),
    [
        ({"takes_seed": False}, "refuses seed"),
        ({"urls": True}, "refuses response_format"),
        ({"takes_seed": False, "takes_n": False, "urls": True}, "refuses seed"),
        ({"takes_n": False}, ""),
    ],
)
async def test_a_server_that_cannot_do_everything_is_used_for_what_it_can(
    habits: dict[str, Any], said: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    result = await drawn(tmp_path, Painter(fade=0.6, **habits))
    assert len(result.candidates) == 8
    assert not result.failures
    assert all((tmp_path / candidate.content).exists() for candidate in result.candidates)
    assert sum(said in record.message for record in caplog.records) == (1 if said else 0)
    assert all(("seed" in c.notes) == ("takes_seed" not in habits) for c in result.candidates)


async def test_pictures_behind_a_url_are_fetched_without_showing_the_key(tmp_path: Path):
    painter = Painter(urls=True)
    await drawn(tmp_path, painter, image={"api_key": "secret"})
    assert len(painter.fetched) == 8
    assert all("authorization" not in headers for headers in painter.fetched)


async def test_pictures_that_cannot_be_fetched_are_lost_and_not_paid_for_again(tmp_path: Path):
    painter = Painter(urls=True, lost=True)
    result = await drawn(tmp_path, painter, strategy="prompt_redesign:n=4,images=true,rounds=0")
    assert not result.candidates
    assert result.ended == "failed"
    assert any("cannot be downloaded" in reason for reason in result.failures)
    assert len([request for request in painter.requests if "response_format" not in request]) == 4


async def test_a_prompt_that_the_content_filter_refuses_loses_its_pictures_only(tmp_path: Path):
    result = await drawn(tmp_path, Painter(fade=0.6, filtered="Make sure"))
    assert len(result.candidates) == 4
    assert result.selected is not None
    assert any("safety system" in reason for reason in result.failures)


async def test_pictures_that_the_content_filter_withholds_are_lost_and_said_to_be(tmp_path: Path):
    async with drawing_world(Painter(withheld=frozenset({1, 2})), Vision()) as models, open_models(models) as samplers:
        session = Session(SCENE, samplers, folder=tmp_path)
        names = [sample.text async for sample in session.sample(Drawing("Draw."), n=4, role="image", seed=0)]
    assert len(names) == 2
    assert len(session.ledger.failures) == 2
    assert all("held its images back" in reason and "violence" in reason for reason in session.ledger.failures)


@pytest.mark.parametrize("takes_n", [True, False])
async def test_several_pictures_of_one_prompt_come_in_one_request_where_the_server_takes_n(
    takes_n: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    painter = Painter(takes_n=takes_n)
    async with drawing_world(painter, Vision()) as models, open_models(models) as samplers:
        session = Session(SCENE, samplers, folder=tmp_path)
        drawing = Drawing("Draw one red circle at the top left.")
        names = [sample.text async for sample in session.sample(drawing, n=4, role="image")]
    assert len(names) == 4
    assert sum("n" in request for request in painter.requests) == (1 if takes_n else 2)  # one more to learn it
    assert len(painter.requests) == (1 if takes_n else 6)
    assert ["refuses n" in record.message for record in caplog.records] == [True] * (not takes_n)


async def test_a_cap_on_tokens_or_requests_holds_for_pictures_too(tmp_path: Path):
    painter = Painter(fade=0.6)
    result = await drawn(tmp_path, painter, budget=Budget(requests=20, completion_tokens=100_000))
    assert result.ended == "budget"
    assert result.usage.requests <= 20
    assert not any("max_tokens" in request for request in painter.requests)


async def test_a_missing_image_model_is_said_before_anything_is_spent(tmp_path: Path):
    async with drawing_world(Painter(), Vision()) as models:
        only = {role: model for role, model in models.items() if role != "image"}
        with pytest.raises(ConfigError, match="image"):
            await solve(SCENE, STRATEGY, only)


async def test_the_request_printed_into_the_picture_gains_nothing(tmp_path: Path):
    """A rewriting that would have a word written instead of the things is judged by the things."""

    class Cheat(Vision):
        def rewrite(self, asked: str, rng: np.random.Generator) -> str:
            return "Draw the word HELLO at the top left."

    result = await drawn(tmp_path, Painter(fade=0.6), Cheat())
    later = [candidate for candidate in result.candidates if candidate.notes["round"] == 1]
    assert len(later) == 4
    assert all(candidate.verdict is not None and candidate.verdict.score == 0 for candidate in later)
    assert result.selected not in later


async def test_common_failures_are_mended_by_a_margin_that_chance_does_not_explain(tmp_path: Path):
    """Every painter forgets what comes late; best-of-N with the same verifier and number is what it is paired with."""
    gains = []
    vision = Vision(overlooks=0.0)
    async with drawing_world(Painter(fade=0.6, seed=3), vision) as models:
        for problem in scenes(8, seed=3):
            scores = []
            for spec in ("prompt_redesign:n=12,images=true", "prompt_redesign:n=12,images=true,rounds=0"):
                result = await solve(problem, spec, models, folder=tmp_path, stop_early=False)
                scores.append(accuracy(problem, result.selected, tmp_path))
            gains.append(scores[0] - scores[1])
    error = np.std(gains, ddof=1) / np.sqrt(len(gains))
    assert np.mean(gains) - 2.4 * error > 0, gains  # t of 7 degrees of freedom, 95 %


async def test_where_failures_are_independent_it_costs_nothing_that_matters(tmp_path: Path):
    """Nothing is missed in common there, so that the prompt is only said in other words."""
    painter = Painter(keeps=0.75, obeys=None, seed=4)
    differences = []
    async with drawing_world(painter, Vision(overlooks=0.0)) as models:
        for problem in scenes(6, seed=4):
            one, other = [
                accuracy(problem, (await solve(problem, spec, models, folder=tmp_path)).selected, tmp_path)
                for spec in ("prompt_redesign:n=12,images=true", "prompt_redesign:n=12,images=true,rounds=0")
            ]
            differences.append(one - other)
    error = np.std(differences, ddof=1) / np.sqrt(len(differences))
    assert abs(np.mean(differences)) <= 2.6 * error + 1 / 24, differences  # t of 5 degrees of freedom, 95 %


async def test_a_judge_that_likes_to_say_yes_tells_pictures_apart_by_describing_not_by_being_asked(tmp_path: Path):
    painter = Painter(keeps=0.75, obeys=None, seed=5)
    verifiers = (ElementCheck(), DirectQuestions())
    areas: dict[str, list[float]] = {verifier.name: [] for verifier in verifiers}
    async with drawing_world(painter, Vision(kindness=0.7)) as models, open_models(models) as samplers:
        for problem in scenes(4, size=4, seed=5):
            session = Session(problem, samplers, folder=tmp_path)
            drawing = Drawing(problem_text(problem))
            candidates = [c async for c in session.propose(drawing, n=12, role="image")]
            right = np.array([accuracy(problem, candidate, tmp_path) == 1 for candidate in candidates], float)
            for verifier in verifiers:
                scores = [(await session.verify(candidate, verifier)).score for candidate in candidates]
                areas[verifier.name].append(auroc(np.array(scores, float), right) or np.nan)
    assert np.nanmean(areas["element_check"]) == 1
    assert np.nanmean(areas["direct_questions"]) < 0.9
