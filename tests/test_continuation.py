"""Answers that grow: their tokens, branches, costs and ends, over a server that counts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.double import ModelDouble
from tests.support.solving import PROBLEM, endpoint
from tests.support.steps import RAW, written
from tests.third_party.beam_search import BeamSearch
from tts import Continuation, Endpoint, Problem, Sampler, Session, Verdict, Verifier, solve
from tts.errors import ConfigError, SamplingFailed
from tts.types import total

Body = dict[str, Any]

LINES = "one line\nanother line\nthe last"


def dictation(body: Body, rng: Any) -> str:
    """Goes on with `LINES` from wherever the prompt has got to."""
    return LINES[len(written(body)) :]


@asynccontextmanager
async def opened(double: ModelDouble, problem: Problem = PROBLEM, **settings: Any) -> AsyncIterator[Session]:
    async with double, Sampler(endpoint(double, **settings)) as sampler:
        yield Session(problem, {"policy": sampler})


async def test_steps_end_with_their_stop_string_until_the_model_ends_the_answer():
    double = ModelDouble(answer=dictation)
    async with opened(double) as session:
        steps = [await Continuation.start(session)]
        while not steps[-1].ended:
            steps.append(await steps[-1].extend(stop="\n"))
    assert [step.text for step in steps] == ["", "one line\n", "one line\nanother line\n", LINES]
    assert [step.ended for step in steps] == ["", "", "", "stop"]
    assert steps[-1].ids == tuple(LINES.encode())
    for earlier, later in pairwise(steps):  # ids only grow
        assert (later.ids or ())[: len(earlier.ids or ())] == earlier.ids


async def test_a_step_is_no_longer_than_its_tokens_and_an_answer_no_longer_than_the_context():
    double = ModelDouble(answer=lambda body, rng: "x" * 500, max_model_len=100)
    async with opened(double, RAW) as session:
        answer = await (await Continuation.start(session)).extend(tokens=5)
        assert (answer.text, answer.ended) == ("xxxxx", "")
        answer = await answer.extend()
        assert len(answer.ids or ()) == 100 - len("Six times seven is") - 1
        assert (await answer.extend()).ended == "length"


async def test_branches_share_one_prompt_and_each_pays_for_itself():
    double = ModelDouble(answer=lambda body, rng: f"{rng.integers(1000)}\nmore")
    async with opened(double) as session:
        first = await (await Continuation.start(session)).extend(stop="\n")
        branches = await first.branch(4, stop="\n")
        candidates = [branch.candidate() for branch in branches]
        assert double.stats.received == 2
        assert [branch.path for branch in branches] == [(0, 0), (0, 1), (0, 2), (0, 3)]
        assert [candidate.spawned for candidate in candidates] == [branch.path for branch in branches]
        assert len({branch.text for branch in branches}) > 1
        everything = total(frozenset().union(*(candidate.charges for candidate in candidates)))
        assert everything == total(session.ledger.paid)
        assert everything.completion_tokens == double.stats.completion_tokens
        assert everything.prompt_tokens == double.stats.prompt_tokens
        one = candidates[0].usage
        assert one.requests == 2
        assert one.completion_tokens == len(candidates[0].content)


async def test_what_is_taken_back_is_still_paid_for():
    double = ModelDouble(answer=dictation)
    async with opened(double) as session:
        begun = await (await Continuation.start(session)).extend(stop="\n")
        again = (await begun.extend(stop="\n")).back()
        assert (again.text, again.ids, again.path) == (begun.text, begun.ids, begun.path)
        assert total(again.candidate().charges) == total(session.ledger.paid)


@given(text=st.text(alphabet="ab \n\t", max_size=20))
async def test_what_is_put_behind_an_answer_stays_to_the_letter(text: str):
    seen: list[str] = []

    def listen(body: Body, rng: Any) -> str:
        seen.append(written(body))
        return "!"

    async with opened(ModelDouble(answer=listen)) as session:
        answer = await (await Continuation.start(session)).append(text)
        assert (await answer.extend()).text == f"{text}!"
    assert seen == [text]


async def test_a_text_may_be_changed_and_an_ended_one_goes_on():
    heard: list[str] = []

    def listen(body: Body, rng: Any) -> str:
        heard.append(written(body))
        return "thought."

    async with opened(ModelDouble(answer=listen)) as session:
        answer = await (await Continuation.start(session, exact=False)).extend()
        assert (answer.ended, answer.exact) == ("stop", False)
        await (await answer.append(" Wait,")).extend()
        exact = await (await Continuation.start(session)).append("x")
        with pytest.raises(ConfigError, match="exact=False"):
            await (await exact.extend()).append("y")
    assert heard[:2] == ["", "thought. Wait,"]


async def test_raw_text_is_continued_anywhere_and_chat_only_where_it_is_rendered():
    double = ModelDouble(answer=lambda body, rng: " 42.", owned_by="somebody")
    async with opened(double, RAW) as session:
        answer = await (await Continuation.start(session)).extend()
        assert (answer.text, answer.exact) == (" 42.", False)
    async with opened(ModelDouble(owned_by="somebody")) as session:
        with pytest.raises(ConfigError, match=r"does not render .*raw text"):
            await Continuation.start(session)


@pytest.mark.parametrize("where", ["endpoint", "run", "request"])
async def test_seeded_branches_differ_and_come_again(where: str):
    seeded: dict[str, dict[str, Any]] = {where: {"seed": 7}}

    async def drawn(seed: int = 0) -> list[str]:
        double = ModelDouble(answer=lambda body, rng: str(rng.integers(10**9)))
        async with double, Sampler(endpoint(double, params=seeded.get("endpoint", {}))) as sampler:
            session = Session(PROBLEM, {"policy": sampler}, sampling=seeded.get("run"), seed=seed)
            asked = seeded.get("request", {})
            start = await Continuation.start(session)
            steps = await start.branch(3, tokens=4, **asked)
            ends = await session.together([start.extend(tokens=5, **asked), *(one.extend(**asked) for one in steps)])
            assert len({one.text for one in steps}) == 3
            assert len({end.text.removeprefix(end.before.text if end.before else "") for end in ends}) == 4
            return [end.text for end in ends]

    first = await drawn()
    assert await drawn() == first
    assert not {*await drawn(seed=1)} & {*first}


async def test_a_server_that_fails_or_refuses_says_so():
    refusing = ModelDouble(answer=lambda body, rng: "x", max_model_len=10)
    async with opened(refusing) as session:  # the prompt alone is too long
        assert (await (await Continuation.start(session)).extend()).ended == "length"
    async with opened(ModelDouble(answer=lambda body, rng: body["nothing"])) as session:  # answered with a 400
        with pytest.raises(SamplingFailed, match="no continuation"):
            await (await Continuation.start(session)).extend()


async def test_one_sample_one_verdict_and_several_at_once():
    class Short(Verifier):
        def check(self, problem: Problem, candidate: Any) -> Verdict:
            return Verdict(-float(len(candidate.content)), cpu_seconds=0.5)

    async with opened(ModelDouble(answer=lambda body, rng: "x" * int(rng.integers(1, 9)))) as session:
        sample = await session.one()
        assert sample is not None
        judged = await session.judged(session.candidate(sample), Short())
        assert judged.verdict is not None
        assert judged.verdict.score == -len(sample.text)
        assert judged.usage.verifier_seconds == 0.5
        several = await session.together(session.one() for _ in range(3))
        assert [one.index for one in several if one] == [1, 2, 3]
        assert total(session.ledger.paid) == session.spent


async def test_a_search_written_elsewhere_is_accounted_to_the_last_token():
    here = Endpoint(model="lab-target", base_url="embedded://lab-target")
    result = await solve("Mia has 12 pears and buys 7 more. How many pears has she?", BeamSearch(), here)
    assert result.ended == "complete"
    assert len(result.candidates) > 2
    assert result.selected is not None
    assert result.selected.notes["score"] == max(candidate.notes["score"] for candidate in result.candidates)
    known = result.loose.union(*(candidate.charges for candidate in result.candidates))
    assert total(known) == total(charge for charge in known if charge.role == "policy") == result.usage
