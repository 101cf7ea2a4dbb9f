"""A run on HumanEval whose answers are canonical solutions in several dresses, and some wrong ones: TASK FILE OUT."""

import gzip
import json
import random
import sys
from typing import Any

import tts


def main(task: str, path: str, out: str) -> None:
    rng = random.Random(2)
    with gzip.open(path, "rt") as file:
        problems = [json.loads(line) for line in file]

    def answer(body: dict[str, Any]) -> str:
        text = str(body["messages"][-1]["content"])
        asked = max((one for one in problems if one["prompt"].strip() in text), key=lambda one: len(one["prompt"]))
        code, chance = asked["prompt"] + asked["canonical_solution"], rng.random()
        if chance < 0.3:
            code = asked["prompt"] + "    return None\n"
        if chance > 0.9:
            return "I cannot do that."
        if chance < 0.6:
            return f"Here it is:\n```python\n{code}```\nIt works."
        return asked["canonical_solution"] if chance > 0.8 else code

    model = tts.MockModel(answer, model="m", max_n=1)
    grid = tts.Experiment(task=f"{task}:path={path}", strategies="repeated_sampling:n=2", models=model)
    for curve in grid.run_sync(out).curves():
        print(curve.estimator, curve.k.tolist(), curve.y.tolist())


if __name__ == "__main__":
    main(*sys.argv[1:])
