"""What a strategy sees of the world: one session for each problem, the only door to models and verifiers."""

from __future__ import annotations

import asyncio
import hashlib
import sys
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    Awaitable,
    Callable,
    Coroutine,
    Hashable,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import aclosing, suppress
from dataclasses import replace
from functools import cached_property, partial
from itertools import count, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import uuid4

from tts.accounts import Ledger, Quota
from tts.calls import Calls, digest
from tts.concurrency import LARGE, Once, aside, closing, concurrent_map, now, together
from tts.errors import BudgetSpent, ConfigError, EndpointError, EndpointRefused, UnreadableKey, cause_of, own_failure
from tts.files import ImageFolder
from tts.policies import is_policy, others, policies_of, up
from tts.resources import Resources, SampleStore
from tts.sampler.parameters import LENGTHS, merged
from tts.sampler.sampler import Sampler, StopRule
from tts.sampler.scoring import TokenScores
from tts.text import size_of
from tts.trajectories import Agent, Environment, trajectories
from tts.types import Budget, Candidate, Charge, Problem, Prompt, Sample, Usage, Verdict, total

if TYPE_CHECKING:
    import numpy as np

    from tts.base import AnswerVerifier, Verifier

T = TypeVar("T")

NO_BUDGET, HERE = Budget(), Path()
IN_PIECES = frozenset({"draft", "target"})
"""Roles that write an answer together, piece by piece."""


Turn = Callable[[int, Sequence[Candidate], Usage], Awaitable[int]]
"""Given how many samples the search has asked for, the candidates so far and what they cost: how many it may draw next,
when it is its turn."""


