"""What the sandbox answers to programs that mean no harm, and how it manages its workers."""

# ruff: noqa: E501 - a program is read more easily on one line

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.support.processes import living_processes
from tts.verifiers.sandbox import CaseResult, Invocation, Job, Opaque, ProgramLimits, Sandbox, SandboxError, encode
from tts.verifiers.sandbox.child.codec import read_answer
from tts.verifiers.sandbox.running import RunningProgram
from tts.verifiers.sandbox.worker import ZYGOTE, report


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sandbox() -> AsyncIterator[Sandbox]:
    """One for all: what harms it shows in the programs after it."""
    sandbox = Sandbox(1)
    yield sandbox
    await sandbox.aclose()


@pytest.fixture
async def own() -> AsyncIterator[Sandbox]:
    """One whose workers a test may end."""
    sandbox = Sandbox(1)
    yield sandbox
    await sandbox.aclose()


def call(path: str, *args: Any, store: str | None = None, **named: Any) -> Invocation:
    return Invocation(path, encode(args), encode(named) if named else "", store)


def cases(path: str, *inputs: Any) -> tuple[tuple[Invocation, ...], ...]:
    return tuple((call(path, value),) for value in inputs)


# -- calls ---------------------------------------------------------------------------------------------------------


async def test_values_come_back_exactly(sandbox: Sandbox) -> None:
    values = [None, True, 1 << 200, -3, 1.5, "a\ud800\n", b"\0\xff", [1, (2,)], {(1, 2): {3}}, frozenset({4}), 2j, {}]
    result = await sandbox.run(Job("def same(x): return x", cases("same", *values)))
    assert [case.values[0] for case in result.cases] == values
    assert [type(case.values[0]) for case in result.cases] == [type(value) for value in values]


async def test_subclasses_cross_as_what_they_are_and_other_objects_not_at_all(sandbox: Sandbox) -> None:
    program = "from collections import Counter\nimport enum\nclass E(enum.IntEnum): A = 3\ndef f(): return Counter('aab'), E.A, f"
    result = await sandbox.run(Job(program, ((call("f"),),)))
    counter, number, function = result.cases[0].values[0]
    assert (counter, number) == ({"a": 2, "b": 1}, 3)
    assert type(counter) is dict
    assert type(number) is int
    assert isinstance(function, Opaque)
    assert function.type == "function"


async def test_an_exception_fails_its_case_alone(sandbox: Sandbox) -> None:
    result = await sandbox.run(
        Job("def f(n):\n    if n == 2: raise ValueError('two')\n    return n", cases("f", 1, 2, 3))
    )
    assert [case.status for case in result.cases] == ["ok", "error", "ok"]
    assert result.cases[1].error == "ValueError: two"


async def test_stored_objects_live_as_long_as_the_program(sandbox: Sandbox) -> None:
    program = "class Box:\n    def __init__(self, x): self.x = x\n    def add(self, y, *, times=1):\n        self.x += y * times\n        return self.x"
    first = (call("Box", 5, store="box"), call("box.add", 2, times=3))
    result = await sandbox.run(Job(program, (first, (Invocation("box.x", ""),), (call("nothing"),))))
    assert [one.values for one in result.cases[:2]] == [(None, 11), (11,)]
    assert result.cases[2].error == "NameError: name 'nothing' is not defined"


async def test_a_program_that_does_not_load_has_no_cases(sandbox: Sandbox) -> None:
    result = await sandbox.run(Job("import nothing_of_this_name", cases("f", 1)))
    assert result.loaded.status == "error"
    assert "ModuleNotFoundError" in result.loaded.error
    assert result.cases == ()


async def test_output_of_a_case_is_kept_with_it(sandbox: Sandbox) -> None:
    result = await sandbox.run(Job("print('loading')\ndef f(n): print(n)", cases("f", 1, 2)))
    assert [result.loaded.stdout, *(case.stdout for case in result.cases)] == ["loading\n", "1\n", "2\n"]


async def test_the_judge_can_stop_a_program(sandbox: Sandbox) -> None:
    seen: list[CaseResult] = []

    def stop(index: int, result: CaseResult) -> bool:
        seen.append(result)
        return result.values == (1,)  # they are here, and not kept

    program = "def f(n):\n    while n == 9: pass\n    return n"
    result = await sandbox.run(Job(program, cases("f", 0, 1, 9), stop_at_failure=stop))
    assert [case.values for case in seen] == [(0,), (1,)]
    assert [case.status for case in result.cases] == ["ok", "ok"]
    assert not any(case.values for case in result.cases)


