"""ATTS and its baseline: what they ask for, on which tokens, at which rate, and what survives failures."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.double import Fault, FaultKind, ModelDouble
from tests.support.solutions import begun, continued
from tests.support.solving import PROBLEM, account, check_account, check_exact, endpoint, settle
from tests.support.wire import bigram_logprobs
from tts import registry
from tts.errors import ConfigError
from tts.resources import Resources
from tts.solving import drive, open_models, open_session, solve
from tts.strategies.speculation.conformal import Scored, save
from tts.types import Budget, Problem, Result

ATTS = "atts:n=6,draft_tokens=60,target_tokens=40,rounds=12"


class Pair:
    """A server with a small and a large model, and what was asked of them."""

    def __init__(self, **settings: Any) -> None:
        options: dict[str, Any] = {"answer": continued, **settings}
        self.double = ModelDouble(models=["small", "large"], **options)

    async def __aenter__(self) -> Pair:
        await self.double.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.double.__aexit__()

    def models(self, **settings: Any) -> dict[str, Any]:
        return {
            role: endpoint(self.double, model=model, **settings)
            for role, model in (("draft", "small"), ("target", "large"))
        }

    def asked(self, kind: str) -> list[dict[str, Any]]:
        """The bodies of requests of a kind: `draft`, `score` or `continue`."""
        return [seen.body for seen in self.double.requests if _kind(seen.body) == kind]


def _kind(body: dict[str, Any]) -> str:
    if body.get("max_tokens") == 1:
        return "score" if len(body["prompt"]) > 60 else "probe"
    return "draft" if body["model"] == "small" else "continue"


async def solved(pair: Pair, strategy: str = ATTS, settings: dict[str, Any] | None = None, **options: Any) -> Result:
    options = {"stop_early": False, **options}
    async with asyncio.timeout(120):
        return await solve(PROBLEM, strategy, pair.models(**settings or {}), **options)


async def test_every_sample_is_drafted_scored_and_continued_to_an_answer():
    async with Pair() as pair:
        result = await solved(pair)
    assert result.ended == "complete"
    assert len(result.candidates) == 6
    assert sorted(candidate.spawned for candidate in result.candidates) == [(i,) for i in range(6)]
    assert {candidate.notes["ended"] for candidate in result.candidates} == {"answered"}
    assert result.selected is not None
    assert result.selected.notes["answer"] == Counter(c.notes["answer"] for c in result.candidates).most_common(1)[0][0]
    check_exact(result, pair.double.stats)
    charges = {charge for candidate in result.candidates for charge in candidate.charges}
    paid = sum(charge.usage.completion_tokens for charge in charges)
    assert paid == sum(usage.completion_tokens for usage in result.spent.values()) - 1  # the probe is nobody's


async def test_a_sample_is_one_growing_list_of_token_ids_with_nothing_glued_in():
    async with Pair() as pair:
        result = await solved(pair)
    for candidate in result.candidates:
        assert candidate.content == "".join(sample.text for sample in candidate.samples)
        assert candidate.content.startswith("solution ")
    written = [begun(body) for body in pair.asked("draft") + pair.asked("continue")]
    contents = [candidate.content for candidate in result.candidates]
    assert all(any(content.startswith(text) for content in contents) for text in written)
    scored = {tuple(body["prompt"]) for body in pair.asked("score")}
    assert pair.asked("continue")
    assert all(tuple(body["prompt"]) in scored for body in pair.asked("continue"))


@pytest.mark.parametrize("strategy", [ATTS, ATTS.replace("atts", "atts_sync", 1)])
async def test_a_rejected_draft_may_be_rewritten_and_stays_paid_for(strategy):
    async with Pair() as pair:
        result = await solved(pair, f"{strategy},rewrite=true")
    continued_from = {begun(body) for body in pair.asked("continue")}
    assert continued_from
    for candidate in result.candidates:
        texts = [sample.text for sample in candidate.samples]
        assert candidate.content == "".join(texts)
        rejected = [turn["rejected"] for turn in candidate.notes["turns"]]
        roles = [sample.role for sample in candidate.samples]
        assert roles.count("target") == sum(rejected)  # in their places, and a last draft has an answer
        assert roles[: len(rejected)] == ["target" if one else "draft" for one in rejected]
        for i, sample in enumerate(candidate.samples):
            assert sample.role == "draft" or "".join(texts[:i]) in continued_from
    kept = sum(len(one.token_ids or ()) for c in result.candidates for one in c.samples if one.role == "draft")
    assert result.spent["draft"].completion_tokens > kept > 0
    check_exact(result, pair.double.stats)


async def test_with_a_seed_every_chunk_has_noise_of_its_own_and_the_same_again():
    seeds, first = [], []
    for _ in range(2):
        async with Pair() as pair:
            await solved(pair, ATTS, {"params": {"seed": 7}}, stop_early=False)
        seeds.append(sorted(body["seed"] for body in pair.asked("draft")))
        first = [body["seed"] for body in pair.asked("draft") if not begun(body)]
    assert len(set(first)) == 6
    assert len(set(seeds[0])) == len(seeds[0])
    assert set(first) <= set(seeds[0])


async def test_what_is_scored_is_the_last_draft_alone_its_first_token_included():
    async with Pair() as pair:
        result = await solved(pair)
    table, checked = bigram_logprobs("large"), 0
    for candidate in result.candidates:
        drafts = [i for i, sample in enumerate(candidate.samples) if sample.role == "draft"]
        texts = ["\n"] + [sample.text for sample in candidate.samples]  # what stands before a chunk ends in a newline
        for turn, i in zip(candidate.notes["turns"], drafts, strict=False):
            tokens = ("".join(texts[: i + 1])[-1] + texts[i + 1]).encode()
            logprobs = [table[a, b] for a, b in pairwise(tokens)]
            assert turn["score"] == pytest.approx(np.mean(logprobs))
            assert turn["tokens"] == len(logprobs)
            checked += 1
    assert checked > 10


@pytest.mark.parametrize("strategy", [ATTS, ATTS.replace("atts", "atts_sync", 1)])
async def test_no_request_is_sent_for_a_sample_that_has_answered(strategy):
    async with Pair() as pair:
        result = await solved(pair, f"{strategy},score_last=false")
    assert all("Answer: " in candidate.content for candidate in result.candidates)
    for kind in ("draft", "score", "continue"):
        assert pair.asked(kind)
        assert sum("\nAnswer: 42\n" in begun(body) for body in pair.asked(kind)) == 0
    chunks = sum(len(candidate.samples) for candidate in result.candidates)
    assert len(pair.asked("draft")) + len(pair.asked("continue")) == chunks
    assert len(pair.asked("score")) == sum(len(candidate.notes["turns"]) for candidate in result.candidates)


async def test_a_cut_off_answer_is_no_answer_yet():
    texts = {"": "It is so. Answer: 42\nYes.", "It is so. Answer: 4": "2\nYes."}
    async with Pair(answer=lambda body, rng: texts.get(begun(body), "?")) as pair:
        result = await solved(pair, "atts:n=1,draft_tokens=19,target_tokens=19,rounds=3,rejection_rate=0")
    assert result.candidates[0].notes["answer"] == "42"
    assert len(pair.asked("draft")) == 2


async def test_a_draft_that_ended_by_itself_may_be_left_alone():
    async with Pair(answer=lambda body, rng: "I do not know.") as pair:
        result = await solved(pair, f"{ATTS},score_last=false")
    assert len(pair.asked("draft")) == 6
    assert not pair.asked("score") + pair.asked("continue")
    assert {candidate.notes["ended"] for candidate in result.candidates} == {"stop"}
    assert "no draft was scored" in registry.make("strategies", ATTS).warning(result.candidates)


@pytest.mark.parametrize(
    "last", ["I do not know.", "Answer: 41\nSo it is, and more words follow than fit into the draft."]
)
@pytest.mark.parametrize("strategy", ["atts", "atts_sync"])
@pytest.mark.parametrize("rewrite", ["true", "false"])
async def test_the_draft_that_ends_a_sample_is_scored_too_and_rejected_at_the_rate(last, strategy, rewrite):
    """On short answers there is no other draft."""

    def answer(body: dict[str, Any], rng: np.random.Generator) -> str:
        return "Answer: 42\nIt is so." if body["model"] == "large" else last

    async with Pair(answer=answer) as pair:
        spec = f"{strategy}:n=50,draft_tokens=60,target_tokens=40,rejection_rate=0.4,rewrite={rewrite}"
        result = await solved(pair, spec)
    turns = turns_of([result])
    assert len(turns) == len(pair.asked("score")) == len(pair.asked("draft")) == 50
    assert 10 <= sum(turn["rejected"] for turn in turns) == len(pair.asked("continue")) <= 30
    for candidate in result.candidates:
        if candidate.notes["turns"][-1]["rejected"]:
            assert candidate.content == ("" if rewrite == "true" else last[:60]) + "Answer: 42\nIt is so."
            assert candidate.notes["answer"] == "42" or rewrite == "false"
        else:
            assert candidate.content == last[:60]
            assert candidate.notes["ended"] == ("answered" if len(last) > 60 else "stop")
    assert not registry.make("strategies", spec).warning(result.candidates)
    check_exact(result, pair.double.stats)


async def test_a_sample_ends_when_the_context_is_full_or_the_rounds_are_over():
    async with Pair(answer=lambda body, rng: "more " * 500, max_model_len=400) as pair:
        full = await solved(pair, "atts:n=3,draft_tokens=60,target_tokens=40,rounds=12")
        short = await solved(pair, "atts:n=3,draft_tokens=30,target_tokens=20,rounds=2")
    assert {candidate.notes["ended"] for candidate in full.candidates} == {"length"}
    assert {candidate.notes["ended"] for candidate in short.candidates} == {"rounds"}
    assert not full.failures
    assert not short.failures


async def many(pair: Pair, strategy: str, problems: int, **settings: Any) -> list[Result]:
    """One run of several problems, with what its sessions share."""
    method = registry.make("strategies", strategy)
    async with asyncio.timeout(120), open_models(pair.models(**settings)) as samplers, Resources() as resources:

        async def one(number: int) -> Result:
            problem = Problem.from_prompt(f"[[p{number}]] What is it?", id=f"p{number}", answer="numeric_answer")
            return await drive(method, open_session(problem, method, samplers, resources=resources), stop_early=False)

        return await asyncio.gather(*map(one, range(problems)))


def turns_of(results: list[Result]) -> list[dict[str, Any]]:
    return [turn for result in results for candidate in result.candidates for turn in candidate.notes["turns"]]


@pytest.mark.parametrize("options", ["", ",by=turn", ",by=length", ",window=50", ",by=question,presample=4"])
async def test_the_share_that_the_target_continues_is_the_rejection_rate(options):
    async with Pair() as pair:
        results = await many(pair, f"atts:n=8,draft_tokens=60,target_tokens=40,rejection_rate=0.3{options}", 12)
    turns = turns_of(results)
    assert len(turns) > 200
    # Drafts follow on each other within a sample: twice the error of independent ones.
    error = 3 * 2 * np.sqrt(0.3 * 0.7 / len(turns))
    assert abs(np.mean([turn["rejected"] for turn in turns]) - 0.3) < error
    assert len(pair.asked("continue")) == sum(turn["rejected"] for turn in turns)
    assert all(0 < turn["p"] <= 1 for turn in turns)


async def test_equal_drafts_are_rejected_at_the_rate_not_all_or_none():
    async with Pair(answer=lambda body, rng: "the same " * 60) as pair:
        result = await solved(pair, "atts:n=200,rounds=1,draft_tokens=60,target_tokens=40,rejection_rate=0.3")
    rejected = [turn["rejected"] for turn in turns_of([result])]
    assert len(rejected) == 200
    assert abs(np.mean(rejected) - 0.3) < 3 * np.sqrt(0.21 / 200)


@pytest.mark.parametrize(("rate", "share"), [(0, 0.0), (1, 1.0)])
async def test_a_rate_of_none_or_all_is_exact(rate, share):
    async with Pair() as pair:
        result = await solved(pair, f"{ATTS},rejection_rate={rate}")
    assert {turn["rejected"] for turn in turns_of([result])} == {bool(share)}


async def test_the_targets_token_budget_lowers_the_rate():
    assert registry.make("strategies", "atts:n=10,rounds=4,target_tokens=100,target_budget=1000").rate == 0.25
    assert registry.make("strategies", "atts:n=10,rounds=4,target_tokens=100,target_budget=4000").rate == 0.4


@pytest.mark.parametrize(
    ("control", "role", "left_out"), [("target_tokens=0", "draft", "large"), ("draft_tokens=0", "target", "small")]
)
async def test_either_model_may_work_alone(control, role, left_out):
    async with Pair() as pair:
        result = await solved(pair, f"atts:n=4,draft_tokens=300,target_tokens=300,{control}")
        assert result.spent.keys() == {role}
        assert pair.double.by_model[left_out].received == 0
    assert not turns_of([result])
    assert result.text


async def test_samples_of_presampling_are_paid_once_by_all():
    async with Pair() as pair:
        result = await solved(pair, f"{ATTS},presample=3")
    shared = frozenset.intersection(*(candidate.charges for candidate in result.candidates))
    assert sum(charge.usage.requests for charge in shared) == 6
    check_exact(result, pair.double.stats)


def agreed(body: dict[str, Any], rng: np.random.Generator) -> str:
    """Solutions that all have the same answer."""
    return re.sub(r"Answer: \d+", "Answer: 42", continued(body, rng))


async def test_a_vote_that_is_settled_ends_all_work_at_the_servers():
    before = asyncio.all_tasks()
    async with Pair(latency=(0.001, 0.02), answer=agreed) as pair:
        result = await solved(pair, "atts:n=24,draft_tokens=200,target_tokens=100", stop_early=True)
        await settle(before, pair.double)
        assert sum(usage.requests for usage in account(result)) == pair.double.stats.received
    assert result.ended == "settled"
    assert len(result.candidates) < 24


async def test_the_best_rated_sample_may_be_the_answer():
    async with Pair() as pair:
        result = await solved(pair, "atts_best:n=6,draft_tokens=100", verifier="numeric_answer:reference=42")
    assert result.selected is not None
    assert result.selected.passed


# -- the synchronous baseline -------------------------------------------------------------------------------------


async def test_the_baseline_waits_after_every_stage_and_continues_exactly_the_poorest():
    async with Pair(latency=(0.0, 0.02)) as pair:
        result = await solved(pair, "atts_sync:n=10,draft_tokens=60,target_tokens=40,rejection_rate=0.4,rounds=3")
    stages = [_kind(seen.body) for seen in pair.double.requests if _kind(seen.body) != "probe"]
    changes = [kind for i, kind in enumerate(stages) if i == 0 or stages[i - 1] != kind]
    assert changes == ["draft", "score", "continue"] * 3
    owed = 0.0
    for number in range(3):
        turns = [c.notes["turns"][number] for c in result.candidates if len(c.notes["turns"]) > number]
        owed += 0.4 * len(turns)
        poorest = sorted(turns, key=lambda turn: turn["score"])[: int(owed + 1e-9)]
        owed -= len(poorest)
        assert [turn for turn in turns if turn["rejected"]] == [turn for turn in turns if turn in poorest]
    check_exact(result, pair.double.stats)


async def test_the_baseline_knows_no_calibration():
    with pytest.raises(ConfigError, match="it ranks the drafts of a round"):
        registry.make("strategies", "atts_sync:by=turn")


# -- what is refused before anything is generated -----------------------------------------------------------------


async def test_a_target_that_cannot_score_is_refused_before_anything_is_generated():
    async with Pair(owned_by="somebody", echo=False) as pair:
        with pytest.raises(ConfigError, match="no prompt log-probabilities"):
            await solved(pair)
        assert not pair.asked("draft")
        problem = Problem(id="raw", messages="One\n", answer="numeric_answer")
        alone = await solve(problem, f"{ATTS},target_tokens=0", pair.models())
        assert alone.candidates


def calibration(path: Path, made_with: dict[str, Any]) -> Path:
    rng = np.random.default_rng(0)
    save(path, [Scored(s, "q", 0, 60) for s in rng.normal(-8.5, size=200)], better="higher", made_with=made_with)
    return path


async def test_a_calibration_made_with_other_settings_is_refused_before_anything_is_generated(tmp_path: Path):
    path = calibration(tmp_path / "c.json", {"target": {"model": "huge", "params": {}}, "draft_tokens": 60})
    async with Pair() as pair:
        with pytest.raises(ConfigError, match=r"target was .*huge.*large"):
            await solved(pair, f'{ATTS},calibration="{path}"')
        assert not pair.asked("draft")


# -- texts instead of token ids -----------------------------------------------------------------------------------


async def test_servers_without_token_ids_work_on_texts():
    async with Pair(owned_by="somebody") as pair:
        problem = Problem(id="raw", messages="What is it?\n", answer="numeric_answer")
        result = await solve(problem, ATTS, pair.models(), stop_early=False)
    assert {candidate.notes["ended"] for candidate in result.candidates} == {"answered"}
    assert all(candidate.content.startswith("solution ") for candidate in result.candidates)
    scored = {body["prompt"] for body in pair.asked("score")}
    assert pair.asked("continue")
    assert {body["prompt"] for body in pair.asked("continue")} <= scored
    table = bigram_logprobs("large")
    for candidate in result.candidates:
        tokens = ("\n" + candidate.samples[0].text).encode()
        logprobs = [table[a, b] for a, b in pairwise(tokens)]
        assert candidate.notes["turns"][0]["score"] == pytest.approx(np.mean(logprobs))


# -- failures -----------------------------------------------------------------------------------------------------


def failing(kind: str, fault: FaultKind, share: float = 1.0) -> Callable[[int, dict[str, Any]], Fault | None]:
    """A fault that a share of the requests of a kind meet."""
    rng = np.random.default_rng(1)
    return lambda number, body: Fault(fault) if _kind(body) == kind and rng.random() < share else None


async def test_a_draft_whose_score_cannot_be_had_is_never_kept_and_the_rate_holds_among_the_scored():
    impatient = {"attempt_timeout": 2.0, "max_attempts": 1}
    async with Pair(faults=failing("score", FaultKind.HANG, 0.1)) as pair:
        results = await many(pair, "atts:n=8,draft_tokens=60,target_tokens=40,rejection_rate=0.3", 6, **impatient)
    turns = turns_of(results)
    unscored = [turn for turn in turns if "score" not in turn]
    assert unscored
    assert all(turn == {"rejected": True} for turn in unscored)
    scored = [turn["rejected"] for turn in turns if "score" in turn]
    assert abs(np.mean(scored) - 0.3) < 6 * np.sqrt(0.21 / len(scored))
    assert len(pair.asked("continue")) == sum(turn["rejected"] for turn in turns)
    assert all(len(result.candidates) == 8 for result in results)
    assert any("scoring: " in failure for result in results for failure in result.failures)


async def test_a_sample_that_cannot_go_on_fails_alone_and_does_not_vote():
    async with Pair(faults=failing("continue", FaultKind.BAD_REQUEST, 0.2)) as pair:
        result = await solved(pair, ATTS.replace("n=6", "n=16"))
    ended = Counter(candidate.notes["ended"] for candidate in result.candidates)
    assert set(ended) == {"answered", "failed"}
    assert len(result.candidates) == 16
    assert all(c.notes["answer"] is None for c in result.candidates if c.notes["ended"] == "failed")
    assert result.text
    check_account(result, pair.double.stats)


@pytest.mark.parametrize("strategy", [ATTS, ATTS.replace("atts", "atts_sync", 1)])
async def test_one_failing_replica_of_the_target_costs_nothing_but_time(strategy):
    settings: dict[str, Any] = {"models": ["small", "large"], "answer": continued}
    async with ModelDouble(**settings) as good, ModelDouble(**settings, faults=Fault(FaultKind.DROPPED)) as bad:
        models = {"draft": endpoint(good, model="small"), "target": endpoint(good, bad, model="large")}
        result = await solve(PROBLEM, strategy, models, stop_early=False)
        assert bad.stats.received > 0
    assert {candidate.notes["ended"] for candidate in result.candidates} == {"answered"}
    assert not result.failures


@pytest.mark.parametrize("strategy", [ATTS, ATTS.replace("atts", "atts_sync", 1)])
async def test_what_was_paid_for_is_kept_when_the_budget_is_spent(strategy):
    async with Pair() as pair:
        result = await solved(pair, strategy, budget=Budget(completion_tokens=700))
    assert result.ended == "budget"
    assert sum(usage.completion_tokens for usage in result.spent.values()) <= 700
    assert sum(len(candidate.content) for candidate in result.candidates) > 500
    check_exact(result, pair.double.stats)
