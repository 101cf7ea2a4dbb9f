"""The scheduler at sizes that no test has: `python experiments/scale/simulate.py`.

Nodes draw samples at a steady rate and hand them to the driver of their partition in exchanges, one at a time each; a
driver serves exchanges in order. Its costs are the measured constants below. Printed are how long samples wait for
their acknowledgement, how busy drivers are, and what share of the nodes' rate is reached.
"""

from __future__ import annotations

import heapq
import random

EXCHANGE = 0.6e-3
"""Seconds of a driver's CPU for one exchange of 2 kB with a worker: measured by `exchange.py`, on a busy machine."""
SAMPLE = 0.12e-3
"""Seconds of a driver's CPU for one sample, with its share of a result: packed, stored, acknowledged."""
ROUND_TRIP = 0.8e-3
"""Seconds elsewhere for an exchange: what `exchange.py` measures in all, without the driver's CPU."""
BYTES = 2541
"""Of a stored sample of 200 tokens, with its charges and its candidate."""
IN_FLIGHT = 512
"""Samples that a node draws at once; one that is not acknowledged holds its place for as long."""
RATE = 200.0
"""Samples a second of one node that waits for nobody."""


def simulate(nodes: int, drivers: int, seconds: float = 10.0) -> tuple[float, float, float]:
    """Share of the nodes' rate that is reached, drivers' utilisation, mean seconds until an answer is acknowledged."""
    rng = random.Random(0)
    free, busy = [0.0] * drivers, [0.0] * drivers
    drawing = IN_FLIGHT / RATE  # seconds of one sample
    waited = acknowledged = 0.0
    events = [(rng.random() * 0.01, node, 0.0, float(IN_FLIGHT)) for node in range(nodes)]
    heapq.heapify(events)
    while events:
        now, node, before, places = heapq.heappop(events)
        if now > seconds:
            continue
        ready = min(IN_FLIGHT, (now - before) * places / drawing)
        driver = node % drivers
        began = max(now + ROUND_TRIP / 2, free[driver])
        cost = EXCHANGE + ready * SAMPLE
        free[driver] = began + cost
        busy[driver] += cost
        done = free[driver] + ROUND_TRIP / 2
        waited += ready * ((now - before) / 2 + done - now)
        acknowledged += ready
        held = ready * min(1.0, (done - now) / drawing)  # their places stand empty meanwhile
        heapq.heappush(events, (max(done, now + 0.01), node, now, IN_FLIGHT - held))
    reached = acknowledged / (nodes * RATE * seconds)
    return min(1.0, reached), sum(busy) / drivers / seconds, waited / max(1.0, acknowledged)


def main() -> None:
    print(f"{'nodes':>6} {'drivers':>8} {'reached':>8} {'busy':>6} {'ack ms':>8} {'1e9 samples':>12} {'GB each':>8}")
    for nodes, drivers in [(10, 1), (32, 1), (64, 1), (100, 4), (1000, 8), (1000, 16), (1000, 32), (1000, 64)]:
        reached, busy, wait = simulate(nodes, drivers)
        hours = 1e9 / (reached * nodes * RATE) / 3600
        size = 1e9 * BYTES / drivers / 1e9
        print(
            f"{nodes:6} {drivers:8} {reached:8.1%} {min(1.0, busy):6.0%} {1e3 * wait:8.1f} {hours:10.1f} h {size:8.0f}"
        )


if __name__ == "__main__":
    main()
