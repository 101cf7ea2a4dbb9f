"""Requests to a strategy: worked out within the budget, streamed with signs of life, given back with what they cost."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from time import monotonic
from typing import Any, Protocol

from tts.errors import EndpointError
from tts.gateway.asgi import Out
from tts.gateway.chat import account, best
from tts.gateway.errors import Refused, refusal_of
from tts.gateway.routing import Plan, least
from tts.resources import Resources
from tts.sampler import Sampler
from tts.session import Session
from tts.solving import OnCandidate, drive, open_session
from tts.types import Budget, Candidate, Problem, Result, Usage

NO_CHAT = frozenset({"reward", "embed", "image"})
"""Roles that the requested model cannot fill by itself."""

WHOLE_ONLY = frozenset({"tools", "tool_choice", "parallel_tool_calls", "response_format", "logprobs", "top_logprobs"})
"""What only an answer that is written in one piece can have."""

LENGTHS = frozenset({"max_tokens", "max_completion_tokens"})
"""What the parameters of a strategy that writes in pieces say."""


class Form(Protocol):
    """How answers look under one of the APIs."""

    def whole(self, candidates: Sequence[Candidate], usage: Usage, extra: dict[str, Any]) -> bytes:
        """The answer in one piece."""
        ...

    def begin(self) -> bytes:
        """How a stream begins."""
        ...

    def progress(self, told: dict[str, Any]) -> bytes:
        """How far it is, inside a stream."""
        ...

    def chunks(self, candidates: Sequence[Candidate], usage: Usage, extra: dict[str, Any]) -> Iterator[bytes]:
        """The answer as the events of a stream, its end included."""
        ...


def samplers_for(plan: Plan, models: Mapping[str, Mapping[str, Sampler]]) -> dict[str, Sampler]:
    """A sampler for each role: as configured, as the request chooses among the models, else the model itself."""
    roles = dict(models[plan.model])
    for role, name in plan.wishes.models.items():
        if role == "policy" or name not in models:
            raise Refused(
                400, f"tts.models: no '{name}'; there are: {', '.join(models)}", "invalid_value", "tts.models"
            )
        roles[role] = models[name]["policy"]
    verifier = plan.strategy.verifier if plan.strategy and plan.strategy.verifier else plan.verifier
    needed = (plan.strategy.roles if plan.strategy else frozenset()) | (verifier.roles if verifier else frozenset())
    for role in needed - set(roles) - NO_CHAT:
        roles[role] = roles["policy"]
    return roles


def session_for(
    plan: Plan, problem: Problem, models: Mapping[str, Mapping[str, Sampler]], resources: Resources, left: Budget
) -> Session:
    """A session for the request, within its own budget and what is `left` of the client's.

    Raises `ConfigError` for what cannot work, before anything is spent.
    """
    assert plan.strategy is not None
    return open_session(
        problem,
        plan.strategy,
        samplers_for(plan, models),
        verifier=plan.verifier,
        budget=least([plan.budget, left]),
        resources=resources,
        sampling=sampling_for(plan),
    )


def sampling_for(plan: Plan) -> Mapping[str, Any]:
    """The request's sampling parameters. A strategy that writes answers in pieces takes those that pieces can have.

    Raises `Refused` for what it could not keep to.
    """
    assert plan.strategy is not None
    sampling = plan.sampling or {}
    if "policy" in plan.strategy.roles:
        return sampling
    for name in WHOLE_ONLY & sampling.keys():
        if sampling[name]:
            raise Refused(400, f"{plan.strategy.name} writes in pieces: it takes no {name}", "not_supported", name)
    return {name: value for name, value in sampling.items() if name not in WHOLE_ONLY | LENGTHS}


async def solve(plan: Plan, session: Session, n: int, on_candidate: OnCandidate | None = None) -> Result:
    """Run the plan's strategy; a search of which several answers are wanted is not ended early."""
    assert plan.strategy is not None
    return await drive(plan.strategy, session, stop_early=n == 1, on_candidate=on_candidate)


def chosen(plan: Plan, session: Session, result: Result, n: int, run: str) -> list[Candidate]:
    """The best `n` candidates. Raises `Refused` where there is no answer, with the status that tells why."""
    assert plan.strategy is not None
    candidates = best(plan.strategy, result, n)
    if candidates:
        return candidates
    details = {"tts": account(plan, result, run)}
    if result.candidates:
        raise Refused(422, "no candidate is good enough to be the answer", "no_answer", details=details)
    if isinstance(session.ledger.error, EndpointError):
        refusal = refusal_of(session.ledger.error)
        assert refusal is not None
        raise refusal from session.ledger.error
    if result.ended == "deadline":
        raise Refused(504, "no candidate was there in time", "deadline", details=details)
    if result.ended == "budget":
        raise Refused(429, "the budget has no room for a single candidate", "budget_spent", details=details)
    raise Refused(502, "no candidate could be had", "no_candidate", details=details)


async def alive(
    work: Callable[[OnCandidate], Awaitable[Result]],
    out: Out,
    keep_alive: float,
    tell: Callable[[dict[str, Any]], bytes] | None,
) -> Result:
    """The result of `work`; until it is there the stream shows a comment every `keep_alive` seconds, and with `tell`
    how many candidates there are."""
    news, arrived, began = asyncio.Event(), 0, monotonic()

    def candidate(_: Candidate) -> None:
        nonlocal arrived
        arrived += 1
        if tell is not None:
            news.set()

    working = asyncio.ensure_future(work(candidate))
    working.add_done_callback(lambda _: news.set())
    try:
        while not working.done():
            try:
                async with asyncio.timeout(keep_alive):
                    await news.wait()
            except TimeoutError:
                await out.write(b": at work\n\n")
                continue
            news.clear()
            if tell is not None and not working.done():
                await out.write(tell({"candidates": arrived, "seconds": round(monotonic() - began, 3)}))
        return working.result()
    finally:
        if not working.done():
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)
