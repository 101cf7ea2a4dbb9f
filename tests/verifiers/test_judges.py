"""Models as judges: what they say is read strictly, charged to the judge, and never costs a candidate."""

from __future__ import annotations

import asyncio
import json
from itertools import count
from typing import Any

import numpy as np
import pytest

from experiments.atts.simulated import run
from tests.support.double import Fault, FaultKind, ModelDouble
from tests.support.judges import grade, policy, prefer, quality, roles, speaking
from tests.support.solving import PROBLEM, check_exact, settle
from tests.support.wire import bigram_logprobs
from tts import MockModel, Verifier, solve
from tts.errors import ConfigError
from tts.prompting import answer_of
from tts.registry import make
from tts.session import Session
from tts.solving import open_models
from tts.types import Candidate, Result, Verdict
from tts.verifiers.judge import _first_token, begins


async def judged(
    double: ModelDouble, verifier: str | Verifier, content: str, **settings: Any
) -> tuple[Verdict, Session]:
    """The verdict on one answer."""
    async with open_models(roles(double, **settings)) as samplers, asyncio.timeout(120):
        session = Session(PROBLEM, samplers)
        chosen = make("verifiers", verifier) if isinstance(verifier, str) else verifier
        return await session.verify(session.candidate(content), chosen), session


def scores(candidates: tuple[Candidate, ...]) -> list[tuple[int, float | None]]:
    return [(quality(c.content)[0], c.verdict.score if c.verdict else None) for c in candidates]


async def test_the_best_grade_wins_and_every_token_is_in_its_role():
    async with ModelDouble(**speaking(policy=policy, judge=grade)) as double:
        result = await solve(PROBLEM, "best_of_n:n=12,verifier=judge(votes=3)", roles(double))
        assert result.selected is not None
        assert quality(result.selected.content)[0] == max(q for q, _ in scores(result.candidates))
        assert all(score == pytest.approx((q - 1) / 9) for q, score in scores(result.candidates))
        check_exact(result, double.stats)
        for role in ("policy", "judge"):
            assert result.spent[role].completion_tokens == double.by_model[role].completion_tokens
        assert double.by_model["judge"].choices == 36


