"""Many programs in a row through the sandbox: does anything grow?

    python experiments/benchmarks/sandbox_endurance.py 100000

Right, wrong, looping, exiting and file-writing programs in turn. Prints, for each tenth, the speed, the memory and the
descriptors of this process and of its zygotes, and how many processes there are; ends with 1 if anything has grown.
"""

import asyncio
import os
import sys
import time
from collections import Counter
from pathlib import Path

from tts.verifiers.sandbox import Invocation, Job, ProgramLimits, Sandbox, encode

PROGRAMS = {
    "ok": "def f(n): return n + 1",
    "error": "def f(n): raise ValueError(n)",
    "crashed": "import os\ndef f(n): os._exit(0)",
    "wrote": "def f(n):\n    open('left', 'w').write('x' * 10_000)\n    return n",
}
LOOP = "def f(n):\n    while True: pass"
CASES = ((Invocation("f", encode((1,))),),)


def family(pid: int) -> list[int]:
    """A process and all its descendants."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [pid, *(p for child in children for p in family(int(child)))]


def state() -> dict[str, int]:
    """KiB, descriptors and number of this process and all that descend from it."""
    pids = family(os.getpid())
    return {
        "processes": len(pids),
        "KiB": sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids)
        * os.sysconf("SC_PAGESIZE")
        // 1024,
        "descriptors": sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in pids),
    }


async def tenth(sandbox: Sandbox, count: int) -> Counter[str]:
    """Run `count` programs, a few hundred at a time; how they ended."""
    names = list(PROGRAMS)
    ends: Counter[str] = Counter()
    for begin in range(0, count, 200):
        sources = [PROGRAMS[names[i % len(names)]] for i in range(begin, min(begin + 200, count))]
        jobs = [Job(source, CASES) for source in sources] + [Job(LOOP, CASES, limits=ProgramLimits(cpu_seconds=0.05))]
        for result in await asyncio.gather(*map(sandbox.run, jobs)):
            ends[result.cases[-1].status if result.cases else result.loaded.status] += 1
    return ends


async def main(count: int) -> int:
    """Ten tenths; 1 if the last state is larger than the second."""
    sandbox = Sandbox()
    states = []
    for part in range(10):
        begin = time.monotonic()
        ends = await tenth(sandbox, count // 10)
        states.append(state())
        print(
            f"{part + 1:2}/10  {count / 10 / (time.monotonic() - begin):6.0f}/s  {states[-1]}  {dict(ends)}", flush=True
        )
    await sandbox.aclose()
    first, last = states[1], states[-1]
    grown = [key for key in first if last[key] > first[key] * (1.02 if key == "KiB" else 1)]
    print(f"grown: {', '.join(grown) or 'nothing'}")
    return bool(grown)


if __name__ == "__main__":
    sys.exit(asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)))
