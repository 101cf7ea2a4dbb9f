"""What a server's refusals mean: which error, how long to wait, which parameter is to blame."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from time import time
from typing import Any

from tts.errors import EndpointError, EndpointRefused, QuotaSpent, RequestRejected, Throttled, TransientError

NO_CREDIT = frozenset(
    {
        *("account_deactivated", "accountoverdueerror", "arrearage", "billing_error", "billing_hard_limit_reached"),
        *("billing_not_active", "budget_exceeded", "credit_balance_too_low", "exceeded_current_quota_error"),
        *("insufficient_balance", "insufficient_credits", "insufficient_funds", "insufficient_quota"),
        *("payment_required", "spend_limit_reached", "spending_limit_reached"),
    }
)
"""Codes and types of errors that mean that the account must be paid for: no wait helps."""

NO_CREDIT_WORDS = re.compile(
    r"[^'\"`:\[{]*(?:credit balance is too low|insufficient (?:account )?(?:balance|credits?|funds|quota)|"
    r"exceeded your current quota, please check your plan and billing|billing (?:hard )?limit|"
    r"used all available credits|(?:credit|key|spending) limit exceeded)"
)
"""The same in words: at the beginning, since behind a quotation mark they may be those of the request."""

KINDS = {
    **dict.fromkeys(("authentication_error", "invalid_api_key", "permission_error"), 401),
    **dict.fromkeys(("badrequesterror", "context_length_exceeded", "invalid_request", "invalid_request_error"), 400),
    **dict.fromkeys(("rate_limit_error", "rate_limit_exceeded", "resource_exhausted", "too_many_requests"), 429),
    **dict.fromkeys(("engine_overloaded", "overloaded", "overloaded_error"), 503),
}
"""The status that codes and types of errors stand for."""


LIMITED = frozenset({429, 498, 503, 529})
"""Statuses of a server that is asked too much: 498 and 529 are Groq's and Anthropic's."""


def error_of(status: int, headers: Mapping[str, str], text: str, url: str, key_place: str) -> EndpointError:
    """The library's error for a response from `url` with the body `text` whose status is not good.

    `key_place` is where the key that was refused comes from.
    """
    message = f"HTTP {status} from {url}: {server_message(text)}".rstrip(". ")
    details = {"status": status, "body": text, "retry_after": wait_of(headers, limited=status in LIMITED)}
    again = headers.get("x-should-retry", "").strip().lower()
    if status == 402 or (status in (400, 403, 429) and _out_of_credit(text, later=details["retry_after"] is not None)):
        return QuotaSpent(f"{message}. The account has no credit left, or a limit on spending is reached", **details)
    if status in LIMITED:
        error: EndpointError = Throttled(message, **details)
    elif status in (401, 403):
        return EndpointRefused(f"{message}. Check the API key ({key_place})", **details)
    elif status == 404:
        return EndpointRefused(f"{message}. Check the model's name, and that the base URL ends in /v1", **details)
    elif status in (301, 302, 303, 307, 308):
        target = headers.get("location", "elsewhere")
        return EndpointRefused(f"{message}. It redirects to {target}; set base_url to where that leads", **details)
    elif status in (408, 409, 424, 425, 499) or (status >= 500 and status != 501) or again == "true":
        error = TransientError(message, **details)
    else:
        error = RequestRejected(message, **details)
    error.final = again == "false"
    return error


def error_inside(error: Any) -> EndpointError:
    """The library's error for one that stands in an answer or a stream of good status."""
    details: Mapping[str, Any] = error if isinstance(error, Mapping) else {"message": str(error)[:300]}
    codes = [code for key in ("code", "status", "type") if (code := details.get(key)) is not None]
    status = next((code for code in map(_status_of, codes) if code is not None), None)
    words = _words_of(details)[:4000]
    message = f"error in the answer: {words}".rstrip(". ")
    told = {name: one for name in ("type", "param", "code") if isinstance(one := details.get(name), str | int)}
    body = json.dumps({"error": {"message": words, **told}})
    if any(isinstance(code, str) and code.lower() in NO_CREDIT for code in codes) or status == 402:
        hint = "The account has no credit left, or a limit on spending is reached"
        return QuotaSpent(f"{message}. {hint}", status=402, body=body)
    if status in LIMITED:
        return Throttled(message, status=status, body=body)
    if status in (401, 403):
        return EndpointRefused(f"{message}. Check the API key", status=status, body=body)
    kind = RequestRejected if status is not None and 400 <= status < 500 and status != 408 else TransientError
    return kind(message, status=status, body=body)


def _status_of(code: Any) -> int | None:
    if isinstance(code, str) and code.lower() in KINDS:
        return KINDS[code.lower()]
    with suppress(ValueError):
        if isinstance(code, int | str) and not isinstance(code, bool) and 400 <= (status := int(code)) < 600:
            return status
    return None


def server_message(text: str) -> str:
    """The message in an error body, shortened."""
    data = _error_in(text)
    return (text if data is None else _words_of(data)).strip()[:300] or "(no message)"


def _words_of(error: Any) -> str:
    if not isinstance(error, Mapping):
        return str(error)[:1000]
    for key in ("message", "detail", "msg", "error"):
        if (words := error.get(key)) is not None:
            return words if isinstance(words, str) else json.dumps(words)[:1000]
    return json.dumps(error)[:1000]


