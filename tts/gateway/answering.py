"""Requests to a strategy: opened as a search, kept alive while it runs, answered with the best and what it cost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from time import monotonic
from typing import Any

from tts.base import Strategy, rank, selectable
from tts.errors import EndpointError, log
from tts.gateway.exchange import EVENTS, APIError, ResponseWriter, as_api_error, bad_request
from tts.gateway.formats import ChatFormat, Translation
from tts.gateway.routing import GatewayRequest
from tts.gateway.settings import ROLES
from tts.policies import is_policy, policies_of
from tts.resources import Resources
from tts.sampler import Sampler
from tts.sampler.parameters import FALLBACKS
from tts.session import Session
from tts.solving import OnCandidate, open_session
from tts.text import counted
from tts.types import Candidate, Problem, Result, Usage
from tts.verifiers.composition import parts_of

Models = Mapping[str, Mapping[str, Sampler]]
"""Samplers by the configured name and role."""

NO_CHAT = frozenset({"reward", "embed", "image", "base", "tuned", "anchor"})
"""Roles that the requested model cannot fill by itself."""

WHOLE_ONLY = ("tools", "tool_choice", "parallel_tool_calls", "response_format", "logprobs", "top_logprobs")
"""Parameters that only an answer sampled in one piece can honour."""


@dataclass(eq=False)
class Search:
    """A strategy at work on a request."""

    request: GatewayRequest
    strategy: Strategy
    session: Session
    format: ChatFormat | Translation
    n: int
    """How many answers are wanted."""

    def answer(self, result: Result) -> StrategyAnswer:
        """The best candidates, their cost, and what is to be known of them.

        Raises `APIError` if there is no answer, with the status that tells why, or none that the client or the operator
        accepts.
        """
        plan, lost = self.request.plan, self.session.ledger.lost_verdicts
        candidates = best(self.strategy, result, self.n)
        verified = self._verified(candidates)
        unheard, left_out = self._unheard(), self.session.ledger.left_out
        facts = {
            "abstained": result.selected is None or None,
            "missing": max(0, self.n - len(candidates)) or None,
            "verified": verified,
            "ignored": unheard or None,
            "left_out": left_out or None,
            "plain": sum("plain" in candidate.notes for candidate in result.candidates) or None,
        }
        notices = {name: value for name, value in facts.items() if value is not None}

        def told() -> dict[str, Any]:
            return {"tts": {**notices, **self._account(result)}}

        if not candidates:
            raise self._nothing(result, told())
        if result.selected is None and plan.options.on_abstain == "error":
            raise APIError(422, "no candidate is good enough to be the answer", "no_answer", details=told())
        if verified is False:
            reason = lost[0] if lost else f"no verdict was ready when the search ended ({result.ended})"
            words = f"{len(lost)} of {counted(self.session.ledger.verdicts, 'verdict')} could not be had"
            log.warning("request %s is answered without verification; %s: %s", self.request.run, words, reason)
            if plan.must_verify:
                status = 504 if result.ended == "deadline" else 502
                raise APIError(status, "the answer could not be verified", "unverified", details=told())
        elif lost:
            log.warning("request %s lost %d verdicts: %s", self.request.run, len(lost), lost[0])
        named = {
            "ignored": ", ".join(unheard) or None,
            "verified": verified,
            "abstained": facts["abstained"],
            "missing": facts["missing"],
            "left-out": ", ".join(left_out) or None,
            "lost": len(result.failures) or None,
        }
        headers = [
            (f"x-tts-{name}".encode(), str(value).lower().encode())
            for name, value in named.items()
            if value is not None
        ]
        unsaid = notices.keys() - ({"verified"} if verified else set())
        extra = told() if plan.options.details else {"tts": notices} if unsaid else {}
        ended = (b"x-tts-ended", result.ended.encode())
        return StrategyAnswer(candidates, result.usage, extra, [ended, *headers], verified=verified)

    def _unheard(self) -> list[str]:
        """Parameters of the request that the model's server turned out not to take, whatever their value."""
        refused, given = self.session.sampler("policy").refused, self.request.plan.sampling | self.request.plan.form
        lost = (name for name in refused & given.keys() if FALLBACKS[name].instead in (None, *refused))
        return sorted(lost)

    def _verified(self, candidates: Sequence[Candidate]) -> bool | None:
        """Whether all the answers have a verdict; None where none was promised."""
        ledger = self.session.ledger
        if self.session.verifier is None:  # a strategy may compare candidates by a verifier of its own
            return len(ledger.lost_verdicts) < ledger.verdicts if ledger.verdicts else None
        return all(map(_is_verified, candidates))

    def _nothing(self, result: Result, told: dict[str, Any]) -> APIError:
        """Why there is not a single candidate."""
        failure = self.session.ledger.error
        if isinstance(failure, EndpointError) and (error := as_api_error(failure)):
            error.__cause__ = failure
            return error
        if result.ended == "deadline":
            return APIError(504, "no candidate was ready before the deadline", "deadline", details=told)
        if result.ended == "budget":
            return APIError(429, "the budget does not allow a single candidate", "budget_spent", details=told)
        return APIError(502, "the strategy produced no candidate", "no_candidate", details=told)

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
            "unverified": len(self.session.ledger.lost_verdicts),
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


def _is_verified(candidate: Candidate) -> bool:
    """Whether it has a verdict; one that is put together from others and decides nothing needs them all."""
    verdict = candidate.verdict
    if verdict is None or (verdict.score, verdict.passed) == (None, None):
        return False
    return verdict.passed is not None or all(
        _is_verified(replace(candidate, verdict=one)) for one in parts_of(candidate)
    )


