from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.support.judging import NEXT, Judged
from tts.resources import Resources
from tts.session import Session
from tts.types import Problem, Verdict
from tts.verifiers.unit_tests import UnitTests


@pytest.fixture
async def resources() -> AsyncIterator[Resources]:
    async with Resources() as made:
        yield made


@pytest.fixture
def judged(resources: Resources) -> Judged:
    async def judge(code: str, tests: dict[str, Any] | None = None, /, **parameters: Any) -> Verdict:
        problem = Problem(id="p", messages="", tests=NEXT if tests is None else tests)
        session = Session(problem, {}, resources=resources)
        verifier = UnitTests(**{"timeout": 20.0, **parameters})
        return await verifier.verify(problem, session.candidate(code), session)

    return judge
