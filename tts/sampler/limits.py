"""How many requests may be in flight, by the files that the process may open."""

from __future__ import annotations

import errno
import resource

from tts.errors import causes
from tts.sampler.endpoint import Endpoint

FILES_ELSEWHERE = 128
"""Open files that are left to the rest of the process."""


def most_in_flight(endpoint: Endpoint) -> int:
    """Requests that may be in flight at one replica, each with a file: half of those that the process may open, as
    other endpoints need some, shared by the replicas."""
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if allowed == resource.RLIM_INFINITY or endpoint.batch:  # whose requests wait without a connection
        return endpoint.max_concurrency
    return max(1, min(endpoint.max_concurrency, (allowed - FILES_ELSEWHERE) // 2 // len(endpoint.urls)))


def out_of_files(error: BaseException) -> bool:
    """Whether an attempt failed because this process has too many files open."""
    return any(isinstance(one, OSError) and one.errno in (errno.EMFILE, errno.ENFILE) for one in causes(error))
