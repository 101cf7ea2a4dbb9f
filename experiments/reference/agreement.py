"""Do we and EvalPlus's own evaluator say the same of every answer that a run holds?

python -m experiments.reference.agreement FOLDER/humaneval_greedy FOLDER/humaneval

By the base tests of HumanEval and by all of HumanEval+, EvalPlus judges the answers as they are, by its own sanitizer
(`sanitized`), and the programs that this library reads out of them (`extracted`). Differences go, with the answers, to
`agreement.json`.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tts import Run
from tts.files import cache_folder
from tts.tasks.humaneval import HumanEval
from tts.tasks.samples import verify_samples, write_samples
from tts.verifiers.programs.extract import extract_program

HERE = Path(__file__).parent
BENCHMARKS = HERE.parent / "benchmarks"
DATA = cache_folder() / "HumanEvalPlus.jsonl.gz"
LIMIT = 30.0
"""Seconds of EvalPlus for a program, at least."""

Answer = tuple[str, str, bool]
"""Problem, text, and whether the run's grader (all of HumanEval+) took it for right."""


def answers(folders: Sequence[Path]) -> list[Answer]:
    """The candidates of the track with most of them in each run."""
    found: list[Answer] = []
    for folder in folders:
        track = max(Run(folder).tracks, key=lambda track: sum(map(len, track.correct)))
        for row, right in zip(track.rows, track.correct, strict=True):
            texts = [candidate.content for candidate in track.candidates(row)]
            found += [(row.problem, text, bool(flag)) for text, flag in zip(texts, right, strict=True)]
    return found


def by_base_tests(found: Sequence[Answer], folder: Path) -> list[bool]:
    """What this library says of the answers by the tests of HumanEval."""
    samples, results = folder / "samples.jsonl", folder / "results.jsonl"
    write_samples(samples, [(id, text) for id, text, _ in found])
    asyncio.run(verify_samples(samples, HumanEval(), out=results))
    return [json.loads(line)["passed"] for line in results.read_text().splitlines()]


def by_evalplus(programs: Sequence[tuple[str, str]], folder: Path, *, plus: bool, sanitize: bool) -> list[bool]:
    """What EvalPlus says of programs, or with `sanitize` of answers."""
    job = {"data": str(DATA), "programs": programs, "limit": LIMIT, "plus": plus, "sanitize": sanitize}
    (folder / "job.json").write_text(json.dumps(job))
    said = [sys.executable, str(BENCHMARKS / "peer_envs.py"), "evalplus"]
    python = subprocess.run(said, capture_output=True, text=True, check=True).stdout.strip()
    command = [python, str(BENCHMARKS / "runners" / "evalplus_runner.py"), str(folder / "job.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])["verdicts"]


def main(folders: Sequence[Path]) -> None:
    """Judge, print the counts, and keep the differences."""
    found = answers(folders)
    texts = [(id, text) for id, text, _ in found]
    prompts = {example.problem.id: example.problem.tests or {} for example in HumanEval().examples()}
    programs = [
        (id, extract_program(text, prompts[id]["entry_point"], prompts[id]["prompt"]) or "") for id, text in texts
    ]
    kept: dict[str, Any] = {"answers": len(found), "right": {}, "differences": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ours = {"base": by_base_tests(found, folder), "plus": [right for _, _, right in found]}
        for tests, mine in ours.items():
            kept["right"][f"{tests}, tts"] = sum(mine)
            for form, load in (("extracted", programs), ("sanitized", texts)):
                said = by_evalplus(load, folder, plus=tests == "plus", sanitize=form == "sanitized")
                kept["right"][f"{tests}, EvalPlus, {form}"] = sum(said)
                kept["differences"] += [
                    {"tests": tests, "form": form, "problem": id, "tts": one, "evalplus": other, "answer": text}
                    for (id, text), one, other in zip(texts, mine, said, strict=True)
                    if one != other
                ]
    (HERE / "agreement.json").write_text(json.dumps(kept, indent=1) + "\n")
    print(json.dumps({**kept, "differences": len(kept["differences"])}, indent=1))


if __name__ == "__main__":
    main([Path(name) for name in sys.argv[1:]])
