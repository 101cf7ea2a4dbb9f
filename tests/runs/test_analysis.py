"""Curves from stored runs against what is known of the problems."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from tests.curves.brute_force import best, over_all_orders, vote
from tests.runs.conftest import PROBABILITIES, task_in
from tests.support.double import Fault, FaultKind, ModelDouble, solvable
from tests.support.threaded import serving, settle
from tts import (
    Candidate,
    Endpoint,
    Experiment,
    ModelCard,
    Problem,
    Run,
    Session,
    Strategy,
    Verdict,
    Verifier,
    registry,
)
from tts.curves import CurveError, fit_coverage_law
from tts.errors import ConfigError
from tts.runs.analysis import curves, summary, track_curves
from tts.runs.coverage import coverage_laws, filtered_curve
from tts.runs.run import Floats
from tts.tables import curve_table, summary_table

SOLVE = np.array(list(PROBABILITIES.values()))


@pytest.fixture(scope="module")
def double_and_grid(tmp_path_factory: pytest.TempPathFactory) -> tuple[ModelDouble, Run]:
    """A run of three strategies, which those who only read it share, and the server that it has asked."""
    folder = tmp_path_factory.mktemp("grid")
    strategies = ["best_of_n:n=32,verifier=oracle", "first_pass:k=16,verifier=oracle", "single"]
    with serving(answer=solvable(PROBABILITIES), latency=0.002) as double:
        endpoint = Endpoint(model="test-model", base_url=double.base_url)
        table = {"task": task_in(folder), "models": endpoint, "strategies": strategies, "seeds": [0, 1, 2]}
        run = Experiment.parse(table).run_sync(folder / "run")
        settle(double)
    return double, run


@pytest.fixture
def grid(double_and_grid: tuple[ModelDouble, Run]) -> Run:
    return double_and_grid[1]


def test_curves_match_the_analytic_ones(grid: Run) -> None:
    best, coverage, first, single = curves(grid, "samples")
    assert best.estimator == "best-of-k"
    assert coverage.estimator == "pass@k"
    assert (first.estimator, single.estimator) == ("replay", "replay")
    for curve in (best, coverage, first, single):
        truth = 1 - (1 - SOLVE[:, np.newaxis]) ** curve.k
        # problems are given, not drawn: what is left is the noise of 3 x n samples of each
        spread = np.sqrt((truth * (1 - truth) / 3).sum(axis=0)) / len(SOLVE)
        assert np.all(np.abs(curve.y - truth.mean(axis=0)) <= 4.5 * spread), curve.label
        assert curve.problems == 20
    np.testing.assert_allclose(best.y, coverage.y)  # a perfect verifier selects whatever was covered


class Fallible(Verifier):
    """Judges by the length of the answer, which tells nothing of its truth: accepts, refuses and ties wrongly."""

    def check(self, problem: Problem, candidate: Candidate) -> Verdict:
        length = len(candidate.content)
        return Verdict([0.0, 1.0, None][length % 3], [True, False, None, None][length % 4])


async def test_best_of_k_with_a_fallible_verifier_is_the_mean_over_all_draws_of_the_pool(
    task: str, endpoint: Endpoint, tmp_path: Path
) -> None:
    registry.register("verifiers", Fallible)
    table = {"task": task, "models": endpoint, "strategies": ["best_of_n:n=6,verifier=fallible"]}
    run = await Experiment.parse(table).run(tmp_path / "run")
    (track,), ks = run.tracks, range(1, 7)
    best, coverage = curves(run, "samples", ks=ks)

    def accuracy(k: int) -> float:
        """Of the plain strategy, repeated over every order in which `k` of a problem's samples can come."""
        problems = []
        for row, correct in zip(track.rows, track.correct, strict=True):
            pool = track.candidates(row)

            def selects_rightly(order: Sequence[int], pool=pool, correct=correct) -> float:
                chosen = track.method.select([pool[i] for i in order])
                return correct[chosen.spawned[0]] if chosen else 0.0

            problems.append(over_all_orders(len(pool), k, selects_rightly))
        return float(np.mean(problems))

    np.testing.assert_allclose(best.y, [accuracy(k) for k in ks])
    assert best.y[0] == pytest.approx(coverage.y[0])
    assert np.all(best.y[1:] < coverage.y[1:])


