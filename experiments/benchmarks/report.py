"""What a large run costs to read: `python experiments/benchmarks/report.py [PROBLEMSxSAMPLES ...] [--own]`.

A run of four strategies is stored through the store's own API: best-of-n by a reward model, a majority, a weighted vote
(replayed) and self-refinement in chains (replayed, each attempt with its parents). Each command that reads it runs in a
process of its own: CPU seconds (user and system) and peak memory. The page is opened in Chromium: seconds from
navigation until the first curve is drawn and until the page takes input, the median of three. The strategies share
their samples, as strategies of one prompt do; with `--own` each has its own, so that there are as many stored answers
as candidates. The figures go to `report.json` beside this file.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from hashlib import blake2b
from pathlib import Path
from statistics import median
from typing import Any
from urllib.request import urlopen

from playwright.sync_api import sync_playwright

from tts.runs import Experiment
from tts.runs.record import write_record
from tts.runs.store import Cell, Store
from tts.types import Candidate, Charge, Result, Sample, Usage, Verdict, by_role

HERE = Path(__file__).parent
WORDS = [f"{a}{b}" for a in ("num", "sum", "so", "then", "we", "half", "per", "each") for b in "abcdefghijklmnopqrst"]
BATCH = 8
"""Samples of a request."""


def experiment(folder: Path, problems: int, samples: int) -> Experiment:
    """Four strategies of so many samples over questions that are written into `folder`."""
    lines = (
        {"id": f"question-{i}", "prompt": f"[{i}] {' '.join(WORDS[i % 90 : i % 90 + 40])}?", "answer": i + 7}
        for i in range(problems)
    )
    (folder / "questions.jsonl").write_text("\n".join(map(json.dumps, lines)))
    reward = {"name": "outcome_reward"}
    served = {"base_url": "http://127.0.0.1:9/v1", "card": {"parameters": 7e9}}
    return Experiment.parse(
        {
            "task": {"name": "jsonl", "path": str(folder / "questions.jsonl"), "answer_verifier": "numeric_answer"},
            "strategies": [
                {"name": "best_of_n", "n": samples, "verifier": reward},
                {"name": "self_consistency", "n": samples},
                {"name": "self_consistency", "n": samples, "weighted": True, "verifier": reward},
                {"name": "self_refine", "rounds": 4, "chains": max(1, samples // 4), "verifier": reward},
            ],
            "models": {"model": {"policy": {"model": "policy", **served}, "reward": {"model": "reward", **served}}},
        }
    )


def samples_of(rng: random.Random, number: int, salt: str, count: int, skill: float) -> list[Sample]:
    """Worked answers of some 150 tokens to a problem, right with the probability `skill`."""
    made, now = list[Sample](), time.time()
    for index in range(count):
        head = f"{salt}{number}-{index - index % BATCH}"
        answer = number + 7 if rng.random() < skill else number + int(rng.paretovariate(1.0)) % 40 + 8
        text = f"{' '.join(rng.choices(WORDS, k=rng.randrange(60, 240)))}\nAnswer: {answer}"
        tokens = Usage(completion_tokens=len(text) // 4, seconds=rng.uniform(1, 5))
        charges = (
            Charge(head, "policy", Usage(requests=1, prompt_tokens=60), now),
            Charge(f"{head}.{index}", "policy", tokens, now),
        )
        made.append(Sample(text, "stop", charges, index=index, model="policy", batched=True))
    return made


def candidates_of(rng: random.Random, name: str, samples: list[Sample], chains: int, truth: str) -> list[Candidate]:
    """What the strategy called `name` makes of the samples; `chains` is how many conversations refinement has."""
    made: list[Candidate] = []
    rated = name != "majority"
    for i, sample in enumerate(samples):
        said = sample.text.rpartition(" ")[2]
        charges, verdict, parents = frozenset(sample.charges), None, ()
        if rated:
            paid = frozenset([Charge(f"{sample.charges[1].id}r", "reward", Usage(requests=1, prompt_tokens=210))])
            score = min(0.999, max(0.001, rng.gauss(0.6 if said == truth else 0.45, 0.2)))
            verdict, charges = Verdict(round(score, 6), charges=paid, scale="positive"), charges | paid
        notes: dict[str, Any] = {"answer": said} if name in ("majority", "weighted") else {}
        if name == "refined":
            notes = {"round": i // chains + 1, "chain": i % chains}
            if i >= chains:
                parents, charges = (i - chains,), charges | made[i - chains].charges
        graded = {} if said == truth else {"feedback": "wrong answer", "answer": said, "expected": truth}
        made.append(
            Candidate(
                id=i,
                content=sample.text,
                spawned=(i,),
                samples=(sample,),
                parents=parents,
                charges=charges,
                verdict=verdict,
                arrived=i,
                elapsed=rng.uniform(1, 60),
                notes=notes,
                graded=graded,
            )
        )
    return made


async def store_run(folder: Path, problems: int, samples: int, own: bool) -> None:
    """Make the run in `folder`/run."""
    grid, rng = experiment(folder, problems, samples), random.Random(0)
    examples, run = list(grid.task.examples()), folder / "run"
    run.mkdir()
    write_record(run, grid, examples, resume=False, used=False)
    names = ("best", "majority", "weighted", "refined")
    async with Store(run / "run.sqlite") as store:
        for number, example in enumerate(examples):
            skill, truth, drawn = rng.betavariate(0.4, 0.6), str(number + 7), list[Sample]()
            for name, strategy in zip(names, grid.strategies, strict=True):
                if own or not drawn or name == "refined":
                    salt = name if own or name == "refined" else ""
                    drawn = samples_of(rng, number, salt, samples, skill)
                    key = blake2b(f"{salt}{number}".encode(), digest_size=16).digest()
                    await asyncio.gather(*(store.put(key, sample) for sample in drawn))
                made = candidates_of(rng, name, drawn, max(1, samples // 4), truth)
                best = max(made, key=lambda one: one.verdict.score if one.verdict and one.verdict.score else 0.0)
                spent = by_role(charge for one in made for charge in one.charges)
                result = Result(
                    problem=example.problem.id, strategy=strategy.spec, candidates=tuple(made), selected=best,
                    ended="complete", spent=spent, seconds=60.0,
                )  # fmt: skip
                correct: dict[int, bool | None] = {one.id: not one.graded for one in made}
                await store.finish(Cell(example.problem.id, strategy.spec, "model", 0), result, correct)


def measured(*command: str) -> dict[str, Any]:
    """CPU seconds and peak memory of a command of `tts`, the processes that it starts included."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tts", *command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    assert process.stderr is not None
    said = process.stderr.read()
    if used := _ended(process):
        words = (Path(word).name if "/" in word else word for word in command)
        return {"command": " ".join(("tts", *words)), **used}
    raise RuntimeError(f"{process.args} failed: {said.decode()}")


