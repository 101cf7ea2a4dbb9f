from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.support.judging import NEXT, Judged
from tts.resources import Resources
from tts.session import Session
from tts.types import Problem, Verdict
from tts.verifiers.programs.judging import VerdictCache
from tts.verifiers.unit_tests import UnitTests

LARGE = ("numpy", "sympy")
"""Modules that take long to import, for every program and its tests anew."""
SHARED = {"kept", "sandbox"}
"""Fixtures of one module's tests, which then share a loop."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if SHARED.intersection(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.asyncio(loop_scope="module"), append=False)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def kept() -> AsyncIterator[Resources]:
    """Processes that are slow to start: one module's tests, which share a loop, share them."""
    async with Resources() as made:
        yield made


@pytest.fixture
def resources(kept: Resources) -> Resources:
    kept.put(VerdictCache())  # each test judges for itself
    return kept


@pytest.fixture
def judged(resources: Resources) -> Judged:
    async def judge(code: str, tests: dict[str, Any] | None = None, /, **parameters: Any) -> Verdict:
        problem = Problem(id="p", messages="", tests=NEXT if tests is None else tests)
        session = Session(problem, {}, resources=resources)
        large = tuple(name for name in LARGE if f"import {name}" in code)
        verifier = UnitTests(**{"timeout": 20.0, "preload": large, **parameters})
        return await verifier.verify(problem, session.candidate(code), session)

    return judge
