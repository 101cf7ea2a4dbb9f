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
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, cast
from uuid import uuid4

from pydantic import PositiveInt

from tts import registry
from tts.calls import digest
from tts.concurrency import Flow, flow, now
from tts.errors import BudgetSpent, ConfigError, SamplingFailed
from tts.registry import Plugin
from tts.resources import Resources
from tts.sampler.parameters import merged, token_limit
from tts.types import Charge, Problem, Prompt, Sample, Usage

if TYPE_CHECKING:
    from tts.sampler import Sampler
    from tts.session import Session

ROLE = "environment"
"""Under which the CPU time of steps is accounted."""
CUT = frozenset({"length", "content_filter", "refusal"})
"""Finish reasons of a message that ends a trajectory without its policy having said so."""


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
        """Another episode that goes on from this state, where it can be copied: searches then branch here."""
        raise NotImplementedError(f"{type(self).__name__} cannot be copied")

    async def close(self) -> None:
        """Give up whatever it holds."""


class Environment(Plugin):
    """Where a policy acts. What models make it run belongs in the sandbox (`tts.verifiers.sandbox`)."""

    runs_code: ClassVar[bool] = False
    """Whether it runs programs or commands that models wrote."""
    forks: ClassVar[bool | None] = None
    """Whether its episodes can be copied, so that searches can branch at a turn; None: where they define `fork`."""

    reader: ClassVar[str | None] = None
    """Spec of what compares its answers in votes, for problems that do not say."""

    turns: PositiveInt = 30
    """Messages of the policy in a trajectory, at most."""
    tokens: PositiveInt | None = None
    """Completion tokens of a trajectory, at most."""

    def ready(self, problem: Problem) -> None:
        """Raise `ConfigError` if `problem` lacks what it needs; asked before anything is spent."""

    def entered(self, problem: Problem) -> Problem:
        """`problem` as it is solved here. Raises what `ready` does."""
        self.ready(problem)
        return problem if problem.answer or not self.reader else problem.model_copy(update={"answer": self.reader})

    def check_branching(
        self, strategy: str, *, by_turns: bool = True, outside: bool = False, forks: bool | None = None
    ) -> None:
        """Raise `ConfigError` unless a `strategy` that makes its answers in pieces can make them of turns here.

        `outside` says that an agent from outside takes the turns, `forks` whether an episode can be copied, if known.
        """
        whole = "draw whole trajectories, as best_of_n does"
        if not by_turns:
            raise ConfigError(f"{strategy} writes its answers in pieces, and {self.spec} needs whole messages: {whole}")
        if outside:
            raise ConfigError(f"{strategy} branches at turns, which an outside agent takes by itself: {whole}")
        if False in (self.forks, forks):
            known = registry.names("environments")
            others = [name for name in known if cast("type[Environment]", registry.load("environments", name)).forks]
            raise ConfigError(
                f"{strategy} branches at turns, and {self.name} cannot be copied there. Use one that can be "
                f"({', '.join(others)}), or {whole}"
            )

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
    sampler: Sampler,
) -> AsyncGenerator[Sample, None]:
    """A trajectory for each of `spawns` that begins with `prompt`, as a sample, in the order in which they end.

    `draw` asks the model of `sampler`.

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
        ready, begun = [first], Trajectory.begin(environment, prompt, first)
        try:
            async with aclosing(draw(begun.turns, spawns, params=begun.params(params, sampler))) as samples:
                async for sample in samples:
                    out.start(play(out, ready.pop() if ready else None, begun, sample))
        finally:
            for unused in ready:
                await unused.close()

    async def play(out: Flow[Sample], episode: Episode | None, course: Trajectory, sample: Sample | None) -> None:
        spawn = sample.index if sample is not None else 0
        async with kept_open(episode) as episode:
            while sample is not None:
                course = await course.after(session, episode, sample)
                if course.ended:
                    break
                try:
                    async with aclosing(draw(course.turns, [spawn], params=course.params(params, sampler))) as samples:
                        sample = await anext(samples, None)
                except BudgetSpent:
                    out.emit(course.sample("budget"))
                    raise
            out.emit(course.sample(course.ended or "refused"))  # by the server, as too long; that is noted

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
            session.noted(environment.name, raised)
        finally:
            await episode.close()

    any_came = False
    async with aclosing(flow(begin)) as samples:
        async for sample in samples:
            any_came = True
            yield sample
    if failures and not any_came:
        raise failures[-1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trajectory:
    """What a policy has done so far, and the state that it led to. It is immutable: a turn makes a new one."""

    environment: Environment
    turns: tuple[Any, ...]
    """The conversation, in OpenAI's form."""
    begun: int
    """How many of these messages there were before the policy said anything."""
    tools: Sequence[Mapping[str, Any]] = ()
    samples: tuple[Sample, ...] = ()
    """The messages of the policy, each with what the environment's answer cost too."""
    state: EndState = EndState("")
    ended: str = ""
    """Why it is over: "stop", the cap that was met ("turns" or "tokens"), or why the last message is not whole (its
    finish reason); empty while it goes on."""

    @classmethod
    def begin(cls, environment: Environment, prompt: Prompt, episode: Episode) -> Trajectory:
        """The conversation before the policy says anything. Raises `ConfigError` for a prompt of token ids."""
        if isinstance(prompt, str):
            prompt = [{"role": "user", "content": prompt}]
        turns = [dict(turn) for turn in prompt if isinstance(turn, Mapping)]
        if len(turns) < len(prompt):
            raise ConfigError("a trajectory begins with messages, and not with token ids")
        said = episode.observation
        if said and turns and turns[-1]["role"] == "user" and isinstance(turns[-1]["content"], str):
            turns[-1]["content"] += f"\n\n{said}"  # some templates allow no two messages of the user in a row
        elif said:
            turns.append({"role": "user", "content": said})
        return cls(environment=environment, turns=tuple(turns), begun=len(turns), tools=episode.tools)

    @property
    def charges(self) -> tuple[Charge, ...]:
        """All that led there."""
        return tuple(dict.fromkeys(charge for sample in self.samples for charge in sample.charges))

    def params(self, given: Mapping[str, Any], sampler: Sampler) -> dict[str, Any]:
        """The parameters of the next message: those that are `given`, the tools, and what is left of the tokens."""
        params = merged(given, {"tools": self.tools} if self.tools else {})
        if (left := self._tokens_left()) is not None:
            known = merged(sampler.endpoint.params, params)
            name = token_limit(known)
            params = merged(params, {name: min(known.get(name) or left, left)})
        return params

    async def after(self, session: Session, episode: Episode, sample: Sample) -> Trajectory:
        """What it is after the policy's message `sample`, and what `episode`, which is where it is, answers to it."""
        said: dict[str, Any] = {"role": "assistant", "content": sample.text}
        if sample.tool_calls:
            calls = [{"type": "function", **call} for call in sample.tool_calls]
            if not all(ids := [call.get("id") for call in calls]) or len({*ids}) < len(ids):  # some servers give none
                calls = [{**call, "id": f"call-{len(self.samples) + 1}-{i}"} for i, call in enumerate(calls)]
            said |= {"content": sample.text or None, "tool_calls": calls}
        answered, state = await self._answered(session, episode, sample, said)
        told, done = json.loads(answered.text)
        made = replace(
            self,
            turns=(*self.turns, said, *told),
            samples=(*self.samples, replace(sample, charges=(*sample.charges, *answered.charges))),
            state=state,
        )
        caps = {"turns": len(made.samples) == self.environment.turns, "tokens": made._tokens_left() == 0}
        cap = next((cap for cap, met in caps.items() if met), "")
        why = sample.finish_reason or "" if not sample.tool_calls and sample.finish_reason in CUT else "stop"
        return replace(made, ended=why if done and (why == "stop" or not cap) else cap)

    def _tokens_left(self) -> int | None:
        if self.environment.tokens is None:
            return None
        used = sum(charge.usage.completion_tokens for charge in self.charges)
        return max(0, self.environment.tokens - round(used))

    async def _answered(
        self, session: Session, episode: Episode, sample: Sample, said: Mapping[str, Any]
    ) -> tuple[Sample, EndState]:
        """What the environment answers to a message, as JSON (messages for the policy, and whether it is done), and the
        state that it is in then."""
        began, cpu, done = now(), 0.0, False
        told: list[dict[str, Any]] = []
        for call in said.get("tool_calls", ()):
            observation = await _called(episode, call.get("function") or {})
            told.append({"role": "tool", "tool_call_id": call["id"], "content": observation.text})
            cpu, done = cpu + observation.cpu_seconds, done or observation.done
        if not told:
            observation = await episode.step(sample.text)
            told = [{"role": "user", "content": observation.text}] if observation.text else []
            cpu, done = observation.cpu_seconds, observation.done
        charge = Charge(uuid4().hex, ROLE, Usage(verifier_seconds=cpu, seconds=now() - began), began)
        state = await episode.state()
        answered = Sample(json.dumps([told, done]), role=ROLE, model=state.digest, charges=(charge,))
        session.ledger.paid.add(charge)
        key = digest([ROLE, self.environment.spec, session.problem.id, sample.charges[-1].id])
        kept = (await session.store.get(key, [0])).get(0) if session.store is not None else None
        same = kept is not None and kept.model == state.digest  # it is told again what it was told before
        if session.store is not None and not same:
            await session.store.put(key, answered)
        answered = kept if kept is not None and same else answered
        for charge in answered.charges:
            session.ledger.need(charge, session.place or (sample.index,), reused=same)
        return answered, state

    def sample(self, ended: str = "") -> Sample:
        """The trajectory as a sample, whole or as `ended` says."""
        ended, last = ended or self.ended, self.samples[-1] if self.samples else Sample("")
        content = self.state.content
        kept = {"turns": [*self.turns[self.begun :]], "ended": ended, "state": self.state.digest, **self.state.notes}
        return Sample(
            text=last.text if content is None else content,
            finish_reason=ended,
            charges=self.charges,
            index=self.samples[0].index if self.samples else 0,
            role=last.role,
            model=last.model,
            trajectory=kept if content is None else kept | {"end_state": True},
        )


