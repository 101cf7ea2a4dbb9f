"""The examples run as they stand."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parent.parent / "examples"


def test_the_comparison_of_strategies_draws_its_curves(tmp_path: Path) -> None:
    command = [sys.executable, str(EXAMPLES / "compare_strategies.py"), str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    labels = [line.split(": ")[0] for line in done.stdout.splitlines() if " tokens " in line]
    assert "self_consistency:n=64 · mock" in labels
    assert sum(label.endswith("(oracle)") for label in labels) == 2
    assert (tmp_path / "run" / "curves.png").stat().st_size > 10_000
