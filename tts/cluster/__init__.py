"""Runs on a Ray cluster: `tts run ... --executor ray:address=auto`. Nothing else imports Ray.

Rows go to workers, one on each node by default, that sample and verify there; the driver stores (`driver.py`), and the
concurrency at endpoints is shared between workers (`tts.sampler.shares`).
"""

from tts.cluster.fleet import RayExecutor as RayExecutor
