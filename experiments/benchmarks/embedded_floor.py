"""What faster kernels could gain the embedded engine: `python experiments/benchmarks/embedded_floor.py [MODEL]`.

CPU time of one step of decoding for 64 sequences at position 200, and of its matrix products alone, on one thread; the
median of 31. A kernel library can at best make all the rest of a step free. Figures go to embedded_floor.json.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np

from tts.lab.engine.engine import leave_threads_to_us
from tts.lab.engine.llama import Llama
from tts.lab.engine.models import model_place, read_shape, read_tensors

ROWS, PROMPT, AT, SEEN, REPEATS = 64, 150, 200, 256, 31


def milliseconds(work: Callable[[], object]) -> float:
    """The median CPU time of `work`."""
    spent: list[float] = []
    for _ in range(REPEATS):
        begin = time.thread_time()
        work()
        spent.append(time.thread_time() - begin)
    return 1e3 * median(spent)


def main(name: str = "lab-target") -> None:
    """Measure, print, write."""
    place = model_place(name)
    shape = read_shape(place)
    model, rng = Llama(shape, read_tensors(place)), np.random.default_rng(0)
    cache, layer, heads = model.cache(ROWS), model.layers[0], shape.kv_heads
    tokens = rng.integers(0, shape.vocabulary, (ROWS, PROMPT))

    def some(*size: int) -> np.ndarray:
        return rng.standard_normal(size).astype(np.float32)

    leave_threads_to_us()
    model.forward(tokens, np.zeros(ROWS, np.int64), cache)
    starts = np.full(ROWS, AT)
    step = milliseconds(lambda: model.logits(model.forward(tokens[:, :1], starts, cache)[:, 0]))
    x, seen, gate = some(ROWS, shape.width), some(ROWS, layer.out.shape[0]), some(ROWS, len(layer.down))
    dense = milliseconds(lambda: (x @ layer.query_key_value, seen @ layer.out, x @ layer.gate_up, gate @ layer.down))
    head = milliseconds(lambda: x @ model.head)
    queries = some(ROWS, heads, shape.heads // heads, shape.head_width)
    weights = some(ROWS, heads, shape.heads // heads, SEEN)
    keys, values = cache[0][:, :heads, :SEEN], cache[0][:, heads:, :SEEN]
    attention = milliseconds(lambda: (queries @ keys.swapaxes(2, 3), weights @ values))
    products = shape.layers * (dense + attention) + head
    figures = {"model": name, "rows": ROWS, "step_ms": round(step, 2), "products_ms": round(products, 2)}
    Path(__file__).with_suffix(".json").write_text(json.dumps(figures, indent=2) + "\n")
    print(json.dumps(figures))


main(*sys.argv[1:])
