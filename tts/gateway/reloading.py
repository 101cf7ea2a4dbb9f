"""The configuration read again at SIGHUP, while the gateway goes on."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

from tts.errors import TTSError, log
from tts.gateway.settings import GatewaySettings

Reread = Callable[[], GatewaySettings]


@asynccontextmanager
async def reloading(reread: Reread | None, reload: Callable[[GatewaySettings], Awaitable[None]]) -> AsyncIterator[None]:
    """At SIGHUP, has `reload` go by what `reread` gives. What cannot be used is logged, and changes nothing.

    Where the signal says that the terminal has gone, the gateway ends as at SIGTERM; where it is ignored, it stays so.
    """
    if reread is None or signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        yield
        return
    asked, had_terminal = asyncio.Event(), _has_terminal()

    def hung_up() -> None:
        if had_terminal and not _has_terminal():
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            asked.set()

    async def work() -> None:
        while True:
            await asked.wait()
            asked.clear()
            try:
                await reload(await asyncio.to_thread(reread))
                log.warning("the configuration has been read again")
            except Exception as error:  # of whatever kind: the next configuration may be good
                log.error("the gateway goes on as it was: %s", error, exc_info=not isinstance(error, TTSError))

    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, hung_up)
    working = asyncio.create_task(work())
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGHUP)
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)


def _has_terminal() -> bool:
    with suppress(OSError):
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
        return True
    return False
