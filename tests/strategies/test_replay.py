"""What was selected live is what the stored candidates select, whatever a verifier says and whenever."""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.calibration import corpus
from tests.support.double import ModelDouble, reply
from tests.support.solving import PROBLEM, endpoint
from tts import Experiment, registry
from tts.base import Verifier, by_verdict, majority, rank, selectable, tally
from tts.errors import ConfigError
from tts.runs.analysis import curves
from tts.runs.run import Row, Track
from tts.sampler.mock import MockModel
from tts.session import Session
from tts.solving import solve
from tts.strategies.best_of_n import BestOfN
from tts.types import Candidate, Problem, Scale, Verdict
from tts.verifiers.weighted import RankFusion, Weighted

SCORES = (math.nan, math.inf, -math.inf, None, 0.5, 0.5, 1.0, -2.0, 3.0)
PASSED = (None, None, None, False, True)


def drawn(text: str, *choices: Sequence[Any]) -> list[Any]:
    """One of each of the choices, by the text alone."""
    digest = hashlib.blake2b(text.encode()).digest()
    return [values[digest[i] % len(values)] for i, values in enumerate(choices)]


class Scripted(Verifier):
    """Says anything that a verifier may say, at any time."""

    rates_partial: ClassVar[bool] = True
    scale: ClassVar[Scale | None] = "reward"
    accepts: bool = True

    async def verify(self, problem: Problem, candidate: Candidate, session: Session) -> Verdict:
        score, passed, delay = drawn(f"{problem.id} {candidate.content}", SCORES, PASSED, range(5))
        await asyncio.sleep(delay / 500)
        return Verdict(score, passed if self.accepts else None, "look again")


class Companion(Scripted):
    """Rates candidates by each other, and not always with numbers."""

    def among(self, candidates: Sequence[Candidate]) -> Sequence[Candidate]:
        return [
            replace(one, verdict=replace(one.verdict, score=drawn(f"{i} {one.content}", SCORES)[0]))
            if one.verdict is not None
            else one
            for i, one in enumerate(candidates)
        ]


registry.register("verifiers", Scripted)
registry.register("verifiers", Companion)

STEPS = 'step="\\n",depth=8,step_tokens=40'
STRATEGIES = {
    "single": "single",
    "best_of_n": "best_of_n:n=8",
    "repeated_sampling": "repeated_sampling:n=8,prompts=general",
    "self_consistency": "self_consistency:n=8,weighted=true",
    "first_pass": "first_pass:k=6,batch=3,abstain=false",
    "probe": "probe:first=2,then=best_of_n(n=5)",
    "pass_until": "pass_until:n=8,batch=3",
    "plan_search": "plan_search:codes=6,prompts=general",
    "idea_search": "idea_search:n=6,prompts=general",
    "prompt_redesign": "prompt_redesign:n=4",
    "deepconf": "deepconf:n=8,warmup=4,window=4,consensus=2",
    "tool_vote": "tool_vote:n=6",
    "tournament": "tournament:n=5",
    "atts": "atts:n=6,draft_tokens=20,target_tokens=20,rounds=3,weighted=true",
    "atts_best": "atts_best:n=6,draft_tokens=20,target_tokens=20,rounds=3",
    "atts_sync": "atts_sync:n=6,draft_tokens=20,target_tokens=20,rounds=3",
    "spec_reason": "spec_reason:n=4,rounds=3,draft_tokens=20,target_tokens=20",
    "sequential_feedback": "sequential_feedback:rounds=3,chains=3",
    "self_refine": "self_refine:rounds=3,chains=3",
    "budget_forcing": "budget_forcing:thinking_tokens=64,waits=2",
    "beam_search": f"beam_search:n=6,width=2,{STEPS}",
    "dvts": f"dvts:n=6,width=2,select_by=weighted,{STEPS}",
    "rebase": f"rebase:n=6,select_by=majority,{STEPS}",
    "particle_filter": f"particle_filter:n=6,filters=2,{STEPS}",
    "mcts": f"mcts:simulations=6,branching=2,in_flight=2,{STEPS}",
    "tree_of_thoughts": f"tree_of_thoughts:branching=2,keep=2,{STEPS}",
    "ab_mcts": "ab_mcts:n=8,in_flight=2",
    "tree_of_frames": f"tree_of_frames:n=4,{STEPS}",
    "staged_resampling": f"staged_resampling:n=1,{STEPS}",
    "cascade": "cascade:strategy=best_of_n(n=4)",
    "route": "route:strategy=self_consistency(n=6)",
    "fuse": "fuse:n=4,rounds=3",
    "write_in_parts": "write_in_parts:n=4,parts=3",
    "aggregate": "aggregate:n=4,k=2",
    "debate": "debate:n=3",
    "many_shot": "many_shot:k=2,strategy=self_consistency(n=5,weighted=true),examples=lab_math(part=train,size=20)",
    "retrieve": f'retrieve:k=2,strategy=best_of_n(n=5),corpus="{corpus()}"',
    "format_spread": "format_spread:n=6,weighted=true",
    "thinksum": "thinksum:n=5,options=[41,42,43]",
    "gen_select": "gen_select:n=6,window=4,runs=3",
    "universal_self_consistency": "universal_self_consistency:n=5",
}


