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
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

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


Pairs = Sequence[tuple[str, str]]
"""Problems, and a text each."""


class Answer(NamedTuple):
    """One answer of a run."""

    run: str
    problem: str
    text: str
    right: bool
    """As the run's grader said, by all of HumanEval+."""


def answers(folders: Sequence[Path]) -> list[Answer]:
    """The candidates of the track with most of them in each run."""
    found: list[Answer] = []
    for folder in folders:
        track = max(Run(folder).tracks, key=lambda track: sum(map(len, track.correct)))
        for row, right in zip(track.rows, track.correct, strict=True):
            texts = [candidate.content for candidate in track.candidates(row)]
            graded = zip(texts, right, strict=True)
            found += [Answer(folder.name, row.problem, text, bool(flag)) for text, flag in graded]
    return found


def by_base_tests(texts: Pairs, folder: Path) -> list[bool]:
    """What this library says of answers by the tests of HumanEval."""
    samples, results = folder / "samples.jsonl", folder / "results.jsonl"
    write_samples(samples, texts)
    asyncio.run(verify_samples(samples, HumanEval(), out=results))
    return [json.loads(line)["passed"] for line in results.read_text().splitlines()]


def by_evalplus(programs: Pairs, texts: Pairs, folder: Path) -> dict[str, dict[str, list[bool]]]:
    """What EvalPlus says by the base tests and by all: of programs, and of answers that its sanitizer reads."""
    job = {"data": str(DATA), "programs": programs, "answers": texts, "limit": LIMIT, "plus": True}
    (folder / "job.json").write_text(json.dumps(job))
    asked = [sys.executable, str(BENCHMARKS / "peer_envs.py"), "evalplus"]
    python = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    command = [python, str(BENCHMARKS / "runners" / "evalplus_runner.py"), str(folder / "job.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    said = json.loads(done.stdout.splitlines()[-1])
    parts = {"extracted": slice(len(programs)), "sanitized": slice(len(programs), None)}
    return {
        f"EvalPlus, {form}": {"base": said["base"][part], "plus": said["verdicts"][part]}
        for form, part in parts.items()
    }


def main(folders: Sequence[Path]) -> None:
    """Judge, print the counts, and keep the differences."""
    found = answers(folders)
    shown = {example.problem.id: example.problem.tests or {} for example in HumanEval().examples()}
    texts = [(answer.problem, answer.text) for answer in found]
    programs = [(id, extract_program(text, shown[id]["entry_point"], shown[id]["prompt"]) or "") for id, text in texts]
    with tempfile.TemporaryDirectory() as name:
        ours = {"base": by_base_tests(texts, Path(name)), "plus": [answer.right for answer in found]}
        said = {"tts": ours, **by_evalplus(programs, texts, Path(name))}
    kept: dict[str, Any] = {"answers": Counter(answer.run for answer in found), "right": {}, "differences": []}
    for judge, verdicts in said.items():
        for tests, theirs in verdicts.items():
            right = Counter(answer.run for answer, passed in zip(found, theirs, strict=True) if passed)
            kept["right"][f"{judge}, {tests}"] = right
            kept["differences"] += [
                {"tests": tests, "by": judge, "said": passed, "tts": own, **answer._asdict()}
                for answer, passed, own in zip(found, theirs, said["tts"][tests], strict=True)
                if passed != own
            ]
    (HERE / "agreement.json").write_text(json.dumps(kept, indent=1) + "\n")
    print(json.dumps({**kept, "differences": len(kept["differences"])}, indent=1))


if __name__ == "__main__":
    main([Path(name) for name in sys.argv[1:]])
