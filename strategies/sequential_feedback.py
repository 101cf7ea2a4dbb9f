"""Attempt, be told "wrong" with a hint, attempt again.

The sequential protocol of Balachandran et al. 2025 (arXiv 2504.00294): a critic sees the question and all attempts, is
told that they are wrong and nothing else, and gives a hint without the answer. In the paper the truth decides whether
to go on (`verifier=oracle`, labelled as such); with any other verifier this is a method, with its false acceptances.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from tts.prompting import answer_of, fill, problem_text, template, without_thoughts
from tts.session import Session
from tts.strategies.attempts.sequential import Sequential
from tts.types import Candidate, Problem, Sample

CRITIC = """\
A student tries to solve a problem. All attempts so far were marked wrong; what is right is not known to you either.

<problem>
$problem
</problem>

$attempts

List the final answers that were given, all of which are wrong. Look for where the reasoning fails and what has not \
been considered. Then write a short hint that helps the student to a better attempt. Do not give a final answer."""
AGAIN = """\
That is not right. You have made $count so far. A teacher who has read them says:

$hint

Try again from the beginning, and give your final answer in the form that was asked for."""


class SequentialFeedback(Sequential):
    """Attempts in one conversation; after each rejected one a critic, who knows no more than that, gives a hint."""

    critic: Literal["policy", "judge"] = "policy"
    """The role of the critic; in the paper it is the same model."""
    critic_prompt: Annotated[str, template("problem", "attempts")] = CRITIC
    """What the critic is asked, outside the conversation."""
    again_prompt: Annotated[str, template("count", "hint")] = AGAIN
    """What the student is told."""

    def check(self, session: Session) -> None:
        session.sampler(self.critic)

    async def reply(
        self, problem: Problem, attempts: Sequence[Candidate], session: Session
    ) -> tuple[str, Sequence[Sample]]:
        """The critic's hint; without one the student is only told to try again."""
        shown = "\n\n".join(
            f'<attempt number="{i}">\n{answer_of(attempt)}\n</attempt>' for i, attempt in enumerate(attempts, 1)
        )
        asked = fill(self.critic_prompt, problem=problem_text(problem), attempts=shown)
        said = await session.one([{"role": "user", "content": asked}], role=self.critic)
        hint = without_thoughts(said.text).strip() if said else "Look for your mistake."
        count = "one attempt" if len(attempts) == 1 else f"{len(attempts)} attempts"
        return fill(self.again_prompt, count=count, hint=hint), () if said is None else (said,)