async def test_cases_share_a_process(sandbox: Sandbox) -> None:
    program = "seen = []\ndef f(n):\n    seen.append(n)\n    return seen"
    result = await sandbox.run(Job(program, cases("f", 1, 2)))
    assert [case.values[0] for case in result.cases] == [[1], [1, 2]]


async def test_a_thousand_large_cases_pass_through(sandbox: Sandbox) -> None:
    result = await sandbox.run(Job("def f(s): return len(s)", cases("f", *("x" * n for n in range(1000, 2000)))))
    assert [case.values[0] for case in result.cases] == list(range(1000, 2000))


# -- limits --------------------------------------------------------------------------------------------------------


ENDS = {
    "exits": ("os._exit(3)", "crashed"),
    "is killed": ("ctypes.string_at(1)", "crashed"),
    "loops": ("[1 for _ in iter(int, 1)]", "cpu"),
    "talks": ("[print('x' * 1000) for _ in iter(int, 1)]", "output"),
}


@pytest.mark.parametrize("place", range(4))
@pytest.mark.parametrize("waits", [0.0, 0.05], ids=["at once", "later"])
@pytest.mark.parametrize("way", ENDS)
async def test_what_a_program_answered_before_its_end_counts(
    sandbox: Sandbox, way: str, waits: float, place: int
) -> None:
    source, status = ENDS[way]
    program = (
        f"import ctypes, os, time\ndef f(n):\n    time.sleep({waits})\n    if n == {place}: {source}\n    return n"
    )
    limits = ProgramLimits(cpu_seconds=0.2, output_kb=64)
    result = await sandbox.run(Job(program, cases("f", *range(4)), limits=limits))
    assert [one.values for one in result.cases[:-1]] == [(number,) for number in range(place)]
    assert result.cases[-1].status == status


@pytest.mark.parametrize("kept", ["time.sleep(60)", "None", "os.kill(os.getpid(), 9)"])
async def test_a_program_that_does_not_end_when_told_has_answered_all_the_same(sandbox: Sandbox, kept: str) -> None:
    program = f"import os, time\nos._exit = lambda status: {kept}\ndef f(n): return n"
    result = await sandbox.run(Job(program, cases("f", 1, 2)))
    assert [(one.status, one.values) for one in result.cases] == [("ok", (1,)), ("ok", (2,))]
    assert (await sandbox.run(Job("def f(n): return n", cases("f", 1)))).cases[0].status == "ok"


async def test_nothing_of_what_was_tried_beforehand_is_left_for_programs(sandbox: Sandbox) -> None:
    program = (
        "import sys, os\ndef f(): return sorted(globals()), sys.modules['program'].f is f, os.getcwd(), os.listdir()"
    )
    names, own, folder, files = (await sandbox.run(Job(program, ((call("f"),),)))).cases[0].values[0]
    assert [name for name in names if name[:2] != "__"] == ["f", "os", "sys"]
    assert own
    assert (folder, files) == ("/tmp", [])


async def test_a_loop_costs_its_limit_and_nothing_more(sandbox: Sandbox) -> None:
    program = "def f(n):\n    while n == 2: pass\n    return n"
    result = await sandbox.run(Job(program, cases("f", 1, 2, 3), limits=ProgramLimits(cpu_seconds=0.3)))
    assert [case.status for case in result.cases] == ["ok", "cpu"]
    assert 0.3 <= result.cpu_seconds < 5


async def test_each_case_has_its_own_limit(sandbox: Sandbox) -> None:
    program = "import time\ndef f(s):\n    end = time.process_time() + s\n    while time.process_time() < end: pass\n    return s"
    limits = ProgramLimits(cpu_seconds=10, case_cpu_seconds=0.3)
    result = await sandbox.run(Job(program, cases("f", 0.2, 0.2, 0.2, 5.0, 0.1), limits=limits))
    assert [case.status for case in result.cases] == ["ok", "ok", "ok", "cpu"]
    assert all(case.cpu_seconds >= 0.19 for case in result.cases)