class Backwards(Strategy):
    """Yields its samples in the reverse of the order they were spawned in."""

    async def search(self, problem: Problem, session: Session) -> AsyncIterator[Candidate]:
        drawn = [candidate async for candidate in session.propose(n=4)]
        for candidate in sorted(drawn, key=lambda candidate: candidate.spawned, reverse=True):
            await asyncio.sleep(0.001)
            yield candidate


async def test_a_prefix_is_there_only_when_the_last_of_its_candidates_is(
    task: str, endpoint: Endpoint, tmp_path: Path
) -> None:
    registry.register("strategies", Backwards)
    run = await Experiment.parse({"task": task, "models": endpoint, "strategies": ["backwards"]}).run(tmp_path / "run")
    (track,) = run.tracks
    for row, seconds in zip(track.rows, track.cost("seconds"), strict=True):
        elapsed = [candidate.elapsed for candidate in track.candidates(row)]
        assert elapsed[0] > elapsed[1] > elapsed[2] > elapsed[3] > 0
        assert seconds.tolist() == [elapsed[0]] * 4


def test_compute_of_a_prefix_counts_each_request_and_token_once(double_and_grid: tuple[ModelDouble, Run]) -> None:
    double, run = double_and_grid
    best = run.tracks[0]
    assert sum(part[-1] for part in best.cost("completion_tokens")) == double.stats.completion_tokens
    assert sum(part[-1] for part in best.cost("requests")) == double.stats.received
    assert sum(part[-1] for part in best.cost("total_tokens")) == (
        double.stats.completion_tokens + double.stats.prompt_tokens
    )
    for part in best.cost("requests"):
        assert part.tolist() == sorted(part)
        assert part[0] == 1
    for part in run.tracks[1].cost("samples"):
        assert part.tolist() == list(range(1, len(part) + 1))


async def test_money_and_flops_come_from_the_model_card(task: str, endpoint: Endpoint, tmp_path: Path) -> None:
    table = {"task": task, "models": endpoint, "strategies": ["best_of_n:n=4,verifier=oracle"]}
    run = await Experiment.parse(table).run(tmp_path / "free")
    with pytest.raises(ConfigError, match="prompt_price_per_million"):
        curves(run, "money")
    card = ModelCard(prompt_price_per_million=1.0, completion_price_per_million=10.0, parameters=1e9)
    run = await Experiment.parse({**table, "models": endpoint.model_copy(update={"card": card})}).run(tmp_path / "run")
    usage = run.tracks[0].usage()
    money = (usage.prompt_tokens + 10 * usage.completion_tokens) / 1e6
    assert summary(run)[0]["money"] == pytest.approx(money)
    assert curves(run, "money")[0].x[-1] == pytest.approx(money / 20)
    assert curves(run, "flops")[0].x[-1] == pytest.approx(2e9 * usage.total_tokens / 20)


async def test_where_nothing_was_answered_nothing_is_known_of_the_money_whatever_the_prices(
    task: str, tmp_path: Path
) -> None:
    card = ModelCard(prompt_price_per_million=1.0, completion_price_per_million=10.0)
    async with ModelDouble(faults={Fault(FaultKind.SERVER_ERROR): 1.0}) as double:
        failing = Endpoint(model="test-model", base_url=double.base_url, card=card, max_attempts=1)
        table = {"task": task, "models": failing, "strategies": ["self_consistency:n=2"], "limit": 2}
        run = await Experiment.parse(table).run(tmp_path / "run")
    (row,) = summary(run)
    assert (row["failed"], row["candidates"], double.stats.served) == (2, 0, 0)
    assert (row["money"], row["paid_money"], row["currency"]) == (None, None, "USD")
    shown = summary_table({"": [row]})
    assert not shown.rows[0][[*shown.left, *shown.right].index("money")]


