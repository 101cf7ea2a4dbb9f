"""What accuracy is drawn against unless somebody asks for another measure of compute."""

from __future__ import annotations

from collections.abc import Sequence

from tts.policies import policies_of
from tts.runs.run import Track


def usual_measure(tracks: Sequence[Track]) -> str:
    """Generated tokens, but money, else FLOPs, where the policies of `tracks` are different models.

    Tokens of different models are not the same compute. They are the measure all the same where cards lack prices in
    one currency and parameters.
    """
    known = [(track, track.run.roles(track.model)) for track in tracks]
    if len({roles[role].get("model") for _, roles in known for role in policies_of(roles)}) < 2:
        return "completion_tokens"
    cards = [
        track.run.card(track.model, role)
        for track, _ in known
        for role, usage in track.by_role().items()
        if usage.total_tokens
    ]
    if all(card.priced for card in cards) and len({card.currency for card in cards}) == 1:
        return "money"
    return "flops" if all(card.parameters is not None for card in cards) else "completion_tokens"


def run_currency(track: Track) -> str:
    """The currency of the policy's prices."""
    return track.run.card(track.model, (*policies_of(track.run.roles(track.model)), "policy")[0]).currency