@dataclass(frozen=True)
class StrategyAnswer:
    """What a client gets of a search."""

    candidates: list[Candidate]
    usage: Usage
    extra: dict[str, Any]
    """Further fields of the body: the account where it was asked for, and what the client must know in any case."""
    headers: list[tuple[bytes, bytes]]
    verified: bool | None
    """Whether it has a verdict; None where none was promised."""

    @property
    def parts(self) -> tuple[list[Candidate], Usage, dict[str, Any]]:
        """What a format makes a body of."""
        return self.candidates, self.usage, self.extra


def best(strategy: Strategy, result: Result, n: int) -> list[Candidate]:
    """The selected candidate, then what would be selected without it, and so on: `n` if there are so many.

    Where the strategy selects none, the best-rated that say something come first. Pure: nothing is sampled for it.
    """
    chosen: list[Candidate] = []
    left, following = sorted(result.candidates, key=lambda candidate: candidate.spawned), result.selected
    while len(chosen) < n and left:
        if following is None:
            return [*chosen, *sorted(left, key=_worth, reverse=True)[: n - len(chosen)]]
        chosen.append(following)
        left = [candidate for candidate in left if candidate.id != chosen[-1].id]
        following = strategy.select(selectable(left))
    return chosen


def _worth(candidate: Candidate) -> tuple[bool, tuple[int, float]]:
    return bool(candidate.content or candidate.tool_calls), rank(candidate)


def open_search(request: GatewayRequest, strategy: Strategy, resources: Resources) -> Search:
    """The search that a request asks for, within its budget and the caller's quota.

    Raises `APIError` or `ConfigError` for what cannot work, before anything is spent.
    """
    kind, plan, chat, run = request.kind, request.plan, request.chat, request.run
    n, most = chat.get("n") or 1, request.offer.settings.limits.samples
    if n > most:
        raise bad_request(f"n must be at most {most}", "n")
    text = kind == "completions"
    if strategy.needs_verifier and not (strategy.verifier or plan.verifier):
        ways = f"tts.verifier, tests, schema, format or rubric, or {strategy.name}:verifier=NAME"
        raise bad_request(f"{strategy.name} needs a verifier: {ways}", "tts.verifier")
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
        _samplers(request, strategy, request.offer.models),
        verifier=plan.verifier,
        budget=plan.budget,
        quota=request.caller.quota,
        resources=resources,
        sampling=plan.sampling,
        form=_form(plan.form, strategy),
        forgiving=True,
    )
    return Search(request, strategy, session, request.format or ChatFormat(chat, run, chat=not text), n)


def _samplers(request: GatewayRequest, strategy: Strategy, models: Models) -> dict[str, Sampler]:
    """A sampler for each role: as configured, as the request chooses among the models, else the model itself, of a set
    the strongest."""
    roles = dict(models[request.plan.model])
    alone = [name for name in models if "policy" in models[name]]
    verifier = strategy.verifier or request.plan.verifier
    needed = strategy.roles | (verifier.roles if verifier else frozenset())
    for role, name in request.plan.options.models.items():
        if is_policy(role) or role not in needed | {*ROLES}:
            words = (
                f"tts.models: no model is asked as '{role[:200]}' here; roles: {', '.join(sorted(needed - {'policy'}))}"
            )
            raise bad_request(words, "tts.models")
        if name not in alone:
            raise bad_request(f"tts.models: no model named '{name}'; available: {', '.join(alone)}", "tts.models")
        roles[role] = models[name]["policy"]
    strongest = roles[policies_of(roles)[-1]]
    for role in needed - {*roles, *NO_CHAT, "policy"}:
        roles[role] = strongest
    if missing := sorted(needed - {*roles, "policy"}):
        words = f"{strategy.name} needs a model for: {', '.join(missing)}; this gateway has none beside"
        raise bad_request(f"{words} {request.plan.model}", "model", "no_model")
    return roles


def _form(form: Mapping[str, Any], strategy: Strategy) -> Mapping[str, Any]:
    """What the request says of the form of its answer.

    Raises `APIError` for what such a strategy could not honour.
    """
    if not strategy.in_pieces:
        return form
    for name in WHOLE_ONLY:
        if form.get(name):
            raise bad_request(f"{strategy.name} writes in pieces and does not support {name}", name, "not_supported")
    return {name: value for name, value in form.items() if name not in WHOLE_ONLY}


@asynccontextmanager
async def kept_alive(
    out: ResponseWriter, seconds: float, form: ChatFormat | Translation, *, reports: bool
) -> AsyncIterator[OnCandidate]:
    """Writes a sign of life every `seconds`, so that the stream stays open, and `reports` of new candidates.

    The response begins with the first of these, followed by what `form` starts with: until then an error has a status.
    """
    news, arrived, began = asyncio.Event(), 0, monotonic()

    def on_candidate(_: Candidate) -> None:
        nonlocal arrived
        arrived += 1
        if reports:
            news.set()

    async def begin() -> None:
        if out.status is None:
            await out.start(200, EVENTS)
            await out.write(form.start())

    async def write() -> None:
        while True:
            try:
                async with asyncio.timeout(seconds):
                    await news.wait()
            except TimeoutError:
                await begin()
                await out.write(form.alive)
            if news.is_set():
                news.clear()
                await begin()
                await out.write(form.progress({"candidates": arrived, "seconds": round(monotonic() - began, 3)}))

    writing = asyncio.create_task(write())
    try:
        yield on_candidate
    finally:
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
