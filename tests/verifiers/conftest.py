from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.support.judging import NEXT, Judged
from tts.session import Session
from tts.shared import Shared
from tts.types import Problem, Verdict
from tts.verifiers.unit_tests import UnitTests


@pytest.fixture
async def shared() -> AsyncIterator[Shared]:
    async with Shared() as made:
        yield made


@pytest.fixture
def judged(shared: Shared) -> Judged:
    async def judge(code: str, tests: dict[str, Any] | None = None, /, **parameters: Any) -> Verdict:
        problem = Problem(id="p", messages="", tests=NEXT if tests is None else tests)
        session = Session(problem, {}, shared=shared)
        verifier = UnitTests(**{"timeout": 20.0, **parameters})
        return await verifier.verify(problem, session.candidate(code), session)

    return judge
