from __future__ import annotations

import pytest

from tts.tasks.humaneval import prompt_examples


def examples(docstring: str, signature: str = "f(x)") -> list[str]:
    return prompt_examples(f'import math\n\n\ndef {signature}:\n    """Does it.\n\n{docstring}\n    """\n', "f")


@pytest.mark.parametrize(
    ("docstring", "assertion"),
    [
        ("    >>> f(1)\n    2", "f(1) == 2"),
        ("    >>> f([1,\t2])  # why\n    (3, 4)", "f([1, 2]) == (3, 4)"),
        ("    >>> f(1)\n    [1,\n     2]", "f(1) == [1, 2]"),
        ("    >>> f(1) == 2", "f(1) == 2"),
        ("    >>> round(f(1), 2)\n    -0.5", "round(f(1), 2) == -0.5"),
        ("    >>> f(1)\n\n    Nothing above.", "f(1) == None"),
        (r"    >>> f('a\nb')" + "\n    'c'", r"f('a\nb') == 'c'"),
        ("    f(1) == 2", "f(1) == 2"),
        ("    f(1) => 2", "f(1) == 2"),
        ("    f(1) ==>2 ", "f(1) == 2"),
        ("    f(1) -> true", "f(1) == True"),
        ("    f(1) ➞ [2]", "f(1) == [2]"),
        ("    f(1) = '='", "f(1) == '='"),
        ("    * f(1) returns 'two' # as said", "f(1) == 'two'"),
        ("    f(1)  # returns 2", "f(1) == 2"),
        ("    f(1) should return False.", "f(1) == False"),
        ("    where f(1) should\n    return 2 and so on", "f(1) == 2"),
        ("    f([\n      [1], [2]\n    ]) == 3", "f([[1], [2]]) == 3"),
        ("    f(1) -> 5 - 3 = 2", "f(1) == 2"),
        ("    assert g(1) == 2", "f(1) == 2"),
        ("    For x = [1] the output should be '2'.", "f([1]) == '2'"),
        ("    Input: [1,2]\n    Output: 3", "f([1, 2]) == 3"),
        ("    Input:\n        x : 1\n    Output: 3 # so", "f(1) == 3"),
    ],
)
def test_an_example_becomes_an_assertion(docstring: str, assertion: str):
    assert examples(docstring) == [f"assert {assertion}"]


def test_several_arguments_are_read_by_their_number():
    signature = "f(s, k)"
    assert examples('For s = "a", k = 2, the result should be ("b", 1)', signature) == ["assert f('a', 2) == ('b', 1)"]
    assert examples("Input: s = 'a', k = 2\nOutput: 1", signature) == ["assert f('a', 2) == 1"]
    assert examples("Input: s = 'a'\nOutput: 1", signature) == []


@pytest.mark.parametrize(
    "docstring",
    [
        "f(n) == f(n - 1) + 1",
        "f(1) == f(0)",
        "f(a) => 2",
        "f(1) == 2 + x",
        "f(1) is 2",
        "f(1) == ''quoted'",
        ">>> f(1",
        ">>> f(n)\n2",
        "call f(1)",
        "",
    ],
)
def test_what_is_no_plain_example_is_left_out(docstring: str):
    assert examples(docstring) == []


def test_the_same_example_counts_once():
    assert examples("    >>> f(1)\n    2\n\n    f(1) == 2") == ["assert f(1) == 2"]


def test_only_the_functions_own_docstring_is_read():
    helper = 'def g(x):\n    """\n    >>> g(1)\n    2\n    """\n    return x\n\n'
    assert prompt_examples(helper + 'def f(x):\n    """\n    f(1) == 3\n    """\n', "f") == ["assert f(1) == 3"]


@pytest.mark.parametrize("prompt", ["", "def f(", "def f(x):\n    pass", "class f:\n    '''f(1) == 2'''"])
def test_a_prompt_without_a_docstring_has_no_examples(prompt: str):
    assert prompt_examples(prompt, "f") == []
