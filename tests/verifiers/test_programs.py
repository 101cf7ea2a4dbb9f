# ruff: noqa: E501 - a program is read more easily on one line

from __future__ import annotations

import gc
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tts.verifiers.programs.extract import extract_program, fenced_blocks, parses, syntax, with_setup

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


LONG_ANSWER = f"""Certainly! Here's one way to do it.

### Approach
We use `floor`. For example `half(7)` is `3`:

```text
half(7) -> 3
```

### Implementation

```python
{WHOLE.rstrip()}

# Example usage
if __name__ == "__main__":
    print(half(int(input("n: "))))
```

**Complexity:** O(1). You can try it with:

```bash
python half.py
```
"""


@pytest.mark.parametrize(
    "answer",
    [
        LONG_ANSWER,
        f"<think>\nMaybe\n```python\ndef half(x):\n    return 0\n```\nno.\n</think>\n\n```python\n{WHOLE}```",
        f"<think>\nMaybe `x // 2`?\n</think>\n{WHOLE}",
        'def half(x):\n    """Half.\n    ```python\n    def half(x): ...\n    ```\n    """\n    return floor(x / 2)\n',
        "    def half(x):\n        return floor(x / 2)\n",
        "    def half(x):\n        return floor(x / 2)\n\nThis rounds down.",
        f"{PROMPT}    return floor(x / 2)\n",
        f"```python\n{PROMPT}    return floor(x / 2)\n```",
        f"```Python3\n{WHOLE}```",
        f"````python\n{WHOLE}````",
        f"Answer:\n```\n{WHOLE}```\n```\nhalf(7)\n```",
        "```python\ndef half(x: float) -> int:\n    '''Half.'''\n    return floor(x / 2)\n\nassert half(7) == 3\n```",
        "```python\nhalf = lambda x: floor(x / 2)\n```",
        f"```python\nasync def other(): ...\n```\n```python\nfrom __future__ import annotations\n{WHOLE}```",
    ],
)
def test_the_program_is_found_in_what_models_really_write(answer: str):
    assert run(answer) == 3


@pytest.mark.parametrize(
    "answer",
    [
        "```python\ndef halve(x):\n    return floor(x / 2)\n```",
        "```python\ndef rounded(x):\n    return floor(x)\n\ndef halve(x):\n    return rounded(x / 2)\n```",
        "def halve(x):\n    return 0 if x < 2 else 1 + halve(x - 2)\n",
        "```python\nclass Solution:\n    def half(self, x):\n        return x // 2\n```",
    ],
)
def test_a_single_candidate_of_another_name_is_the_one(answer: str):
    assert run(answer) == 3


def test_of_several_candidates_none_is_chosen():
    answer = "```python\ndef halve(x):\n    return x // 2\n\ndef third(x):\n    return x // 3\n```"
    assert "half =" not in (extract_program(answer, "half") or "")


def test_a_script_keeps_what_it_runs_as_a_script():
    script = 'def main():\n    print(input())\n\nif __name__ == "__main__":\n    main()\n'
    assert extract_program(f"Read and print:\n```python\n{script}```") == script


def test_a_method_of_the_container_is_enough():
    code = "class Solution:\n    def half(self, x):\n        return x // 2\n"
    answer = f"First:\n```python\nx = 1\n```\nThen:\n```python\n{code}```"
    assert extract_program(answer, "half", container="Solution") == code


def test_setup_comes_first_unless_there_are_future_imports():
    assert with_setup("import math", "x = 1") == "import math\nx = 1"
    assert with_setup("", "x = 1") == "x = 1"
    code = '"""Doc."""\nfrom __future__ import annotations\nx = math.pi\n'
    space: dict[str, object] = {}
    exec(with_setup("import math", code), space)
    assert space["__doc__"] == "Doc."


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


# -- what servers and models do to code ----------------------------------------------------------------------------

