"""Files that strategies go by: a calibration of policies, as `tts calibrate` writes it, and a corpus."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tts import Problem
from tts.strategies.routing import digest_of


def corpus(*texts: str, folder: Path | None = None) -> Path:
    """A file of passages, by default some about numbers."""
    lines = texts or ("Six times seven is often asked for.", "A dozen is twelve.", "Seven is prime, six is not.")
    path = (folder or Path(tempfile.mkdtemp())) / "corpus.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in lines))
    return path


def calibration(strategy: str, names: Sequence[str], problems: int = 24, folder: Path | None = None) -> Path:
    """Easy and hard problems, which say that they are; the first policy solves the easy ones, the last all.

    How sure a policy is tells whether it is right; the first costs 1 a problem, each further one ten times as much.
    """
    texts = [f"{'A hard and long' if i % 2 else 'An easy'} problem about {i}" for i in range(problems)]
    right = [[float(not i % 2 or place > 0) for place in range(len(names))] for i in range(problems)]
    content = {
        "strategy": strategy,
        "measure": "flops",
        "models": {name: name for name in names},
        "digests": [digest_of(Problem.from_prompt(text)) for text in texts],
        "texts": texts,
        "solved": right,
        "cost": [[10.0**place for place in range(len(names))] for _ in texts],
        "agreement": [[0.5 + 0.5 * solved for solved in row] for row in right],
        "score": [[solved or None for solved in row] for row in right],
    }
    path = (folder or Path(tempfile.mkdtemp())) / "calibration.json"
    path.write_text(json.dumps(content))
    return path
