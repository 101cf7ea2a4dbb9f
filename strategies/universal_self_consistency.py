"""Of several answers, the one that a model finds to agree most with the others, which works where none can be parsed.

Universal self-consistency: Chen et al. 2023 (arXiv 2311.17311), section 3.
"""

from __future__ import annotations

from pydantic import PositiveInt

from tts.strategies.company import Prompted
from tts.strategies.gen_select import GenSelect

CONSISTENT = """\
This is a task, with several answers to it:

<task>
$problem
</task>

$candidates

Which answer agrees most with the others in what it comes to? End with a line that says so, in this form:
Choice: its number"""


class UniversalSelfConsistency(GenSelect):
    """N answers, of which a model that reads them all chooses the one that agrees most with the others."""

    window: PositiveInt = 1024
    """Answers that are compared at a time."""
    prompt: Prompted = CONSISTENT
    """What the model is asked, which is to end with `Choice: 2`."""
