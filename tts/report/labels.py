"""What several runs are called where they are compared."""

from __future__ import annotations

from collections.abc import Sequence

from tts.runs import Run


def labelled(runs: Sequence[Run]) -> dict[str, Run]:
    """Runs by what precedes their curves' names: nothing for one, else the directory's name, its path if need be."""
    if len(runs) == 1:
        return {"": runs[0]}
    names = [run.path.resolve().name for run in runs]
    unique = len(set(names)) == len(names)
    return {name if unique else str(run.path): run for name, run in zip(names, runs, strict=True)}


def prefixed(label: str, name: str) -> str:
    """The name of something in the run called `label`."""
    return f"{label}/{name}" if label else name
