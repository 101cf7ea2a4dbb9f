"""Beam search over lines: the likeliest partial answers, each continued by its likeliest next words."""

from collections.abc import AsyncIterator, Sequence

from tts import Candidate, Continuation, Problem, Session, Strategy

Scored = tuple[float, Continuation]
"""A log-probability and the partial answer that has it."""


class BeamSearch(Strategy):
    """Keeps the `width` likeliest partial answers; each grows by a line for each of its `branch` likeliest words."""

    width: int = 2
    """Partial answers kept."""
    branch: int = 3
    """Next words tried for each."""
    lines: int = 8
    """Lines of an answer, at most."""

    async def search(self, problem: Problem, session: Session) -> AsyncIterator[Candidate]:
        beam: list[Scored] = [(0.0, await Continuation.start(session))]
        for line in range(self.lines):
            grown = await session.together(self._children(*one, session) for one in beam)
            ranked = sorted((child for children in grown for child in children), key=lambda child: -child[0])
            for place, (score, answer) in enumerate(ranked):
                if answer.ended or line + 1 == self.lines:
                    yield answer.candidate(spawned=(line, place), score=score)
            beam = [child for child in ranked if not child[1].ended][: self.width]
            if not beam:
                return

    async def _children(self, score: float, answer: Continuation, session: Session) -> list[Scored]:
        peek = await answer.extend(tokens=1, temperature=0, logprobs=True, top_logprobs=self.branch)
        likeliest = sorted((peek.samples[-1].top_logprobs or {}).items(), key=lambda word: -word[1])
        if peek.ended:
            return [(score + likeliest[0][1], peek)]
        known = answer.charged(peek.samples[-1].charges)
        words = [(word, logprob) for word, logprob in likeliest[: self.branch] if not word.startswith("<|")]
        return await session.together(self._line(score + logprob, known, word) for word, logprob in words)

    async def _line(self, score: float, answer: Continuation, word: str) -> Scored:
        begun = await answer.append(word)
        line = await begun.extend(tokens=48, stop="\n", temperature=0, logprobs=True)
        return score + sum(line.samples[-1].logprobs or ()), line

    def select(self, candidates: Sequence[Candidate]) -> Candidate | None:
        return max(candidates, key=lambda candidate: candidate.notes["score"], default=None)

    def settled(self, candidates: Sequence[Candidate]) -> bool:
        return False
