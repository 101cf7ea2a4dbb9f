"""How seldom our own programs look for cycles, which is not for a library to say: others may have many of them."""

from __future__ import annotations

import gc


def look_seldom_for_cycles() -> None:
    """Have the garbage collector look through what is new at longer intervals.

    By default a quarter of a sample's CPU time, and a tenth of what it takes to load the library, goes to looking for
    cycles, of which there are few.
    """
    gc.set_threshold(20_000, 20, 20)


def look_past_what_is_there() -> None:
    """The same, and have it pass over what is there by now."""
    look_seldom_for_cycles()
    gc.collect()
    gc.freeze()
