"""No hostile program is accepted, leaves anything behind, reaches anything outside, or harms the programs after it."""

import asyncio
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.processes import living_processes
from tests.verifiers.hostile import EXPECTED, INPUTS, Hostile, exits, intrusions, resources, spoofs
from tts.verifiers.sandbox import Invocation, Job, JobResult, ProgramLimits, Sandbox, encode

FAMILIES = exits.FAMILIES | resources.FAMILIES | intrusions.FAMILIES | spoofs.FAMILIES
HOSTILE = [
    pytest.param(program, id=f"{family}: {name}".replace(" ", "_"))
    for family, programs in FAMILIES.items()
    for name, program in programs.items()
]
CASES = tuple((Invocation("solve", encode((n,))),) for n in INPUTS)
RIGHT = Job("def solve(n): return n * n + 1", CASES)
SECRET = "tts-hostile-secret"
RUNGS = {"namespaces": (), "landlock": ("namespaces",)}


@dataclass
class Host:
    """What programs must not touch."""

    outside: Path
    port: int

    def fill(self, program: Hostile) -> Job:
        source = program.source.replace("{{outside}}", str(self.outside)).replace("{{secret}}", SECRET)
        source = source.replace("{{judge}}", str(os.getpid()))
        limits = ProgramLimits(cpu_seconds=0.5, wall_seconds=1.5 if program.sleeps else 120, memory_mb=600)
        return Job(source.replace("{{port}}", str(self.port)), CASES, limits=limits)

    def state(self) -> dict[str, object]:
        return {
            "files": {p: (p.stat().st_mode, p.read_bytes()) for p in self.outside.rglob("*") if p.is_file()},
            "mode": self.outside.stat().st_mode,
            "ipc": [Path(f"/proc/sysvipc/{kind}").read_text() for kind in ("shm", "msg", "sem")],
            "shared memory": sorted(p.name for p in Path("/dev/shm").glob("*hostile*")),
            "strays": [p for p in ("/tts-hostile", "/etc/tts-hostile", "/usr/tts-hostile", "/root/tts-hostile",
                                   "/home/tts-hostile", "/var/tmp/tts-hostile") if os.path.exists(p)],
        }  # fmt: skip


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    (tmp_path / "seen").write_text(SECRET)
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0)
        yield Host(tmp_path, server.getsockname()[1])
        with pytest.raises(BlockingIOError):
            server.accept()


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
@pytest.mark.parametrize("rung", RUNGS)
async def test_a_hostile_program_gains_nothing_and_leaves_nothing(program: Hostile, rung: str, host: Host) -> None:
    sandbox = Sandbox(1, without=RUNGS[rung])
    try:
        assert accepted(await sandbox.run(RIGHT))
        before, warm, descriptors = host.state(), sorted(idle_processes(sandbox)), os.listdir("/proc/self/fd")
        result = await sandbox.run(host.fill(program))
        assert not accepted(result)
        end = result.cases[-1] if result.cases else result.loaded
        assert end.status in program.ends, result
        assert SECRET not in repr(result).replace(f"'{SECRET}'", "")
        assert host.state() == before
        after = await sandbox.run(RIGHT)
        assert accepted(after), after
        assert sorted(idle_processes(sandbox)) == warm
        assert len(os.listdir("/proc/self/fd")) == len(descriptors)
    finally:
        await sandbox.aclose()


@pytest.mark.parametrize("program", [pytest.param(p, id=name) for name, p in spoofs.HARMLESS.items()])
@pytest.mark.parametrize("rung", RUNGS)
async def test_a_right_program_that_behaves_oddly_is_accepted(program: Hostile, rung: str, host: Host) -> None:
    sandbox = Sandbox(1, without=RUNGS[rung])
    try:
        result = await sandbox.run(Job(host.fill(program).program, CASES, limits=ProgramLimits(cpu_seconds=20)))
        assert accepted(result), result
    finally:
        await sandbox.aclose()


async def test_right_programs_beside_hostile_ones_are_accepted(host: Host) -> None:
    sandbox = Sandbox()
    chosen = [p for family in FAMILIES.values() for p in list(family.values())[:4] if not p.sleeps]
    try:
        jobs = [job for program in chosen for job in (RIGHT, host.fill(program))]
        results = await asyncio.gather(*map(sandbox.run, jobs))
        assert [accepted(result) for result in results] == [job is RIGHT for job in jobs]
    finally:
        await sandbox.aclose()


def test_there_are_enough_hostile_programs() -> None:
    assert len(HOSTILE) >= 60
    assert all(len(programs) >= 3 for programs in FAMILIES.values())
