"""AB-MCTS-A of one prompt through treequest's ask and tell, with rewards computed here.

treequest calls no models: those of a batch are asked side by side with the `openai` client. Arguments: base_url, batch.
"""

import asyncio
import sys
from importlib.metadata import version

import openai  # pyright: ignore[reportMissingImports] - lives in the peer's environment
import treequest  # pyright: ignore[reportMissingImports]
from _measure import ANSWERS, MESSAGES, chance, measured, report

WORDS = "This is what is to be improved in your answer:\n\nIt is not right yet.\n\nGive the whole answer anew."


async def main(base_url: str, batch: int) -> None:
    client = openai.AsyncOpenAI(base_url=base_url, api_key="none")

    async def answered(parent: str | None) -> tuple[str, float]:
        refined = [] if parent is None else [("assistant", parent), ("user", WORDS)]
        messages = [*MESSAGES, *({"role": role, "content": content} for role, content in refined)]
        text = (await client.chat.completions.create(model="test-model", messages=messages)).choices[0].message.content
        return text, chance(text)

    for _ in range(2):  # the first round opens the connections
        search = treequest.ABMCTSA()
        with measured() as spent:
            state, told = search.init_tree(), 0
            while told < ANSWERS:
                state, trials = search.ask_batch(state, min(batch, ANSWERS - told), ["generate"])
                found = await asyncio.gather(*(answered(trial.parent_state) for trial in trials))
                for trial, result in zip(trials, found, strict=True):
                    state = search.tell(state, trial.trial_id, result)
                told += len(trials)
    report(f"treequest {version('treequest')}, batches of {batch}", told, spent)


asyncio.run(main(sys.argv[1], int(sys.argv[2])))
