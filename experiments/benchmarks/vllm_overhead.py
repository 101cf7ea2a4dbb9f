"""The orchestrator's own CPU while it keeps a real vLLM server saturated: `vllm_overhead.py MODEL [PROBLEMS [N]]`.

Runs word problems through self-consistency with everything stored, on a server that it starts itself
(TTS_VLLM_PYTHON names the interpreter that has vLLM), and prints one JSON line. The share is of one core's time.
"""

import asyncio
import json
import sys
import tempfile
from pathlib import Path
from time import perf_counter, process_time

import tts

SAMPLING = {"temperature": 1.0, "max_tokens": 200, "min_tokens": 100}


async def main(model: str, problems: int = 64, n: int = 32) -> None:
    """Start the server, run, print."""
    with tempfile.TemporaryDirectory() as folder:
        task = Path(folder) / "task.jsonl"
        lines = [
            {"prompt": f"Ana has {i} coins and finds {i + 2} more. How many?", "answer": "1"} for i in range(problems)
        ]
        task.write_text("\n".join(map(json.dumps, lines)))
        async with tts.LocalVLLM(model, name="model") as server:
            grid = tts.Experiment.parse(
                {
                    "task": f'jsonl:path="{task}"',
                    "strategies": [f"self_consistency:n={n}"],
                    "models": {"model": {"base_url": server.base_url}},
                    "sampling": SAMPLING,
                }
            )
            await grid.model_copy(update={"limit": 1}).run(Path(folder) / "warm")
            wall, cpu = perf_counter(), process_time()
            run = await grid.run(Path(folder) / "run")
            wall, cpu = perf_counter() - wall, process_time() - cpu
        usage = run.tracks[0].usage()
    figures = {
        "samples": problems * n,
        "wall_seconds": round(wall, 2),
        "cpu_seconds": round(cpu, 2),
        "share_of_wall": round(cpu / wall, 4),
        "tokens_per_second": round(usage.completion_tokens / wall),
    }
    print(json.dumps(figures))


asyncio.run(main(sys.argv[1], *map(int, sys.argv[2:])))