async def _called(episode: Episode, function: Mapping[str, Any]) -> Observation:
    name, known = str(function.get("name")), [tool["function"]["name"] for tool in episode.tools]
    if name not in known:
        return Observation(f"error: there is no tool '{name[:100]}'; there are: {', '.join(known)}")
    try:
        arguments = json.loads(function.get("arguments") or "{}")
    except (ValueError, RecursionError, TypeError) as error:
        return Observation(f"error: the arguments are not JSON: {error}")
    if not isinstance(arguments, dict):
        return Observation("error: the arguments are not a JSON object")
    return await episode.step(ToolCall(name, arguments))


def in_words(turns: Sequence[Mapping[str, Any]], most: int) -> str:
    """A conversation as text. Of a message longer than `most` characters the middle is left out, and of a tool's output
    longer than half as many."""
    parts = list[str]()
    for turn in turns:
        said = [turn["content"] if isinstance(turn.get("content"), str) else ""]
        for call in turn.get("tool_calls", ()):
            function = call.get("function") or {}
            said.append(f"{function.get('name')} {function.get('arguments')}")
        words = shortened("\n".join(filter(None, said)), most // 2 if turn["role"] == "tool" else most)
        parts.append(f"[{turn['role']}]\n{words}\n\n")
    return "".join(parts)


def shortened(text: str, most: int) -> str:
    """`text` without the middle of what is longer than `most` characters."""
    if len(text) <= most:
        return text
    half = most // 2
    return f"{text[:half]}\n[... {len(text) - 2 * half} characters ...]\n{text[len(text) - half :]}"
