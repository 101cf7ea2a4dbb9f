"""Single-sample chat requests by the `openai` package's asynchronous client."""

import asyncio
import sys

import openai  # pyright: ignore[reportMissingImports] - lives in the peer's environment
from _measure import MESSAGES, SINGLES, SINGLES_IN_FLIGHT, measured, report


async def main(base_url: str) -> None:
    async with openai.AsyncOpenAI(base_url=base_url, api_key="none", max_retries=0) as client:
        left = iter(range(SINGLES))

        async def work() -> None:
            for _ in left:
                answer = await client.chat.completions.create(model="test-model", messages=MESSAGES)  # pyright: ignore[reportArgumentType]
                assert answer.choices

        with measured() as spent:
            await asyncio.gather(*(work() for _ in range(SINGLES_IN_FLIGHT)))
    report(f"openai {openai.__version__}", SINGLES, spent)


asyncio.run(main(sys.argv[1]))
