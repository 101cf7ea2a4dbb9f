"""Trajectories: what a policy does in an environment, turn by turn, and the state that it leaves behind.

A trajectory is a sample like any other. Its text is the end state, as the environment puts it, and its charges are all
that led there. So strategies draw, verify, compare and select trajectories without knowing of them: the session plays
one wherever it would draw an answer to a problem that has an environment (`Problem.environment`).

Every call to a model is stored under its conversation, as ever, and what the environment said under the call that it
answers. An interrupted trajectory is played again: the answers come from the store, and the environment goes the same
way again. Where it ends up in the same state, the policy is told what it was told before, word by word, so that the
conversation, and what is stored under it, stays the same. Where it does not, the policy is told what it says now, and
what follows is drawn anew.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Protocol
from uuid import uuid4

from pydantic import PositiveInt

from tts.calls import digest
from tts.concurrency import Flow, flow, now
from tts.errors import BudgetSpent, ConfigError, SamplingFailed, own_failure
from tts.registry import Plugin
from tts.resources import Resources
from tts.sampler.parameters import merged, token_limit
from tts.types import Charge, Problem, Prompt, Sample, Usage

if TYPE_CHECKING:
    from tts.session import Session

ROLE = "environment"
"""Under which the CPU time of steps is accounted."""


# -- the contract --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call of one of an episode's tools, with arguments that the policy wrote."""

    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Observation:
    """What an environment answers to an action."""

    text: str = ""
    done: bool = False
    """Whether the trajectory ends here."""
    cpu_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class EndState:
    """The state that an episode is in."""

    digest: str
    """The same for the same state, whichever way it was reached."""
    content: str | None = None
    """The state as a candidate's content, such as a diff; None: the policy's last words are the answer."""
    notes: Mapping[str, Any] = field(default_factory=dict)
    """What else is worth keeping of it: the files that changed."""


class Episode:
    """One course of events in an environment, which a single trajectory goes through."""

    observation: str = ""
    """What the policy is told at the beginning, behind the problem."""
    tools: Sequence[Mapping[str, Any]] = ()
    """What it may call, in OpenAI's form."""

    async def step(self, action: ToolCall | str) -> Observation:
        """Do what a tool call asks for, or answer a message without calls, which ends the trajectory by default.

        What the policy did wrong is told to it as an observation, not raised.
        """
        return Observation(done=True)

    async def state(self) -> EndState:
        """The state that it is in now."""
        raise NotImplementedError

    async def fork(self) -> Episode:
        """Another episode that goes on from this state, where the environment can be copied."""
        raise NotImplementedError(f"{type(self).__name__} cannot be copied")

    async def close(self) -> None:
        """Give up whatever it holds."""


class Environment(Plugin):
    """Where a policy acts. What models make it run belongs in the sandbox (`tts.verifiers.sandbox`)."""

    runs_code: ClassVar[bool] = False
    """Whether it runs programs or commands that models wrote."""

    turns: PositiveInt = 30
    """Messages of the policy in a trajectory, at most."""
    tokens: PositiveInt | None = None
    """Completion tokens of a trajectory, at most."""

    def ready(self, problem: Problem) -> None:
        """Raise `ConfigError` if `problem` lacks what it needs; asked before anything is spent."""

    async def reset(self, problem: Problem, resources: Resources) -> Episode:
        """A new episode, always with the same observation and tools for a problem. It should cost little."""
        raise NotImplementedError


# -- the default loop ----------------------------------------------------------------------------------------------


class Draw(Protocol):
    """Draws answers of the policy, stored and accounted."""

    def __call__(
        self, prompt: Prompt, spawns: Sequence[int], *, params: Mapping[str, Any], apart: int | None = None
    ) -> AsyncGenerator[Sample, None]:
        """Samples of a prompt under these spawn numbers, with these parameters; who asks `apart` has its own."""
        ...


class Agent(Protocol):
    """A policy that is not asked turn by turn but acts by itself, such as an outside program."""

    async def play(
        self,
        session: Session,
        environment: Environment,
        episode: Episode,
        prompt: Prompt,
        spawn: int,
        params: dict[str, Any],
        draw: Draw,
    ) -> tuple[Sample, Exception | None]:
        """A trajectory from `prompt` on whose answers come from `draw`, and the error that it ran into, if any."""
        ...


