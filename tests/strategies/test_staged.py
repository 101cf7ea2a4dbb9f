"""Searches by stages, over steps of text and over pictures: who survives, what is chosen, and what it all cost."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tests.support.double import ModelDouble
from tests.support.painter import Painter, decoded
from tests.support.rewards import RewardDouble
from tests.support.solving import PROBLEM, endpoint
from tests.support.vision import Vision
from tests.support.world import Measured, accuracy, drawing_world, scenes
from tts import Candidate, Endpoint, Problem, Verifier, registry, solve
from tts.continuation import Continuation
from tts.errors import ConfigError
from tts.files import pictures_in
from tts.registry import make
from tts.runs.store import Store
from tts.strategies.staged_resampling import StagedResampling
from tts.strategies.stepwise import Node
from tts.strategies.stepwise.clusters import medoids, word_vectors
from tts.strategies.tree_of_frames import TreeOfFrames
from tts.types import Budget, Result, total

SCENE = scenes(1)[0]


class Digits(Verifier):
    """Scores by the digit of the last line, from 0 to 1; `upside_down` from 1 to 0."""

    rates_partial: ClassVar[bool] = True
    scale = "positive"

    upside_down: bool = False

    def check(self, problem: Problem, candidate: Candidate) -> float:
        share = int(candidate.content.strip()[-1]) / 10
        return 1 - share if self.upside_down else share


class Orders(Digits):
    """The same, as numbers of which nobody knows what they are worth."""

    scale = "order"

    def check(self, problem: Problem, candidate: Candidate) -> float:
        return super().check(problem, candidate) - 1


@pytest.fixture(autouse=True)
def digits() -> None:
    registry.register("verifiers", Digits)
    registry.register("verifiers", Orders)


def lines(body: dict[str, Any], rng: Any) -> str:
    """One line more, with a digit; the fourth is the last."""
    written = bytes(body["prompt"]).decode().rpartition("<|assistant|>\n")[2].count("\n")
    return f"so {rng.integers(10)}" + ("\n" if written < 3 else "")


async def in_words(spec: str, *, seed: int = 0, verifier: str = "digits", **options: Any) -> Result:
    models: dict[str, Endpoint] = options.pop("models", {})
    async with ModelDouble(answer=lines, seed=seed) as double:
        models = {"policy": endpoint(double), **models}
        strategy = make("strategies", spec).model_copy(update={"step": "\n", "depth": 4})
        return await solve(PROBLEM, strategy, models, verifier=verifier, stop_early=False, **options)


async def in_pictures(
    spec: str,
    folder: Path,
    painter: Painter | None = None,
    problem: Problem = SCENE,
    sigma: float = 0.1,
    **options: Any,
) -> Result:
    strategy = make("strategies", spec).model_copy(update={"images": True, "depth": 3})
    options = {"verifier": Measured(folder=folder, sigma=sigma), **options}
    async with drawing_world(painter or Painter(keeps=0.6), Vision(), identity="painter") as models:
        return await solve(problem, strategy, models, folder=folder, stop_early=False, **options)


Turns = list[dict[str, float]]
"""By step: the rewards of the nodes that were made, by name."""


def turns(result: Result) -> Turns:
    records = [record for one in result.candidates for record in one.notes["tree"]]
    made: Turns = [{} for _ in range(max(record["turn"] for record in records) + 1)]
    for record in records:
        made[record["turn"]][record["node"]] = record["reward"]
    return made


def mean_of(node: str, made: Turns) -> float:
    """The mean reward on the way to a node."""
    names = node.split(".")
    return fmean(made[depth][".".join(names[: depth + 1])] for depth in range(len(names)))


def parents(turn: dict[str, float]) -> Counter[str]:
    return Counter(node.rpartition(".")[0] for node in turn)


# -- tree of frames --------------------------------------------------------------------------------------------------


def test_it_branches_where_a_stage_begins_and_each_stage_has_its_survivors():
    tree = TreeOfFrames(n=7, keep=(3, 2), branches=2, stages=(2, 5))
    assert [tree.stage(step) for step in range(1, 7)] == [0, 1, 1, 1, 2, 2]
    assert [tree.ways(step) for step in range(1, 7)] == [7, 2, 1, 1, 2, 1]
    assert [tree.survivors(step) for step in range(1, 7)] == [3, 2, 2, 2, 2, 2]


@pytest.mark.parametrize("seed", range(5))
async def test_who_survives_and_who_is_chosen_has_the_best_mean_of_all_ratings(seed: int):
    result = await in_words("tree_of_frames:n=6,keep=[2],stages=[2,4]", seed=seed)
    made = turns(result)
    assert [len(turn) for turn in made] == [6, 4, 2, 4]
    for turn, after in itertools.pairwise(made):
        best = sorted(turn, key=lambda node: mean_of(node, made), reverse=True)[:2]  # sorted() keeps the earlier first
        assert set(parents(after)) == set(best)
    assert result.selected is not None
    assert result.selected.notes["value"] == pytest.approx(max(mean_of(node, made) for node in made[-1]))


@pytest.mark.parametrize(
    "spec", ["tree_of_frames:n=4,keep=[1],stages=[]", "staged_resampling:n=1,temperature=0.000000001"]
)
async def test_scores_that_only_order_candidates_say_who_is_better(spec: str):
    made = turns(await in_words(spec, verifier="orders"))
    assert all(reward <= 0 for turn in made for reward in turn.values())
    best = max(made[-2].values()) if "staged" in spec else max(made[0].values())
    after, turn = (made[-1], made[-2]) if "staged" in spec else (made[1], made[0])
    assert {turn[node] for node in parents(after)} == {best}


async def test_linear_search_is_a_tree_in_which_all_survive_and_none_branches():
    result = await in_words("tree_of_frames:n=5,keep=[5],branches=1,aggregate=last")
    made = turns(result)
    assert [len(turn) for turn in made] == [5, 5, 5, 5]
    assert len(result.candidates) == 5
    assert result.selected is not None
    assert result.selected.notes["value"] == max(made[-1].values())


async def test_verifiers_that_contradict_each_other_vote_by_rank():
    """Ranks are weighed 2 to 1, so that the order is that of the first; the numbers are those of `rank_fusion`."""
    fusion = "rank_fusion(verifiers=[digits, digits(upside_down=true)], weights=[2, 1])"
    result = await in_words("tree_of_frames:n=4,keep=[2],stages=[]", verifier=fusion)
    plain = await in_words("tree_of_frames:n=4,keep=[2],stages=[]")
    assert set(turns(result)[0]) == set(turns(plain)[0])
    assert parents(turns(result)[1]) == parents(turns(plain)[1])
    values = turns(plain)[0]
    ranks = {node: 1 + sum(other > value for other in values.values()) for node, value in values.items()}
    ties = Counter(values.values())
    for node, reward in turns(result)[0].items():
        rank = ranks[node] + (ties[values[node]] - 1) / 2
        assert reward == pytest.approx(-(2 * rank + (5 - rank)))


async def test_each_stage_has_its_verifier_and_whole_answers_the_last():
    verifier = "staged(verifiers=[digits(upside_down=true), digits])"
    result = await in_words("tree_of_frames:n=6,keep=[1],stages=[2],aggregate=last", verifier=verifier)
    made = turns(result)
    plain = turns(await in_words("tree_of_frames:n=6,keep=[1],stages=[2],aggregate=last"))
    assert made[0] == pytest.approx({node: 1 - reward for node, reward in plain[0].items()})
    assert set(parents(made[1])) == {max(made[0], key=lambda node: made[0][node])}
    verdict = result.candidates[0].verdict
    assert verdict is not None
    assert verdict.details["stage"] == 1
    assert verdict.score == int(result.candidates[0].content[-1]) / 10


async def test_verifiers_of_a_stage_that_rank_do_so_among_its_candidates_alone():
    verifier = "staged(verifiers=[rank_fusion(verifiers=[digits]), digits])"
    made = turns(await in_words("tree_of_frames:n=5,keep=[2],stages=[2],aggregate=last", verifier=verifier))
    assert sum(made[0].values()) == -15  # ranks 1 to 5
    assert all(0 <= reward < 1 for turn in made[1:] for reward in turn.values())


# -- staged resampling -----------------------------------------------------------------------------------------------


def test_the_widths_of_the_paper_are_spread_over_any_number_of_steps():
    def widths(n: int, depth: int) -> list[int]:
        strategy = StagedResampling(n=n, depth=depth)
        return [strategy.width(step) for step in range(depth)]

    assert widths(1, 13) == [8, 8, 6, 6, 6, 4, 2, 2, 2, 1, 1, 1, 1]
    assert widths(2, 4) == [16, 12, 4, 2]
    assert widths(1, 3) == [8, 2, 1]
    assert widths(3, 1) == [24]


def chain(*rewards: float | None) -> Node:
    """A node with these rewards on its way."""
    node = Node(answer=Continuation(session=None, heads={}))  # type: ignore[arg-type]
    for reward in rewards:
        node = Node(answer=node.answer, above=node, reward=reward)
    return node


RATED = [chain(0.1, 0.2), chain(0.5, 0.4), chain(0.9, 0.8), chain(0.2, 0.6), chain(0.3, None)]


@pytest.mark.parametrize(
    ("potential", "values"),
    [("last", [0.2, 0.4, 0.8, 0.6]), ("diff", [0.1, -0.1, -0.1, 0.4]), ("max", [0.2, 0.5, 0.9, 0.6]),
     ("sum", [0.3, 0.9, 1.7, 0.8])],
)  # fmt: skip
def test_chances_are_those_of_the_potential_and_what_is_unrated_has_none(potential: Any, values: list[float]):
    strategy = StagedResampling(aggregate=potential, temperature=0.5)
    scores = (np.array(values) - np.mean(values)) / np.std(values)
    expected = np.exp(2 * scores) / np.exp(2 * scores).sum()
    assert strategy.chances(RATED) == pytest.approx([*expected, 0.0])


def test_draws_are_as_frequent_as_their_chances():
    chances = StagedResampling(temperature=1).chances(RATED[:4])
    picks = np.random.default_rng(0).choice(4, 10_000, p=chances)
    expected = 10_000 * chances
    assert np.sum((np.bincount(picks, minlength=4) - expected) ** 2 / expected) < 16.3  # chi-squared, 3 degrees: 0.1 %


def test_cold_chances_are_the_best_ones_and_hot_ones_are_equal_and_equals_are_equal():
    assert StagedResampling(temperature=1e-9).chances(RATED[:4]).tolist() == [0, 0, 1, 0]
    assert StagedResampling(temperature=1e9).chances(RATED[:4]) == pytest.approx([0.25] * 4)
    assert StagedResampling().chances([chain(0.5)] * 3) == pytest.approx([1 / 3] * 3)
    assert StagedResampling().chances([chain(None)] * 2) == pytest.approx([0.5] * 2)


@pytest.mark.parametrize("seed", range(3))
async def test_it_narrows_by_likeness_first_and_by_merit_later(seed: int):
    result = await in_words("staged_resampling:n=2,temperature=0.000000001", seed=seed)
    made = turns(result)
    assert [len(turn) for turn in made] == [16, 12, 4, 2]
    assert set(parents(made[1]).values()) == {1}  # one for each cluster
    for turn, after in itertools.pairwise(made[1:]):
        assert {turn[node] for node in parents(after)} == {max(turn.values())}
    assert result.selected is not None
    assert result.selected.verdict is not None
    assert result.selected.verdict.score == max(made[-1].values())


async def test_a_model_can_say_how_alike_they_are_and_is_paid_for():
    def embed(text: str) -> list[float]:
        return [1.0, 0.0] if int(text.strip()[-1]) < 5 else [0.0, 1.0]

    async with RewardDouble(embed=embed) as rewards:
        models = {"embed": Endpoint(model="reward", base_url=rewards.base_url, api_key_env="NO_KEY")}
        spec = "staged_resampling:n=1,widths=[8,2,2,2],resample_from=1,embed=true"
        result = await in_words(spec, models=models)
    made = turns(result)
    assert sorted(made[0][node] < 0.5 for node in parents(made[1])) == [False, True]
    assert result.spent["embed"].requests == len({*rewards_texts(rewards)})
    assert_all_is_charged(result)


async def test_where_nobody_says_how_alike_they_are_merit_decides_and_the_failure_is_told():
    async with RewardDouble(failing=10_000) as rewards:
        models = {"embed": Endpoint(model="reward", base_url=rewards.base_url, api_key_env="NO_KEY", max_attempts=1)}
        spec = "staged_resampling:n=1,widths=[4,1,1,1],resample_from=1,embed=true,temperature=0.000000001"
        result = await in_words(spec, models=models)
    made = turns(result)
    assert [len(turn) for turn in made] == [4, 1, 1, 1]
    assert {made[0][node] for node in parents(made[1])} == {max(made[0].values())}
    assert any("embedding_similarity" in failure for failure in result.failures)


def rewards_texts(rewards: RewardDouble) -> list[str]:
    return [body["input"] for path, body in rewards.asked if path == "/v1/embeddings"]


@given(
    points=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=12),
    data=st.data(),
    seed=st.integers(0, 99),
)
def test_medoids_are_as_many_different_ones_as_are_asked_for(points: Any, data: st.DataObject, seed: int):
    k = data.draw(st.integers(1, len(points)))
    chosen = medoids(np.array(points, float), k, np.random.default_rng(seed))
    assert len(set(chosen)) == k
    assert chosen == sorted(chosen)
    assert all(0 <= one < len(points) for one in chosen)


@pytest.mark.parametrize("seed", range(10))
def test_medoids_are_the_middles_of_clusters_that_lie_apart(seed: int):
    rng = np.random.default_rng(seed)
    middles = np.array([[0.0, 0.0], [100.0, 0.0], [0.0, 100.0]])
    around = np.array([[0, 0], [1, 0], [-1, 0], [0, 1], [0, -1]])
    points = np.concatenate([middle + around for middle in middles])
    order = rng.permutation(15)
    assert sorted(order[medoids(points[order], 3, rng)]) == [0, 5, 10]


def test_texts_are_alike_by_the_words_that_few_of_them_have():
    vectors = word_vectors(["the red circle", "the red square", "the sale", ""])
    assert np.linalg.norm(vectors, axis=1) == pytest.approx([1, 1, 1, 0])
    near = vectors @ vectors.T
    assert near[0, 1] > near[0, 2] > 0
    idf = np.log(5 / (1 + np.array([3, 2, 1]))) + 1  # the, red, circle
    assert near[0, 2] == pytest.approx(idf[0] ** 2 / np.linalg.norm(idf) / np.linalg.norm(idf[[0, 2]]))


# -- pictures --------------------------------------------------------------------------------------------------------


async def test_each_picture_is_drawn_from_the_one_before_it(tmp_path: Path):
    painter = Painter(keeps=0.6)
    result = await in_pictures("tree_of_frames:n=3,keep=[2]", tmp_path, painter)
    files = {(tmp_path / name).read_bytes() for one in result.candidates for name in pictures_in(one.content)}
    for candidate in result.candidates:
        names = pictures_in(candidate.content)
        assert len(names) == 3
        for number, (name, after) in enumerate(itertools.pairwise(names), 2):
            before = (tmp_path / name).read_bytes()
            asked = [r for r in painter.requests if "image" in r and decoded(r["image"]) == before]
            assert all(f"picture {number} of 3" in request["prompt"] for request in asked)
            drawn = [
                painter.paint(request["prompt"], request["seed"] + i, before)
                for request in asked
                for i in range(request.get("n", 1))
            ]
            assert (tmp_path / after).read_bytes() in drawn
    assert len(files) > 3
    assert len({request["seed"] for request in painter.requests}) == len(painter.requests)


SPECS = [
    "tree_of_frames:n=5,keep=[2]",
    "staged_resampling:n=1,embed=true",
    "beam_search:n=4,width=2",
    "particle_filter:n=4",
    "dvts:n=4,width=1",
]


@pytest.mark.parametrize("spec", SPECS)
async def test_every_picture_is_in_the_tree_and_on_the_axis_of_compute(spec: str, tmp_path: Path):
    painter = Painter(keeps=0.6)
    result = await in_pictures(spec, tmp_path, painter)
    assert result.ended == "complete"
    assert not result.failures
    assert sum(map(len, turns(result))) <= painter.drawn == sum(len(one.notes["tree"]) for one in result.candidates)
    assert_all_is_charged(result)


def assert_all_is_charged(result: Result) -> None:
    """What the candidates carry is all that was spent."""
    assert not result.loose
    charged = total(frozenset().union(*(candidate.charges for candidate in result.candidates)))
    assert charged.requests == sum(usage.requests for usage in result.spent.values())
    assert charged.total_tokens == sum(usage.total_tokens for usage in result.spent.values())


async def test_the_same_search_draws_the_same_films(tmp_path: Path):
    results = [await in_pictures(SPECS[1], tmp_path, Painter(keeps=0.6)) for _ in range(2)]
    one, other = ([(c.content, c.spawned) for c in result.candidates] for result in results)
    assert one == other


@pytest.mark.parametrize("spec", SPECS[:2])
async def test_a_search_that_was_interrupted_is_resumed_without_drawing_anything_twice(spec: str, tmp_path: Path):
    fresh = await in_pictures(spec, tmp_path)
    first, second = Painter(keeps=0.6), Painter(keeps=0.6)
    async with Store(tmp_path / "run.sqlite") as store:
        cut = await in_pictures(spec, tmp_path, first, store=store, budget=Budget(requests=2))
        resumed = await in_pictures(spec, tmp_path, second, store=store)
    assert cut.ended == "budget"
    assert [one.content for one in resumed.candidates] == [one.content for one in fresh.candidates]
    assert resumed.selected is not None
    assert fresh.selected is not None
    assert resumed.selected.content == fresh.selected.content
    assert first.drawn > 0
    assert first.drawn + second.drawn == sum(len(one.notes["tree"]) for one in fresh.candidates)
    assert total(resumed.selected.charges).requests == total(fresh.selected.charges).requests


async def test_a_judge_is_shown_all_pictures_of_a_film(tmp_path: Path):
    vision = Vision()
    strategy = make("strategies", "tree_of_frames:n=2,keep=[1],images=true,depth=2,branches=1")
    async with drawing_world(Painter(keeps=0.6), vision) as models:
        result = await solve(SCENE, strategy, models, folder=tmp_path, verifier="judge:low=0,high=1", stop_early=False)
    assert not result.failures
    counts = [sum(part["type"] == "image_url" for part in r["messages"][-1]["content"]) for r in vision.asked]
    assert sorted(counts) == [1, 1, 2]


async def test_without_noise_the_best_film_is_chosen_and_with_nothing_but_noise_any(tmp_path: Path):
    chosen: dict[float, list[float]] = {0.0: [], 1e6: []}
    for sigma, gaps in chosen.items():
        for problem in scenes(12):
            spec = "tree_of_frames:n=6,keep=[6],branches=1,aggregate=last"
            result = await in_pictures(spec, tmp_path, problem=problem, sigma=sigma)
            shares = [accuracy(problem, candidate, tmp_path) for candidate in result.candidates]
            share = accuracy(problem, result.selected, tmp_path)
            gaps.append(max(shares) - share if sigma == 0 else (share - fmean(shares)) / float(np.std(shares) or 1))
    assert set(chosen[0.0]) == {0.0}
    assert abs(fmean(chosen[1e6])) < 3.5 / np.sqrt(12)  # standard deviations of a mean of random choices


async def test_a_budget_that_ends_gives_the_films_as_far_as_they_got(tmp_path: Path):
    result = await in_pictures("tree_of_frames:n=3,keep=[3],branches=1", tmp_path, budget=Budget(requests=3))
    assert result.ended == "budget"
    assert result.selected is not None
    assert all(candidate.cut_off for candidate in result.candidates)
    assert {len(pictures_in(candidate.content)) for candidate in result.candidates} <= {1, 2}


async def test_a_picture_that_is_withheld_is_noted_and_the_search_goes_on(tmp_path: Path):
    whole = Painter(keeps=0.6)
    await in_pictures("tree_of_frames:n=4,keep=[4],branches=1", tmp_path, whole)
    seeds = [request["seed"] for request in whole.requests if "picture 2" in request["prompt"]]
    result = await in_pictures("tree_of_frames:n=4,keep=[4],branches=1", tmp_path, Painter(
        keeps=0.6, withheld=frozenset(seeds[:1])
    ))  # fmt: skip
    assert len(result.candidates) == 3
    assert len(result.failures) >= 1
    assert_all_is_charged(result)


@pytest.mark.parametrize(
    "spec",
    [
        "staged_resampling:images=true",
        "tree_of_frames:images=true,lookahead=1",
        "tree_of_frames:images=true,select_by=majority",
        "tree_of_frames:keep=[]",
        "staged_resampling:widths=[1,2]",
    ],
)
def test_what_pictures_cannot_do_is_refused(spec: str):
    with pytest.raises((ConfigError, ValidationError)):
        make("strategies", spec)


async def test_a_missing_role_is_named_before_anything_is_spent(tmp_path: Path):
    with pytest.raises(ConfigError, match="image"):
        await in_words("tree_of_frames:images=true")
    with pytest.raises(ConfigError, match="embed"):
        await in_words("staged_resampling:embed=true")
    with pytest.raises(ConfigError, match="can rate only whole ones"):
        await in_words("tree_of_frames", verifier="staged(verifiers=[digits, exact_answer(reference=a)])")
