"""Trajectories that grow turn by turn: a message of the policy, and what an environment answers to it, is a step."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from typing import Any

from tts.continuation import Continuation
from tts.errors import SamplingFailed
from tts.sampler.parameters import merged
from tts.session import Session
from tts.trajectories import Episode, Trajectory, in_words
from tts.types import Sample

SHOWN = 2000
"""Characters of a message in the text of a step, which people see."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnByTurn(Continuation):
    """A trajectory under way. Each way in which it goes on has a copy of the environment of its own.

    Its text is the conversation; as a sample, its text is the state that it has led to.
    """

    trajectory: Trajectory = field(repr=False)
    episode: Episode = field(repr=False)
    copies: AsyncExitStack = field(repr=False)
    """Closes all copies in the end."""
    ids: tuple[int, ...] | None = None

    @classmethod
    async def begin(cls, session: Session, copies: AsyncExitStack) -> TurnByTurn:
        """The beginning of a trajectory in the environment of `session`. Raises `ConfigError` if it has no copies."""
        environment = session.environment
        assert environment is not None
        episode = await environment.reset(session.problem, session.resources)
        copies.push_async_callback(episode.close)
        environment.check_branching(session.stream, forks=getattr(episode.fork, "__func__", None) is not Episode.fork)
        begun = Trajectory.begin(environment, session.problem.messages, episode)
        return cls(session=session.by_message(), heads={"policy": ()}, trajectory=begun, episode=episode, copies=copies)

    async def branch(
        self,
        n: int,
        *,
        role: str | None = None,
        tokens: int | None = None,
        stop: str | Sequence[str] = (),
        **params: Any,
    ) -> list[Continuation]:
        """Up to `n` different next turns, however long; without a limit (`tokens` or `stop`) up to `n` trajectories
        that go on to their ends."""
        grown = await self._next(n, params)
        if tokens is not None or stop:
            return [*grown]
        ends = await self.session.together(one._end(params) for one in grown)
        if not (found := [end for end in ends if end is not None]):
            raise SamplingFailed(f"{self.trajectory.environment.name}: no trajectory came to its end")
        return [*found]

    async def _next(self, n: int, params: dict[str, Any]) -> list[TurnByTurn]:
        """Up to `n` next turns; at least one."""
        known = merged(self.session.sampling, params)
        known = self.trajectory.params(known, self.session.sampler("policy"))
        options = self._options("policy", None, (), known)
        samples = await self._asked([*self.trajectory.turns], n, "policy", options)
        if not samples and self.samples:  # the server refuses the conversation, as too long; it is noted
            return [replace(self, path=(*self.path, 0), ended="refused", before=self)]
        grown = await self.session.together(self._after(sample, place) for place, sample in enumerate(samples))
        if not (made := [one for one in grown if one is not None]):
            raise SamplingFailed(f"{self.trajectory.environment.name}: no turn could be made")
        return made

    async def _after(self, sample: Sample, place: int) -> TurnByTurn | None:
        """What it is after this message; None where the environment fails, which is noted."""
        try:
            episode = await self.episode.fork()
            self.copies.push_async_callback(episode.close)
            made = await self.trajectory.after(self.session, episode, sample)
        except Exception as raised:
            self.session.noted(self.trajectory.environment.name, raised)
            return None
        return replace(
            self,
            path=(*self.path, place),
            text=self.text + in_words(made.turns[len(self.trajectory.turns) :], SHOWN),
            samples=made.samples,
            ended=made.ended,
            before=self,
            trajectory=made,
            episode=episode,
        )

    async def _end(self, params: dict[str, Any]) -> TurnByTurn | None:
        """It at its end; None where it is lost on the way, which is noted."""
        one = self
        while not one.ended:
            try:
                (one,) = await one._next(1, params)
            except SamplingFailed as error:
                self.session.noted(f"a trajectory after {self.path}", error)
                return None
        return one

    def sample(self) -> Sample:
        return replace(self.trajectory.sample(self.ended or "budget"), index=0)