NBSP, BOM, BLANK = "\u00a0", "\ufeff", "\u200b"
FENCED_DOC = (
    'def half(x):\n    """Half.\n\n```\nhalf(7)\n```\nor\n```python\nhalf(8)\n```\n    """\n    return floor(x / 2)\n'
)
BODY = "y = x / 2\n    if y < 0:\n        return -half(-x)\n    return floor(y)\n"


@pytest.mark.parametrize(
    "answer",
    [
        f"Here is the function:\n\n{WHOLE}```\n\nIt rounds down.",
        f"Here is the function:\n\n{WHOLE}~~~\nIt rounds down.",
        f"import the module first.\n\n{WHOLE}```\nIt rounds down.",
        f"```python\n{WHOLE}```<|im_end|>",
        f"```python\n{WHOLE}```</s>\n\nMore words.",
        f"```python\n{WHOLE}``` [/INST]\nMore words.",
        f"```python\n{WHOLE}```<|eot_id|><|start_header_id|>\nMore words\n```\nx\n```",
        f"```python\n{FENCED_DOC}```\nDone.",
        f"```python\n{FENCED_DOC}```\n```\nhalf(7)\n```\nDone.",
        f"Words.\n\n```\n{FENCED_DOC}\n",
        f"```python\nTEXT = '''\n```\n'''\n{WHOLE}```",
        f"```python\nTEXT = '```'\n{WHOLE}```",
        f'```text\nit\'s """ odd\n```\n```python\n{WHOLE}```',
        f"```python\n{WHOLE.replace('    ', NBSP * 4)}```",
        f"```python\n{WHOLE.replace(' ', NBSP)}```",
        f"```python\ndef half(x):\n    word = 'a{NBSP}b'\n{NBSP * 4}assert len(word) == 3\n    return floor(x / 2)\n```",
        f"{BOM}{WHOLE}",
        f"```python\n{BOM}{WHOLE}```",
        f"{BOM}```python\n{WHOLE}```",
        f"```python\n{WHOLE.replace('return', BLANK + 'return')}```",
        f"```python\nA = 1\n\f\n{WHOLE}```",
        f"{WHOLE}\f\n",
        "    y = x\n\f\n    return floor(y / 2)\n",
        "```python\r\n" + WHOLE.replace("\n", "\r\n") + "```\r\n",
        "```python def half(x): return floor(x / 2)```",
        "Use ```python\tdef half(x): return floor(x / 2)``` for it.",
        "```def half(x): return floor(x / 2)```",
        "```py half = lambda x: floor(x / 2)```",
        "```python def half(x):\n    return floor(x / 2)\n```",
        BODY,
        f"{BODY}```\n\nThat is all.",
        f"```python\n{BODY}```",
        "return floor(x / 2)",
        "y = x / 2\nreturn floor(y)\n",
        "def inner(a):\n        return a / 2\n    return floor(inner(x))\n",
        f"<think>\nLet me see.\n</think>\n{BODY}",
        f"<think>\nfirst\n</think>\n<think>\nagain\n</think>\n```python\n{WHOLE}```",
        f"{WHOLE}MARK = '<think>'\n",
        f"```python\nMARK = '''\n<think>\n'''[:0] + '<think>'\n{WHOLE}```",
    ],
)
def test_the_program_is_found_in_what_became_of_it_on_the_way(answer: str):
    assert run(answer) == 3


@pytest.mark.parametrize(
    "answer",
    [
        f"<reasoning>\nMaybe\n```python\n{WHOLE}```",
        f"[THINK]Maybe\n```python\n{WHOLE}```\n",
        f"<thought>\n```python\n{WHOLE}```\nor",
        f"<think>\nMaybe this:\n```python\n{WHOLE}```\nor",
        f"<think>{WHOLE}",
        f"\n  <think>\n{WHOLE}",
        f"<thinking>\n```python\n{WHOLE}```",
        f"<think>a</think>\n<think>\n```python\n{WHOLE}```",
        f"<think>\n```python\n{WHOLE}```\n</think>",
        f"<think>\n```python\n{WHOLE}```\n</think>\n\n",
    ],
)
def test_a_thought_is_no_program(answer: str):
    assert extract_program(answer, "half", PROMPT) is None