def test_no_strategy_is_left_out():
    ours = {n for n in registry.names("strategies") if registry.load("strategies", n).__module__.startswith("tts.")}
    assert set(STRATEGIES) == ours


def several(body: dict[str, Any], rng: Any) -> str:
    return reply(int(rng.integers(40, 44)), rng)


@pytest.mark.parametrize("verifier", ["scripted", "scripted:accepts=false", "companion"])
@pytest.mark.parametrize("name", STRATEGIES)
async def test_what_was_selected_live_is_what_the_stored_candidates_select(name: str, verifier: str, tmp_path: Path):
    task = tmp_path / "p.jsonl"
    problems = 4 if verifier == "scripted" else 2  # the others differ from it in one thing
    task.write_text(
        "\n".join(f'{{"prompt": "[[p{i}]] What is {i} times 7?", "answer": "42"}}' for i in range(problems))
    )

    def latency(body: dict[str, Any], index: int) -> float:
        return drawn(f"{index}", range(4))[0] * 0.004

    async with asyncio.timeout(120), ModelDouble(answer=several, latency=latency, max_model_len=100_000) as double:
        roles = {
            role: endpoint(double, params={"max_tokens": 400}).model_dump(mode="json")
            for role in ("policy", "draft", "target", "judge")
        }
        grid = {
            "task": f'jsonl:path="{task}",answer_verifier=numeric_answer',
            "models": {"m": roles},
            "strategies": [STRATEGIES[name]],
            "verifier": verifier,
        }
        run = await Experiment.parse(grid).run(tmp_path / "run")
    (track,) = run.tracks
    assert track.verifier is not None
    found = 0
    for row in track.rows:
        stored = track.candidates(row)
        chosen = track.method.select(track.verifier.among(stored))
        assert (None if chosen is None else chosen.spawned[0]) == row.selected
        for one in stored:
            assert one.verdict is not None
            assert one.verdict.score is None or math.isfinite(one.verdict.score)
        found += len(stored)
    assert found
    if name == "best_of_n":  # the others may have met none
        assert any("is not a finite number" in note for row in track.rows for note in row.failures)


@given(st.lists(st.sampled_from([*SCORES, "abc", 10**400]), min_size=1, max_size=8), st.data())
def test_a_score_that_is_no_finite_number_rates_nothing_and_ranks_last(scores: list[Any], data: Any):
    verdicts = [Verdict(score, data.draw(st.sampled_from(PASSED))) for score in scores]
    made = [Candidate(id=i, content="", spawned=(i,), verdict=verdict) for i, verdict in enumerate(verdicts)]
    for score, one in zip(scores, made, strict=True):
        assert one.verdict is not None
        if isinstance(score, float | None) and (score is None or math.isfinite(score)):
            assert one.verdict.score == score
            assert not one.verdict.invalid
        else:
            assert (one.verdict.score, one.verdict.passed) == (None, None)
            assert rank(one) == rank(replace(one, verdict=None)) == min(map(rank, made))
    chosen = BestOfN().select(made)
    assert chosen is not None
    assert rank(chosen) == max(map(rank, made))