def test_unknown_measures_and_too_large_k_are_refused(grid: Run) -> None:
    with pytest.raises(ConfigError, match="completion_tokens"):
        curves(grid, "tokens")
    with pytest.raises(CurveError, match="64"):
        curves(grid, "samples", ks=[1, 64])


def test_the_summary_tells_selected_accuracy_coverage_and_cost_apart(grid: Run) -> None:
    best, first, single = summary(grid)
    assert best["accuracy"] == pytest.approx(best["coverage"])
    assert best["accuracy"] > single["accuracy"]
    assert best["oracle"]
    assert not single["oracle"]
    assert best["candidates"] == 20 * 32 * 3
    assert first["abstained"] == sum(not flags.any() for flags in grid.tracks[1].correct)
    assert single["low"] <= single["accuracy"] <= single["high"]


def test_coverage_law_is_fitted_to_the_coverage_curve(grid: Run) -> None:
    (law,) = coverage_laws({track.label: track for track in grid.tracks})
    coverage = curves(grid, "samples", ks=range(1, 33))[1]
    every = fit_coverage_law(coverage.k, coverage.y)
    assert (law["a"], law["b"], law["k"]) == (pytest.approx(every.a), pytest.approx(every.b), 32)
    assert law["a"] < 0 > law["b"]
    assert law["r_squared"] > 0.9


async def test_selection_is_replayed_by_the_strategy_itself(task: str, endpoint: Endpoint, tmp_path: Path) -> None:
    table = {"task": task, "models": endpoint, "strategies": ["self_consistency:n=9"]}
    run = await Experiment.parse(table).run(tmp_path / "run")
    (track,) = run.tracks
    vote = registry.make("strategies", "self_consistency:n=9")
    for row in track.rows:
        chosen = vote.select(track.candidates(row))
        assert (chosen.spawned[0] if chosen else None) == row.selected


async def test_a_run_without_a_right_answer_has_curves_at_zero_and_no_law(task: str, tmp_path: Path) -> None:
    async with ModelDouble(answer=lambda *_: "Answer: 0") as double:
        endpoint = Endpoint(model="test-model", base_url=double.base_url)
        table = {"task": task, "models": endpoint, "strategies": ["self_consistency:n=8"]}
        run = await Experiment.parse(table).run(tmp_path / "run")
    drawn = curves(run)
    assert all(curve.y.tolist() == [0.0] * len(curve.y) for curve in drawn)
    assert coverage_laws({track.label: track for track in run.tracks}) == []


async def test_filtered_pass_at_k_is_the_mean_over_all_subsets_of_what_the_verifier_accepted(
    task: str, endpoint: Endpoint, tmp_path: Path
) -> None:
    some = {"name": "regex", "pattern": r"42|[02468]\.?\s*$"}  # accepts what is right, and half of what is not
    strategies = [{"name": "best_of_n", "n": 6, "verifier": some}, {"name": "first_pass", "k": 4, "verifier": some}]
    table = {"task": task, "models": endpoint, "strategies": [*strategies, "single"], "seeds": [0, 1]}
    run = await Experiment.parse(table).run(tmp_path / "run")
    tracks = {track.strategy.partition(":")[0]: track for track in run.tracks}
    for name in ("best_of_n", "first_pass"):
        track = tracks[name]
        curve = filtered_curve(track)
        assert curve is not None
        assert (curve.estimator, curve.problems) == ("filtered pass@k", 20)
        for k, x, y in zip(curve.k, curve.x, curve.y, strict=True):
            solved, submitted = [], []
            for right, said in zip(track.correct, track.passed, strict=True):
                accepted = right[said == 1]
                subsets = list(combinations(accepted, min(int(k), len(accepted))))
                solved.append(np.mean([any(subset) for subset in subsets]))
                submitted.append(len(subsets[0]))
            assert y == pytest.approx(np.mean(solved))
            assert x == pytest.approx(np.mean(submitted))
        assert curve.y[0] <= curve.y[-1]
    assert filtered_curve(tracks["single"]) is None


