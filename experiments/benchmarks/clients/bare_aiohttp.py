"""The ceiling: single-sample chat requests by a bare aiohttp client."""

import asyncio
import sys

import aiohttp
from _measure import MESSAGES, SINGLES, SINGLES_IN_FLIGHT, measured, report


async def main(base_url: str) -> None:
    body = {"model": "test-model", "messages": MESSAGES}
    connector = aiohttp.TCPConnector(limit=SINGLES_IN_FLIGHT)
    async with aiohttp.ClientSession(connector=connector) as session:
        left = iter(range(SINGLES))

        async def work() -> None:
            for _ in left:
                async with session.post(f"{base_url}/chat/completions", json=body) as response:
                    assert (await response.json())["choices"]

        with measured() as spent:
            await asyncio.gather(*(work() for _ in range(SINGLES_IN_FLIGHT)))
    report("bare aiohttp", SINGLES, spent)


asyncio.run(main(sys.argv[1]))