async def test_a_verdict_without_a_number_is_noted_whichever_answer_comes_first():
    class Odd(Verifier):
        async def verify(self, problem: Problem, candidate: Candidate, session: Session) -> Verdict:
            return Verdict(math.nan, True) if candidate.content == "Answer: 41" else Verdict(0.5)

    for order in ("Answer: 41/Answer: 42", "Answer: 42/Answer: 41"):
        said = iter(order.split("/"))
        model = MockModel(lambda body, said=said: next(said))
        result = await solve(PROBLEM, "best_of_n:n=2", model, verifier=Odd())
        assert result.text == "Answer: 42"
        assert result.failures == ("odd: the score nan is not a finite number",)


# -- weighted votes ----------------------------------------------------------------------------------------------------

ANY = st.floats(allow_nan=False, allow_infinity=False)


@given(st.sampled_from(["positive", "logprob", "reward"]), ANY, ANY)
def test_weights_are_never_negative_and_grow_with_the_score(scale: Any, one: float, other: float):
    low, high = (Verdict(score, scale=scale).weight for score in sorted((one, other)))
    assert low is not None
    assert high is not None
    assert 0 <= low <= high < math.inf
    assert Verdict(None, scale=scale).weight is None


@given(st.sampled_from(["logprob", "reward"]), st.floats(-5, 5), st.integers(2, 9))
def test_of_alike_scores_the_more_frequent_answer_wins(scale: Any, score: float, n: int):
    """A sum of negative scores would let the rarest win."""
    made = [
        Candidate(id=i, content="", spawned=(i,), notes={"answer": answer}, verdict=Verdict(score, scale=scale))
        for i, answer in enumerate(["rare", *["frequent"] * n])
    ]
    winner = majority(made, by_verdict)
    assert winner is not None
    assert winner.notes["answer"] == "frequent"
    assert tally(made, by_verdict)["frequent"] == pytest.approx(n * tally(made, by_verdict)["rare"])


async def test_a_verifier_whose_scores_cannot_weigh_votes_is_refused_before_anything_is_sent():
    async with ModelDouble() as double:
        for strategy in ("self_consistency:weighted=true", "atts:weighted=true"):
            models = {role: endpoint(double) for role in ("policy", "draft", "target")}
            with pytest.raises(ConfigError, match=r"rank_fusion.* only order candidates"):
                await solve(PROBLEM, strategy, models, verifier="rank_fusion:verifiers=[regex(pattern=4)]")
    assert not double.stats.choices


async def test_negative_scores_of_an_unknown_kind_do_not_vote_and_that_is_said():
    class Unsaid(Verifier):
        def check(self, problem: Problem, candidate: Candidate) -> float:
            return 1.0 if candidate.content == "Answer: 42" else -2.0

    said = iter(["Answer: 41", "Answer: 41", "Answer: 42"])
    strategy = registry.make("strategies", "self_consistency:n=3,weighted=true")
    result = await solve(PROBLEM, strategy, MockModel(lambda body: next(said)), verifier=Unsaid())
    assert result.text == "Answer: 42"
    assert strategy.warning(result.candidates).startswith("negative scores did not vote: 2.")


@pytest.mark.parametrize(
    ("spec", "scale"),
    [
        ("mean_logprob", "logprob"),
        ("weighted:verifiers=[mean_logprob,mean_logprob]", "logprob"),
        ("weighted:verifiers=[mean_logprob,judge]", "order"),
        ("weighted:verifiers=[judge,self_check],weights=[1,-1]", "order"),
        ("all_of:verifiers=[judge,unit_tests]", "positive"),
        ("cascade:verifiers=[unit_tests,mean_logprob]", "logprob"),
        ("cached:verifier=tour", "order"),
        ("rank_fusion:verifiers=[judge,self_check]", "order"),
        ("outcome_reward", "positive"),
        ("outcome_reward:route=pooling", "reward"),
        ('outcome_reward:route=pooling,params={"use_activation": true}', "positive"),
        ('outcome_reward:params={"use_activation": false}', "reward"),
        ('process_reward:separator="<eos>"', "positive"),
        ('process_reward:separator="<eos>",params={"use_activation": false}', "reward"),
        ('process_reward:route=chat,labels=["+","-"]', "positive"),
        ("noisy:verifier=tour", "positive"),
    ],
)
def test_a_verifier_says_what_its_scores_are(spec: str, scale: Scale | None):
    assert registry.make("verifiers", spec).scale == scale


