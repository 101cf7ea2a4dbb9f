"""Mixture of agents: Wang et al. 2024 (arXiv 2406.04692), section 2.

In layers, every proposer reads all answers of the layer before and writes one of its own; at the end one of them
aggregates. With a single policy it is Self-MoA: Li et al. 2025 (arXiv 2502.00674), often the stronger one.
"""

from __future__ import annotations

from collections.abc import Sequence

from tts.strategies.company import Prompted, Rounds
from tts.types import Candidate

FUSE = """\
$problem

Several models have answered this:

$candidates

Some of what they say may be wrong, incomplete or beside the point. Check it, keep what holds, and write one answer \
that is better than each of them. Give it in the form that was asked for, without mentioning these answers."""


class Fuse(Rounds):
    """N answers of all policies, fused in layers; the last layer is one answer, by the strongest policy."""

    prompt: Prompted = FUSE
    """What a model is asked that reads `$candidates`, all answers of the layer before."""

    def written(self, previous: Sequence[Candidate], last: bool) -> Sequence[Candidate]:
        return previous[-1:] if last else previous
