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
    known = [track.run.roles(track.model) for track in tracks]
    several = len({roles[role].get("model") for roles in known for role in policies_of(roles)}) > 1
    return (_of_several_models(tracks) if several else None) or "completion_tokens"


def fair_measure(tracks: Sequence[Track]) -> str | None:
    """What the costs of `tracks` compare in: all tokens where one model did all the work, else money, else FLOPs; None
    where the models' cards lack both.
    """
    asked = {track.run.roles(track.model).get(role, {}).get("model") for track, role in _worked(tracks)}
    return "total_tokens" if len(asked) < 2 else _of_several_models(tracks)


def _worked(tracks: Sequence[Track]) -> list[tuple[Track, str]]:
    """The roles of each track whose models read or wrote anything."""
    return [(track, role) for track in tracks for role, usage in track.by_role().items() if usage.total_tokens]


def _of_several_models(tracks: Sequence[Track]) -> str | None:
    cards = [track.run.card(track.model, role) for track, role in _worked(tracks)]
    if all(card.priced for card in cards) and len({card.currency for card in cards}) == 1:
        return "money"
    return "flops" if all(card.parameters is not None for card in cards) else None


def run_currency(track: Track) -> str:
    """The currency of the policy's prices."""
    return track.run.card(track.model, (*policies_of(track.run.roles(track.model)), "policy")[0]).currency
