"""EvalPlus's own `check_correctness` in its own kind of pool, processes, with as many workers as the others.

The reference's values are computed before the clock starts. `fast_check` stops at a program's first failure.
"""

from concurrent.futures import ProcessPoolExecutor

from _load import WORKERS, load, measured, report
from evalplus.evaluate import check_correctness  # pyright: ignore[reportMissingImports] - the peer's environment
from evalplus.gen.util import trusted_exec  # pyright: ignore[reportMissingImports] - the peer's environment
from evalplus.sanitize import sanitize  # pyright: ignore[reportMissingImports] - the peer's environment


def main() -> None:
    job, problems = load()
    expected = {}
    for id, problem in problems.items():
        expected[id] = {}
        for kind in ("base", "plus") if job["plus"] else ("base",):
            values = trusted_exec(
                problem["prompt"] + problem["canonical_solution"],
                problem[f"{kind}_input"],
                problem["entry_point"],
                record_time=True,
            )
            expected[id][kind], expected[id][f"{kind}_time"] = values
    for id, text in job.get("answers", ()):
        job["programs"].append((id, sanitize(text, problems[id]["entry_point"])))
    with measured() as spent, ProcessPoolExecutor(WORKERS) as pool:
        futures = [
            pool.submit(
                check_correctness,
                "humaneval",
                number,
                problems[id],
                program,
                expected[id],
                base_only=not job["plus"],
                fast_check=True,
                identifier=number,
                min_time_limit=job["limit"],
            )
            for number, (id, program) in enumerate(job["programs"])
        ]
        results = [future.result() for future in futures]
    passed = {kind: [result[kind][0] == "pass" for result in results] for kind in ("base", "plus")[: 1 + job["plus"]]}
    spent["base"] = passed["base"]
    report([all(verdicts) for verdicts in zip(*passed.values(), strict=True)], spent)


if __name__ == "__main__":
    main()
