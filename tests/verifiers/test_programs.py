from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tts.verifiers.programs import extract_program, fenced_blocks

PROMPT = 'from math import floor\n\n\ndef half(x):\n    """Half of x, rounded down."""\n'
WHOLE = "def half(x):\n    return floor(x / 2)\n"
OTHER = "def double(x):\n    return 2 * x\n"


def run(text: str, prompt: str = PROMPT, name: str = "half"):
    """What the extracted program gives for half(7)."""
    program = extract_program(text, name, prompt)
    assert program is not None
    space = {}
    exec(program, space)
    return space[name](7)


@pytest.mark.parametrize(
    "answer",
    [
        WHOLE,
        f"```python\n{WHOLE}```",
        f"Sure!\n\n```python\n{WHOLE}```\nIt divides by two.",
        f"```py\n{WHOLE}",
        f"~~~\n{WHOLE}~~~",
        f"Helpers:\n```python\n{OTHER}```\nSolution:\n```python\n{WHOLE}```\nOutput:\n```\n3\n```",
        f"```python\ndef half(x):\n    return 0\n```\nNo, better:\n```python\n{WHOLE}```",
        f"```python\n{WHOLE}```\nor unfinished\n```python\ndef half(x:\n    ret",
        f"1. Do this:\n\n   ```python\n   {WHOLE.replace(chr(10), chr(10) + '   ').rstrip()}\n   ```",
        f"Here it is:\n{WHOLE}\nThis works, since it rounds down.",
        f"{WHOLE}\nif __name__ == '__main__':\n    print(half(3))\n",
        "    return floor(x / 2)\n",
        "    return floor(x / 2)\n\n\ndef unfinished(",
        "    return floor(x / 2)\n```\n\nThis halves x.",
        "    y = x / 2\n    return floor(y)\n\nprint(half(4))\n\nThe function is done.",
        "The body is\n```python\n    return floor(x / 2)\n```",
        "The body is\n```python\ny = x / 2\nreturn floor(y)\n```",
    ],
)
def test_the_program_is_found_in(answer: str):
    assert run(answer) == 3


def test_the_imports_and_helpers_of_the_prompt_are_there():
    assert "from math import floor" in (extract_program(WHOLE, "half", PROMPT) or "")


def test_a_future_import_stays_first():
    code = "from __future__ import annotations\nimport math\ndef half(x):\n    return math.floor(x / 2)\n"
    assert run(code) == 3


def test_without_an_entry_point_the_largest_block_is_the_program():
    answer = "```\n1 2\n```\n```python\nprint(sum(map(int, input().split())))\n```\n```\n3\n```"
    assert extract_program(answer) == "print(sum(map(int, input().split())))\n"


def test_a_function_of_another_name_stays_what_it_is():
    assert extract_program(f"```python\n{OTHER}```", "half", PROMPT) == f"{PROMPT}\n\n{OTHER}"


def test_nothing_at_all_is_no_program():
    assert extract_program("", "half", PROMPT) is None
    assert extract_program("```python\n```", "half") is not None  # the text itself, which will not run
    assert fenced_blocks("```python\n\n```") == []


@given(st.lists(st.sampled_from(["```", "\n", "    ", "def half(x):", "return 1", "((((", "\0", "\ud800", "x"])))
def test_odd_text_never_raises(pieces: list[str]):
    extract_program("".join(pieces), "half", PROMPT)


@pytest.mark.parametrize("unit", ["```\n", "(", "def half(x):\n", "    x\n", "a" * 99 + "\n"])
def test_a_megabyte_of_anything_is_read(unit: str):
    extract_program(unit * (2**20 // len(unit)), "half", PROMPT)
