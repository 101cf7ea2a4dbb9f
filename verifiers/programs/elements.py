"""Tests as elements of what is asked for, in words: what each demands, whether it is met, and what happened instead."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

from tts.verifiers.programs.compare import shown
from tts.verifiers.programs.plan import call_text
from tts.verifiers.programs.suite import TestSuite
from tts.verifiers.programs.verdicts import TOLD, Kind


def as_elements(suite: TestSuite, outcomes: Sequence[str], said: Sequence[str]) -> list[dict[str, Any]]:
    """The first tests of `suite` as `details["elements"]`, all of them core; one that was not run is not met."""
    rows = zip_longest(demands(suite)[:TOLD], outcomes[:TOLD], said)
    return [
        {"text": text, "kind": "core", "met": kind == Kind.passed, "why": "it was not run" if why is None else why}
        for text, kind, why in rows
    ]


def demands(suite: TestSuite) -> list[str]:
    """What each test demands, in their order."""
    name = suite.entry_point or ""
    texts = [f"{call_text(name, call.args, call.kwargs)} gives {shown(call.expected)}" for call in suite.calls]
    for one in suite.interactions:
        calls = "; ".join(
            f"{call_text(call.method, call.args, call.kwargs)}" + f" gives {shown(call.expected)}" * call.compared
            for call in one.calls
        )
        texts.append(f"of {call_text(name, one.args, one.kwargs)}: {calls}")
    inputs = suite.reference.inputs if suite.reference else ()
    texts += [f"{call_text(name, args, {})} gives what is right" for args in inputs]
    texts += [f"`{source}` holds" for source in suite.asserts]
    texts += ["all checks pass"] * bool(suite.check)
    texts += [f"on the input {shown(test.input)} it prints {shown(test.output)}" for test in suite.stdin]
    return texts