def viewed(folder: Path) -> dict[str, Any]:
    """The same of `tts view`, which sends the overview and the details of a problem once."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tts", "view", str(folder), "--port", "0"], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    address = process.stdout.readline().decode().strip()
    for path in ("api/runs", "api/overview?run=run", "api/problem?run=run&place=1&name=question-1"):
        with urlopen(f"{address}{path}") as answer:
            answer.read()
    process.terminate()
    return {"command": f"tts view {folder.name}", **_ended(process, stopped=True)}


def _ended(process: subprocess.Popen[bytes], *, stopped: bool = False) -> dict[str, Any]:
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode and not stopped:
        return {}
    return {"cpu_seconds": round(used.ru_utime + used.ru_stime, 2), "peak_mb": round(used.ru_maxrss / 1024)}


WATCH = """
window.drawn = window.ready = null;
const painted = (name) => requestAnimationFrame(() => setTimeout(() => (window[name] ??= performance.now())));
new MutationObserver(() => {
  if (document.querySelector("#curves-chart canvas")) painted("drawn");
  if (document.documentElement?.dataset.ready !== undefined) painted("ready");
}).observe(document, { subtree: true, childList: true, attributes: true });
"""
PAINTED = """() => new Promise((done) => {
  const look = () => (drawn && ready ? done([drawn / 1000, ready / 1000]) : setTimeout(look, 20));
  look();
})"""


def opened(page: Path, rounds: int = 3) -> dict[str, Any]:
    """Medians: seconds from navigation until the first curve is painted and until the page takes input, and the CPU
    seconds of its main thread until then."""
    chromium = Path(os.environ.get("TTS_CHROMIUM", "~/.cache/ttscale/chromium/chromium")).expanduser()
    environment: dict[str, str | float | bool] = {**os.environ, "LD_LIBRARY_PATH": str(chromium.parent / "lib")}
    found: list[tuple[float, ...]] = []
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox"], env=environment)
        for _ in range(rounds):
            tab = browser.new_page(locale="en-US", viewport={"width": 1280, "height": 900})
            tab.add_init_script(WATCH)
            session = tab.context.new_cdp_session(tab)
            session.send("Performance.enable", {"timeDomain": "threadTicks"})
            tab.goto(page.as_uri())
            tab.wait_for_selector("html[data-ready]")
            times = tab.evaluate(PAINTED)
            busy = {one["name"]: one["value"] for one in session.send("Performance.getMetrics")["metrics"]}
            found.append((*times, busy["TaskDuration"]))
            tab.close()
        browser.close()
    names = ("first_curve_seconds", "interactive_seconds", "main_thread_cpu_seconds")
    return {name: round(median(values), 3) for name, values in zip(names, zip(*found, strict=True), strict=True)}


def figures(folder: Path, problems: int, samples: int, own: bool) -> dict[str, Any]:
    """Everything that is measured of one run, which is made in `folder` unless it is there."""
    if not (folder / "run" / "run.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        asyncio.run(store_run(folder, problems, samples, own))
    run, other = folder / "run", folder / "other"
    if not other.exists():
        shutil.copytree(run, other)
    reports = {
        "report": measured("report", str(run)),
        "report of two": measured("report", str(run), str(other), "--out", str(folder / "two.html")),
        "resume": measured("run", "--resume", "--out", str(run)),
        "view": viewed(folder),
    }
    shutil.rmtree(other)
    page = run / "report.html"
    return {
        "candidates": problems * samples * 4,
        "stored_mb": round((run / "run.sqlite").stat().st_size / 1e6),
        "page_mb": round(page.stat().st_size / 1e6, 2),
        "load": round(os.getloadavg()[0], 1),
        **reports,
        "page": opened(page),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("sizes", nargs="*", default=["1000x64"], help="PROBLEMSxSAMPLES of each of four strategies")
    parser.add_argument("--own", action="store_true", help="every strategy has samples of its own")
    parser.add_argument("--keep", type=Path, help="where the runs are kept, and found again")
    args = parser.parse_args()
    path = HERE / "report.json"
    found = json.loads(path.read_text()) if path.exists() else {}
    with tempfile.TemporaryDirectory() as temporary:
        for size in args.sizes:
            problems, samples = map(int, size.split("x"))
            name = f"{size} x 4{', own samples' if args.own else ''}"
            found[name] = figures((args.keep or Path(temporary)) / name.replace(" ", "_"), problems, samples, args.own)
            print(json.dumps({name: found[name]}, indent=1), flush=True)
            path.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
