"""PlanSearch: search over combinations of observations in words, then plans, then programs.

Wang et al. 2024, "Planning In Natural Language Improves LLM Search For Code Generation" (arXiv 2409.03733), section 4.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from pydantic import PositiveInt

from tts.concurrency import flow
from tts.session import Session
from tts.strategies.planning import Planning
from tts.strategies.planning.tree import ObservationTree
from tts.types import Candidate, Problem


class PlanSearch(Planning):
    """Observes, combines the observations, plans with each combination, criticises and improves the plan, writes.

    The model observes; every combination of up to `subset` observations, that of none too, is a node, from which
    further observations are derived, `layers` deep. With each node it sketches a plan; criticism gives a second one;
    each becomes an answer. n1 first and n2 derived observations with subset=2 and layers=2 give l1 = 1 + n1 + C(n1, 2)
    nodes in the first layer, l1 (1 + n2 + C(n2, 2)) in all, and twice as many answers. Nodes with equal observations
    are one, the first, though each layer derives from them again.
    """

    asked: PositiveInt = 10
    """Observations asked for at once (models give 3 to 6 of them)."""
    subset: PositiveInt = 2
    """Observations combined at most, not counting the parent's (the paper's S)."""
    layers: PositiveInt = 2
    """How often observations are derived, the first ones included (the paper's L)."""
    keep_parents: bool = True
    """Whether a combination keeps the observations it is derived from, as the paper says; its code drops them."""
    criticise: bool = True
    """Whether a plan is criticised and improved into a second one."""
    pseudocode: bool = True
    """Whether a plan is turned into exact steps before the answer is written."""
    codes: PositiveInt | None = None
    """Answers at most. Upper layers of the tree come first, then as many from each parent."""

    def search(self, problem: Problem, session: Session) -> AsyncIterator[Candidate]:
        tree = ObservationTree(self, self.author(session, pseudocode=self.pseudocode))
        return self.judged(session, flow(tree.grow))