def _error_in(text: str) -> Any:
    """What a body says about the error, as it came; None if it is not JSON."""
    with suppress(ValueError, RecursionError):
        data = json.loads(text)
        if isinstance(data, list) and data:
            data = data[0]
        if isinstance(data, Mapping):
            return data["error"] if data.get("error") is not None else data
    return None


def _out_of_credit(text: str, *, later: bool) -> bool:
    """Whether an error says so, by its code; by its words only if it is not said to pass `later`."""
    error = _error_in(text)
    if isinstance(error, Mapping):
        codes = [code.lower() for key in ("code", "type", "status") if isinstance(code := error.get(key), str)]
        if NO_CREDIT.intersection(codes):
            return True
    later = later or "retrydelay" in text.lower()
    return not later and bool(NO_CREDIT_WORDS.match(server_message(text).lower()))


# -- waits -----------------------------------------------------------------------------------------------------------

RESET = re.compile(r"(?:x-)?(?:anthropic-)?rate-?limit(?:-[\w-]+?)?-reset(?:-[\w-]+)?")
"""A header that says when a rate limit is lifted."""

UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
DURATION = re.compile(r"(\d+(?:\.\d+)?|\.\d+)\s*(ns|us|µs|ms|s|m|h|d)")

LONGEST_HEADER = 500
"""Characters in the name or value of a header that says when; what follows takes time quadratic in them."""


LONGEST = 86_400.0
"""Seconds that a server may ask to wait: one that names more is asked again after them."""


def wait_of(headers: Mapping[str, str], *, limited: bool = True) -> float | None:
    """Seconds that the server asks to wait, at most `LONGEST`: `retry-after-ms`, `retry-after`, else, where the request
    was `limited`, until its rate limits are lifted. A limit of which something remains is no reason to wait.
    """
    wait = _wait_of(headers, limited)
    return wait if wait is None else min(wait, LONGEST)


def _wait_of(headers: Mapping[str, str], limited: bool) -> float | None:
    headers = {name.lower(): value for name, value in headers.items() if max(len(name), len(value)) <= LONGEST_HEADER}
    with suppress(ValueError):
        wait = float(headers.get("retry-after-ms", ""))
        if math.isfinite(wait):
            return max(0.0, wait / 1000)
    if (wait := seconds_of(headers.get("retry-after", ""))) is not None:
        return wait
    waits = [wait for wait in _resets(headers) if wait is not None] if limited else []
    return max(waits, default=None)


def _resets(headers: Mapping[str, str]) -> Iterator[float | None]:
    for name, value in headers.items():
        if RESET.fullmatch(name):
            left = headers.get(name.replace("-reset", "-remaining"), "0")
            with suppress(ValueError):
                if float(left.split(",")[0].split(";")[0]) > 0:
                    continue
            yield seconds_of(value)
        elif name in ("ratelimit", "x-ratelimit"):  # `limit=9, remaining=0, reset=5`, or `"day";r=0;t=5`
            for policy in re.split(r",(?=\s*\")", value):
                fields = dict(re.findall(r"(\w+)\s*=\s*\"?(\d+(?:\.\d+)?)", policy))
                if float(fields.get("remaining", fields.get("r", 0))) <= 0:
                    yield seconds_of(fields.get("reset", fields.get("t", "")))


def seconds_of(value: str) -> float | None:
    """Seconds from now, of a number, a duration (`1m30s`, `20ms`), a time (Unix, HTTP or ISO 8601); None if it is none.

    A number too large for a wait is a Unix time, in seconds or milliseconds.
    """
    value = value.strip().strip('"')
    with suppress(ValueError):
        number = float(value)
        if not math.isfinite(number):
            return None
        if number > 1e9:
            number = number / (1000 if number > 1e11 else 1) - time()
        return max(0.0, number)
    parts = DURATION.findall(value.lower())
    if parts and not DURATION.sub("", value.lower()).strip():
        return sum(float(count) * UNITS[unit] for count, unit in parts)
    for read in (parsedate_to_datetime, datetime.fromisoformat):
        with suppress(ValueError, OverflowError):
            moment = read(value)
            moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
            return max(0.0, moment.timestamp() - time())
    return None


# -- parameters ------------------------------------------------------------------------------------------------------


SEVERAL = re.compile(
    r"(?:only|just) (?:one|a single) (?:\w+ )?(?:choice|candidate)|(?:multiple|several) (?:choice|candidate)"
)
"""How servers refuse `n` without naming it."""


def blamed(error: EndpointError, names: Iterable[str]) -> str | None:
    """Which of `names` the refusal `error` is about: the parameter that it gives as such, else the first it names."""
    if error.status not in (400, 422, 501):
        return None
    names = tuple(names)
    told = _error_in(error.body)
    if isinstance(told, Mapping) and (param := told.get("param")) in names:
        return str(param)
    words = server_message(error.body).lower()
    found = {
        name: match.start()
        for name in names
        if (match := re.search(rf"(?<![\w.\\-])(?:body\.)?[`'\"]?{re.escape(name)}[`'\"]?(?![\w-]|\.\w)", words))
    }
    if not found and "n" in names and SEVERAL.search(words):
        return "n"
    return min(found, key=lambda name: found[name], default=None)
