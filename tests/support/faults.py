"""The faults a model server can show, and plans that say which request meets which."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from email.utils import formatdate
from enum import StrEnum
from http import HTTPStatus
from typing import Any

import numpy as np


class FaultKind(StrEnum):
    """What goes wrong. The groups differ in how much work the server did before it went wrong."""

    # Refused with an OpenAI-shaped error; nothing is generated.
    RATE_LIMITED = "rate_limited"  # 429
    SERVER_ERROR = "server_error"  # 500
    UNAVAILABLE = "unavailable"  # 503
    BAD_REQUEST = "bad_request"  # 400
    CONTEXT_LENGTH = "context_length"  # 400, as when the prompt does not fit
    UNAUTHORIZED = "unauthorized"  # 401
    N_REJECTED = "n_rejected"  # 400 naming n; met only by requests with n > 1
    # Nothing is generated, and no error says so.
    DROPPED = "dropped"  # the connection is closed before any byte
    RESET = "reset"  # the same, by a TCP reset
    HANG = "hang"  # no answer until the client goes
    NOT_JSON = "not_json"  # 200 with a web page for a body
    # Generated in full or in part, then lost on the way.
    TRUNCATED = "truncated"  # 200, half of the body, a Content-Length that agrees with the half
    DROPPED_MID_BODY = "dropped_mid_body"  # the connection is closed after half of the body
    STREAM_CUT = "stream_cut"  # half of the events, then a clean end without [DONE]
    # Delivered, but not what was asked for.
    MISSING_USAGE = "missing_usage"
    FEWER_CHOICES = "fewer_choices"  # half of n; met only by requests with n > 1
    EMPTY_CHOICES = "empty_choices"
    N_IGNORED = "n_ignored"  # one choice whatever n; met only by requests with n > 1


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault. `retry_after` (seconds) adds that header to a refusal, as an HTTP date if `as_date`."""

    kind: FaultKind
    retry_after: float | None = None
    as_date: bool = False


class Refusal(Exception):
    """A request answered with an error status, before any work. `kind` is what it is counted as."""

    def __init__(
        self,
        kind: str,
        status: int,
        message: str,
        *,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ):
        super().__init__(message)
        self.kind, self.status, self.headers = kind, status, headers
        self.body = {"error": {"message": message, "type": HTTPStatus(status).phrase, "param": param, "code": status}}


_REFUSALS = {
    FaultKind.RATE_LIMITED: (429, "Too many requests; slow down.", None),
    FaultKind.SERVER_ERROR: (500, "The engine failed while handling the request.", None),
    FaultKind.UNAVAILABLE: (503, "The model is overloaded or still loading.", None),
    FaultKind.BAD_REQUEST: (400, "The request is malformed.", None),
    FaultKind.CONTEXT_LENGTH: (400, "The maximum context length is exceeded by this prompt.", "messages"),
    FaultKind.UNAUTHORIZED: (401, "The API key is missing or wrong.", None),
    FaultKind.N_REJECTED: (400, "Unsupported value: 'n' must be 1 for this model.", "n"),
}

_NEEDS_SEVERAL_CHOICES = {FaultKind.N_REJECTED, FaultKind.N_IGNORED, FaultKind.FEWER_CHOICES}


def refuse(fault: Fault) -> None:
    """Raise the `Refusal` that this fault means; return if the fault is of another sort."""
    if fault.kind not in _REFUSALS:
        return
    status, message, param = _REFUSALS[fault.kind]
    headers = {}
    if fault.retry_after is not None:
        # A date has whole seconds: round up, so that nobody is called back early.
        due = math.ceil(time.time() + fault.retry_after)
        headers["Retry-After"] = formatdate(due, usegmt=True) if fault.as_date else f"{fault.retry_after:g}"
    raise Refusal(fault.kind, status, message, param=param, headers=headers)


FaultPlan = Callable[[int, dict[str, Any]], Fault | None]
"""(number of the request counted from 0, its body) -> the fault it meets."""

Faults = Fault | Mapping[Fault, float] | Sequence[Fault | None] | FaultPlan | None
"""A fault for every request, a rate for each fault, a schedule used up request by request, or a plan."""


def fault_plan(faults: Faults, seed: int) -> FaultPlan:
    """Turn any form of `Faults` into a plan. Rates must add up to at most 1, else ValueError."""
    if isinstance(faults, Fault):
        plan: FaultPlan = lambda number, body: faults  # noqa: E731
    elif isinstance(faults, Mapping):
        plan = _at_rates(faults, seed)
    elif isinstance(faults, Sequence):
        plan = lambda number, body: faults[number] if number < len(faults) else None  # noqa: E731
    else:
        plan = faults or (lambda number, body: None)

    def applicable(number: int, body: dict[str, Any]) -> Fault | None:
        fault = plan(number, body)
        if fault and fault.kind in _NEEDS_SEVERAL_CHOICES and (body.get("n") or 1) == 1:
            return None
        return fault

    return applicable


def _at_rates(rates: Mapping[Fault, float], seed: int) -> FaultPlan:
    if sum(rates.values()) > 1 + 1e-9:
        raise ValueError(f"fault rates add up to {sum(rates.values())}; at most 1 is possible")
    rng = np.random.default_rng((seed, 0xFA))
    bounds, kinds = np.cumsum(list(rates.values())).tolist(), list(rates)

    def plan(number: int, body: dict[str, Any]) -> Fault | None:
        draw = rng.random()
        return next((kind for kind, bound in zip(kinds, bounds, strict=True) if draw < bound), None)

    return plan
