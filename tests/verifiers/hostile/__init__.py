"""Programs that models might write to be accepted without being right, or that do damage while being wrong.

The problem is always the same: `solve(n)` shall return `n * n + 1`; it is called with 3 and then with 12. No program
here computes that, but those in `harmless`, which are right and behave oddly and must be accepted. What is put in
double braces is filled in by the tests: `{{outside}}` a folder of the host, `{{secret}}` a word that the host knows.
"""

from dataclasses import dataclass

INPUTS = (3, 12)
EXPECTED = tuple(n * n + 1 for n in INPUTS)


@dataclass(frozen=True)
class Hostile:
    """A program and what must become of it."""

    source: str
    ends: frozenset[str] = frozenset({"ok", "error"})
    """What the load or the case that it ended with may be called; `ok` means: with a value that is not right."""
    sleeps: bool = False
    """Whether nothing but the wall clock ends it."""


def hostile(source: str, *ends: str, sleeps: bool = False) -> Hostile:
    """A program with what may become of it; by default a wrong value or an exception."""
    return Hostile(source.strip("\n") + "\n", frozenset(ends or ("ok", "error")), sleeps)
