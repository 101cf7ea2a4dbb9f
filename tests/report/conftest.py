"""A run of three strategies whose answers try to get out of the page."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tts import MockModel
from tts.runs import Experiment, Run

HOSTILE = '</script><script>alert(1)</script><img src="https://evil.example/a.png" onerror="alert(1)"> {{ 7 * 7 }}'
STRATEGIES = (
    "best_of_n:n=4,verifier=regex(pattern=4)",
    "self_consistency:n=4,answer=numeric_answer",
    "self_refine:rounds=2,verifier=regex(pattern=42)",
)


def answer(request: dict[str, Any]) -> str:
    """Right for the first problems, wrong for the others."""
    number = int(re.findall(r"\[(\d+)\]", str(request["messages"]))[0])
    return f"{HOSTILE}\nAnswer: {42 if number < 3 else 40 + number}"


def made(folder: Path, problems: int = 6, strategies: tuple[str, ...] = STRATEGIES) -> Experiment:
    """An experiment over a file in `folder`."""
    lines = [{"id": f"<b>{i}", "prompt": f"[{i}] six times seven? {HOSTILE}", "answer": 42} for i in range(problems)]
    (folder / "questions.jsonl").write_text("\n".join(map(json.dumps, lines)))
    task = {"name": "jsonl", "path": str(folder / "questions.jsonl"), "answer_verifier": "numeric_answer"}
    card = {"parameters": 1e6, "prompt_price_per_million": 1.0, "completion_price_per_million": 2.0}
    models = {"mock": MockModel(answer, card=card)}
    return Experiment.parse({"task": task, "strategies": strategies, "models": models})


@pytest.fixture
async def run(tmp_path: Path) -> Run:
    return await made(tmp_path).run(tmp_path / "runs" / "one")
