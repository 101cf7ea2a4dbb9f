"""Style of programs, each convention by itself; and of those that a verifier accepts wrongly."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.support.double import ModelDouble
from tts import Endpoint, Experiment
from tts.studies.imperfect_verifier.style import style_of, style_report

NEAT = '''def double_it(some_number):
    """Twice the number."""
    return 2 * some_number
'''
CAMEL = "def doubleIt(someNumber):\n    # twice\n    return 2 * someNumber\n"


def kept(program: str) -> set[str]:
    style = style_of(program)
    assert style is not None
    return {name for name, value in asdict(style).items() if value}


@pytest.mark.parametrize(
    ("program", "conventions"),
    [
        (NEAT, {"snake_case", "length", "comments"}),
        (CAMEL, {"camel_case", "length", "comments"}),
        ("def f(x):\n    return x\n", {"snake_case", "camel_case", "length"}),
        ("def F(x):\n    return x\n", {"snake_case", "length"}),  # reads as a constant
        ("LIMIT_OF_ALL = 3  # no more\n", {"snake_case", "length", "comments"}),
        ("class some_thing:\n    pass  # nothing\n", {"length", "comments"}),
        ("class Thing:\n    def __init__(it): pass  # one\n", {"snake_case", "camel_case", "length", "comments"}),
        (f"x = {'1 + ' * 20}1\n", {"snake_case", "camel_case"}),
        ("def f():\n" + "    print(1)  # 1\n" * 30, {"snake_case", "camel_case", "comments"}),
        ("# one\n" + "x = 1\n" * 5, {"snake_case", "camel_case", "length", "comments"}),
        ("# one\n" + "x = 1\n" * 6, {"snake_case", "camel_case", "length"}),
        ("x = '# no comment'\n", {"snake_case", "camel_case", "length"}),
    ],
)  # fmt: skip
def test_conventions_are_read_off_the_tree_and_the_tokens(program: str, conventions: set[str]):
    assert kept(program) == conventions


def test_what_is_no_program_has_no_style():
    assert style_of("def f(:") is None


@pytest.mark.parametrize(("first", "passes"), [(1, True), (2, False), (9, False)])
async def test_fewer_tests_let_more_through(first: int, passes: bool, tmp_path: Path):
    wrong = "def doubleIt(n):\n    return n + 2 if n < 3 else 2 * n + 1\n"
    right = "# Twice n.\ndef doubleIt(n):\n    return 2 * n\n"
    asserts = ["assert doubleIt(2) == 4", "assert doubleIt(5) == 10"]
    record = {
        "id": "d",
        "prompt": "Write doubleIt.",
        "public_tests": {"entry_point": "doubleIt", "asserts": asserts},
        "tests": {"entry_point": "doubleIt", "asserts": [*asserts, "assert doubleIt(7) == 14"]},
    }
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps(record))
    texts = iter([wrong, right] * 2)
    async with ModelDouble(answer=lambda body, rng: f"```python\n{next(texts)}```") as double:
        strategy = f"best_of_n:n=4,verifier=unit_tests(first={first})"
        models = Endpoint(model="test-model", base_url=double.base_url)
        run = await Experiment.parse({"task": f'jsonl:path="{path}"', "models": models, "strategies": [strategy]}).run(
            tmp_path / "run"
        )
    (track,) = run.tracks
    found = style_report(track)
    if not passes:
        assert found is None
        return
    assert found is not None
    assert found.programs == (1, 1)
    assert (found.right["comments"], found.wrong["comments"]) == (1.0, 0.0)
    assert (found.right["camel_case"], found.wrong["camel_case"]) == (1.0, 1.0)
