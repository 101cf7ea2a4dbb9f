"""The calls behind a run's charges, in order of time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tts.runs.run import Track
from tts.types import USAGE_FIELDS, Charge, Usage


@dataclass(frozen=True, slots=True)
class TimedCall:
    """One call to a model or a verifier, in seconds of Unix time."""

    lane: int | None
    """The sample that it was made for; None where that never became a candidate."""
    kind: str
    """Its role; `target scoring` for one that scored given text."""
    start: float
    end: float
    prompt_tokens: float = 0
    completion_tokens: float = 0


def calls_of(charges: Iterable[tuple[int | None, Charge]]) -> list[TimedCall]:
    """The calls behind charges, each with its lane, in order of time.

    A completion is charged apart from the prompt that it may share with others, a score together with its prompt.
    """
    charges = list(charges)
    prompts = {
        (charge.role, charge.started): charge.usage.prompt_tokens for _, charge in charges if not charge.usage.seconds
    }
    found = []
    for lane, charge in charges:
        usage = charge.usage
        if usage.seconds:
            kind = f"{charge.role} scoring" if usage.requests else charge.role
            prompt = usage.prompt_tokens or prompts.get((charge.role, charge.started), 0)
            end = charge.started + usage.seconds
            found.append(TimedCall(lane, kind, charge.started, end, prompt, usage.completion_tokens))
    return sorted(found, key=lambda call: call.start)


def calls(track: Track, problem: str | None = None) -> list[TimedCall]:
    """Every call that was answered, for one `problem` or all, in order of time; its lane is its sample.

    Answers that another strategy of the run paid for stand where they were made.
    """
    query = f"""SELECT cell, charges.position, role, started, {", ".join(f"charges.{name}" for name in USAGE_FIELDS)}
                FROM charges JOIN cells ON cells.id = cell
                WHERE strategy = ? AND model = ? AND (? IS NULL OR problem = ?) ORDER BY cell, charges.position"""
    rows = track.run.db.execute(query, (track.strategy, track.model, problem, problem)).fetchall()
    places = dict.fromkeys(row[:2] for row in rows if row[1] is not None and row[1] >= 0)
    lanes = {place: lane for lane, place in enumerate(places)}
    return calls_of(
        (lanes.get((cell, position)), Charge("", role, Usage(*usage), started))
        for cell, position, role, started, *usage in rows
    )