async def test_what_a_group_verdict_makes_of_no_number_is_noted_once_for_each_candidate():
    """Verdicts that only arise among candidates, in `among`, are listed as those of `verify` are."""

    class Lopsided(Companion):
        async def verify(self, problem: Problem, candidate: Candidate, session: Session) -> Verdict:
            return Verdict(0.5)

        def among(self, candidates: Sequence[Candidate]) -> Sequence[Candidate]:
            scores = (math.nan if i % 2 else float(i) for i, _ in enumerate(candidates))
            return [replace(one, verdict=Verdict(score)) for one, score in zip(candidates, scores, strict=True)]

    for verifier in (Lopsided(), Weighted(verifiers=(Lopsided(),)), RankFusion(verifiers=(Lopsided(), Lopsided()))):
        async with ModelDouble(answer=several) as double:
            result = await solve(PROBLEM, "best_of_n:n=5", endpoint(double), verifier=verifier)
        assert result.failures == (f"{verifier.name}: the score nan is not a finite number",) * 2
        assert result.selected is not None
        assert result.selected.spawned == (4,)


@pytest.mark.parametrize("name", STRATEGIES)
async def test_what_the_budget_cut_off_is_selected_neither_live_nor_replayed_while_there_is_anything_else(
    name: str, tmp_path: Path
):
    """A cut-off answer is rated best of all, and is wrong."""
    task = tmp_path / "p.jsonl"
    task.write_text("\n".join(f'{{"prompt": "[[p{i}]] What is {i} times 7?", "answer": "42"}}' for i in range(2)))
    registry.register("verifiers", Shortest)
    cut = 0
    for tokens in (20, 130, 170, 390):
        async with asyncio.timeout(120), ModelDouble(answer=several, max_model_len=100_000) as double:
            roles = {
                role: endpoint(double, max_n=2, params={"max_tokens": 40}).model_dump(mode="json")
                for role in ("policy", "draft", "target", "judge")
            }
            grid = {
                "task": f'jsonl:path="{task}",answer_verifier=numeric_answer',
                "models": {"m": roles},
                "strategies": [STRATEGIES[name]],
                "verifier": "shortest",
                "budget": {"completion_tokens": tokens},
                "stop_early": False,
            }
            run = await Experiment.parse(grid).run(tmp_path / f"run{tokens}")
        (track,) = run.tracks
        assert track.verifier is not None
        for row in track.rows:
            stored = track.candidates(row)
            cut += sum(one.cut_off for one in stored)
            among = selectable(stored)
            chosen = track.method.select(track.verifier.among(among))
            assert (None if chosen is None else chosen.spawned[0]) == row.selected
            assert chosen is None or not chosen.cut_off or all(one.cut_off for one in stored)
        if any(len(part) for part in track.correct):
            selected = curves(run)[0]
            accuracies = [0.0 if row.selected is None else flags[row.selected] for row, flags in ended(track)]
            if track.estimator == "replay" or not track.independent:
                assert selected.y[-1] == pytest.approx(sum(accuracies) / len(accuracies))
    if name in ("single", "best_of_n", "self_consistency", "atts_best", "atts_sync", "tournament"):
        assert cut


def ended(track: Track) -> Iterator[tuple[Row, Any]]:
    return zip(track.rows, track.correct, strict=True)


class Shortest(Verifier):
    """Prefers what was cut off."""

    rates_partial: ClassVar[bool] = True
    scale: ClassVar[Scale | None] = "reward"

    def check(self, problem: Problem, candidate: Candidate) -> float:
        return -float(len(candidate.content))
