"""Load on a gateway: `gateway_load.py URL BODY REQUESTS AT_ONCE [HEADER=VALUE ...]`, over bare aiohttp.

The header `path` is none: it says what is asked, instead of `chat/completions`.

Prints the median and the 99th percentile of the latency in milliseconds, the requests per second, and how many failed.
"""

import asyncio
import json
import sys
import time

import aiohttp


async def main(url: str, body: str, requests: int, at_once: int, headers: dict[str, str]) -> None:
    url = f"{url}/{headers.pop('path', 'chat/completions')}"
    content, left, latencies, failed = body.encode(), requests, [], 0

    async def work(session: aiohttp.ClientSession) -> None:
        nonlocal left, failed
        while left > 0:
            left -= 1
            begin = time.perf_counter()
            try:
                async with session.post(url, data=content) as response:
                    answer = await response.read()
                    good = response.status == 200 and b'"usage"' in answer
            except (aiohttp.ClientError, TimeoutError):
                good = False
            latencies.append(time.perf_counter() - begin)
            failed += not good

    timeout = aiohttp.ClientTimeout(total=120)
    connector = aiohttp.TCPConnector(limit=0)
    headers = {"content-type": "application/json", **headers}
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, headers=headers) as session:
        begin = time.perf_counter()
        await asyncio.gather(*(work(session) for _ in range(at_once)))
        wall = time.perf_counter() - begin
    latencies.sort()
    print(
        json.dumps(
            {
                "p50_ms": round(latencies[len(latencies) // 2] * 1e3, 2),
                "p99_ms": round(latencies[len(latencies) * 99 // 100] * 1e3, 2),
                "per_second": round(requests / wall, 1),
                "failed": failed,
            }
        )
    )


url, body, requests, at_once, *headers = sys.argv[1:]
pairs = dict(header.split("=", 1) for header in headers)
asyncio.run(main(url, body, int(requests), int(at_once), pairs))