async def test_a_case_that_is_done_before_its_judge_looks_has_cost_as_much(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    send = RunningProgram.send

    async def late(program: RunningProgram, *order: Any, **more: Any) -> None:
        await send(program, *order, **more)
        time.sleep(0.5)  # noqa: ASYNC251 - the judge's whole process waits, as where others have the processor

    monkeypatch.setattr(RunningProgram, "send", late)
    program = "import time\ndef f(s):\n    end = time.process_time() + s\n    while time.process_time() < end: pass\n    return s"
    limits = ProgramLimits(cpu_seconds=10, case_cpu_seconds=5)
    result = await sandbox.run(Job(program, cases("f", 0.1), limits=limits))
    assert [(case.status, case.cpu_seconds >= 0.09) for case in result.cases] == [("ok", True)]


async def test_a_program_over_its_limit_is_refused_even_when_nobody_was_there_to_end_it(sandbox: Sandbox) -> None:
    import time

    program = "import time\ndef f(s):\n    while time.process_time() < s: pass\n    return s"
    task = asyncio.ensure_future(sandbox.run(Job(program, cases("f", 0.6), limits=ProgramLimits(cpu_seconds=0.3))))
    await asyncio.sleep(0.25)
    time.sleep(1.5)  # noqa: ASYNC251 - the loop is held up
    result = await task
    assert [case.status for case in result.cases] == ["cpu"]


async def test_a_memory_error_is_told_and_the_program_goes_on(sandbox: Sandbox) -> None:
    program = "def f(n): return len(bytearray(n))"
    result = await sandbox.run(Job(program, cases("f", 10, 10**10, 20), limits=ProgramLimits(memory_mb=256)))
    assert [case.status for case in result.cases] == ["ok", "memory", "ok"]


async def test_crowded_cores_change_no_verdict(sandbox: Sandbox) -> None:
    crowd = Sandbox(4 * (os.cpu_count() or 1))
    program = "import time\ndef f(s):\n    while time.process_time() < s: pass\n    return s"
    job = Job(program, cases("f", 0.15), limits=ProgramLimits(cpu_seconds=0.35))
    try:
        results = await asyncio.gather(*(crowd.run(job) for _ in range(8)))
        assert [result.cases[0].status for result in results] == ["ok"] * 8
    finally:
        await crowd.aclose()


# -- scripts and other languages -----------------------------------------------------------------------------------


async def test_scripts_read_standard_input_and_their_output_is_the_result(sandbox: Sandbox) -> None:
    program = "import sys\nn = int(input())\nprint(n * 2, __name__)\nsys.stdout.buffer.write(b'raw\\n') if n == 1 else sys.exit(n)"
    result = await sandbox.run(Job(program, scripts=("1\n", "3\n", "x\n")))
    assert [case.status for case in result.cases] == ["ok", "error", "error"]
    assert "2 __main__\n" in result.cases[0].stdout
    assert "raw\n" in result.cases[0].stdout
    assert result.cases[1].error == "SystemExit: 3"
    assert result.cases[2].error.startswith("ValueError: invalid literal")


@pytest.mark.parametrize(
    "ending", ["exit()", "import sys; sys.exit(0)", "import os, sys; sys.stdout.flush(); os._exit(0)"]
)
async def test_a_script_may_end_by_leaving(sandbox: Sandbox, ending: str) -> None:
    result = await sandbox.run(Job(f"print('done')\n{ending}", scripts=("",)))
    assert result.cases == (CaseResult("ok", (), "done\n", "", result.cases[0].cpu_seconds),)


async def test_a_script_waits_for_its_threads_and_flushes(sandbox: Sandbox) -> None:
    program = "import threading, time, atexit\natexit.register(print, 'last')\nthreading.Thread(target=lambda: (time.sleep(0.1), print('thread'))).start()\nprint('main')"
    result = await sandbox.run(Job(program, scripts=("",)))
    assert result.cases[0].stdout == "main\nthread\nlast\n"


async def test_scripts_can_name_their_input(sandbox: Sandbox) -> None:
    result = await sandbox.run(Job("print(open('/dev/stdin').read(), open(0).read())", scripts=("a", "b")))
    assert [case.stdout for case in result.cases] == ["a a\n", "b b\n"]


async def test_a_slow_script_does_not_end_the_others(sandbox: Sandbox) -> None:
    program = "n = int(input())\nwhile n == 2: pass\nprint(n)"
    result = await sandbox.run(Job(program, scripts=("1", "2", "3"), limits=ProgramLimits(cpu_seconds=0.3)))
    assert [case.status for case in result.cases] == ["ok", "cpu", "ok"]


CPP = "#include <iostream>\nint main() { int a, b; std::cin >> a >> b; if (b == 0) return 3; std::cout << a / b; }"


@pytest.mark.skipif(not shutil.which("g++"), reason="needs g++")
async def test_cpp_programs_are_compiled_once_and_run(sandbox: Sandbox) -> None:
    result = await sandbox.run(Job(CPP, scripts=("6 3", "1 0"), language="cpp"))
    assert [(case.status, case.stdout) for case in result.cases] == [("ok", "2"), ("error", "")]
    broken = await sandbox.run(Job("int main() { return x; }", scripts=("",), language="cpp"))
    assert broken.loaded.status == "error"
    assert "not declared" in broken.loaded.error
    assert broken.cases == ()


# -- the pool ------------------------------------------------------------------------------------------------------


async def test_a_program_is_kept_open_and_another_calls_it(sandbox: Sandbox) -> None:
    order = json.dumps([["f", encode((1,)), "", None]]) + "\n"
    caller = f"import os\ndef g():\n    os.write(4, {order.encode()!r})\n    return os.read(4, 1000).decode()"
    async with sandbox.open(Job("def f(n): return n + 1")) as one, sandbox.open(Job(caller), remote=one) as other:
        assert one.loaded.status == other.loaded.status == "ok"
        for _ in range(2):
            (answer,) = (await other.call(call("g"))).values
            assert read_answer(answer.strip().encode()) == ("ok", (2,), "", "")
        assert one.cpu_seconds > 0


async def test_only_the_program_that_calls_another_has_its_descriptor(sandbox: Sandbox) -> None:
    opened = """
import os
def g(): return [n for n in range(200) if is_open(n)]
def is_open(n):
    try:
        return bool(os.fstat(n))
    except OSError:
        return False
"""
    async with sandbox.open(Job(opened)) as one:
        assert (await one.call(call("g"))).values == ([0, 1, 2, 3],)
        async with sandbox.open(Job(opened), remote=one) as other:
            assert (await other.call(call("g"))).values == ([0, 1, 2, 3, 4],)


async def test_an_open_program_that_has_died_says_so_again(sandbox: Sandbox) -> None:
    async with sandbox.open(Job("import os\ndef f(): os._exit(1)")) as program:
        ends = [await program.call(call("f")) for _ in range(2)]
        assert [end.status for end in ends] == ["crashed", "crashed"]


async def test_cancelling_ends_the_program_at_once_and_frees_its_place(own: Sandbox) -> None:
    task = asyncio.ensure_future(own.run(Job("while True: pass", limits=ProgramLimits(cpu_seconds=1000))))
    await asyncio.sleep(0.3)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    result = await own.run(Job("def f(n): return n", cases("f", 1)))
    assert result.cases[0].values == (1,)
    assert sum(len(living_processes(worker.process_id)) for worker in own._all) <= 2


async def test_a_dead_zygote_is_replaced_and_its_job_done_again(own: Sandbox) -> None:
    await own.run(Job(""))
    task = asyncio.ensure_future(own.run(Job("import time\ntime.sleep(0.5)\ndef f(n): return n", cases("f", 7))))
    await asyncio.sleep(0.2)
    for worker in own._all:
        os.kill(worker.process_id, signal.SIGKILL)
    result = await task
    assert [case.values for case in result.cases] == [(7,)]


async def test_packages_that_were_imported_outside_have_their_modules_inside(sandbox: Sandbox):
    program = "import importlib.metadata, json.tool, collections.abc\ndef f(x):\n    return x + 1\n"
    result = await sandbox.run(Job(program, cases("f", 4)))
    assert [case.values for case in result.cases] == [(5,)]


async def test_modules_can_be_loaded_beforehand(sandbox: Sandbox) -> None:
    program = "import sys\nhad = 'numpy' in sys.modules\nimport numpy as np\ndef f(n): return had, np.float64(n), np.arange(n).sum()"
    result = await sandbox.run(Job(program, cases("f", 4), preload=("numpy",)))
    assert result.cases[0].values == ((True, 4.0, 6),)
    with pytest.raises(SandboxError, match="nothing_of_this_name"):
        await sandbox.run(Job("", preload=("nothing_of_this_name",)))


async def test_what_is_warmed_up_once_each_program_finds_warm(sandbox: Sandbox) -> None:
    program = "import sys\ndef f(n):\n    sys.warm.append(n)\n    return sys.warm"
    jobs = [Job(program, cases("f", n), warm_up="import sys\nsys.warm = [0]") for n in (4, 5)]
    assert [(await sandbox.run(job)).cases[0].values for job in jobs] == [([0, 4],), ([0, 5],)]
    assert (await sandbox.run(Job(program, cases("f", 6)))).cases[0].status == "error"


@pytest.mark.parametrize("kept", [True, False])
async def test_the_bytecode_of_what_is_loaded_is_kept_where_the_interpreter_keeps_it(
    sandbox: Sandbox, kept: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packages = tmp_path / "site-packages"
    packages.mkdir()
    (packages / "seldom_loaded.py").write_text("import as_seldom")
    (packages / "as_seldom.py").write_text("")
    monkeypatch.setattr(sys, "path", [*sys.path, str(packages)])
    monkeypatch.setattr(sys, "dont_write_bytecode", not kept)
    own = shutil.copytree(ZYGOTE.parent, tmp_path / "child", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr("tts.verifiers.sandbox.worker.ZYGOTE", own / ZYGOTE.name)
    assert (await sandbox.run(Job("import seldom_loaded, as_seldom", preload=("seldom_loaded",)))).loaded.status == "ok"
    names = {path.name.partition(".")[0] for path in packages.glob("__pycache__/*.pyc")}
    assert names == ({"seldom_loaded", "as_seldom"} if kept else set())
    assert kept == any(own.glob("__pycache__/program.*.pyc"))


async def test_everything_ends_with_the_sandbox() -> None:
    sandbox = Sandbox(2)
    await asyncio.gather(*(sandbox.run(Job("x = 1")) for _ in range(4)))
    started = [worker.process_id for worker in sandbox._all]
    await sandbox.aclose()
    assert [living_processes(session) for session in started] == [{}] * len(started)


KILLED = """
import asyncio, sys
from tts.verifiers.sandbox import Job, ProgramLimits, Sandbox
async def main():
    sandbox = Sandbox(1, without=sys.argv[1:])
    await sandbox.run(Job(""))
    print(*(worker.process_id for worker in sandbox._all), flush=True)
    await sandbox.run(Job("while True: pass", limits=ProgramLimits(cpu_seconds=1000)))
asyncio.run(main())
"""


@pytest.mark.parametrize("without", [(), ("namespaces",)], ids=["namespaces", "landlock"])
async def test_everything_ends_when_the_judge_is_killed(without: tuple[str, ...]) -> None:
    judge = subprocess.Popen([sys.executable, "-c", KILLED, *without], stdout=subprocess.PIPE, text=True)  # noqa: ASYNC220
    assert judge.stdout
    session = int(judge.stdout.readline())
    await asyncio.sleep(0.3)
    judge.kill()
    judge.wait()
    judge.stdout.close()
    async with asyncio.timeout(120):
        while living_processes(session):
            await asyncio.sleep(0.05)


async def test_hundreds_of_programs_leave_no_trace(sandbox: Sandbox) -> None:
    def state() -> tuple[int, int, int]:
        zygotes = [pid for worker in sandbox._all for pid in living_processes(worker.process_id)]
        sizes = [int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in zygotes]
        return len(os.listdir("/proc/self/fd")), len(zygotes), sum(sizes)

    async def some() -> None:
        jobs = [Job("def f(n):\n    open('x', 'w').write('y' * n)\n    return n", cases("f", 5)) for _ in range(150)]
        assert all(result.cases[0].values == (5,) for result in await asyncio.gather(*map(sandbox.run, jobs)))

    await some()
    before = state()
    await some()
    after = state()
    assert after[0] <= before[0]  # those of other tests may be collected meanwhile
    assert after[1] == before[1]
    assert after[2] <= before[2] + 64


# -- isolation -----------------------------------------------------------------------------------------------------


async def test_too_weak_isolation_is_refused_unless_it_was_accepted() -> None:
    sandbox = Sandbox(1, without=("namespaces", "landlock"))
    try:
        with pytest.raises(SandboxError, match="best_effort"):
            await sandbox.run(Job("x = 1"))
        result = await sandbox.run(Job("x = 1", isolation="best_effort"))
        assert result.loaded.status == "ok"
        assert result.isolation == "seccomp"
    finally:
        await sandbox.aclose()


async def test_the_report_names_every_layer_with_its_reason() -> None:
    layers = {layer.layer: layer for layer in await report(without=("landlock",))}
    assert set(layers) == {"namespaces", "seccomp", "landlock", "rlimits"}
    assert not layers["landlock"].active
    assert layers["landlock"].reason == "not wanted"
    assert layers["seccomp"].active


# -- the second rung: folders of the host -------------------------------------------------------------------------

FILLS = {
    "many files": "for i in range(40):\n    with open(f'big{i}', 'wb') as f: f.write(bytes(6 * 10**7))\n    time.sleep(0.25)",
    "files that are removed": (
        "kept = []\nfor i in range(40):\n    kept.append(open(f'big{i}', 'wb', buffering=0))\n    os.unlink(f'big{i}')\n"
        "    kept[-1].write(bytes(6 * 10**7))\n    time.sleep(0.25)"
    ),
}


@pytest.mark.parametrize("name", FILLS)
async def test_a_program_cannot_fill_the_hosts_disk(name: str) -> None:
    sandbox = Sandbox(1, without=("namespaces",))
    try:
        result = await sandbox.run(
            Job(f"import os, time\n{FILLS[name]}\ndef f(): return 1", ((Invocation("f", encode(())),),))
        )
        assert result.loaded.status == "output", result
        assert (await sandbox.run(Job("def f(): return 1", ((Invocation("f", encode(())),),)))).cases[0].values == (1,)
    finally:
        await sandbox.aclose()


async def test_whatever_a_program_leaves_in_its_folder_goes() -> None:
    deep = "import os\nfor i in range(2100):\n    os.mkdir('d')\n    os.chdir('d')\nopen('x', 'w').close()\ndef f(): return 1"
    sandbox = Sandbox(1, without=("namespaces",))
    try:
        for program in (deep, "import os\nseen = os.listdir('.')\ndef f(): return len(seen)"):
            result = await sandbox.run(Job(program, ((Invocation("f", encode(())),),)))
        assert result.cases[0].values == (0,), result
        (worker,) = sandbox._all
        await sandbox.run(Job(deep, ((Invocation("f", encode(())),),)))
        assert worker in sandbox._all
    finally:
        await sandbox.aclose()
    assert not Path(worker.folder).exists()  # noqa: ASYNC240


LEAVING = """
import asyncio, sys
from tts.verifiers.sandbox import Invocation, Job, Sandbox, encode
async def main():
    sandbox = Sandbox(1, without=("namespaces",))
    await sandbox.run(Job("open('left', 'w').write('x')"))
    print([worker.folder for worker in sandbox._all][0], flush=True)
    await sandbox.run(Job("import os, time\\nos.makedirs('a/b')\\ntime.sleep(1000)"))
asyncio.run(main())
"""


def test_a_killed_judge_leaves_no_folder() -> None:
    with subprocess.Popen([sys.executable, "-c", LEAVING], stdout=subprocess.PIPE, text=True) as judge:
        assert judge.stdout
        folder = judge.stdout.readline().strip()
        assert os.path.isdir(folder)
        time.sleep(1)
        judge.kill()
    deadline = time.monotonic() + 30
    while os.path.exists(folder) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not os.path.exists(folder)


@pytest.mark.parametrize("without", [(), ("namespaces",)])
async def test_a_program_cannot_sync_the_hosts_disks(without: tuple[str, ...]) -> None:
    program = (
        "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\ndef f(): return libc.syncfs(1), ctypes.get_errno()"
    )
    sandbox = Sandbox(1, without=without)
    try:
        result = await sandbox.run(Job(program, ((Invocation("f", encode(())),),)))
        assert result.cases[0].values == ((-1, 1),), result
    finally:
        await sandbox.aclose()