@pytest.mark.parametrize(
    "code",
    [
        "import math\nif math.pi > 3:\n    def half(x): return x // 2\nelse:\n    def half(x): return 0\ndef other(): pass",
        "try:\n    import nothing_there as half\nexcept ImportError:\n    def half(x): return x // 2\ndef other(): pass",
        "def one(x): return x // 2\nhalf: object = one",
        "def one(x): return x // 2\nhalf, double = one, None",
        "def one(x): return x // 2\n[half] = [one]",
        "def one(x): return x // 2\nglobals()['half'] = one\ndef wrong(x): return 0",
        "def one(x): return x // 2\nglobals().update(half=one)\n",
        "def one(x): return x // 2\nvars()['ha' + 'lf'] = one\ndef one(x): return 0",
        "exec('def half(x): return x // 2')\ndef wrong(x): return 0",
        "exec('def half(x):\\n    return x // 2')",
        "exec('\\n'.join(['import math', 'def half(x): return math.floor(x / 2)']))",
        "globals().update({'half': lambda x: x // 2})",
        "globals().setdefault('ha' + 'lf', None)\nglobals().__setitem__('half', lambda x: x // 2)",
        "def make():\n    global half\n    def half(x): return x // 2\nmake()",
        "for half in [lambda x: x // 2]:\n    pass\ndef wrong(x): return 0",
        "with __import__('contextlib').nullcontext(lambda x: x // 2) as half:\n    pass\ndef wrong(x): return 0",
        "(half := lambda x: x // 2)\ndef wrong(x): return 0",
        "from operator import floordiv\nfrom functools import partial as half\ndef half(x): return floordiv(x, 2)",
        "class Half:\n    def __call__(self, x): return x // 2\nhalf = Half()\ndef wrong(x): return 0",
    ],
)
@pytest.mark.parametrize("prompt", ["", PROMPT])
def test_a_program_that_binds_the_name_in_its_own_way_keeps_it(code: str, prompt: str):
    assert run(code, prompt) == 3
    assert run(f"Like this:\n```python\n{code}\n```", prompt) == 3


@pytest.mark.parametrize("language", ["python", "Python", "py", " python3 "])
def test_a_language_may_stand_below_the_fence(language: str) -> None:
    answer = f"Here:\n```\n{language}\ndef half(x):\n    return x / 2\n```\n"
    assert extract_program(answer, "half") == "def half(x):\n    return x / 2\n"


@pytest.mark.parametrize(
    "end", ["assert half(4) == [2,", "def check():\n    assert half(2) == 1\n    assert (", "print(1)\n  'more'])"]
)
def test_an_end_that_is_broken_off_does_not_spoil_the_function(end: str) -> None:
    whole = "def half(x):\n    return x / 2\n"
    program = extract_program(f"```python\n{whole}\n{end}", "half") or ""
    assert program.startswith(whole)
    assert parses(program)


def test_a_function_that_is_broken_off_is_left_as_it_is() -> None:
    assert not parses(extract_program("```python\ndef half(x):\n    return (x", "half") or "")


class _Finalized:
    """Garbage whose finalizer runs Python, which lets other threads in while a tree is built."""

    def __init__(self) -> None:
        self.itself = self

    def __del__(self) -> None:
        for _ in range(200):
            pass


def test_threads_parse_side_by_side():
    """Without the lock CPython 3.11 calls about one in a hundred of these valid programs a SystemError."""
    program = "assert f([2, 4, -6, -9, 11], [2, 1, 2, -1, -5, 6]) == 1\n" * 3

    def parse_often() -> None:
        for _ in range(500):
            _Finalized()
            assert not isinstance(syntax(program), int)

    interval, thresholds = sys.getswitchinterval(), gc.get_threshold()
    sys.setswitchinterval(1e-6)
    gc.set_threshold(20, 2, 2)
    try:
        with ThreadPoolExecutor(8) as threads:
            for done in [threads.submit(parse_often) for _ in range(8)]:
                done.result()
    finally:
        sys.setswitchinterval(interval)
        gc.set_threshold(*thresholds)
