"""Requests to a strategy: opened as a search, kept alive while it runs, answered with the best and what it cost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from time import monotonic
from typing import Any

from tts.base import Strategy, selectable
from tts.errors import EndpointError
from tts.gateway.exchange import APIError, ResponseWriter, as_api_error, bad_request
from tts.gateway.formats import ChatFormat, ResponsesFormat
from tts.gateway.routing import GatewayRequest, smallest
from tts.resources import Resources
from tts.sampler import Sampler
from tts.session import Session
from tts.solving import OnCandidate, open_session
from tts.types import Candidate, Problem, Result, Usage

Models = Mapping[str, Mapping[str, Sampler]]
"""Samplers by the configured name and role."""

NO_CHAT = frozenset({"reward", "embed", "image"})
"""Roles that the requested model cannot fill by itself."""

WHOLE_ONLY = frozenset({"tools", "tool_choice", "parallel_tool_calls", "response_format", "logprobs", "top_logprobs"})
"""Parameters that only an answer sampled in one piece can honour."""

LENGTHS = frozenset({"max_tokens", "max_completion_tokens"})
"""Parameters that a strategy which writes in pieces sets itself."""


@dataclass(eq=False)
class Search:
    """A strategy at work on a request."""

    request: GatewayRequest
    strategy: Strategy
    session: Session
    format: ChatFormat | ResponsesFormat
    n: int
    """How many answers are wanted."""

    def answer(self, result: Result) -> tuple[list[Candidate], Usage, dict[str, Any]]:
        """The best candidates, their cost, and further fields for the response.

        Raises `APIError` if there is no answer, with the status that tells why.
        """
        candidates, failure = best(self.strategy, result, self.n), self.session.ledger.error
        details = {"tts": self._account(result)} if self.request.plan.options.details or not candidates else {}
        if candidates:
            return candidates, result.usage, details
        if result.candidates:
            raise APIError(422, "no candidate is good enough to be the answer", "no_answer", details=details)
        if isinstance(failure, EndpointError) and (error := as_api_error(failure)):
            raise error from failure
        if result.ended == "deadline":
            raise APIError(504, "no candidate was ready before the deadline", "deadline", details=details)
        if result.ended == "budget":
            raise APIError(429, "the budget does not allow a single candidate", "budget_spent", details=details)
        raise APIError(502, "the strategy produced no candidate", "no_candidate", details=details)

    def _account(self, result: Result) -> dict[str, Any]:
        """The response's field `tts`: what was done, what it cost by role, and every candidate in short."""
        return {
            "run": self.request.run,
            "strategy": result.strategy,
            "model": self.request.plan.model,
            "ended": result.ended,
            "seconds": round(result.seconds, 4),
            "usage": {role: usage.as_dict() for role, usage in result.spent.items()},
            "wasted": {role: usage.as_dict() for role, usage in result.wasted.items()},
            "lost": len(result.failures),
            "candidates": [
                {
                    "id": candidate.id,
                    "selected": result.selected is not None and candidate.id == result.selected.id,
                    "score": candidate.verdict and candidate.verdict.score,
                    "passed": candidate.verdict and candidate.verdict.passed,
                    "feedback": candidate.verdict.feedback if candidate.verdict else "",
                    "elapsed": round(candidate.elapsed, 4),
                    "usage": candidate.usage.as_dict(),
                }
                for candidate in result.candidates
            ],
        }


def best(strategy: Strategy, result: Result, n: int) -> list[Candidate]:
    """The selected candidate, then what would be selected without it, and so on: at most `n`, none if it abstains.

    Pure: nothing is sampled for it.
    """
    if result.selected is None:
        return []
    chosen = [result.selected]
    left = sorted(result.candidates, key=lambda candidate: candidate.spawned)
    while len(chosen) < n:
        left = [candidate for candidate in left if candidate.id != chosen[-1].id]
        following = strategy.select(selectable(left))
        if following is None:
            break
        chosen.append(following)
    return chosen


def open_search(request: GatewayRequest, strategy: Strategy, models: Models, resources: Resources, most: int) -> Search:
    """The search that a request asks for, with at most `most` answers, within its budget and the caller's quota.

    Raises `APIError` or `ConfigError` for what cannot work, before anything is spent.
    """
    kind, plan, chat, run = request.kind, request.plan, request.chat, request.run
    n = chat.get("n") or 1
    if n > most:
        raise bad_request(f"n must be at most {most}", "n")
    text = kind == "completions"
    problem = Problem(
        id=run,
        messages=chat["prompt" if text else "messages"],
        tests=plan.options.tests,
        answer=plan.answer,
        metadata={"tools": chat["tools"]} if not text and chat.get("tools") else {},
    )
    session = open_session(
        problem,
        strategy,
        _samplers(request, strategy, models),
        verifier=plan.verifier,
        budget=smallest(plan.budget, request.caller.left()),
        resources=resources,
        sampling=_sampling(request, strategy),
    )
    if kind == "responses":
        return Search(request, strategy, session, ResponsesFormat(request.body, chat, run), n)
    return Search(request, strategy, session, ChatFormat(chat, run, chat=not text), n)


def _samplers(request: GatewayRequest, strategy: Strategy, models: Models) -> dict[str, Sampler]:
    """A sampler for each role: as configured, as the request chooses among the models, else the model itself."""
    roles = dict(models[request.plan.model])
    for role, name in request.plan.options.models.items():
        if role == "policy" or name not in models:
            raise bad_request(f"tts.models: no model named '{name}'; available: {', '.join(models)}", "tts.models")
        roles[role] = models[name]["policy"]
    verifier = strategy.verifier or request.plan.verifier
    needed = strategy.roles | (verifier.roles if verifier else frozenset())
    for role in needed - set(roles) - NO_CHAT:
        roles[role] = roles["policy"]
    return roles


def _sampling(request: GatewayRequest, strategy: Strategy) -> Mapping[str, Any]:
    """The request's sampling parameters; a strategy that writes in pieces takes those that pieces can have.

    Raises `APIError` for those that it could not honour.
    """
    sampling = request.plan.sampling
    if "policy" in strategy.roles:
        return sampling
    for name in WHOLE_ONLY & sampling.keys():
        if sampling[name]:
            raise bad_request(f"{strategy.name} writes in pieces and does not support {name}", name, "not_supported")
    return {name: value for name, value in sampling.items() if name not in WHOLE_ONLY | LENGTHS}


@asynccontextmanager
async def kept_alive(
    out: ResponseWriter, seconds: float, report: Callable[[dict[str, Any]], bytes] | None
) -> AsyncIterator[OnCandidate]:
    """Writes a comment every `seconds`, so that the stream stays open, and what `report` makes of new candidates."""
    news, arrived, began = asyncio.Event(), 0, monotonic()

    def on_candidate(_: Candidate) -> None:
        nonlocal arrived
        arrived += 1
        if report is not None:
            news.set()

    async def write() -> None:
        while True:
            try:
                async with asyncio.timeout(seconds):
                    await news.wait()
            except TimeoutError:
                await out.write(b": at work\n\n")
            if report is not None and news.is_set():
                news.clear()
                await out.write(report({"candidates": arrived, "seconds": round(monotonic() - began, 3)}))

    writing = asyncio.create_task(write())
    try:
        yield on_candidate
    finally:
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