def test_the_last_verdict_comes_one_judgement_after_the_last_sample():
    turn, written = count(), list[float]()

    async def write(request: dict[str, Any]) -> str:
        await asyncio.sleep(1 + 0.07 * (next(turn) // 4))
        written.append(asyncio.get_running_loop().time())
        return f"quality {len(written) % 10 + 1}, written as number {len(written)}"

    async def judge(request: dict[str, Any]) -> str:
        await asyncio.sleep(0.2)
        return grade(request["messages"][-1]["content"], np.random.default_rng())

    async def judged() -> tuple[Result, float]:
        models = {"policy": MockModel(write, max_n=1), "judge": MockModel(judge, model="judge")}
        result = await solve(PROBLEM, "best_of_n:n=64,verifier=judge", models)
        return result, asyncio.get_running_loop().time()

    result, ended = run(judged())  # on a clock that only waiting moves: the seconds are exact
    assert len(written) == 64
    assert max(written) - min(written) == pytest.approx(15 * 0.07)
    assert ended == pytest.approx(max(written) + 0.2)
    assert all(score == pytest.approx((q - 1) / 9) for q, score in scores(result.candidates))
    assert result.spent["judge"].requests == 64
    assert result.spent["judge"].completion_tokens > 0
    assert result.spent["judge"].seconds == pytest.approx(64 * 0.2)


async def test_grades_that_cannot_be_read_are_missing_and_lose_no_candidate():
    def moody(asked: str, rng: np.random.Generator) -> str:
        if quality(asked)[0] >= 8:
            return ["Marvellous!", '{"grade": 11}', '{"grade": "10"', '{"reasons": "good"}'][rng.integers(0, 4)]
        return grade(asked, rng)

    async with ModelDouble(**speaking(policy=policy, judge=moody)) as double:
        result = await solve(PROBLEM, "best_of_n:n=30,verifier=judge", roles(double))
        check_exact(result, double.stats)
    assert len(result.candidates) == 30
    unread = [q for q, score in scores(result.candidates) if score is None]
    assert unread
    assert min(unread) == 8
    assert len(result.failures) == len(unread)
    assert result.selected is not None
    assert quality(result.selected.content) == [7]


async def test_a_judge_that_is_down_leaves_the_candidates_unrated():
    async with (
        ModelDouble(**speaking(policy=policy)) as double,
        ModelDouble(**speaking(judge=grade), faults={Fault(FaultKind.SERVER_ERROR): 1.0}) as broken,
    ):
        models = {**roles(double), **roles(broken, max_attempts=2)}
        result = await solve(PROBLEM, "best_of_n:n=6,verifier=judge", models)
    assert [score for _, score in scores(result.candidates)] == [None] * 6
    assert result.selected is not None
    assert result.selected.spawned == (0,)
    assert result.wasted["judge"].requests == broken.stats.received
    assert result.ended == "complete"


async def test_one_vote_in_form_is_enough():
    said = iter(["nothing", json.dumps({"grade": 4}), json.dumps({"grade": 7, "reasons": "mostly"})])
    async with ModelDouble(**speaking(judge=lambda asked, rng: next(said))) as double:
        verdict, session = await judged(double, "judge:votes=3", "x")
    assert verdict.details["grades"] == [4, 7]
    assert verdict.score == pytest.approx((5.5 - 1) / 9)
    assert len(session.ledger.failures) == 1


async def test_a_scale_a_rubric_and_a_prompt_of_ones_own():
    seen: list[str] = []

    def answer(asked: str, rng: np.random.Generator) -> str:
        seen.append(asked)
        return '{"grade": 2}'

    spec = {"name": "judge", "prompt": "$problem|$answer|$rubric|$low-$high", "rubric": "brevity", "low": 0, "high": 2}
    async with ModelDouble(**speaking(judge=answer)) as double:
        verdict, _ = await judged(double, make("verifiers", spec), "it costs $5")
    assert seen == [f"{PROBLEM.messages[0]['content']}|it costs $5|brevity|0-2"]  # type: ignore[index]
    assert verdict.score == 1.0
    assert verdict.passed is None


async def test_a_threshold_makes_a_judge_accept_and_refuse():
    async with ModelDouble(**speaking(judge=grade)) as double:
        passed = [(await judged(double, "judge:accept=0.5", f"quality {q}"))[0].passed for q in (3, 9)]
    assert passed == [False, True]


async def test_length_can_be_made_to_count_against_an_answer():
    async with ModelDouble(**speaking(judge=grade)) as double:
        short, _ = await judged(double, "judge:length_penalty=0.1", "quality 10")
        long, _ = await judged(double, "judge:length_penalty=0.1", "quality 10" + "." * 2000)
    assert short.score is not None
    assert long.score == pytest.approx(short.score - 0.2)


async def test_a_server_that_refuses_response_format_is_asked_without():
    asked: list[bool] = []

    def answer(request: dict[str, Any], rng: np.random.Generator) -> str:
        asked.append("response_format" in request)
        if asked[-1]:
            raise ValueError("response_format is not supported")
        return '{"grade": 10}'

    async with ModelDouble(models=("judge",), answer=answer) as double:
        verdict, session = await judged(double, "judge:votes=4", "x")
    assert verdict.details["grades"] == [10] * 4
    assert asked == [True, True, False, False, False, False]  # the second is the sampler's own, to be sure
    assert not session.ledger.failures
    assert "refuses response_format" in session.sampler("judge").notices[0]


async def test_the_policy_criticises_itself_in_its_own_role():
    async with ModelDouble(**speaking(policy=grade)) as double:
        verdict, session = await judged(double, "self_check", "quality 4")
    assert verdict.score == pytest.approx(1 / 3)
    assert verdict.feedback == "as it says"
    assert {charge.role for charge in session.ledger.paid} == {"policy"}


def test_thoughts_are_not_shown_to_a_judge():
    made = Candidate(id=0, content="<think>so 41? no</think>\n42", spawned=(0,))
    assert answer_of(made) == "42"


# -- the probability of yes --------------------------------------------------------------------------------------------


async def test_the_probability_of_yes_is_read_off_one_token():
    prompt = "$problem $answer"
    row = bigram_logprobs("judge")[ord("\n")]
    likely, next_likely = [chr(token) for token in np.argsort(-row)[:20] if 33 <= token <= 126][:2]
    verifier = make("verifiers", {"name": "logprob_judge", "prompt": prompt, "yes": likely, "no": next_likely})
    async with ModelDouble(models=("judge",), answer=lambda request, rng: "?") as double:
        verdict, session = await judged(double, verifier, "x")
        again = await session.verify(session.candidate("x"), verifier)
    p, q = np.exp(row[ord(likely)]), np.exp(row[ord(next_likely)])
    assert verdict.score == pytest.approx(p / (p + q))
    assert double.stats.received == 1, "the same request is asked once"
    assert double.stats.completion_tokens == 1
    assert again.charges == verdict.charges


def test_yes_and_no_share_what_is_between_them():
    tops = [
        {"token": token, "logprob": np.log(p)} for token, p in {"Yes": 0.5, " no": 0.2, "YE": 0.1, "?": 0.1}.items()
    ]
    found = _first_token({"choices": [{"logprobs": {"content": [{"top_logprobs": tops}]}}]})
    yes, no = (sum(p for token, p in found if begins(word, token)) for word in ("yes", "no"))
    assert (yes, no) == (pytest.approx(0.6), pytest.approx(0.2))
    with pytest.raises(ValueError, match="no top_logprobs"):
        _first_token({"choices": [{"logprobs": None}]})


# -- two at a time -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("judge", "score"),
    [
        (prefer, 1.0),
        (lambda asked, rng: '{"better": "first"}', 0.5),
        (lambda asked, rng: '{"better": "second"}', 0.5),
        (lambda asked, rng: '{"better": "tie"}', 0.5),
        (
            lambda asked, rng: (
                "the first" if asked.index("quality 9") < asked.index("quality 2") else prefer(asked, rng)
            ),
            None,
        ),
    ],
)
async def test_both_orders_are_asked_so_that_the_order_alone_decides_nothing(judge: Any, score: float | None):
    async with ModelDouble(**speaking(judge=judge)) as double:
        verdict, _ = await judged(double, 'pairwise:rivals=["quality 2"]', "quality 9")
    assert verdict.score == score
    assert double.stats.received == 2


async def test_pairwise_alone_says_what_it_needs():
    with pytest.raises(ConfigError, match=r"rivals=.*tournament"):
        await solve(PROBLEM, "best_of_n:verifier=pairwise", {"policy": _nowhere(), "judge": _nowhere()})


def _nowhere() -> Any:
    return MockModel(lambda request: "")


async def test_leaving_early_leaves_nothing_at_the_judge():
    before = asyncio.all_tasks()
    async with ModelDouble(
        **speaking(policy=policy, judge=prefer), latency=lambda r, i: 0.0 if r["model"] == "policy" else 60
    ) as double:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await solve(PROBLEM, "tournament:n=4", roles(double))
        await settle(before, double)
        assert double.by_model["judge"].cancelled > 0
