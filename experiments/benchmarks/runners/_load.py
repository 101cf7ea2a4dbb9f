"""What every runner of programs shares: the load and the clock. Only the standard library: peers lack the rest.

Argument of each runner: a JSON file with `data` (HumanEval+ in its original form), `programs` (pairs of task_id and
source), `limit` (seconds for a program), `plus` (whether the many inputs are used, or the base tests alone) and `fast`
(whether to stop at the first failure where the runner has the choice).
"""

import gzip
import json
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

WORKERS = 2


def load() -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The job, and the problems by id."""
    with open(sys.argv[1]) as file:
        job = json.load(file)
    with gzip.open(job["data"], "rt") as lines:
        problems = [json.loads(line) for line in lines if line.strip()]
    return job, {problem["task_id"]: problem for problem in problems}


@contextmanager
def measured() -> Iterator[dict[str, Any]]:
    """Fill in `wall_seconds` and `cpu_seconds` (of this process and its children) at the end of the block."""
    spent: dict[str, Any] = {}
    wall, cpu = time.perf_counter(), _cpu()
    yield spent
    spent["wall_seconds"] = round(time.perf_counter() - wall, 3)
    spent["cpu_seconds"] = round(_cpu() - cpu, 3)


def _cpu() -> float:
    usages = (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def report(verdicts: list[bool], spent: dict[str, Any]) -> None:
    """Print one JSON line: each program's verdict, and what all of them cost."""
    print(json.dumps({"verdicts": verdicts, **spent}), flush=True)
