"""Workers in the process of the test, which can be killed, cut off and counted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable, Sequence
from typing import Any, Self

from tts.cluster.driver import Driver, Gone
from tts.cluster.worker import ClusterWorker
from tts.runs.runner import GridRow, RowRunner


class TestWorker(ClusterWorker):
    """Its end is not that of the process, nor is the log its own."""

    __test__ = False
    ended = False

    def node_id(self) -> str:
        return ""

    def listen(self) -> None: ...

    def end(self) -> None:
        self.ended = True
        self.stop()

    async def gone(self) -> None:
        """Wait until its work has ended."""
        if self._work is not None:
            await asyncio.wait({self._work})


class LocalHand:
    """A worker here. While it is `cut` off nothing that is said arrives."""

    def __init__(self) -> None:
        self.worker = TestWorker()
        self.killed, self._down = False, asyncio.Event()
        self.cut = False
        self.messages = 0
        self._tells = set[asyncio.Task[Any]]()

    async def _over_the_wire(self, method: Callable[[bytes], Coroutine[Any, Any, bytes]], said: bytes) -> bytes:
        self.messages += 1
        while self.cut:
            await asyncio.sleep(0.01)
        task, down = asyncio.create_task(method(said)), asyncio.create_task(self._down.wait())
        try:
            await asyncio.wait({task, down}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            down.cancel()
        if self.killed:
            task.cancel()
            gone = Gone("it was killed")
            gone.ended = True
            raise gone
        while self.cut:
            await asyncio.sleep(0.01)
        return task.result()

    async def start(self, hello: bytes) -> bytes:
        return await self._over_the_wire(self.worker.start, hello)

    async def exchange(self, inbox: bytes) -> bytes:
        return await self._over_the_wire(self.worker.exchange, inbox)

    def tell(self, inbox: bytes) -> None:
        if not self.cut and not self.killed:
            task = asyncio.ensure_future(self.worker.tell(inbox))
            self._tells.add(task)
            task.add_done_callback(self._tells.discard)

    @property
    def unacknowledged(self) -> int:
        """Samples that are being drawn, or have been and are not known to be stored, at most."""
        drawn = sum(r.in_flight * s.endpoint.max_n for s in self.worker._samplers for r in s.connection.pool.replicas)
        return drawn + len(self.worker._pending)

    def kill(self) -> None:
        self.killed = True
        self._down.set()
        if not self.cut:
            self.worker.stop()


class LocalFleet:
    """So many workers here."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.hired: list[LocalHand] = []

    async def places(self) -> Sequence[Hashable]:
        return range(self.size)

    async def lives(self, node_id: str) -> bool:
        return True

    def hire(self, place: Hashable) -> LocalHand:
        self.hired.append(LocalHand())
        return self.hired[-1]

    def cores(self, place: Hashable) -> int:
        return 1

    @property
    def living(self) -> list[LocalHand]:
        return [hand for hand in self.hired if not hand.killed]


class FleetExecutor:
    """Runs rows on a `LocalFleet`."""

    def __init__(self, size: int) -> None:
        self.fleet = LocalFleet(size)
        self.driver: Driver | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.gather(*(hand.worker.gone() for hand in self.fleet.hired if not hand.cut))

    async def run(self, runner: RowRunner, rows: Sequence[GridRow]) -> None:
        self.driver = Driver(runner, rows, self.fleet)
        await self.driver.run()
