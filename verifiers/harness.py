"""Runs one program on its tests and reports what happened. Started by `runner.py`, never imported.

    python -I -S harness.py < JOB > REPORTS      (in its own session and an empty folder)

This process reads the job, and for each run forks a child that executes the program under resource limits, waits
for it with `wait4` (so that the CPU time is the child's own), and collects what the tests said. The child reports
each test by a line with a random mark in a nameless file, not on its standard output. At the end the whole
process group is killed, this process included, so that nothing the program started stays behind.
Standard library alone, and little of it, so that it starts at once.
"""

from __future__ import annotations

import ast
import builtins
import json
import os
import resource
import signal
import sys
from functools import partial
from types import ModuleType
from typing import Any

FEEDBACK = 500  # characters, for the model to read
SIGNALS = {number.value: number.name for number in signal.Signals}
EXPLAINED = 5  # failed tests that come with feedback; the others are only counted


def main() -> None:
    """Do the runs one after the other; one that hangs is the last."""
    job = json.loads(sys.stdin.buffer.read())
    reports = []
    for run in job["runs"]:
        reports.append(execute(job, run))
        if reports[-1]["timed_out"]:
            break
    sys.stdout.write(json.dumps(reports))
    sys.stdout.flush()
    os.killpg(0, signal.SIGKILL)


def execute(job: dict[str, Any], run: dict[str, Any]) -> dict[str, Any]:
    """One run in a child process: its tests' outcomes, exit, CPU seconds and, on request, output."""
    files = given, out, err, told = [nameless_file() for _ in range(4)]
    os.write(given, run.get("input", "").encode("utf-8", "surrogatepass"))
    os.lseek(given, 0, os.SEEK_SET)
    mark = os.urandom(16).hex()
    child = os.fork()
    if child == 0:
        confine(job)
        for number, file in enumerate((given, out, err)):
            os.dup2(file, number)
        become_program(job["program"], run, told, mark)
    overdue = False

    def stop(*_: object) -> None:
        nonlocal overdue
        overdue = True
        os.kill(child, signal.SIGKILL)

    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, job["timeout"])
    _, status, usage = os.wait4(child, 0)
    signal.setitimer(signal.ITIMER_REAL, 0)
    ended_by = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    cpu = usage.ru_utime + usage.ru_stime
    lines = [line.partition(" ") for line in contents(told).splitlines()]
    report = {
        "outcomes": [json.loads(text) for first, _, text in lines if first == mark],
        "exit": os.WEXITSTATUS(status) if os.WIFEXITED(status) else None,
        "signal": SIGNALS.get(ended_by, str(ended_by)) if ended_by else None,
        "timed_out": overdue or ended_by == signal.SIGXCPU or (ended_by == 9 and cpu >= job["timeout"]),
        "cpu": cpu,
        "stdout": contents(out) if "input" in run else "",
        "stderr": contents(err)[-FEEDBACK:],
    }
    for file in files:
        os.close(file)
    return report


