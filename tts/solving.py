"""One strategy on one problem: drive it, account for it, stop it early, select."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from contextvars import copy_context
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from tts import registry
from tts.base import Strategy, Verifier, selectable
from tts.concurrency import blocking, scope
from tts.errors import BudgetSpent, ConfigError, EndpointError, EndpointRefused, NoReader, StoreError, cause_of
from tts.policies import check_models, drawn_from, verifier_of
from tts.prompting import problem_text
from tts.readers import reader_for
from tts.resources import Resources, SampleStore
from tts.sampler import Endpoint, Sampler
from tts.sampler.endpoint import check_prices
from tts.session import Session
from tts.trajectories import Environment
from tts.types import Budget, Candidate, Ended, Problem, Result, by_role

Models = Endpoint | Sampler | Mapping[str, Endpoint | Sampler]
"""One model for the role `policy`, or a model for each role."""

OnCandidate = Callable[[Candidate], None]


async def solve(
    problem: Problem | str,
    strategy: Strategy | str,
    models: Models,
    *,
    verifier: Verifier | str | None = None,
    truth: Verifier | None = None,
    budget: Budget | None = None,
    seed: int = 0,
    stop_early: bool = True,
    store: SampleStore | None = None,
    on_candidate: OnCandidate | None = None,
    folder: Path | None = None,
    environment: Environment | str | None = None,
) -> Result:
    """Run `strategy` on `problem` and return every candidate, the selected one and the cost.

    `strategy` and `verifier` may be specs such as `"best_of_n:n=16"`. With `stop_early` the search ends as soon as
    no further candidate can change the selection, which aborts what is still being generated or verified; the result
    then says `ended="settled"`, and what was delivered too late to be a candidate is `unused`. Otherwise candidates
    that were paid for are always returned: a spent budget, a deadline or a server that fails halfway ends the search,
    not the result. Images are files in `folder`/images, by default below the working directory; a candidate's content
    is the file's name. In an `environment`, by default the problem's, candidates are trajectories.

    `seed` tells repetitions apart, as in a run: of the strategy's own choices and, where the endpoint's params have a
    `seed`, of the samples. Where answers must be read and nothing says how, a reader is chosen from the prompt
    (`tts.readers`), and `warnings` say which.

    Raises `ConfigError` before anything is spent when a role or the verifier is missing, and `EndpointRefused` when
    the endpoint rejects the key or does not know the model.

        result = await tts.solve("What is 6 * 7?", "self_consistency:n=8", endpoint)
        result.answer, result.usage.completion_tokens
    """
    problem = Problem.from_prompt(problem) if isinstance(problem, str) else problem
    chosen: Strategy = registry.make("strategies", strategy) if isinstance(strategy, str) else strategy
    judge: Verifier | None = registry.make("verifiers", verifier) if isinstance(verifier, str) else verifier
    async with open_models(models) as samplers, Resources() as resources:
        given = models.items() if isinstance(models, Mapping) else [("policy", models)]
        await check_models({role: samplers[role] for role, model in given if isinstance(model, Endpoint)})
        place = registry.make("environments", environment) if isinstance(environment, str) else environment
        settings: dict[str, Any] = {"truth": truth, "budget": budget, "seed": seed, "store": store, "folder": folder}
        settings |= {"verifier": judge, "resources": resources, "environment": place}
        said: tuple[str, ...] = ()
        try:
            session = open_session(problem, chosen, samplers, **settings)
        except NoReader as missing:
            reader = None
            with suppress(ConfigError):  # a prompt with pictures
                reader = reader_for(problem_text(problem))
            if reader is None:
                raise missing
            said = (f"answers are read by {reader}, chosen from the prompt; answer=NAME names another",)
            problem = problem.model_copy(update={"answer": reader})
            session = open_session(problem, chosen, samplers, **settings)
        result = await drive(chosen, session, stop_early=stop_early, on_candidate=on_candidate)
        return replace(result, warnings=(*said, *result.warnings))


solve_sync = blocking(solve)
"""`solve` without await, for scripts and notebooks; its models are endpoints."""


@asynccontextmanager
async def open_models(models: Models) -> AsyncIterator[dict[str, Sampler]]:
    """Samplers by role; those made here are closed at the end. Roles with the same endpoint share one."""
    by_role = models if isinstance(models, Mapping) else {"policy": models}
    made: list[Sampler] = []
    async with AsyncExitStack() as stack:

        def sampler(model: Endpoint | Sampler) -> Sampler:
            if isinstance(model, Sampler):
                return model
            known = next((one for one in made if one.endpoint == model), None)
            if known is None:
                known = Sampler(model)
                made.append(known)
                stack.push_async_callback(known.aclose)
            return known

        yield {role: sampler(model) for role, model in by_role.items()}


def open_session(
    problem: Problem,
    strategy: Strategy,
    models: Mapping[str, Sampler],
    *,
    verifier: Verifier | None = None,
    environment: Environment | None = None,
    **settings: Any,
) -> Session:
    """A session for `strategy`, after checking that every role and verifier it needs is there.

    The verifier is as `verifier_of` says; the environment is `environment`, else the one that the problem names.
    """
    if environment is None and problem.environment is not None:
        environment = cast(Environment, registry.make("environments", problem.environment))
    if environment is not None:
        if strategy.in_pieces:
            environment.check_branching(strategy.spec, by_turns=strategy.by_turns, outside=bool(settings.get("agent")))
        problem = environment.entered(problem)
    elif settings.get("agent") is not None:
        raise ConfigError("an agent needs somewhere to act: name an environment, such as --environment workspace")
    verifier = verifier_of(strategy, problem, verifier)
    if verifier is None and strategy.needs_verifier:
        raise ConfigError(
            f"{strategy.spec} needs a verifier: --verifier NAME, or {strategy.name}:verifier=NAME. For a prompt alone "
            "there are judge and agreement; all: tts list verifiers"
        )
    if verifier is not None and strategy.rates_steps and not verifier.rates_partial:
        raise ConfigError(
            f"{strategy.spec} has unfinished answers rated, and {verifier.spec} can rate only whole ones. Use one that "
            f"can (docs/step_search.md says which), or rate steps by whole answers: {strategy.name}:rollouts=4"
        )
    if verifier is not None and strategy.weighs_votes and verifier.scale == "order":
        raise ConfigError(
            f"{strategy.spec} weighs by scores, and those of {verifier.spec} only order candidates. Use a verifier "
            "whose scores are probabilities, shares, log-probabilities or rewards (its scale; see docs/verifiers.md)"
        )
    strategy.ready(problem)
    if verifier is not None:
        verifier.ready(problem)
    endpoints = {role: sampler.endpoint for role, sampler in models.items()}
    policies = drawn_from(strategy, endpoints)
    there = {*models, "policy"} if policies else set(models)
    missing = sorted((strategy.roles | (verifier.roles if verifier else frozenset())) - there)
    if missing:
        raise ConfigError(
            f"{strategy.spec} needs a model for: {', '.join(missing)}. Give one: --models.{missing[0]}.model in tts "
            f"solve, [models.NAME.{missing[0]}] in a run, models={{'{missing[0]}': Endpoint(...)}} in Python"
        )
    budget: Budget | None = settings.get("budget")
    if budget is not None and budget.money is not None:
        check_prices("a cap on money", endpoints)
    return Session(
        problem, models, verifier=verifier, stream=strategy.spec, policies=policies, environment=environment, **settings
    )


async def _search(strategy: Strategy, session: Session, at_least: int) -> AsyncGenerator[Candidate, None]:
    """The candidates of `strategy`, then plain ones, each with its verdict, until there are `at_least` so many."""
    seen: set[int] = set()
    async with aclosing(cast(Any, strategy.search(session.problem, session))) as search:
        async for candidate in search:
            seen.add(candidate.id)
            yield candidate
    if missing := max(0, at_least - len(seen)):
        proposed = session.propose(n=missing)
        async with aclosing(session.verified(proposed) if session.verifier is not None else proposed) as plain:
            async for candidate in plain:
                yield replace(candidate, notes={**candidate.notes, "plain": True})


async def drive(
    strategy: Strategy,
    session: Session,
    *,
    stop_early: bool = True,
    at_least: int = 0,
    on_candidate: OnCandidate | None = None,
    keep_crashes: bool = False,
) -> Result:
    """Run `strategy` in `session` to its end. See `solve`.

    A search that made fewer than `at_least` candidates goes on with plain samples of the problem. With `keep_crashes`
    an error in the strategy's own code ends the search and is noted, instead of being raised.
    """
    candidates: list[Candidate] = []
    places: dict[int, int] = {}
    selected: Candidate | None = None
    ended: Ended = "complete"
    seconds = session.budget.seconds
    deadline = asyncio.timeout(None if seconds is None else max(0.0, seconds - session.elapsed))
    outside = copy_context()  # what a callback starts must not end with the search
    try:
        async with deadline, scope(), aclosing(_search(strategy, session, at_least)) as search:
            async for candidate in search:
                place = places.setdefault(candidate.id, len(candidates))
                candidate = replace(candidate, arrived=place, elapsed=session.elapsed)
                candidates[place : place + 1] = [candidate]
                if on_candidate is not None and place == len(candidates) - 1:
                    outside.run(on_candidate, candidate)
                if stop_early and strategy.settled(selectable(candidates)):
                    ended = "settled"
                    break
    except Exception as error:
        cause = cause_of(error)
        if isinstance(cause, EndpointRefused | ConfigError | StoreError):
            raise cause from None
        if isinstance(cause, BudgetSpent):
            ended = "budget"
        elif isinstance(cause, TimeoutError) and deadline.expired():
            ended = "deadline"
            late = [one for one in session.unverified.values() if one.id not in places]
            for one in late:  # sampled and paid for, but there was no time to verify them
                candidates.append(replace(one, arrived=len(candidates), elapsed=session.elapsed))
        elif isinstance(cause, EndpointError):
            ended = "failed"
            session.ledger.failures.append(str(cause))
        elif keep_crashes:
            ended = "failed"
            session.ledger.failures.append(f"{strategy.name} crashed: {type(cause).__name__}: {cause}")
        else:
            raise
    ledger = session.ledger
    if ledger.failures and (not candidates or (ended == "complete" and all(one.cut_off for one in candidates))):
        ended = "failed"
    warnings: list[str] = []
    ordered = sorted(candidates, key=lambda candidate: candidate.spawned)
    try:
        choice = session.rated(selectable(ordered))
        rated = {candidate.id: candidate for candidate in choice}
        ordered = [rated.get(candidate.id, candidate) for candidate in ordered]
        selected = strategy.select(choice)
        cut = sum(candidate.cut_off for candidate in ordered)
        if cut:
            warnings.append(f"unfinished candidates, cut off by the budget or the strategy: {cut} of {len(ordered)}")
        warnings.append(strategy.warning(ordered))
    except Exception as error:
        if not keep_crashes:
            raise
        ended = "failed"
        ledger.failures.append(f"{strategy.name} cannot select: {type(error).__name__}: {error}")
    loose = frozenset(ledger.needed).difference(*(candidate.charges for candidate in candidates))
    return Result(
        problem=session.problem.id,
        strategy=strategy.spec,
        candidates=tuple(sorted(ordered, key=lambda candidate: candidate.arrived)),
        selected=selected,
        ended=ended,
        spent=by_role(ledger.paid),
        reused=by_role(ledger.reused),
        needed=by_role(ledger.needed),
        wasted=dict(ledger.wasted),
        failures=tuple(ledger.failures),
        warnings=tuple(filter(None, warnings)),
        oracle=ledger.oracle_used,
        seconds=session.elapsed,
        parsed=_parsed(selected, session.problem),
        loose=loose,
    )


def _parsed(selected: Candidate | None, problem: Problem) -> str | None:
    """The answer that a vote or a verifier read in `selected`. Of programs they read what they do, which is none."""
    if selected is None or problem.tests is not None:
        return None
    read = {**(selected.verdict.details if selected.verdict is not None else {}), **selected.notes}
    found = read.get("said", read.get("answer"))
    return found if isinstance(found, str) else None
