"""Tests that the model writes show the fault in the folder as it was, or do not count."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from tests.support.acting import acting, policy
from tts import MockModel, Problem, Verdict, registry, solve
from tts.environments.folder import difference, folder_of
from tts.resources import Resources
from tts.session import Session
from tts.solving import open_models
from tts.types import by_role, total

FILES = {
    "shop/__init__.py": "",
    "shop/price.py": "def price(n):\n    return n * 2 if n < 10 else n * 3\n",
    "shop/words.py": "def word(n):\n    return 'x' * n\n",
    "tests/__init__.py": "",
    "tests/test_price.py": """\
import unittest
from shop.price import price

class TestPrice(unittest.TestCase):
    def test_small(self):
        self.assertEqual(price(1), 3)
""",
    "tests/test_words.py": """\
import unittest
from shop.words import word

class TestWords(unittest.TestCase):
    def test_word(self):
        self.assertEqual(word(2), "xx")
""",
}
PROBLEM = Problem.from_prompt(
    "price(n) is to be 3 n for each n; it is wrong for small ones.",
    id="price",
    environment="workspace",
    answer="patch",
    metadata={"files": FILES},
)
BEFORE = folder_of(PROBLEM)


def patch(**changed: str) -> str:
    """The patch that puts these texts into modules of the shop."""
    return difference(BEFORE, {**BEFORE, **{f"shop/{name}.py": text.encode() for name, text in changed.items()}})[0]


RIGHT = patch(price="def price(n):\n    return 3 * n\n")
HALF = patch(price="def price(n):\n    return 3 if n == 1 else n * 2 if n < 10 else n * 3\n")
BREAKING = patch(price="def price(n):\n    return 3 * n\n", words="def word(n):\n    return 'y' * n\n")


def case(*asserted: str) -> str:
    lines = "\n".join(f"        self.assertEqual({text})" for text in asserted)
    return f"""Here is the test.
```python
import unittest
from shop.price import price

class TestReproduction(unittest.TestCase):
    def test_it(self):
{lines}
```"""


SHOWS, SHOWS_MORE = case("price(1), 3"), case("price(5), 15")
PASSES_BEFORE = case("price(20), 60")
WRITTEN = [SHOWS, SHOWS_MORE, PASSES_BEFORE, SHOWS]


@pytest.fixture
async def shared() -> AsyncIterator[Resources]:
    async with Resources() as made:
        yield made


async def verdicts(
    shared: Resources, patches: Sequence[str], written: Sequence[str] = WRITTEN, spec: str = "reproduction_tests"
) -> tuple[list[Verdict], Session, list[dict[str, Any]]]:
    asked, said = list[dict[str, Any]](), iter(written)

    def write(request: dict[str, Any]) -> str:
        if request not in asked:
            asked.append(request)
        return next(said)

    async with open_models(MockModel(write)) as models:
        session = Session(PROBLEM, models, resources=shared)
        verifier = registry.make("verifiers", spec)
        found = [await session.verify(session.candidate(patch), verifier) for patch in patches]
    return found, session, asked


async def test_patches_are_ranked_by_the_tests_that_show_the_fault_and_by_those_that_passed(shared: Resources):
    found, session, asked = await verdicts(shared, ["", RIGHT, HALF, BREAKING, "nonsense", RIGHT])
    assert [one.score for one in found] == [0.0, 1.0, 0.5, 0.0, 0.0, 1.0]
    assert all(one.passed is None for one in found)
    assert found[2].details == {
        "reproduction": {"passed": 1, "total": 2},  # one passed before, and one was written twice
        "regression": {"passed": 1, "total": 1},  # tests/test_price.py failed before
    }
    assert found[3].details["regression"] == {"passed": 0, "total": 1}
    assert "price(5)" in found[2].feedback
    assert "does not fit" in found[4].feedback
    assert len(asked) == 1, "the tests are asked for once, however many candidates there are"
    (prompt,) = [message["content"] for message in asked[0]["messages"]]
    assert all(text in prompt for text in FILES.values())
    # each verdict carries what writing and the first runs cost; the same patch is run once
    spent = by_role(session.ledger.paid)
    assert total(found[1].charges).completion_tokens == spent["policy"].completion_tokens
    assert found[1].charges == found[5].charges
    assert spent["verifier"].verifier_seconds > 0
    assert set().union(*(one.charges for one in found)) == session.ledger.needed


async def test_it_accepts_from_a_score_on(shared: Resources):
    found, _, _ = await verdicts(shared, [RIGHT, HALF, "nonsense"], spec="reproduction_tests:accept=1")
    assert [one.passed for one in found] == [True, False, False]


@pytest.mark.parametrize(
    "written",
    [
        [PASSES_BEFORE] * 4,
        ["I cannot."] * 4,
        ["```python\nx = 1\n```"] * 4,
        ["```python\ndef test_nothing_that_unittest_finds():\n    assert False\n```"] * 4,
    ],
)
async def test_where_no_test_shows_the_fault_there_is_no_score(shared: Resources, written: list[str]):
    (one,), session, _ = await verdicts(shared, [RIGHT], written)
    assert (one.score, one.passed) == (None, None)
    assert any("no test that the policy wrote shows the fault" in words for words in session.ledger.failures)


async def test_a_patch_cannot_change_the_tests_that_judge(shared: Resources):
    forged = {path: b"" for path in BEFORE if path.startswith("tests/test_")}
    forged["tests/test_reproduction.py"] = b"raise SystemExit(0)\n"
    patch = difference(BEFORE, {**BEFORE, **forged})[0]
    (one,), _, _ = await verdicts(shared, [patch])
    assert one.score == 0.0


async def test_trajectories_are_chosen_by_the_tests_that_the_policy_writes():
    """And so are branches of a search over turns."""

    def act(turns: list[dict[str, Any]], number: int) -> Any:
        moves = [("apply_patch", {"patch": RIGHT if number % 2 else HALF}), "Done."]
        return moves[sum(turn["role"] == "assistant" for turn in turns)]

    async with acting(act) as server:
        respond, written = server.respond, iter(WRITTEN * 2)

        def writes_too(body: dict[str, Any]) -> Any:
            if "Write one test file" not in body["messages"][0]["content"]:
                return respond(body)
            message = {"role": "assistant"}
            return [
                {"index": i, "finish_reason": "stop", "message": {**message, "content": next(written)}}
                for i in range(body.get("n") or 1)
            ]

        server.respond = writes_too
        for strategy in ("best_of_n:n=4", "beam_search:n=4,width=4"):
            spec = f"{strategy},verifier=reproduction_tests"
            result = await solve(PROBLEM, spec, policy(server), stop_early=False)
            assert result.text == RIGHT
            assert not result.failures