def nameless_file() -> int:
    """A file that exists only as long as it is open."""
    file = os.open("scratch", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    os.unlink("scratch")
    return file


def contents(file: int) -> str:
    """All of a file; its size is limited by the writer's resource limits."""
    return os.pread(file, os.fstat(file).st_size, 0).decode("utf-8", "replace")


def confine(job: dict[str, Any]) -> None:
    """Resource limits for this process and those it starts. A limit that the platform refuses is left out."""
    seconds, memory, size = int(job["timeout"]) + 1, job["memory"], job["output"]
    limits = {
        resource.RLIMIT_CPU: (seconds, seconds + 1),
        resource.RLIMIT_AS: (memory, memory),
        resource.RLIMIT_FSIZE: (size, size),
        resource.RLIMIT_CORE: (0, 0),
        resource.RLIMIT_NPROC: (4096, 4096),  # counts all of the user's processes, and none of root's
    }
    for kind, (soft, hard) in limits.items():
        ceiling = resource.getrlimit(kind)[1]
        if ceiling != resource.RLIM_INFINITY:
            soft, hard = min(soft, ceiling), min(hard, ceiling)
        try:
            resource.setrlimit(kind, (soft, hard))
        except (ValueError, OSError):
            continue
    for number in (signal.SIGXFSZ, signal.SIGALRM):
        signal.signal(number, signal.SIG_DFL)
    sys.path += job["path"]


# -- in the child --------------------------------------------------------------------------------------------------


def become_program(program: str, run: dict[str, Any], told: int, mark: str) -> None:
    """Execute the program on the run's input or tests; does not return."""
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")  # noqa: SIM115
    sys.argv = ["program.py"]
    builtins.exit = builtins.quit = sys.exit  # which -S leaves out
    if "input" in run:  # an ordinary program: it ends as the interpreter does, threads joined and output flushed
        sys.modules["__main__"] = module = ModuleType("__main__")
        exec(compile(program, "program.py", "exec"), module.__dict__)
        sys.exit()
    failed, teller = 0, os.getpid()

    def tell(kind: str, feedback: str = "") -> None:
        nonlocal failed
        if os.getpid() != teller:  # the program has forked, and this is its child
            os._exit(0)
        failed += kind != "passed"
        outcome = {"kind": kind, "feedback": shortened(feedback) if failed <= EXPLAINED else ""}
        os.write(told, f"{mark} {json.dumps(outcome)}\n".encode())

    run_tests(program, run, tell)
    os._exit(0)


def run_tests(program: str, suite: dict[str, Any], tell: Any) -> None:
    """Call `tell(kind, feedback)` once for each test, in the order calls, asserts, check."""
    sys.modules["program"] = module = ModuleType("program")
    space, name = module.__dict__, suite["entry_point"] or ""
    try:
        exec(compile(suite["setup"], "setup.py", "exec"), space)
        exec(compile(program, "program.py", "exec"), space)
        missing = name and name not in space
        broken = ("error", f"the program does not define {name}") if missing else None
    except BaseException as error:
        broken = failure(error)
    tests = [partial(try_call, space, name, call) for call in suite["calls"]]
    tests += [partial(try_assert, space, statement) for statement in suite["asserts"]]
    tests += [partial(try_check, space, name, suite["check"])] if suite["check"] else []
    for test in tests:
        try:
            outcome = broken or test()
        except BaseException as error:
            outcome = failure(error)
        tell(*outcome)


def try_call(space: dict[str, Any], name: str, call: dict[str, Any]) -> tuple[str, str]:
    """Call the function and compare what it returns."""
    arguments = [*map(shown, call["args"]), *(f"{key}={shown(value)}" for key, value in call["kwargs"].items())]
    source = f"{name}({', '.join(arguments)})"
    try:
        got = space[name](*call["args"], **call["kwargs"])
    except BaseException as error:
        return failure(error, source)
    if equal(got, call["expected"]):
        return "passed", ""
    return "wrong", f"{source}: expected {shown(call['expected'])}, got {shown(got)}"


def try_assert(space: dict[str, Any], statement: str) -> tuple[str, str]:
    """Execute an assertion; of one that compares two values, say which."""
    tree = ast.parse(statement)
    test = tree.body[0].test if len(tree.body) == 1 and isinstance(tree.body[0], ast.Assert) else None
    if not (isinstance(test, ast.Compare) and len(test.ops) == 1 and isinstance(test.ops[0], ast.Eq)):
        try:
            exec(compile(tree, "test.py", "exec"), space)
        except BaseException as error:
            return failure(error, statement)
        return "passed", ""
    left, right = (ast.unparse(side) for side in (test.left, test.comparators[0]))
    try:
        got, expected = eval(left, space), eval(right, space)
        if got == expected:
            return "passed", ""
    except BaseException as error:
        return failure(error, left)
    return "wrong", f"{left}: expected {shown(expected)}, got {shown(got)}"


def try_check(space: dict[str, Any], name: str, source: str) -> tuple[str, str]:
    """Define `check` beside the program and call it with the entry point."""
    exec(compile(source, "check.py", "exec"), space)
    space["check"](space[name])
    return "passed", ""


def failure(error: BaseException, doing: str = "") -> tuple[str, str]:
    """Kind and feedback of an exception."""
    kind = "error"
    if isinstance(error, MemoryError):
        kind = "memory"
    elif isinstance(error, AssertionError):
        kind = "wrong"
    try:
        message = f"{type(error).__name__}: {error}".removesuffix(": ")
    except BaseException:
        message = type(error).__name__
    return kind, f"{shortened(doing, FEEDBACK // 2)}: {message}" if doing else message


def equal(got: Any, expected: Any) -> bool:
    """`==`, but a tuple equals the list of its items (JSON has none), and floats may differ by rounding."""
    if isinstance(expected, list):
        same_kind = isinstance(got, list | tuple) and len(got) == len(expected)
        return same_kind and all(map(equal, got, expected))
    if isinstance(expected, dict):
        same_kind = isinstance(got, dict) and got.keys() == expected.keys()
        return same_kind and all(equal(got[key], expected[key]) for key in expected)
    if isinstance(got, float) and isinstance(expected, int | float) and got != expected:
        return abs(got - expected) <= 1e-6 + 1e-7 * abs(expected)
    return bool(got == expected)


def shown(value: Any) -> str:
    """A short `repr`, of anything."""
    try:
        return shortened(repr(value), FEEDBACK // 3)
    except BaseException as error:
        return f"<{type(value).__name__} whose repr raises {type(error).__name__}>"


def shortened(text: str, limit: int = FEEDBACK) -> str:
    """`text` with its middle left out."""
    half = (limit - 5) // 2
    return text if len(text) <= limit else f"{text[:half]} ... {text[-half:]}"


if __name__ == "__main__":
    main()
