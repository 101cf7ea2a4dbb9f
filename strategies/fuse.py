"""Mixture of agents: Wang et al. 2024 (arXiv 2406.04692), section 2.

In layers, every proposer reads all answers of the layer before and writes one of its own; at the end one of them
aggregates. With a single policy it is Self-MoA: Li et al. 2025 (arXiv 2502.00674), often the stronger one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tts.errors import ConfigError
from tts.policies import PolicyNames
from tts.session import Session
from tts.strategies.company import Prompted, Rounds
from tts.types import Candidate

FUSE = """\
$problem

Several models have answered this:

$candidates

Some of what they say may be wrong, incomplete or beside the point. Check it, keep what holds, and write one answer \
that is better than each of them. Give it in the form that was asked for, without mentioning these answers."""


class Fuse(Rounds):
    """N answers of all policies, fused in layers; the last layer is one answer, by the strongest policy.

    `n=1,proposers=expert` is SCALE: the draft of a small expert in the context of a large model (Cheng et al. 2023,
    arXiv 2309.17061, section 2), which may be shown other drafts with their solutions in the `prompt`.
    """

    proposers: PolicyNames = ()
    """The policies that write all layers but the last; by default all."""
    prompt: Prompted = FUSE
    """What a model is asked that reads `$candidates`, all answers of the layer before."""

    def check_policies(self, policies: Mapping[str, str]) -> None:
        for name in self.proposers:
            if f"policy.{name}" not in policies:
                raise ConfigError(f"{self.spec}: no policy '{name}' to propose; there are: {', '.join(policies)}")

    def first(self, session: Session) -> Sequence[str]:
        named = [f"policy.{name}" for name in self.proposers]
        return [role for role in session.policies if role in named] or session.policies

    def written(self, previous: Sequence[Candidate], last: bool) -> Sequence[Candidate]:
        return previous[-1:] if last else previous

    def writer(self, before: Candidate, session: Session, last: bool) -> str:
        return session.policies[-1] if last else super().writer(before, session, last)
