"""AB-MCTS of one prompt through treequest's ask and tell, with rewards computed here.

treequest calls no models: those of a batch are asked side by side with the `openai` client. Arguments: base_url, batch,
variant (A or M; M samples in worker processes), answers.
"""

import asyncio
import sys
from importlib.metadata import version
from typing import Any

import openai  # pyright: ignore[reportMissingImports] - lives in the peer's environment
import treequest  # pyright: ignore[reportMissingImports]
from _measure import MESSAGES, chance, measured, report

WORDS = "This is what is to be improved in your answer:\n\nIt is not right yet.\n\nGive the whole answer anew."


async def main(base_url: str, batch: int, variant: str, answers: int) -> None:
    client = openai.AsyncOpenAI(base_url=base_url, api_key="none")

    async def answered(parent: str | None) -> tuple[str, float]:
        refined = [] if parent is None else [("assistant", parent), ("user", WORDS)]
        messages: list[Any] = [*MESSAGES, *({"role": role, "content": content} for role, content in refined)]
        reply = await client.chat.completions.create(model="test-model", messages=messages)
        text = reply.choices[0].message.content or ""
        return text, chance(text)

    async def once() -> None:
        search = treequest.ABMCTSA() if variant == "A" else treequest.ABMCTSM()
        state, left = search.init_tree(), answers
        while left:
            state, trials = search.ask_batch(state, min(batch, left), ["generate"])
            found = await asyncio.gather(*(answered(trial.parent_state) for trial in trials))
            for trial, result in zip(trials, found, strict=True):
                state = search.tell(state, trial.trial_id, result)
            left -= len(trials)

    await once()  # opens the connections
    with measured() as spent:
        await once()
    report(f"treequest {version('treequest')}, AB-MCTS-{variant}, batches of {batch}", answers, spent)


if __name__ == "__main__":  # the workers of variant M import this file
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])))