class Session:
    """One strategy at work on one problem. Everything it calls is accounted, budgeted, stored and cancellable.

    Streams (`sample`, `propose`, `verified`, `classified`) may be left at any point: whoever drives the search stops
    the work behind them.
    """

    def __init__(
        self,
        problem: Problem,
        models: Mapping[str, Sampler],
        *,
        verifier: Verifier | None = None,
        truth: Verifier | None = None,
        budget: Budget | None = None,
        seed: int = 0,
        stream: str = "",
        store: SampleStore | None = None,
        resources: Resources | None = None,
        folder: Path | None = None,
        sampling: Mapping[str, Any] | None = None,
        form: Mapping[str, Any] | None = None,
        shared: Mapping[str, Any] | None = None,
        quota: Quota | None = None,
        forgiving: bool = False,
        turn: Turn | None = None,
        policies: Sequence[str] = (),
        environment: Environment | None = None,
        agent: Agent | None = None,
    ) -> None:
        """`seed` and `stream` (a name, such as the strategy's) determine `rng`; `seed` is part of stored addresses.

        Files go to `folder`, by default the working directory. `sampling` overrides the endpoint's parameters for
        the models that write the answer (the policy, or draft and target). `form` does so in the calls alone that write
        the answer: its length, tools, response format, where it stops. `shared` are parameters that other searches need
        which use the policy's samples too. `quota` is what it shares with other sessions. With
        `forgiving`, a verifier whose server refuses every request costs the candidates their verdicts, and not the
        search. `turn` lets searches that share a total budget take turns. `policies` are the roles that it may draw
        from, by default all that are policies. In an `environment` each sample of an answer is a trajectory, which
        the `agent`, if there is one, goes through by itself.
        """
        self.problem = problem
        self._judged = problem
        self.turn = turn
        self.budget: Budget = budget or NO_BUDGET
        self.environment = environment
        self.agent = agent
        self.plays: bool = environment is not None
        """Whether a sample of an answer is a trajectory, and not a single message."""
        self.verifier = verifier
        self.resources: Resources = resources if resources is not None else Resources()
        self.ledger: Ledger = Ledger()
        self.images: ImageFolder = ImageFolder(folder or HERE)
        self.seed = seed
        self.unverified: dict[int, Candidate] = {}
        """Candidates that are not given yet, most of them for want of their verdict, by id or another number."""
        self._stream = stream
        self._calls = Calls(models, self.ledger, self.budget, store, self.images, seed, quota)
        self._truth = truth
        self._forgiving = forgiving
        self._policies = tuple(policies) or policies_of(models)
        self._spawned = count()
        self.place: tuple[int, ...] | None = None
        """Where on the axis of compute its work stands; None: at each sample's own number."""
        self._recorded: set[Charge] = set()
        self._ids = count()
        self._equal: dict[tuple[str, str, str], bool] = {}
        self._made: Once[tuple[Any, BaseException | None, set[Charge]]] = Once(sys.maxsize)
        self.sampling: Mapping[str, Any] = sampling or {}
        """What overrides the endpoint's parameters in every call of the models that write the answer."""
        self._form = {role: form or {} for role in IN_PIECES}
        self._form["policy"] = {**(form or {}), **(shared or {}), **(verifier.sampling if verifier is not None else {})}
        self.longest: int | None = min((form[name] for name in LENGTHS if form and form.get(name)), default=None)
        """Most tokens of an answer that grows piece by piece, thoughts apart; None: as the strategy says."""
        self._began = now()

    def __repr__(self) -> str:
        return f"Session(problem={self.problem.id!r}, strategy={self._stream!r}, seed={self.seed})"

    @cached_property
    def rng(self) -> np.random.Generator:
        """Random numbers that depend on the seed, the problem and the strategy alone."""
        import numpy as np  # here, so that asking one question does not load it

        digest = hashlib.blake2b(f"{self.seed}\0{self.problem.id}\0{self._stream}".encode(), digest_size=16)
        return np.random.default_rng(int.from_bytes(digest.digest(), "big"))

    @property
    def stream(self) -> str:
        """The name of the strategy, and of what it is at work on."""
        return self._stream

    @property
    def store(self) -> SampleStore | None:
        """Where answers are kept."""
        return self._calls.store

    @property
    def elapsed(self) -> float:
        """Seconds since the session began."""
        return now() - self._began

    @property
    def spent(self) -> Usage:
        """What the search needed so far: what it would have cost alone (see `tts.accounts.Tariff`)."""
        return total(self.ledger.needed)

    def settle(self, tokens: float, money: float) -> None:
        """Count in the quota what the session spent in all, failed work included, now that it has ended."""
        self._calls.allowance.settle(tokens, money)

    def calls_with_room(self, roles: Iterable[str]) -> float:
        """How many further samples by `roles` the budget has room for, whatever they say, if prompts are no longer than
        those so far; infinite without caps."""
        return self._calls.calls_with_room(map(self._role, roles))

    def sampler(self, role: str) -> Sampler:
        """The sampler of `role`. Raises `ConfigError` naming the roles that exist."""
        return self._calls.sampler(self._role(role))

    @property
    def policies(self) -> tuple[str, ...]:
        """The roles of the policies to draw from: `policy`, or those of a set that are not down, the strongest last."""
        return up(self._policies, self._calls.models, self.ledger)

    @property
    def every_policy(self) -> dict[str, str]:
        """The models of all policies to draw from by role, of those too that are down."""
        return {role: self._calls.sampler(role).endpoint.model for role in self._policies}

    def _with(self, **changes: Any) -> Session:
        view = object.__new__(type(self))  # a quarter of the time of `copy`: each node of a search needs some
        view.__dict__ |= self.__dict__ | changes
        if "_stream" in changes:
            view.__dict__.pop("rng", None)
        return view

    def on(self, policy: str) -> Session:
        """This session with one of the `policies` as the policy."""
        return self._with(_policies=(policy,))

    def by_message(self) -> Session:
        """This session where a sample of an answer is a single message, in an environment too."""
        return self._with(plays=False)

    def asking(self, problem: Problem) -> Session:
        """This session for work on its problem asked in other words, those of `problem`; verifiers see its own."""
        return self._with(problem=problem)

    def _role(self, role: str) -> str:
        return self.policies[-1] if role == "policy" and self._policies else role

    # -- sampling --------------------------------------------------------------------------------------------------

    def sample(
        self,
        prompt: Prompt | None = None,
        *,
        n: int = 1,
        role: str = "policy",
        inner: bool = False,
        stop_when: StopRule | None = None,
        **params: Any,
    ) -> AsyncGenerator[Sample, None]:
        """`n` samples of `prompt` (by default the problem's own), as they complete.

        An `inner` call makes something on the way to an answer (a plan, a critique, a thought): it is not held to the
        form that the answer must have, such as a response format. Stored answers to the same prompt and parameters come
        first and cost nothing new. Spawn numbers are assigned now, in the order of the calls. A sample whose request
        the server rejects is left out and noted in `ledger.failures`. `stop_when` ends samples early (see
        `Sampler.sample`). Raises `BudgetSpent` after the last sample that the budget allows, and `SamplingFailed` when
        the server answers none.
        """
        prompt = self.problem.messages if prompt is None else prompt
        spawns, role = list(islice(self._spawned, n)), self._role(role)
        if (form := self._form.get("policy" if is_policy(role) else role)) is not None:
            params = merged(self.sampling, {} if inner else form, params)
            if self.environment is not None and self.plays and not inner:
                if stop_when is not None:
                    raise ConfigError(f"{self._stream} ends answers early, which trajectories are not: use another")
                draw = partial(self._calls.samples, role=role, place=self.place)
                drawn = trajectories(self, self.environment, prompt, spawns, params, draw, self._calls.sampler(role))
                return self._recording(drawn, role)
        return self._recording(self._calls.samples(prompt, spawns, role, params, self.place, stop_when), role)

    async def _recording(self, drawn: AsyncGenerator[Sample, None], role: str) -> AsyncGenerator[Sample, None]:
        try:
            async with aclosing(drawn) as samples:
                async for sample in samples:
                    self._recorded.update(sample.charges)
                    yield sample
        except EndpointError as error:
            if isinstance(error, EndpointRefused) or not others(role, self._calls.models, self.ledger.left_out):
                raise
            self.ledger.leave_out(role, str(error))

    async def one(
        self, prompt: Prompt | None = None, *, role: str = "policy", inner: bool = False, **params: Any
    ) -> Sample | None:
        """One sample of `prompt`, as `sample` gives it; None where the server rejects this very request."""
        async with aclosing(self.sample(prompt, role=role, inner=inner, **params)) as samples:
            return await anext(samples, None)

    async def score(
        self, prompt: Prompt, continuation: str | Sequence[int], *, role: str = "target", special: bool = True
    ) -> TokenScores:
        """Log-probability of every token of `continuation` after `prompt` under the role's model, stored like samples.

        See `tts.sampler.scoring.score` for where tokens begin and what `special` is. Raises `ConfigError` where the
        server cannot score, `BudgetSpent` once the budget allows no more, and `EndpointError` when this score fails.
        """

        role = self._role(role)

        async def ask(session: Session) -> TokenScores:
            scores = await self._calls.scores(prompt, continuation, role, special)
            session._recorded.update(scores.charges)
            return scores

        if self._calls.store is None:
            return await ask(self)
        return await self.once(("score", role, special, digest([prompt, continuation])), ask)  # also side by side

    async def post(self, path: str, body: Mapping[str, Any], *, role: str) -> Any:
        """The JSON answer of the role's server to `body`, for what is not a sample: a reward, an embedding.

        The model is filled in; `path` is relative to the base URL. The same request is sent once, and its answer
        stored.
        """

        role = self._role(role)

        async def ask(session: Session) -> Any:
            data, charges = await self._calls.post(path, body, role)
            session._recorded.update(charges)
            return data

        return await self.once(("post", role, path, await aside(size_of(body, LARGE, 16), digest, body)), ask)

    async def post_joined(self, path: str, bodies: Sequence[Mapping[str, Any]], *, field: str, role: str) -> None:
        """Send in one request what `post` will be asked with each of `bodies`, which differ in `field`, a list there.

        Each then finds its part of the answer, and all carry the cost of the whole. What was sent before is left out;
        where the server does not answer a list, each will be sent by itself.
        """
        with suppress(EndpointError, BudgetSpent):  # which each will meet by itself
            await self._calls.post_joined(path, bodies, field, role)

    async def foresee(self, candidates: Sequence[Candidate]) -> None:
        """Let the verifier ask in one request for what it needs to rate all of `candidates`, which share its cost."""
        if self.verifier is not None and len(candidates) > 1:
            await self.verifier.foresee(self._judged, candidates, self.asking(self._judged))

    async def once(self, key: Hashable, make: Callable[[Session], Awaitable[T]]) -> T:
        """The result of `make(session)`, made once for this problem however many candidates need it.

        All who ask carry its cost. If it fails, all of them fail with its error.
        """

        async def made() -> tuple[Any, BaseException | None, set[Charge]]:
            inner = self._inner(str(key))
            try:
                return await make(inner), None, inner._recorded
            except Exception as error:
                return None, own_failure(error), inner._recorded

        (value, error, charges), _ = await self._made.get(key, made)
        self._recorded |= charges
        if error is not None:
            raise error
        return value

    async def priced(self, make: Callable[[Session], Awaitable[T]]) -> tuple[T, frozenset[Charge]]:
        """The result of `make(session)`, and what it cost."""
        inner = self._inner("priced")
        made = await make(inner)
        self._recorded |= inner._recorded
        return made, frozenset(inner._recorded)

    async def remember(self, about: Any, value: str) -> str:
        """`value`, or what an interrupted run remembered about the same: for decisions that must not fall twice."""
        if (store := self._calls.store) is None:
            return value
        key = digest(["remember", self._stream, self.problem.id, self.seed, about])
        if stored := (await store.get(key, [0])).get(0):
            return stored.text
        await store.put(key, Sample(value))
        return value

    async def together(self, works: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
        """Run `works` side by side and return their results in order; an error cancels the others."""
        return await together(works)

    # -- candidates and verdicts -------------------------------------------------------------------------------------

    def candidate(
        self,
        content: str | Sample,
        *samples: Sample,
        parents: Sequence[Candidate] = (),
        spawned: tuple[int, ...] | None = None,
        charges: Iterable[Charge] = (),
        partial: bool = False,
        **notes: Any,
    ) -> Candidate:
        """A candidate made of `samples` and `parents`, with everything they cost, and `charges` on top.

        `content` may be the sample that is the answer. `spawned` defaults to the answer's spawn number. `partial` marks
        a step on the way to an answer.
        """
        if isinstance(content, Sample):
            samples, content = (*samples, content), content.text
        if samples and samples[-1].trajectory is not None:
            notes["trajectory"] = samples[-1].trajectory
        paid = frozenset(charges).union(*(one.charges for one in (*samples, *parents)))
        number = next(self._ids)
        return Candidate(
            id=number,
            content=content,
            spawned=spawned or (samples[-1].index if samples else number,),
            samples=samples,
            parents=tuple(parent.id for parent in parents),
            charges=paid,
            partial=partial,
            notes=notes,
        )

    def propose(
        self,
        prompt: Prompt | None = None,
        *,
        n: int = 1,
        role: str = "policy",
        stop_when: StopRule | None = None,
        **params: Any,
    ) -> AsyncGenerator[Candidate, None]:
        """`sample`, each as a candidate."""
        return self._proposed(self.sample(prompt, n=n, role=role, stop_when=stop_when, **params))

    async def _proposed(self, drawn: AsyncGenerator[Sample, None]) -> AsyncGenerator[Candidate, None]:
        async with aclosing(drawn) as samples:
            async for sample in samples:
                yield self.candidate(sample)

    async def verify(self, candidate: Candidate, verifier: Verifier | None = None) -> Verdict:
        """The verdict of `verifier` (by default the session's), with its cost.

        A verifier that fails, or whose score is not a finite number, gives a verdict without a score, and the failure
        is noted; the candidate is not lost.
        """
        verifier = verifier or self.verifier
        if verifier is None:
            raise ConfigError("this run has no verifier; name one (--verifier, or `verifier` of the strategy)")
        if self.budget.verifier_seconds is not None:
            self._calls.allowance.check_verifier()
        inner = self._inner(f"{verifier.name}\0{candidate.spawned}", candidate.spawned)
        inner.problem = self._judged
        if candidate.samples and candidate.samples[-1].role in self._policies:  # who wrote it is asked about it
            inner._policies = (candidate.samples[-1].role,)
        self.ledger.verdicts += 1
        clock = asyncio.get_running_loop().time
        began = clock()
        try:
            verdict = await verifier.verify(self._judged, candidate, inner)
        except Exception as raised:
            words = self.noted(verifier.name, raised, forgiving=self._forgiving)
            verdict = Verdict(None, details={"error": words})
        if verdict.invalid:
            self.ledger.failures.append(f"{verifier.name}: {verdict.details['error']}")
        if verdict.score is None and verdict.passed is None:
            self.ledger.lost_verdicts.append(f"{verifier.name}: {verdict.details.get('error') or 'it gave no rating'}")
        if verdict.cpu_seconds and not verdict.charges:
            inner.pay_verifier(verdict.cpu_seconds, clock() - began)
        if verdict.cpu_seconds:
            self.ledger.paid |= verdict.charges
        for charge in verdict.charges:  # of work that may be remembered: who is told only its outcome is charged too
            self.ledger.need(charge, candidate.spawned, reused=True)
        charges = verdict.charges | inner._recorded
        self._recorded |= charges
        return replace(verdict, charges=charges, scale=verdict.scale or verifier.scale)

    async def judged(self, candidate: Candidate, verifier: Verifier | None = None) -> Candidate:
        """`candidate` with its verdict and what that cost."""
        verdict = await self.verify(candidate, verifier)
        return replace(candidate, verdict=verdict, charges=candidate.charges | verdict.charges)

    def rated(self, candidates: Sequence[Candidate]) -> Sequence[Candidate]:
        """`candidates` as the session's verifier rates them in each other's company; what is no number is noted."""
        if self.verifier is None:
            return candidates
        rated = self.verifier.among(candidates)
        for before, after in zip(candidates, rated, strict=True):
            new = sorted(_errors(after.verdict) - _errors(before.verdict))
            self.ledger.failures += [f"{self.verifier.name}: {words}" for words in new]
        return rated

    async def verified(
        self, candidates: AsyncIterable[Candidate], verifier: Verifier | None = None
    ) -> AsyncGenerator[Candidate, None]:
        """`candidates` with their verdicts, each verified as it arrives, in the order the verdicts are ready.

        A candidate that the budget leaves no room to verify comes without a verdict; `BudgetSpent` is raised at the
        end.
        """
        spent: BudgetSpent | None = None

        async def one(candidate: Candidate) -> Candidate:
            nonlocal spent
            self.unverified[candidate.id] = candidate
            try:
                candidate = await self.judged(candidate, verifier)
            except BudgetSpent as error:
                spent = error
                return candidate
            self.unverified.pop(candidate.id, None)
            return candidate

        async with aclosing(concurrent_map(one, candidates)) as results:
            async for candidate in results:
                yield candidate
        if spent is not None:
            raise spent

    async def classify(self, candidate: Candidate, reader: AnswerVerifier, known: list[str]) -> Candidate:
        """`candidate` with its answer in `notes`, as `compared` gives it, and what finding it cost.

        `known` are the answers so far, to which a new one is added: classify one candidate after the other. An answer
        whose comparison fails has no class, and the failure is noted; nor has one that the budget leaves no room for.
        """
        inner, found = self._inner(f"{reader.name}\0{candidate.spawned}", candidate.spawned), {"answer": None}
        try:
            found = await inner.compared(candidate.content, reader, known)
        except Exception as raised:
            if not isinstance(cause_of(raised), BudgetSpent):  # which the next sample meets; this one is paid for
                self.noted(reader.name, raised)
        self._recorded |= inner._recorded
        notes = {**candidate.notes, **found}
        return replace(candidate, notes=notes, charges=candidate.charges | inner._recorded)

    async def compared(self, text: str, reader: AnswerVerifier, known: list[str]) -> dict[str, Any]:
        """What a vote needs to know of the answer in `text`, for `tts.base.answer_classes`.

        `answer` is the first of the `known` answers that means the same, or the answer itself, which is then added to
        them, or None. Where others mean the same, `said` is the answer itself, and `alike` has all of those others: to
        mean the same need not be transitive (10 m, 10, 10 cm), and classes must not depend on who was compared first.
        """
        answer = await reader.read(text, self)
        if answer is None:
            return {"answer": None}
        alike = []
        for other in known:
            if other == answer:
                continue
            pair = (reader.spec, min(answer, other), max(answer, other))
            if pair not in self._equal:
                self._equal[pair] = await reader.equal(answer, other, self)
            if self._equal[pair]:
                alike.append(other)
        if answer not in known:
            known.append(answer)
        first = next(other for other in known if other == answer or other in alike)
        return {"answer": first, "said": answer, "alike": alike} if alike else {"answer": answer}

    async def classified(
        self, candidates: AsyncIterable[Candidate], reader: AnswerVerifier, known: list[str] | None = None
    ) -> AsyncGenerator[Candidate, None]:
        """`candidates`, each with the class of its answer in `notes["answer"]` as `reader` finds it, for votes."""
        known = [] if known is None else known
        async with closing(candidates):
            async for candidate in candidates:
                yield await self.classify(candidate, reader, known)

    async def consult_truth(self, candidate: Candidate) -> Verdict:
        """The hidden truth's verdict, for the `oracle` verifier only: it labels the result for good."""
        if self._truth is None:
            raise ConfigError("the oracle needs a task that has a truth; this problem has none")
        self.ledger.oracle_used = True
        return await self._truth.verify(self.problem, candidate, self)

    def pay_verifier(self, cpu_seconds: float, seconds: float) -> None:
        """Book CPU time spent on checking the candidate at hand; the work began `seconds` ago."""
        charge = Charge(uuid4().hex, "verifier", Usage(verifier_seconds=cpu_seconds, seconds=seconds), now() - seconds)
        self.ledger.paid.add(charge)
        self.ledger.need(charge, self.place)
        self._recorded.add(charge)

    def noted(self, name: str, raised: Exception, *, forgiving: bool = False) -> str:
        """Note a failure that concerns one candidate alone; raise again what ends the search.

        To the `forgiving`, a server that refuses every request does not.
        """
        forgiven = forgiving and isinstance(cause_of(raised), EndpointRefused | UnreadableKey)
        try:
            error = cause_of(raised) if forgiven else own_failure(raised)
        finally:
            del raised  # as in `own_failure`
        words = f"{type(error).__name__}: {error}"
        self.ledger.failures.append(f"{name}: {words}")
        return words

    def at(self, place: tuple[int, ...]) -> Session:
        """This session for work towards candidates spawned at `place`: what it costs is charged there if none comes of
        it. Its random numbers are its own."""
        return self._with(place=place, _stream=f"{self._stream}\0{place}")

    def _inner(self, stream: str, place: tuple[int, ...] | None = None) -> Session:
        """A session with the same ledger and budget, but a record and random numbers of its own."""
        form = {role: form for role, form in self._form.items() if role in IN_PIECES}
        own = {"_recorded": set(), "unverified": {}, "_spawned": count(), "plays": False, "_form": form}
        return self._with(**own, place=place or self.place, _stream=f"{self._stream}\0{stream}")


def _errors(verdict: Verdict | None) -> set[str]:
    """What went wrong in a verdict and in those that it is made of."""
    details = [verdict.details] if verdict is not None else []
    for one in details:
        details += [part["details"] for part in one.get("parts", ()) if "details" in part]
    return {str(one["error"]) for one in details if "error" in one}