async def trajectories(
    session: Session,
    environment: Environment,
    prompt: Prompt,
    spawns: Sequence[int],
    params: Mapping[str, Any],
    draw: Draw,
) -> AsyncGenerator[Sample, None]:
    """A trajectory for each of `spawns` that begins with `prompt`, as a sample, in the order in which they end.

    One that fails is noted and lost, and the failure is raised if there is no other. One that the budget cuts off comes
    as it is, with the finish reason "budget".
    """
    failures: list[SamplingFailed] = []

    async def begin(out: Flow[Sample]) -> None:
        if session.agent is not None:
            for spawn in spawns:
                out.start(run(out, session.agent, spawn))
            return
        first = await environment.reset(session.problem, session.resources)
        ready, turns, tools = [first], opened(prompt, first.observation), {"tools": first.tools} if first.tools else {}
        try:
            async with aclosing(draw(turns, spawns, params=merged(params, tools))) as samples:
                async for sample in samples:
                    out.start(play(out, ready.pop() if ready else None, list(turns), sample))
        finally:
            for unused in ready:
                await unused.close()

    async def play(out: Flow[Sample], episode: Episode | None, turns: list[Any], first: Sample) -> None:
        async with kept_open(episode) as episode:
            out.emit(await Trajectory(session, environment, episode, turns, params, draw).played(first, out))

    async def run(out: Flow[Sample], agent: Agent, spawn: int) -> None:
        async with kept_open(None) as episode:
            sample, error = await agent.play(session, environment, episode, prompt, spawn, dict(params), draw)
            out.emit(sample)
            if error is not None:
                raise error

    @asynccontextmanager
    async def kept_open(episode: Episode | None) -> AsyncGenerator[Episode, None]:
        """The episode, or a new one; what fails within loses this trajectory alone."""
        episode = episode or await environment.reset(session.problem, session.resources)
        try:
            yield episode
        except SamplingFailed as error:
            failures.append(error)
        except Exception as raised:
            error = own_failure(raised)
            session.ledger.failures.append(f"{environment.name}: {type(error).__name__}: {error}")
        finally:
            await episode.close()

    any_came = False
    async with aclosing(flow(begin)) as samples:
        async for sample in samples:
            any_came = True
            yield sample
    if failures and not any_came:
        raise failures[-1]


