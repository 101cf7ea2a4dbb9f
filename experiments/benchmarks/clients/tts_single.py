"""Single-sample chat requests through a session and the sampler. Arguments: base_url, `stored`, `seldom`.

`stored`: every sample is stored; `seldom`: the garbage collector looks seldom for cycles, as in `tts run`.
"""

import asyncio
import sys
import tempfile
from pathlib import Path

from _measure import MESSAGES, SINGLES, SINGLES_IN_FLIGHT, measured, report

from tts import Endpoint, Problem, Sampler, Session
from tts.cycles import look_past_what_is_there
from tts.runs.store import Store


async def main(base_url: str, stored: bool, seldom: bool) -> None:
    if seldom:
        look_past_what_is_there()
    endpoint = Endpoint(model="test-model", base_url=base_url, max_concurrency=SINGLES_IN_FLIGHT)
    with tempfile.TemporaryDirectory() as folder:
        async with Sampler(endpoint) as sampler, Store(Path(folder) / "run.sqlite") as store:
            left = iter(range(SINGLES))

            async def work() -> None:
                for number in left:
                    problem = Problem(id=str(number), messages=tuple(MESSAGES))
                    session = Session(problem, {"policy": sampler}, seed=number, store=store if stored else None)
                    assert [sample.text async for sample in session.sample()]

            with measured() as spent:
                await asyncio.gather(*(work() for _ in range(SINGLES_IN_FLIGHT)))
    report("tts, stored" if stored else "tts", SINGLES, spent)


asyncio.run(main(sys.argv[1], "stored" in sys.argv, "seldom" in sys.argv))
