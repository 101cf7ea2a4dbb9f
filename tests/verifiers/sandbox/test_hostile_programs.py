"""No hostile program is accepted, leaves anything behind, reaches anything outside, or harms the programs after it."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.support.processes import living_processes
from tests.verifiers.hostile import EXPECTED, INPUTS, Hostile, exits, intrusions, resources, spoofs
from tests.verifiers.hostile.host import SECRET, Host, guarded
from tts.verifiers.sandbox import Invocation, Job, JobResult, ProgramLimits, Sandbox, encode

FAMILIES = exits.FAMILIES | resources.FAMILIES | intrusions.FAMILIES | spoofs.FAMILIES
HOSTILE = [
    pytest.param(program, id=f"{family}: {name}".replace(" ", "_"))
    for family, programs in FAMILIES.items()
    for name, program in programs.items()
]
CASES = tuple((Invocation("solve", encode((n,))),) for n in INPUTS)
RIGHT = Job("def solve(n): return n * n + 1", CASES)
RUNGS = {"namespaces": (), "landlock": ("namespaces",)}


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=RUNGS)
async def sandbox(request: pytest.FixtureRequest) -> AsyncIterator[Sandbox]:
    """One for all programs: what harms it shows in the programs after it."""
    sandbox = Sandbox(1, without=RUNGS[request.param])
    yield sandbox
    await sandbox.aclose()


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    with guarded(tmp_path) as host:
        yield host


def job(host: Host, program: Hostile) -> Job:
    cpu = 0.1 if {"cpu"} <= program.ends <= {"cpu", "memory"} else 0.3  # what has no end is cut short
    limits = ProgramLimits(cpu_seconds=cpu, wall_seconds=0.4 if program.sleeps else 120, memory_mb=600)
    return Job(host.fill(program), CASES, limits=limits)


def accepted(result: JobResult) -> bool:
    """The judge's rule: every case ended well with exactly the right value, of exactly its type."""
    return (
        result.loaded.status == "ok"
        and len(result.cases) == len(EXPECTED)
        and all(case.status == "ok" and len(case.values) == 1 for case in result.cases)
        and all(
            type(case.values[0]) is int and case.values[0] == right
            for case, right in zip(result.cases, EXPECTED, strict=True)
        )
    )


def idle_processes(sandbox: Sandbox) -> list[str]:
    return [text for worker in sandbox._all for text in living_processes(worker.process_id).values()]


@pytest.mark.parametrize("program", HOSTILE)
async def test_a_hostile_program_gains_nothing_and_leaves_nothing(
    program: Hostile, sandbox: Sandbox, host: Host
) -> None:
    assert accepted(await sandbox.run(RIGHT))
    before, warm, descriptors = host.state(), sorted(idle_processes(sandbox)), os.listdir("/proc/self/fd")
    result = await sandbox.run(job(host, program))
    assert not accepted(result)
    end = result.cases[-1] if result.cases else result.loaded
    assert end.status in program.ends, result
    assert SECRET not in repr(result).replace(f"'{SECRET}'", "")
    assert host.state() == before
    after = await sandbox.run(RIGHT)
    assert accepted(after), after
    assert sorted(idle_processes(sandbox)) == warm
    async with asyncio.timeout(60):  # this process closes some when it comes to it; those of other tests may go too
        while len(os.listdir("/proc/self/fd")) > len(descriptors):
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("program", [pytest.param(p, id=name) for name, p in spoofs.HARMLESS.items()])
async def test_a_right_program_that_behaves_oddly_is_accepted(program: Hostile, sandbox: Sandbox, host: Host) -> None:
    result = await sandbox.run(Job(host.fill(program), CASES, limits=ProgramLimits(cpu_seconds=20)))
    assert accepted(result), result


async def test_right_programs_beside_hostile_ones_are_accepted(host: Host) -> None:
    sandbox = Sandbox()
    chosen = [p for family in FAMILIES.values() for p in list(family.values())[:4] if not p.sleeps]
    try:
        jobs = [one for program in chosen for one in (RIGHT, job(host, program))]
        results = await asyncio.gather(*map(sandbox.run, jobs))
        assert [accepted(result) for result in results] == [one is RIGHT for one in jobs]
    finally:
        await sandbox.aclose()


def test_there_are_enough_hostile_programs() -> None:
    assert len(HOSTILE) >= 60
    assert all(len(programs) >= 3 for programs in FAMILIES.values())
