"""A vote among answers that may be tool calls: first whether to call or to say something, then which call or what.

Self-consistency (Wang et al. 2022, arXiv 2203.11171) with two calls being the same answer when they name the same
functions with the same arguments, however those are written.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pydantic import PositiveInt

from tts.base import AnswerField, Strategy, answer_classes
from tts.session import Session
from tts.types import Candidate, Problem


class ToolVote(Strategy):
    """N samples; the kind of answer with most votes wins, and in it the most frequent one, the earliest among equals.

    A call whose arguments are not a JSON object does not vote, nor does what a verifier refuses (`verifier=tool_call`
    checks calls against the tools of the request). A text votes by its final answer where `answer` says how that is
    read, else by its words.
    """

    n: PositiveInt = 5
    """Samples."""
    answer: AnswerField | None = None
    """How the final answers of texts are parsed and compared."""

    async def search(self, problem: Problem, session: Session) -> AsyncIterator[Candidate]:
        """The samples, each with its `vote` in `notes`: the kind of answer and the answer itself, or None."""
        known: list[str] = []
        drawn = session.propose(n=self.n)
        async for candidate in session.verified(drawn) if session.verifier else drawn:
            if candidate.tool_calls:
                said = canonical(candidate.tool_calls)
            elif self.answer is not None:
                candidate = await session.classify(candidate, self.answer, known)
                said = candidate.notes["answer"]
            else:
                said = " ".join(candidate.content.split()) or None
            vote = None if said is None else ("call" if candidate.tool_calls else "text", said)
            yield replace(candidate, notes={**candidate.notes, "vote": vote})

    def select(self, candidates: Sequence[Candidate]) -> Candidate | None:
        """The first candidate of the most frequent answer of the most frequent kind; None when nobody votes."""
        voters = [one for one in candidates if one.notes.get("vote") and not _refused(one)]
        kinds = [voter.notes["vote"][0] for voter in voters]
        voters = [voter for voter, kind in zip(voters, kinds, strict=True) if kind == _most_frequent(kinds)]
        votes = _classes(voters)
        voters = [voter for voter, vote in zip(voters, votes, strict=True) if vote == _most_frequent(votes)]
        return voters[0] if voters else None

    def settled(self, candidates: Sequence[Candidate]) -> bool:
        """Whether more than half of all samples say the same."""
        chosen = self.select(candidates)
        if chosen is None:
            return False
        kind = chosen.notes["vote"][0]
        voters = [one for one in candidates if (one.notes.get("vote") or ("",))[0] == kind and not _refused(one)]
        votes = _classes(voters)
        return votes.count(votes[voters.index(chosen)]) * 2 > self.n


def _classes(voters: Sequence[Candidate]) -> list[str | None]:
    """What each of the voters, all of one kind, votes for."""
    return answer_classes([{**voter.notes, "answer": voter.notes["vote"][1]} for voter in voters])


def _most_frequent(votes: Sequence[Any]) -> Any:
    return max(dict.fromkeys(votes), key=votes.count, default=None)


def _refused(candidate: Candidate) -> bool:
    return candidate.verdict is not None and candidate.verdict.passed is False


def canonical(calls: Sequence[Mapping[str, Any]]) -> str | None:
    """Functions and arguments of a set of calls in one form; None where the arguments are not JSON objects."""
    said = []
    for call in calls:
        function = call.get("function") or {}
        try:
            arguments = json.loads(function.get("arguments") or "{}")
        except (ValueError, RecursionError):
            return None
        if not isinstance(arguments, dict):
            return None
        said.append(json.dumps([function.get("name"), arguments], sort_keys=True))
    return json.dumps(sorted(said))
