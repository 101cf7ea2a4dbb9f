"""Every error the library raises on purpose, and the log, for what ends no work. Each message says what was being done
and what to do next."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from tts.text import well_formed

if TYPE_CHECKING:
    from pydantic import ValidationError

log: logging.Logger = logging.getLogger("tts")


class TTSError(Exception):
    """Root of the library's errors; the command line prints it in one line."""


class ConfigError(TTSError):
    """A setting, name, file or parameter that cannot be used as given."""


class UnreadableKey(ConfigError):
    """The file that holds an endpoint's API key cannot be read."""


class NoReader(ConfigError):
    """Answers are to be compared, and nothing says how they are read."""


class MissingExtra(TTSError, ImportError):
    """An optional dependency is not installed."""

    def __init__(self, extra: str, what: str) -> None:
        super().__init__(f"{what} needs the extra '{extra}': pip install 'ttscale[{extra}]'")
        self.what = what
        """What cannot be done without it."""


class BudgetSpent(TTSError):
    """The session's budget does not allow the next call; what has been found so far is kept."""


class EndpointError(TTSError):
    """A model server gave no usable answer.

    `status` is the HTTP status where there was one, `body` the server's own words, `retry_after` the seconds it
    asked to wait, `final` whether it says that another attempt is no use, `server` the base URL that was tried,
    `seconds` how long that took.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        body: str = "",
        retry_after: float | None = None,
    ) -> None:
        super().__init__(well_formed(message))
        self.status = status
        self.body: str = well_formed(body)
        self.retry_after = retry_after
        self.final = False
        self.server: str | None = None
        self.seconds: float = 0.0


class TransientError(EndpointError):
    """Worth another try: connection lost, attempt timed out, 408/409/5xx, unreadable answer."""


class Throttled(TransientError):
    """The server asks for less: 429, or 503 with or without Retry-After."""


class TimedOut(TransientError):
    """An attempt was not answered in its time."""


class RequestRejected(EndpointError):
    """The server refuses this very request (400, 413, 422, ...); repeating it would not help."""


class EndpointRefused(EndpointError):
    """No request to this endpoint can succeed: bad key (401, 403), unknown path or model (404)."""


class EndpointLost(EndpointError):
    """No replica has answered anything for the endpoint's `outage_timeout`."""


class QuotaSpent(EndpointRefused):
    """The account that pays for the endpoint has no credit left: 402, or 429 with `insufficient_quota` and the like."""


class SamplingFailed(EndpointError):
    """None of the samples asked for could be drawn; `__cause__` is the last reason."""


class RunLocked(TTSError):
    """Another process is writing to this run directory."""


class StoreError(TTSError):
    """A run's file cannot be written or read: no space left, or damaged."""


class WorkersLost(TTSError):
    """The processes that a run was spread over end one after the other."""


class RunMismatch(ConfigError):
    """A run directory holds results of another configuration."""


def causes(error: BaseException, *, contexts: bool = False) -> Iterator[BaseException]:
    """`error`, what it came of, and so on, each once; where nothing is named, with `contexts`, what it came up in."""
    seen, one = set[int](), error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        yield one
        one = one.__cause__ or (one.__context__ if contexts else None)


def is_outage(error: BaseException) -> bool:
    """Whether it was up to the model's server, and not to the request, that there is no answer."""
    return any(isinstance(one, TransientError | EndpointLost | QuotaSpent) for one in causes(error))


def cause_of(error: BaseException) -> BaseException:
    """What a group of errors, as a TaskGroup raises it, comes down to: its most telling member, or `error` itself."""
    leaves: list[BaseException] = [error]
    while any(isinstance(leaf, BaseExceptionGroup) for leaf in leaves):
        leaves = [
            inner for leaf in leaves for inner in (leaf.exceptions if isinstance(leaf, BaseExceptionGroup) else [leaf])
        ]
    telling = (EndpointRefused, ConfigError, EndpointError, BudgetSpent)  # errors in code come second
    rank = {EndpointRefused: 0, ConfigError: 0, EndpointError: 2, BudgetSpent: 3}
    return min(leaves, key=lambda leaf: next((rank[kind] for kind in telling if isinstance(leaf, kind)), 1))


def own_failure(raised: Exception) -> BaseException:
    """What went wrong, if it concerns one candidate alone; what ends the search is raised again."""
    error = cause_of(raised)
    try:
        if isinstance(error, BudgetSpent | EndpointRefused | ConfigError):
            raise error from raised.__cause__
        return error
    finally:
        del error, raised  # an error that a frame of its own holds is left to the garbage collector


PLAIN = {
    "extra_forbidden": "there is no such parameter",
    "missing": "must be given",
    "none_required": "cannot be set",
    **dict.fromkeys(("int_parsing", "int_type", "int_from_float", "int_parsing_size"), "must be a whole number"),
    **dict.fromkeys(("float_parsing", "float_type", "decimal_parsing"), "must be a number"),
    "finite_number": "must be a finite number",
    **dict.fromkeys(("bool_parsing", "bool_type"), "must be true or false"),
    **dict.fromkeys(("string_type", "path_type"), "must be a text"),
    **dict.fromkeys(("list_type", "tuple_type", "set_type", "frozen_set_type"), "must be a list"),
    **dict.fromkeys(("dict_type", "mapping_type"), "must be a table"),
    **dict.fromkeys(("model_type", "model_attributes_type"), "must be a {class_name} or a table of one"),
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "literal_error": "must be {expected}",
    "enum": "must be {expected}",
    "is_instance_of": "must be a {class}",
    "too_short": "must have {min_length} or more",
    "too_long": "must have {max_length} or fewer",
    "string_too_short": "must not be empty",
    "string_pattern_mismatch": "must match {pattern}",
}
"""What is wrong, by pydantic's name for it; filled in from its context."""
NUMERIC = ("int_", "float_", "finite_", "greater_", "less_", "literal_")
"""Beginnings of the names of complaints that may repeat the value: it can be no secret."""


def complaints(error: ValidationError, whole: str = "") -> str:
    """What is wrong with which field, `field: complaint; ...`; `whole` stands where it is no single field."""

    def placed(item: Mapping[str, Any]) -> str:
        return ": ".join(filter(None, (".".join(map(str, item["loc"])) or whole, complaint(item))))

    return "; ".join(map(placed, error.errors()))


def complaint(item: Mapping[str, Any]) -> str:
    """What is wrong, without where, by one of the `errors` of pydantic's."""
    kind, words = item["type"], item["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    if kind in PLAIN:
        words = PLAIN[kind].format(**item.get("ctx", {}))
    if kind.startswith(NUMERIC) and len(told := repr(item["input"])) < 40:
        words += f", not {told}"
    return words