class Trajectory:
    """One trajectory by the default loop: ask the policy, do what it calls for, tell it what came of it."""

    def __init__(
        self,
        session: Session,
        environment: Environment,
        episode: Episode,
        turns: list[Any],
        params: Mapping[str, Any],
        draw: Draw,
    ) -> None:
        self.session = session
        self.environment = environment
        self.episode = episode
        self.turns: list[Any] = turns
        self.params = params
        self.draw = draw
        self.samples: list[Sample] = []
        self.charges: dict[Charge, None] = {}
        self._begin = len(turns)

    async def played(self, first: Sample, out: Flow[Sample]) -> Sample:
        """The whole trajectory, from the policy's `first` message on.

        If the budget ends it, what there is of it is handed `out` before `BudgetSpent` is raised.
        """
        sample: Sample | None = first
        while True:
            self._add(sample)
            if await self._done(sample):
                return await self.sample("stop")
            if len(self.samples) == self.environment.turns:
                return await self.sample("turns")
            if (left := self._tokens_left()) == 0:
                return await self.sample("tokens")
            try:
                sample = await self._ask(first.index, left)
            except BudgetSpent:
                out.emit(await self.sample("budget"))
                raise
            if sample is None:  # the server refuses the conversation, as too long; it is noted
                return await self.sample("refused")

    def _add(self, sample: Sample) -> None:
        self.samples.append(sample)
        self.charges |= dict.fromkeys(sample.charges)
        said: dict[str, Any] = {"role": "assistant", "content": sample.text}
        if sample.tool_calls:
            calls = [
                {"id": f"call-{len(self.samples)}-{i}", "type": "function", **call}
                for i, call in enumerate(sample.tool_calls)
            ]
            said |= {"content": sample.text or None, "tool_calls": calls}
        self.turns.append(said)

    def _tokens_left(self) -> int | None:
        if self.environment.tokens is None:
            return None
        used = sum(charge.usage.completion_tokens for charge in self.charges)
        return max(0, self.environment.tokens - round(used))

    async def _ask(self, spawn: int, left: int | None) -> Sample | None:
        tools = {"tools": self.episode.tools} if self.episode.tools else {}
        params = merged(self.params, tools)
        if left is not None:
            name = token_limit(params)
            params = merged(params, {name: min(params.get(name) or left, left)})
        async with aclosing(self.draw(self.turns, [spawn], params=params)) as samples:
            return await anext(samples, None)

    async def _done(self, sample: Sample) -> bool:
        """Do what the policy's message asks for, and add what came of it to the conversation."""
        began, cpu, done = now(), 0.0, False
        said: list[dict[str, Any]] = []
        for call in self.turns[-1].get("tool_calls", ()):
            observation = await self._call(call.get("function") or {})
            said.append({"role": "tool", "tool_call_id": call["id"], "content": observation.text})
            cpu, done = cpu + observation.cpu_seconds, done or observation.done
        if not said:
            observation = await self.episode.step(sample.text)
            said = [{"role": "user", "content": observation.text}] if observation.text else []
            cpu, done = observation.cpu_seconds, observation.done
        usage = Usage(verifier_seconds=cpu, seconds=now() - began)
        told = Sample(json.dumps([said, done]), role=ROLE, charges=(Charge(uuid4().hex, ROLE, usage, began),))
        told = await self._told_before(sample, replace(told, model=(await self.episode.state()).digest))
        self.charges |= dict.fromkeys(told.charges)
        said, done = json.loads(told.text)
        self.turns += said
        return done

    async def _call(self, function: Mapping[str, Any]) -> Observation:
        name, known = str(function.get("name")), [tool["function"]["name"] for tool in self.episode.tools]
        if name not in known:
            return Observation(f"error: there is no tool '{name[:100]}'; there are: {', '.join(known)}")
        try:
            arguments = json.loads(function.get("arguments") or "{}")
        except (ValueError, RecursionError, TypeError) as error:
            return Observation(f"error: the arguments are not JSON: {error}")
        if not isinstance(arguments, dict):
            return Observation("error: the arguments are not a JSON object")
        return await self.episode.step(ToolCall(name, arguments))

    async def _told_before(self, sample: Sample, told: Sample) -> Sample:
        """What the environment said to the same message before, if it led to the same state, else `told`."""
        store, ledger = self.session.store, self.session.ledger
        key = digest([ROLE, self.environment.spec, self.session.problem.id, sample.charges[-1].id])
        kept = (await store.get(key, [0])).get(0) if store is not None else None
        same = kept is not None and kept.model == told.model
        ledger.paid.update(told.charges)
        if store is not None and not same:
            await store.put(key, told)
        told = kept if kept is not None and same else told
        for charge in told.charges:
            ledger.need(charge, (self.samples[0].index,), reused=same)
        return told

    async def sample(self, ended: str) -> Sample:
        """The trajectory as a sample."""
        state, last = await self.episode.state(), self.samples[-1]
        kept = {"turns": self.turns[self._begin :], "ended": ended, "state": state.digest, **state.notes}
        return Sample(
            text=last.text if state.content is None else state.content,
            finish_reason=ended,
            charges=tuple(self.charges),
            index=self.samples[0].index,
            role=last.role,
            model=last.model,
            trajectory=kept,
        )


def opened(prompt: Prompt, observation: str) -> list[Any]:
    """The conversation at the beginning. Raises `ConfigError` for a prompt of token ids."""
    if isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}]
    turns = [dict(turn) for turn in prompt if isinstance(turn, Mapping)]
    if len(turns) < len(prompt):
        raise ConfigError("a trajectory begins with messages, and not with token ids")
    if observation and turns and turns[-1]["role"] == "user" and isinstance(turns[-1]["content"], str):
        turns[-1]["content"] += f"\n\n{observation}"  # some templates allow no two messages of the user in a row
    elif observation:
        turns.append({"role": "user", "content": observation})
    return turns