# -- one rule for accuracy and compute --------------------------------------------------------------------------------


@pytest.mark.parametrize("max_n", [1, 3, 6])
async def test_closed_forms_average_compute_over_the_same_subsets_as_accuracy(
    task: str, endpoint: Endpoint, tmp_path: Path, max_n: int
) -> None:
    registry.register("verifiers", Fallible)
    models = endpoint.model_copy(update={"max_n": max_n})
    table = {"task": task, "models": models, "strategies": ["best_of_n:n=6,verifier=fallible"]}
    run = await Experiment.parse(table).run(tmp_path / "run")
    (track,), ks = run.tracks, range(1, 7)

    def mean(measure: str) -> list[float]:
        return curves(run, measure, ks)[0].x.tolist()

    def over_subsets(parts: list[Floats], worth: Callable[[Floats], float]) -> list[float]:
        subsets = [[list(combinations(part, k)) for k in ks] for part in parts]
        return [float(np.mean([np.mean([worth(np.array(s)) for s in own[k - 1]]) for own in subsets])) for k in ks]

    generated = [np.diff(part, prepend=0) for part in track.cost("completion_tokens")]
    arrivals = [np.array([one.elapsed for one in track.candidates(row)]) for row in track.rows]
    assert mean("completion_tokens") == pytest.approx(over_subsets(generated, np.sum))
    assert mean("seconds") == pytest.approx(over_subsets(arrivals, np.max))
    assert mean("samples") == list(ks)
    assert mean("requests") == [-(-k // max_n) for k in ks]
    prompts = [part[-1] / -(-6 // max_n) for part in track.cost("prompt_tokens")]
    assert mean("prompt_tokens") == pytest.approx([np.mean(prompts) * -(-k // max_n) for k in ks])
    for measure in ("total_tokens", "verifier_seconds"):
        assert mean(measure)[-1] == pytest.approx(np.mean([part[-1] for part in track.cost(measure)]))


@pytest.mark.parametrize(
    "strategy", ["best_of_n:n=6,verifier=fallible", "self_consistency:n=7", "first_pass:k=4,verifier=oracle"]
)
async def test_the_table_shows_where_the_curve_ends(
    task: str, endpoint: Endpoint, tmp_path: Path, strategy: str
) -> None:
    registry.register("verifiers", Fallible)
    table = {"task": task, "models": endpoint, "strategies": [strategy], "seeds": [0, 1]}
    run = await Experiment.parse(table).run(tmp_path / "run")
    (row,), (selected, *_) = summary(run), curves(run)
    for of_table, of_curve in zip(("accuracy", "low", "high"), (selected.y, selected.low, selected.high), strict=True):
        assert row[of_table] == pytest.approx(of_curve[-1])
    assert ("ties averaged" in str(summary_table({"": [row]}).notes)) == (row["estimator"] != "replay")


# -- binding budgets --------------------------------------------------------------------------------------------------


async def test_a_budget_of_seconds_is_told_and_bounds_curves_as_others_do(
    task: str, endpoint: Endpoint, double: ModelDouble, tmp_path: Path
) -> None:
    double.latency = lambda body, _: 600.0 if "[[p1]]" in body["messages"][-1]["content"] else 0.0
    table = {"task": task, "models": endpoint, "strategies": ["single"], "limit": 4, "budget": {"seconds": 1.5}}
    run = await Experiment.parse(table).run(tmp_path / "run")
    assert [row.problem for row in run.tracks[0].rows if row.by_budget] == ["p1"]
    assert summary(run)[0]["budget_ended"] == 1
    assert {curve.short for curve in curves(run)} == {1}
    assert all(curve.cap is not None for curve in curves(run))


@pytest.mark.parametrize("strategy", ["self_consistency:n=12", "best_of_n:n=12,verifier=oracle", "two_by_two"])
async def test_a_binding_budget_leaves_a_curve_over_all_problems(
    task: str, endpoint: Endpoint, double: ModelDouble, tmp_path: Path, strategy: str
) -> None:
    registry.register("strategies", TwoByTwo)
    models = endpoint.model_copy(update={"params": {"max_tokens": 60}})
    table = {"task": task, "models": models, "strategies": [strategy], "budget": {"completion_tokens": 200}}
    run = await Experiment.parse(table).run(tmp_path / "run")
    (track,), (row,) = run.tracks, summary(run)
    sizes = [int(whole.sum()) for whole in track.whole]
    assert len(set(sizes)) > 1  # the budget binds, and unevenly
    for curve in track_curves(track):
        assert curve.problems == 20
        assert curve.k[-1] == max(sizes)
        assert curve.short == sum(size < max(sizes) for size in sizes)
        assert curve.x[-1] == pytest.approx(np.mean([part[-1] for part in track.cost("completion_tokens")]))
    assert row["accuracy"] == pytest.approx(track_curves(track)[0].y[-1])
    assert row["budget_ended"] == sum(cell.ended == "budget" for cell in track.rows) > 0
    if strategy.startswith("self"):
        coverage = track_curves(track, ks=[1])[1]
        rates = [flags[whole].mean() for flags, whole in zip(track.correct, track.whole, strict=True)]
        assert coverage.y[0] == pytest.approx(np.mean(rates))
    assert "fewer candidates than the largest k" in str(curve_table(track_curves(track)).notes)


@pytest.mark.parametrize("measure", ["completion_tokens", "total_tokens", "samples", "seconds"])
@pytest.mark.parametrize("strategy", ["self_consistency:n=6", "best_of_n:n=6,verifier=fallible", "two_by_two"])
async def test_a_curve_over_a_budget_is_what_each_problem_would_have_had_within_it(
    task: str, endpoint: Endpoint, tmp_path: Path, strategy: str, measure: str
) -> None:
    """Every cap against brute force: the longest affordable prefix, or all orders of as many candidates."""
    registry.register("strategies", TwoByTwo)
    registry.register("verifiers", Fallible)
    models = endpoint.model_copy(update={"params": {"max_tokens": 60}})
    table = {"task": task, "models": models, "strategies": [strategy], "budget": {"completion_tokens": 160}}
    (track,) = (await Experiment.parse(table).run(tmp_path / "run")).tracks
    closed = strategy != "two_by_two"
    costs = track.mean_cost(measure) if closed else track.cost(measure)
    ends = [float(part[-1]) for part in costs]
    for caps in (None, [0.0, min(ends) / 2, float(np.median(ends)), 2 * max(ends)]):
        selected, coverage = track_curves(track, measure, caps=caps)
        assert selected.cap is not None
        assert (selected.problems, coverage.problems) == (20, 20)
        for i, cap in enumerate(selected.cap):
            right, covered, spent, most = [], [], [], 0
            for row, whole, flags, ranks, cost in zip(
                track.rows, track.whole, track.correct, track.ranks, costs, strict=True
            ):
                kept = np.flatnonzero(whole)
                k = sum(bool(amount <= cap * (1 + 1e-12)) for amount in cost[: len(kept)])
                most = max(most, k)
                spent.append(cost[k - 1] if k else 0.0)
                candidates = [track.candidates(row)[place] for place in kept]
                if not k:
                    right.append(0.0)
                    covered.append(0.0)
                elif closed:
                    answers = [one.notes.get("answer") for one in candidates]
                    right_ones = (flags[kept] == 1).tolist()
                    rule = best(ranks[kept].tolist(), right_ones) if "best" in strategy else vote(answers, right_ones)
                    right.append(over_all_orders(len(kept), k, rule))
                    covered.append(over_all_orders(len(kept), k, lambda order, f=flags[kept]: max(f[list(order)])))
                else:
                    chosen = track.method.select(candidates[:k])
                    right.append(0.0 if chosen is None else flags[chosen.spawned[0]])
                    covered.append(max(flags[:k]))
            assert selected.y[i] == pytest.approx(np.mean(right))
            assert coverage.y[i] == pytest.approx(np.mean(covered))
            assert selected.x[i] == pytest.approx(np.mean(spent))
            assert selected.k[i] == most
            assert selected.low[i] <= selected.y[i] <= selected.high[i]
    if measure == "completion_tokens":
        assert track_curves(track)[0].cap is not None  # chosen by itself: the budget left the problems unequal
        assert track_curves(track, by="k")[0].cap is None
        assert "a cap on their completion tokens affords" in str(curve_table(track_curves(track)).notes)
        with pytest.raises(CurveError, match="not over both"):
            track_curves(track, ks=[1], caps=[100.0])


async def test_one_problem_without_a_candidate_stands_at_nothing_and_costs_what_it_cost(
    task: str, endpoint: Endpoint, tmp_path: Path
) -> None:
    registry.register("strategies", Hesitant)
    table = {"task": task, "models": endpoint, "strategies": ["hesitant"], "budget": {"requests": 4}}
    run = await Experiment.parse(table).run(tmp_path / "run")
    (track,), (row,) = run.tracks, summary(run)
    assert [len(flags) for flags in track.correct].count(0) == 1
    (curve,) = track_curves(track)
    assert curve.cap is not None
    assert (curve.problems, curve.short) == (20, 1)
    assert curve.x[-1] == pytest.approx(row["completion_tokens"] / 20)
    assert curve.y[-1] == pytest.approx(row["accuracy"])


class Hesitant(Strategy):
    """Four answers to each problem, but to the first none that it would give."""

    async def search(self, problem: Problem, session: Session) -> AsyncIterator[Candidate]:
        while True:
            async for candidate in session.propose(n=1):
                if problem.id != next(iter(PROBABILITIES)):
                    yield candidate


class TwoByTwo(Strategy):
    """Two samples at a time, for ever."""

    exhaustive = True

    async def search(self, problem: Problem, session: Session) -> AsyncIterator[Candidate]:
        while True:
            async for candidate in session.propose(n=2):
                yield candidate


async def test_what_a_budget_cuts_off_is_no_sample(task: str, tmp_path: Path) -> None:
    """A budget of two answers and a half: two whole ones, and one that ends before it says anything."""
    text = "one two three four five six seven eight Answer: 42"
    size = len(text.encode())
    async with ModelDouble(answer=lambda *_: text) as double:
        models = Endpoint(model="test-model", base_url=double.base_url, params={"max_tokens": size})
        table = {"task": task, "models": models, "budget": {"completion_tokens": 2 * size + size // 2}, "limit": 4}
        table |= {"strategies": ["self_consistency:n=8", "best_of_n:n=8,verifier=oracle"]}
        run = await Experiment.parse(table).run(tmp_path / "run")
    for track, row in zip(run.tracks, summary(run), strict=True):
        assert row["cut_off"] > 0
        assert row["cut_off"] == sum(not one for whole in track.whole for one in whole)
        assert all(curve.y.tolist() == [1.0] * len(curve.y) for curve in track_curves(track))
        assert "cut off by the budget" in str(summary_table({"": [row]}).notes)
        assert f"ended because their budget was spent: {row['budget_ended']}" in str(summary_table({"": [row]}).notes)


async def test_a_run_that_goes_on_is_read_as_it_was(task: str, endpoint: Endpoint, tmp_path: Path) -> None:
    def problems(number: int) -> Experiment:
        table = {"task": task, "models": endpoint, "strategies": ["best_of_n:n=4,verifier=oracle"], "limit": number}
        return Experiment.parse(table)

    run = await problems(2).run(tmp_path / "run")
    before = Run(run.path)
    rows = before.tracks[0].rows  # the rest is read when the run has gone on
    assert len((await problems(4).run(tmp_path / "run", resume=True)).tracks[0].rows) == 4
    track = before.tracks[0]
    assert [row.cell for row in track.rows] == [row.cell for row in rows]
    assert len(track.cost("completion_tokens")) == len(track.correct) == 2
    assert len(Run(run.path).tracks[0].rows) == 4
