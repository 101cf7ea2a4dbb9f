"""How sure the model was: read off the log-probabilities that come with an answer, whole or streamed."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from tests.support.double import ModelDouble
from tests.support.judges import roles, speaking
from tests.support.solving import PROBLEM
from tests.support.wire import bigram_logprobs
from tts import Experiment, MockModel, solve
from tts.confidence import LowConfidence, lowest_group
from tts.errors import ConfigError
from tts.runs.analysis import curves
from tts.sampler.protocol import Generation
from tts.strategies.deepconf import DeepConf
from tts.types import Candidate, Verdict
from tts.verifiers.agreement import Agreement

TABLE = bigram_logprobs("policy")


def confidence_after(token: int) -> float:
    """Minus the mean log-probability of the twenty likeliest tokens after `token`."""
    return float(-np.sort(TABLE[token])[::-1][:20].mean())


@given(some.lists(some.floats(0, 20), min_size=1, max_size=60), some.integers(1, 20))
def test_the_lowest_group_is_the_least_mean_of_any_window(confidences: list[float], window: int):
    width = min(window, len(confidences))
    means = [np.mean(confidences[i : i + width]) for i in range(len(confidences) - width + 1)]
    assert lowest_group(confidences, window) == pytest.approx(min(means), abs=1e-9)


@given(
    some.lists(some.floats(0, 20), min_size=1, max_size=60),
    some.integers(1, 20),
    some.floats(0, 20),
    some.integers(1, 7),
)
def test_an_answer_is_ended_at_the_first_full_window_below_the_threshold(
    confidences: list[float], window: int, threshold: float, piece: int
):
    to_abandon = LowConfidence(threshold, window).watch()
    below = [
        end
        for end in range(window, len(confidences) + 1)
        if math.fsum(confidences[end - window : end]) / window < threshold - 1e-6
    ]
    near = any(
        abs(math.fsum(confidences[end - window : end]) / window - threshold) < 1e-5
        for end in range(window, len(confidences) + 1)
    )
    ended = None
    for size in [*range(piece, len(confidences), piece), len(confidences)]:
        choice = Generation(0)
        choice.confidences = confidences[:size]
        if to_abandon(choice):
            ended = size
            break
    if near:
        return
    assert (ended is None) == (not below)
    if ended is not None:
        assert ended - piece < below[0] <= ended


@pytest.mark.parametrize("stream", [False, True], ids=["whole answers", "streamed"])
async def test_confidences_are_asked_for_by_the_verifier_and_read_as_they_are(stream: bool):
    async with ModelDouble(**speaking(policy=lambda asked, rng: "aaaabbbb"[rng.integers(0, 4) :])) as double:
        spec = "best_of_n:n=6,verifier="
        certain = await solve(PROBLEM, f"{spec}self_certainty", roles(double, stream=stream))
        weakest = await solve(PROBLEM, f"{spec}min_window_confidence(window=2)", roles(double, stream=stream))
        likely = await solve(PROBLEM, f"{spec}mean_logprob", roles(double, stream=stream))
    for result in (certain, weakest, likely):
        assert len(result.candidates) == 6
        assert not result.failures
    for candidate in certain.candidates:
        before = b"\n" + candidate.content.encode()[:-1]
        assert _score(candidate) == pytest.approx(np.mean([confidence_after(token) for token in before]))
    for candidate in weakest.candidates:
        each = [confidence_after(token) for token in b"\n" + candidate.content.encode()[:-1]]
        assert _score(candidate) == pytest.approx(min(np.add(each[1:], each[:-1]) / 2))
    for candidate in likely.candidates:
        text = candidate.content.encode()
        assert _score(candidate) == pytest.approx(
            np.mean([TABLE[b, a] for b, a in zip(b"\n" + text, text, strict=False)])
        )


def _score(candidate: Candidate) -> float:
    assert candidate.verdict is not None
    assert candidate.verdict.score is not None
    return candidate.verdict.score


async def test_a_server_without_log_probabilities_leaves_candidates_unrated_and_says_why():
    result = await solve(PROBLEM, "best_of_n:n=3,verifier=self_certainty", MockModel(lambda request: "x"))
    assert [c.verdict and c.verdict.score for c in result.candidates] == [None] * 3
    assert "no top_logprobs" in result.failures[0]


# -- abandoning weak samples -------------------------------------------------------------------------------------------

SURE, UNSURE = (chr(pick(range(97, 123), key=confidence_after)) for pick in (max, min))


def traces(asked: str, rng: np.random.Generator) -> str:
    """A right answer after sure thoughts, or a wrong one after thoughts that turn unsure."""
    if rng.random() < 0.6:
        return SURE * 100 + "\nAnswer: 42"
    return SURE * 20 + UNSURE * 80 + f"\nAnswer: {rng.integers(90, 99)}"


LENGTH = 100
DEEPCONF = "deepconf:n=16,warmup=6,keep=0.5,window=16"


async def test_weak_samples_are_ended_while_they_are_written_and_do_not_vote():
    async with ModelDouble(**speaking(policy=traces), latency=2.0, seed=5) as double:
        result = await solve(PROBLEM, f"{DEEPCONF},consensus=2", roles(double), stop_early=False)
        await double.idle()
        stats = double.stats
    assert result.selected is not None
    assert result.selected.notes["answer"] == "42"
    abandoned = [c for c in result.candidates if c.samples[-1].finish_reason == "abandoned"]
    assert len(result.candidates) == 16
    assert abandoned
    for candidate in abandoned:
        assert min(candidate.spawned) >= 6
        assert candidate.notes["answer"] is None
        assert 20 < len(candidate.content) < LENGTH
        assert candidate.samples[-1].charges[1].usage.completion_tokens == len(candidate.content)
    assert 0 < stats.cancelled <= len(abandoned)
    assert stats.wasted_completion_tokens < len(abandoned) * LENGTH, "the server went on writing"
    assert result.spent["policy"].estimated_tokens == 0
    assert result.spent["policy"].completion_tokens == sum(len(c.content) for c in result.candidates)
    assert not result.wasted


async def test_an_abandoned_answer_is_never_taken_for_a_whole_one(tmp_path: Any):
    problems = tmp_path / "p.jsonl"
    problems.write_text("\n".join(f'{{"prompt": "{i} times 7?", "answer": "42"}}' for i in range(2)))
    async with ModelDouble(**speaking(policy=traces), latency=0.5, seed=5) as double:
        models = {"m": {name: one.model_dump(mode="json") for name, one in roles(double).items()}}
        strategies = [f"{DEEPCONF},consensus=2", "self_consistency:n=16"]
        sampling = {"logprobs": True, "top_logprobs": 20}
        task = f'jsonl:path="{problems}",answer_verifier=numeric_answer'
        grid = {"task": task, "strategies": strategies, "models": models, "sampling": sampling, "stop_early": False}
        run = await Experiment.parse(grid).run(tmp_path / "run")
        deep, votes = run.tracks
        received = double.stats.received
        await Experiment.parse(grid).run(tmp_path / "run", resume=True)
        assert double.stats.received == received
    lengths = [len(candidate.content) for candidate in votes.candidates(votes.rows[0])]
    assert all(length > LENGTH for length in lengths)
    assert any(len(candidate.content) < LENGTH for candidate in deep.candidates(deep.rows[0]))
    assert "replay" in {curve.estimator for curve in curves(run)}


@pytest.mark.parametrize(("consensus", "drawn"), [(0.95, 6), (2, 16)])
async def test_where_the_first_samples_agree_no_more_are_drawn(consensus: float, drawn: int):
    async with ModelDouble(**speaking(policy=lambda asked, rng: "\nAnswer: 42"), seed=5) as double:
        spec = f"{DEEPCONF},consensus={consensus}"
        result = await solve(PROBLEM, spec, roles(double), stop_early=False)
        assert double.stats.choices == len(result.candidates) == drawn
    assert result.selected is not None
    assert result.selected.notes["answer"] == "42"


def voter(place: int, answer: str | None, confidence: float, *, first: bool) -> Candidate:
    notes = {"answer": answer, "confidence": confidence, **({"first": True} if first else {})}
    return Candidate(id=place, content="", spawned=(place,), notes=notes)


def test_the_first_samples_that_are_less_sure_than_most_do_not_vote_either():
    made = [voter(i, a, c, first=True) for i, (a, c) in enumerate([("b", 1.0), ("b", 1.1), ("a", 3.0), ("c", 2.0)])]
    chosen = DeepConf(n=4, warmup=4, keep=0.5, weighted=False).select(made)
    assert chosen is made[2]
    later = voter(4, "b", 1.5, first=False)  # no longer than the window: it was not abandoned
    assert DeepConf(n=5, warmup=4, keep=0.5, weighted=False).select([*made, later]) is made[2]


def test_votes_count_their_confidence():
    made = [voter(i, a, c, first=True) for i, (a, c) in enumerate([("b", 1.0), ("b", 1.1), ("a", 3.0)])]
    assert DeepConf(keep=1.0).select(made) is made[2]
    assert DeepConf(keep=1.0, weighted=False).select(made) is made[0]


@given(
    some.lists(some.tuples(some.sampled_from(["a", "b", None]), some.floats(0, 5)), min_size=1, max_size=10),
    some.integers(1, 6),
    some.sampled_from([0.1, 0.5, 0.9]),
)
def test_a_settled_vote_of_the_confident_cannot_change(pairs: list[tuple[str | None, float]], warmup: int, keep: float):
    strategy = DeepConf(n=len(pairs), warmup=warmup, keep=keep, weighted=False)
    made = [voter(i, answer, sure, first=i < warmup) for i, (answer, sure) in enumerate(pairs)]

    def winner(candidates: list[Candidate]) -> str | None:
        chosen = strategy.select(candidates)
        return None if chosen is None else chosen.notes["answer"]

    for k in range(len(made) + 1):
        if strategy.settled(made[:k]):
            assert winner(made[:k]) == winner(made)


async def test_the_confidence_of_a_sample_is_that_of_its_weakest_passage_and_weighs_its_vote():
    async with ModelDouble(**speaking(policy=traces), latency=2.0, seed=5) as double:
        result = await solve(PROBLEM, DEEPCONF, roles(double), stop_early=False)
    for candidate in result.candidates:
        assert candidate.notes["confidence"] == lowest_group(candidate.samples[-1].confidences or (), 16)
    first = sorted(c.notes["confidence"] for c in result.candidates if c.notes.get("first"))
    least = float(np.quantile(first, 0.5))
    votes: dict[str, float] = {}
    for c in result.candidates:
        if c.notes["confidence"] >= least and c.notes["answer"] is not None:
            votes[c.notes["answer"]] = votes.get(c.notes["answer"], 0.0) + c.notes["confidence"]
    assert result.selected is not None
    assert result.selected.notes["answer"] == max(votes, key=lambda answer: votes[answer])
    assert len(first) == 6


async def test_deepconf_says_what_it_needs():
    with pytest.raises(ConfigError, match="top_logprobs"):
        await solve(PROBLEM, "deepconf", MockModel(lambda request: "Answer: 42"))


# -- agreement ---------------------------------------------------------------------------------------------------------


async def test_agreement_is_the_share_of_votes_and_selects_the_majority():
    said = iter(["Answer: 42", "Answer: 41", "no idea", "Answer: 42.0", "Answer: 7", "Answer: 42"])
    async with ModelDouble(**speaking(policy=lambda asked, rng: next(said))) as double:
        result = await solve(PROBLEM, "best_of_n:n=6,verifier=agreement", roles(double))
    assert [c.verdict and c.verdict.score for c in sorted(result.candidates, key=lambda c: c.spawned)] == [
        0.6,
        0.2,
        None,
        0.6,
        0.2,
        0.6,
    ]
    assert result.selected is not None
    assert result.selected.content == "Answer: 42"
    assert result.spent.keys() == {"policy"}


@given(some.lists(some.sampled_from(["a", "b", "c", None]), max_size=9))
def test_agreement_among_any_prefix_follows_from_the_prefix_alone(votes: list[str | None]):
    verifier = Agreement()
    made = [
        Candidate(id=i, content="", spawned=(i,), verdict=Verdict(None) if v is None else verifier.rated(1.0, vote=v))
        for i, v in enumerate(votes)
    ]
    whole = verifier.among(made)
    for k in range(len(made) + 1):
        assert list(verifier.among(whole[:k])) == list(verifier.among(made[:k]))
