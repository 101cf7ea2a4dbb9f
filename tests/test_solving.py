"""One strategy on one problem: exact accounts, early stops that reach the server, and nothing paid for lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.support.double import Fault, FaultKind, ModelDouble, solvable
from tests.support.solving import PROBLEM, RIGHT, STRATEGIES, account, endpoint, settle
from tts import registry
from tts.base import Strategy, Verifier
from tts.errors import ConfigError, EndpointRefused
from tts.readers import reader_for
from tts.sampler import Endpoint, Sampler
from tts.sampler.mock import MockModel
from tts.session import Session
from tts.solving import drive, open_models, open_session, solve
from tts.types import Candidate, Problem, Result, Verdict


async def solved(strategy: str | Strategy, double: ModelDouble, *, settings: dict[str, Any], **options: Any) -> Result:
    async with asyncio.timeout(120):
        return await solve(PROBLEM, strategy, endpoint(double, **settings), **options)


@pytest.mark.parametrize("max_n", [1, 8])
@pytest.mark.parametrize("stream", [False, True])
async def test_the_first_accepted_of_64_candidates_aborts_the_rest_at_the_server(stream, max_n):
    latency = lambda body, index: 0.0 if body["seed"] == 0 else 600.0  # noqa: E731
    answer = solvable({"p": 1.0})
    before = asyncio.all_tasks()
    async with (
        ModelDouble(answer=answer, latency=latency) as double,
        Sampler(endpoint(double, max_n=max_n, stream=stream, params={"seed": 0})) as sampler,
    ):
        async with asyncio.timeout(120):
            result = await solve(PROBLEM, f"best_of_n:n=64,verifier={RIGHT}", sampler)
        ended = asyncio.get_running_loop().time()
        await settle(before, double)
        assert sampler.connection.pool.replicas[0].in_flight == sampler.connection.pool.waiting == 0
    assert result.ended == "settled"
    assert result.selected is not None
    assert result.selected.passed
    assert double.stats.cancelled == double.stats.received - 1 > 0
    assert all(at < ended + 5 for at in double.cancel_times)  # they would have taken a minute
    spent, wasted = account(result)
    assert spent.requests == 1
    assert double.stats.received - 1 <= wasted.requests == 64 // max_n - 1  # some were perhaps left on the way there
    paid = spent.completion_tokens + wasted.completion_tokens
    if stream and max_n > 1:  # it was left when its first choice was accepted: what had not come by then is unknown
        assert 0 < spent.completion_tokens <= paid <= double.stats.completion_tokens
    else:
        assert spent.completion_tokens == paid == double.stats.completion_tokens


class Nested(Strategy):
    """Leaves loops at every level without closing anything."""

    async def search(self, problem: Problem, session: Session) -> AsyncIterator[Candidate]:
        async for candidate in session.verified(session.verified(session.propose(n=8))):
            yield candidate
            async for other in session.verified(session.propose(n=8)):
                yield other
                break


@pytest.mark.parametrize("stream", [False, True])
async def test_loops_that_a_strategy_leaves_open_are_closed_for_it(stream):
    latency = lambda body, index: 0.0 if body["seed"] % 8 == 0 else 600.0  # noqa: E731
    before = asyncio.all_tasks()
    async with (
        ModelDouble(latency=latency) as double,
        Sampler(endpoint(double, max_n=1, stream=stream, params={"seed": 0})) as sampler,
    ):
        strategy = Nested(verifier=Always(passed=None))

        def enough(candidate: Candidate) -> None:
            if candidate.id == 1:
                raise Enough

        with pytest.raises(Enough):
            async with asyncio.timeout(120):
                await solve(PROBLEM, strategy, sampler, on_candidate=enough)
        await settle(before, double)
        assert sampler.connection.pool.replicas[0].in_flight == 0
    assert double.stats.cancelled == double.stats.received - 2


class Enough(Exception):
    pass


class Always(Verifier):
    """The same verdict for all."""

    passed: bool | None = True

    def check(self, problem: Problem, candidate: Candidate) -> Verdict:
        return Verdict(1.0, self.passed)


@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_cancelling_a_search_in_the_middle_leaves_nothing_behind(strategy):
    before = asyncio.all_tasks()
    async with ModelDouble(latency=600) as double, Sampler(endpoint(double, max_n=2)) as sampler:
        searching = asyncio.create_task(solve(PROBLEM, strategy, sampler))
        while not double.stats.running:
            await asyncio.sleep(0.002)
        searching.cancel()
        with pytest.raises(asyncio.CancelledError):
            await searching
        await settle(before, double)
        assert sampler.connection.pool.replicas[0].in_flight == 0
    assert double.stats.cancelled == double.stats.received > 0


# -- what ends a search ------------------------------------------------------------------------------------------------


class Crashing(Strategy):
    """Fails after its first candidate."""

    kind: str = "error"

    async def search(self, problem: Problem, session: Session) -> AsyncIterator[Candidate]:
        async for candidate in session.propose(n=1):
            yield candidate
        raise {"error": ValueError("oh"), "timeout": TimeoutError("oh"), "refused": EndpointRefused("oh")}[self.kind]


async def test_a_crash_of_the_strategy_is_raised_or_noted():
    async with ModelDouble() as double, Sampler(endpoint(double)) as sampler:
        for kind, error in (("error", ValueError), ("timeout", TimeoutError), ("refused", EndpointRefused)):
            strategy = Crashing(kind=kind)
            with pytest.raises(error, match="oh"):
                await solve(PROBLEM, strategy, sampler)
            if kind != "refused":
                result = await drive(strategy, open_session(PROBLEM, strategy, {"policy": sampler}), keep_crashes=True)
                assert result.ended == "failed"
                assert len(result.candidates) == 1
                assert result.failures == (f"crashing crashed: {error.__name__}: oh",)


async def test_a_server_that_fails_ends_the_search_and_not_the_result():
    async with ModelDouble(faults=[None, Fault(FaultKind.SERVER_ERROR)], answer=lambda *_: "Answer: 0") as double:
        result = await solved(f"first_pass:k=4,verifier={RIGHT}", double, settings={"max_n": 1, "max_attempts": 1})
    assert result.ended == "failed"
    assert len(result.candidates) == 1
    assert any("HTTP 500" in failure for failure in result.failures)


async def test_failed_samples_are_told_and_the_others_kept():
    async with ModelDouble(faults=[Fault(FaultKind.BAD_REQUEST)], answer=solvable({"p": 1.0})) as double:
        result = await solved("self_consistency:n=8", double, settings={"max_n": 1}, stop_early=False)
    assert result.ended == "complete"
    assert len(result.candidates) == 7
    assert len(result.failures) == 1
    assert result.selected is not None
    assert result.selected.notes["answer"] == "42"


# -- before anything is spent ------------------------------------------------------------------------------------------


class NeedsJudge(Verifier):
    """Samples from a judge."""

    roles = frozenset({"judge"})


@pytest.mark.parametrize(
    ("strategy", "options", "words"),
    [
        ("best_of_n", {}, "needs a verifier"),
        ("self_consistency:weighted=true", {}, "needs a verifier"),
        ("best_of_n", {"verifier": NeedsJudge()}, "needs a model for: judge"),
        ("best_off_n", {}, "did you mean 'best_of_n'"),
        ("best_of_n:m=3", {}, "Parameters: verifier, policies, n"),
        ("single", {"verifier": "nonsense"}, "no 'nonsense' among the verifiers"),
    ],
)
async def test_what_is_missing_is_said_before_anything_is_spent(strategy, options, words):
    async with ModelDouble() as double:
        with pytest.raises(ConfigError, match=words):
            await solved(strategy, double, settings={}, **options)
    assert double.stats.received == 0


async def test_a_vote_on_programs_without_a_reader_is_refused():
    async with ModelDouble() as double:
        with pytest.raises(ConfigError, match="set answer="):
            await solve("Write a function that adds.", "self_consistency", endpoint(double))
    assert double.stats.received == 0


async def test_the_strategys_own_verifier_comes_first_and_the_problems_last():
    problem = PROBLEM.model_copy(update={"verifier": "exact_answer:reference=1"})
    strategy, models = (
        Crashing(verifier=Always()),
        {"policy": Sampler(Endpoint(model="m", base_url="http://127.0.0.1:9/v1"))},
    )
    assert open_session(problem, strategy, models).verifier == Always()
    assert open_session(problem, Crashing(), models, verifier=Always()).verifier == Always()
    named = open_session(problem, Crashing(), models).verifier
    assert named is not None
    assert named.spec == 'exact_answer:reference="1"'


async def test_roles_with_the_same_endpoint_share_a_sampler_that_is_closed_at_the_end():
    async with ModelDouble() as double:
        target = endpoint(double)
        own = Sampler(target)
        async with open_models({"policy": target, "judge": target, "draft": own}) as samplers:
            assert samplers["policy"] is samplers["judge"] is not own
            assert samplers["draft"] is own
            await samplers["policy"].identify()
        assert "http" not in vars(samplers["policy"].connection)
        await own.aclose()


async def test_using_the_truth_labels_the_result():
    async with ModelDouble() as double:
        result = await solved("best_of_n:n=2,verifier=oracle", double, settings={}, truth=Always())
        assert result.oracle
        assert not (await solved("best_of_n:n=2", double, settings={}, verifier=Always(), truth=Always())).oracle


async def test_a_callback_may_start_work_that_outlives_the_search():
    async with ModelDouble(latency=0.02) as double, Sampler(endpoint(double)) as sampler:
        later: list[asyncio.Task[Verdict]] = []

        class Judging(Verifier):
            async def verify(self, problem: Problem, candidate: Candidate, session: Session) -> Verdict:
                return Verdict(float(len([s async for s in session.sample("Mark this.", n=3)])))

        grading = Session(PROBLEM, {"policy": sampler}, verifier=Judging())
        strategy = "single"
        await solve(
            PROBLEM,
            strategy,
            sampler,
            on_candidate=lambda candidate: later.append(asyncio.create_task(grading.verify(candidate))),
        )
        async with asyncio.timeout(120):
            assert [(await task).score for task in later] == [3.0]


@pytest.mark.parametrize(
    ("prompt", "reader"),
    [
        ("What is 6 * 7? End with `Answer: x`.", "numeric_answer"),
        ("How many apples are left?", "numeric_answer"),
        ("Compute the sum of the first ten primes.", "numeric_answer"),
        ("Simplify \\frac{x^2-1}{x-1}.", "math_answer"),
        ("Find $x$ with $x^2 = 2$ and put it in \\boxed{}.", "math_answer"),
        ("Which is a noble gas?\nA. iron\nB. neon\nC. tin\nD. lead", "choice:letters=ABCD"),
        ("Yes or no: is it red? (A) yes (B) no", "choice:letters=AB"),
        ("Which is a fruit? a) car b) apple c) table", "choice:letters=ABC"),
        ("Let f(a) be 3 and f(b) be 4. What is f(a) + f(b)?", "exact_answer"),
        ("Factor x^2-1", "math_answer"),
        ("Expand (x+1)(x-2).", "math_answer"),
        ("2x + 3 = 7. What is x?", "math_answer"),
        ("By what factor does it grow?", "exact_answer"),
        ("Who wrote Faust?", "exact_answer"),
        ("Plan A. Then wait.", "exact_answer"),
        ("Write a Python function that adds two numbers.", None),
        ("Complete it:\n\ndef add(a, b):", None),
    ],
)
def test_a_reader_is_chosen_by_the_words_of_the_prompt(prompt: str, reader: str | None):
    assert reader_for(prompt) == reader


@pytest.mark.parametrize(
    ("prompt", "reader"),
    [
        ("Factor x^2-1", "exact_answer"),
        ("Simplify \\frac{x^2-1}{x-1}.", "exact_answer"),
        ("What is $3 \\times 5 = x$? Compute x.", "numeric_answer"),
    ],
)
def test_without_the_extra_no_number_is_read_out_of_an_expression(
    prompt: str, reader: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("tts.readers.find_spec", lambda name: None)
    assert reader_for(prompt) == reader
    assert reader is None or registry.make("verifiers", reader).parse("Answer: B") is not None or "numeric" in reader


async def test_the_answer_is_what_the_verifier_read_where_the_strategy_reads_none():
    model, verifier = MockModel(lambda body: "Let me see. Answer: 42"), "numeric_answer:reference=42"
    result = await solve("What is 6 * 7?", "best_of_n:n=2", model, verifier=verifier)
    assert (result.answer, result.text) == ("42", "Let me see. Answer: 42")
