"""What a request asks for: a model as it is, or a strategy with its verifier, sampling and budget.

The model's name or the body's field `tts` says so, and nothing else: the text of messages is never interpreted.

    "model": "best_of_n:n=8,verifier=judge@qwen"      or  "best_of_n@qwen:n=8,verifier=judge"
    "model": "coder"                                  a preset; "coder@qwen" on another model
    "model": "qwen", "tts": "self_consistency:n=8"    or  {"strategy": ..., "tests": {...}, "details": true}
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tts import registry
from tts.base import AnswerVerifier, Strategy, Verifier
from tts.concurrency import LARGE, aside, now
from tts.errors import ConfigError
from tts.gateway import messages, responses
from tts.gateway.admission import Caller
from tts.gateway.exchange import PASSED, SPOKEN, APIError, Kind, ResponseWriter, bad_request
from tts.gateway.formats import Translation, unsupported
from tts.gateway.schemas import (
    MOST_PARAMETERS,
    OPTION_SIZES,
    SIZES,
    RequestOptions,
    Spec,
    check,
    check_names,
    check_sizes,
    check_spec,
    options_of,
    parsed,
    sampling_of,
)
from tts.gateway.settings import GatewaySettings
from tts.gateway.stored import ResponseStore, too_large
from tts.registry import Plugin, nested
from tts.resources import Resources
from tts.sampler import Sampler
from tts.sampler.parameters import merged
from tts.sampler.protocol import bytes_of
from tts.text import size_of, well_formed
from tts.types import Budget, Charge, Usage, sum_usage

TRANSLATIONS: dict[Kind, tuple[Callable[[Mapping[str, Any]], tuple[dict[str, Any], list[str]]], type[Translation]]] = {
    "responses": (responses.as_chat, responses.ResponsesFormat),
    "messages": (messages.as_chat, messages.MessagesFormat),
    "messages/count_tokens": (messages.as_chat, messages.MessagesFormat),
}
"""What makes chat of a request of another API, and its format for chat's answers."""

SLOWER = 16
"""How many times as long it takes to make something of a text as to read it, at worst."""


BEYOND = {
    "best_of": "it draws as many answers as its own parameters say",
    "extra_body": "put what is in it into the body itself",
}
"""Fields that would ask a model's server for more than a strategy knows of."""


@dataclass(eq=False)
class Offer:
    """A configuration and its models, which stay open until the last request that began with it has ended: another
    takes its place when the configuration is read again."""

    settings: GatewaySettings
    models: dict[str, dict[str, Sampler]] = field(default_factory=dict)
    """By name and role."""
    chat_only: set[str] = field(default_factory=set)
    """Models whose server has no Responses API."""

    @property
    def samplers(self) -> set[Sampler]:
        return {sampler for roles in self.models.values() for sampler in roles.values()}


@dataclass(frozen=True)
class RequestPlan:
    """What to do for a request."""

    model: str
    """The model's name in the configuration."""
    label: str
    """The name it is counted under: the preset, the strategy, or the plain model."""
    strategy: Strategy | None = None
    """None: the request passes through."""
    verifier: Verifier | None = None
    answer: str | None = None
    must_verify: bool = False
    """Whether an answer that could not be verified is an error."""
    strangers: tuple[Plugin, ...] = ()
    """What the request's own specs made."""
    sampling: dict[str, Any] = field(default_factory=dict)
    """The request's sampling parameters on top of the preset's."""
    form: dict[str, Any] = field(default_factory=dict)
    """The same of those that only the call which writes the answer carries."""
    budget: Budget = Budget()  # noqa: RUF009 - immutable
    options: RequestOptions = RequestOptions()  # noqa: RUF009 - immutable


@dataclass(eq=False)
class GatewayRequest:
    """One request, with what it has cost so far."""

    kind: Kind
    run: str
    caller: Caller
    content: bytes
    body: dict[str, Any]
    chat: dict[str, Any]
    """The body; where another API is translated, as chat."""
    plan: RequestPlan
    out: ResponseWriter
    offer: Offer
    store: ResponseStore
    format: Translation | None = None
    """How chat's answer is told, where another API is translated."""
    charges: set[Charge] = field(default_factory=set)
    """What was paid for it."""
    spent: dict[str, Usage] = field(default_factory=dict)
    """The same by role, including wasted work."""
    money: float = 0.0
    """What that costs."""
    began: float = field(default_factory=now)
    _settled: tuple[float, float] = (0.0, 0.0)

    async def translate(self) -> None:
        """Make chat of the request. Raises `APIError`, naming the field, for what chat does not have."""

        def work() -> tuple[dict[str, Any], list[str]]:
            self.body, self.content = _mended(self.body, self.content)
            check(self.kind, self.content)
            return TRANSLATIONS[self.kind][0](self.body)

        self.chat, unheard = await aside(SLOWER * len(self.content), work)
        self.begin_anew()
        if self.plan.strategy is None and self.chat.get("stream"):
            self.chat["stream_options"] = {"include_usage": True}
        if unheard:
            self.out.headers.append((b"x-tts-ignored", ", ".join(unheard).encode("ascii", "replace")))

    def begin_anew(self) -> None:
        """Forget what was told of an answer, where it is translated."""
        if self.chat is not self.body:
            self.format = TRANSLATIONS[self.kind][1](self.body, self.chat, self.run)
            self.out.failed = self.format.failed

    async def keep(self, response: Any) -> None:
        """Remember what a client may come back to, unless it does not want that."""
        if self.kind != "responses" or self.body.get("store") is False or not isinstance(response, Mapping):
            return
        if response.get("id") and response.get("status") in ("completed", "incomplete"):
            kept = await self.store.keep(self.caller.key.sha256, response, self.body.get("input") or [])
            if not kept and self.out.status is None:
                self.out.headers.append((b"x-tts-ignored", b"store"))

    def book(self, role: str, usage: Usage, money: float) -> None:
        """Count work."""
        self.spent[role] = self.spent.get(role, Usage()) + usage
        self.money += money

    def unsettled(self) -> tuple[float, float]:
        """Tokens and money that were booked since this was last asked."""
        before, self._settled = self._settled, (sum_usage(self.spent.values()).total_tokens, self.money)
        return self._settled[0] - before[0], self._settled[1] - before[1]

    def stand_ins(self) -> list[str]:
        """Models to be asked while the server of the one that it names does not work.

        Vectors and tokens of another model are no substitute.
        """
        others = self.offer.settings.fallbacks.get(self.plan.model, ()) if self.kind in SPOKEN else ()
        return [name for name in others if self.caller.may_use(name)]

    def fall_back(self, model: str) -> None:
        """Ask `model` instead, with what is left of the budget."""
        self.begin_anew()
        spent, budget = sum_usage(self.spent.values()), self.plan.budget
        used = {name: getattr(spent, name) for name in Budget.model_fields if name not in ("money", "seconds")}
        used |= {"money": self.money, "seconds": now() - self.began}
        caps = {name: type(cap)(max(0, cap - used[name])) for name, cap in budget if cap is not None}
        self.plan = replace(self.plan, model=model, budget=Budget(**caps))
        self.out.say(b"x-tts-fallback", model.encode())


async def read(
    offer: Offer,
    kind: Kind,
    run: str,
    caller: Caller,
    content: bytes,
    out: ResponseWriter,
    store: ResponseStore,
) -> GatewayRequest:
    """The request in `content`. Raises `APIError` if it is invalid, or if the caller may not use what it names.

    What the caller may not use is found out first, before anything is made of what the request asks for.
    """
    settings = offer.settings
    body = await parsed(content, settings.limits)
    await aside(SLOWER * len(body), check_names, body)
    check_sizes(body, {"model": SIZES["model"]})
    name = body.get("model")
    if name is None and kind in PASSED and len(settings.models) == 1:
        name = body["model"] = next(iter(settings.models))
    if not isinstance(name, str):
        raise bad_request(f"model must be a name; available: {_available(settings)}", "model")
    if "tts" not in body and name in settings.models:
        _authorise(caller, [name])
        if "policy" not in settings.models[name]:
            raise bad_request(f"'{name}' is a set of policies; ask STRATEGY@{name} or a preset", "model")
        if kind == "responses":
            body, content = await _whole(body, content, caller, store, settings.limits.body_bytes)
        request = GatewayRequest(kind, run, caller, content, body, body, RequestPlan(name, name), out, offer, store)
        if kind in TRANSLATIONS and kind != "responses":
            if kind == "messages/count_tokens":
                _check_length(content, settings)
            check_sizes(body, {"tools": SIZES["tools"]})
            await request.translate()
        return request
    if kind in PASSED:
        raise unsupported(f"{kind} is for plain models: {', '.join(settings.models)}", "model")
    if kind == "responses":
        body, content = await _whole(body, content, caller, store, settings.limits.body_bytes)
    _check_length(content, settings)
    check_sizes(body, SIZES)
    spec = size_of([name, body.get("tts")], LARGE)
    plan = await aside(len(content) + SLOWER * spec, _plan, settings, name, body, caller)
    await asyncio.sleep(0)  # each step is short enough to hold nobody up, but not all together
    body, content = await aside(len(content), _mended, body, content)

    request = GatewayRequest(kind, run, caller, content, body, body, plan, out, offer, store)
    if kind in TRANSLATIONS:
        await request.translate()
    else:
        await aside(SLOWER * len(content), check, kind, content)
    await asyncio.sleep(0)
    if request.chat.get("continue_final_message") and kind != "chat/completions":
        raise unsupported("a strategy begins its answer itself: end with the user's turn", "messages")
    for name, words in BEYOND.items():
        if request.chat.get(name) not in (None, 1):
            raise unsupported(f"a strategy does not support {name}: {words}", name)
    sampling, form = sampling_of(request.chat)
    request.plan = replace(plan, sampling={**plan.sampling, **sampling}, form=merged(plan.form, form))
    return request


def _mended(body: dict[str, Any], content: bytes) -> tuple[dict[str, Any], bytes]:
    """Without halves of surrogate pairs, which are no characters: where bytes pass through, the server decides."""
    if b"\\ud" not in content.lower():
        return body, content
    body = well_formed(body)
    return body, bytes_of(body)


async def _whole(
    body: dict[str, Any], content: bytes, caller: Caller, store: ResponseStore, most: int
) -> tuple[dict[str, Any], bytes]:
    """A Responses body with what it refers to, and the bytes, `most` at most, that say the same without reference."""
    whole = await store.whole(caller.key.sha256, body)
    if whole is body and body.get("previous_response_id") is None:
        return body, content
    unlinked = {name: value for name, value in whole.items() if name != "previous_response_id"}
    content = await asyncio.to_thread(bytes_of, unlinked, large=True)
    if len(content) > most:
        raise too_large(most)
    return whole, content


def _check_length(content: bytes, settings: GatewaySettings) -> None:
    if len(content) > settings.limits.strategy_bytes:
        message = (
            f"a request with a strategy, or to be counted, may have at most {settings.limits.strategy_bytes} bytes"
        )
        raise APIError(413, message, "request_too_large")


def _authorise(caller: Caller, names: Iterable[str]) -> None:
    for name in names:
        if not caller.may_use(name):
            raise APIError(403, f"this key may not use '{name[:200]}'", "not_allowed", "model")


def _plan(settings: GatewaySettings, name: str, body: dict[str, Any], caller: Caller) -> RequestPlan:
    """The plan for a request with a strategy. Raises `APIError` that lists what exists."""
    tts = body.get("tts")
    check_sizes(tts if isinstance(tts, dict) else {"strategy": tts}, OPTION_SIZES, "tts.")
    options = options_of(body)
    check_spec(options.strategy, "tts.strategy")
    check_spec(options.verifier, "tts.verifier")
    left, on, parameters = _split(settings, name)
    if left and options.strategy is not None:
        raise bad_request("the strategy is given twice, in model and in tts", "tts.strategy")
    spec = left + parameters if left else options.strategy
    if spec is None:
        raise bad_request(f"tts needs a strategy; {_strategies(settings)}", "tts.strategy")
    preset = settings.presets.get(spec) if isinstance(spec, str) else None
    if preset is None and left in settings.presets:
        raise bad_request(f"the preset '{left}' takes no parameters", "model")
    model = on or (preset and preset.model) or _only_model(settings, left or str(spec)[:200])
    _authorise(caller, [str(spec) if preset else model, *([on] if on else []), *options.models.values()])
    strategy = preset.strategy if preset else _make(settings, "strategies", spec)
    reader = None if options.answer is None else _make(settings, "verifiers", options.answer)
    if reader is not None and not isinstance(reader, AnswerVerifier):
        raise bad_request(f"{str(options.answer)[:200]} reads no answers", "tts.answer")
    sampling, form = sampling_of(preset.sampling) if preset else ({}, {})
    brought = _verifier(settings, strategy, options)
    made = (None if preset else strategy, brought, reader)
    return RequestPlan(
        model=model,
        label=str(spec) if preset else strategy.name,
        strategy=strategy,
        verifier=brought or (preset and preset.verifier) or settings.verifier,
        answer=options.answer or (preset and preset.answer) or settings.answer,
        must_verify="error" in (options.on_unverified, preset and preset.on_unverified),
        strangers=tuple(plugin for plugin in made if plugin is not None),
        sampling=sampling,
        form=form,
        budget=smallest(
            settings.budget,
            options.budget,
            preset.budget if preset else Budget(),
            Budget(seconds=settings.limits.seconds),
            Budget(seconds=options.deadline),
        ),
        options=options,
    )


def _split(settings: GatewaySettings, name: str) -> tuple[str, str | None, str]:
    """Strategy or preset, model and parameters in a model's name: `LEFT`, `LEFT@MODEL`, `LEFT@MODEL:PARAMETERS`."""
    if name in settings.models:
        return "", name, ""
    left, at, right = name.rpartition("@")
    while at:
        known = [model for model in settings.models if right == model or right.startswith(f"{model}:")]
        if known and left:
            model = max(known, key=len)
            return left, model, right[len(model) :]
        left, at, further = left.rpartition("@")
        right = f"{further}@{right}"
    if name in settings.presets or name.partition(":")[0] in registry.names("strategies"):
        return name, None, ""
    message = f"no model named '{name[:200]}'; available: {_available(settings)}"
    raise APIError(404, message, "model_not_found", "model")


def _only_model(settings: GatewaySettings, left: str) -> str:
    if len(settings.models) == 1:
        return next(iter(settings.models))
    message = f"name a model as well: {left}@MODEL; models: {', '.join(settings.models)}"
    raise bad_request(message, "model", "no_model")


def _available(settings: GatewaySettings) -> str:
    return f"{', '.join([*settings.models, *settings.presets])}, and STRATEGY@MODEL; {_strategies(settings)}"


def _strategies(settings: GatewaySettings) -> str:
    return f"strategies: {', '.join(allowed(settings, 'strategies')) or 'none but the presets'}"


def allowed(settings: GatewaySettings, group: registry.Group) -> list[str]:
    """Names of the strategies or verifiers that requests may choose."""
    given = settings.strategies if group == "strategies" else settings.verifiers
    return [name for name in registry.names(group) if given is None or name in given]


def _make(settings: GatewaySettings, group: registry.Group, spec: Spec) -> Any:
    """An object from a client's spec. Raises `APIError` if the spec is invalid or asks for what is not allowed."""
    try:
        with registry.from_stranger():
            plugin: Plugin = registry.make(group, spec)
    except (ConfigError, RecursionError) as error:
        raise bad_request(str(error)[:2000], group) from None
    parts = list(nested(plugin))
    if len(parts) > MOST_PARAMETERS:
        raise bad_request(f"a spec may have at most {MOST_PARAMETERS} parts, not {len(parts)}", group)
    for part in parts:
        _check_allowed(settings, part)
    return plugin


def _check_allowed(settings: GatewaySettings, part: Plugin) -> None:
    group: registry.Group = "strategies" if isinstance(part, Strategy) else "verifiers"
    if part.name not in allowed(settings, group):
        names = ", ".join(allowed(settings, group)) or "none"
        raise APIError(403, f"requests may not choose '{part.name}'; {group}: {names}", "not_allowed", group)
    if getattr(part, "runs_code", False):
        if not settings.run_code:
            raise APIError(403, f"'{part.name}' runs programs, which is off here (run_code)", "code_is_off", group)
        if getattr(part, "isolation", "required") != "required":
            raise APIError(403, "this gateway runs programs only in isolation", "not_allowed", "isolation")
        if getattr(part, "preload", ()):  # what is imported is not held to a program's limits
            raise APIError(403, "this gateway preloads modules only for its own presets", "not_allowed", "preload")
    for name, info in type(part).model_fields.items():
        value, most = getattr(part, name), settings.limits.samples
        if isinstance(info.default, int | float):
            most = max(most, info.default)
        if isinstance(value, int | float) and value > most:
            message = f"{part.name}: {name} is {value}; at most {most} is allowed"
            raise bad_request(message, name, "over_the_limit")


def _verifier(settings: GatewaySettings, strategy: Strategy, options: RequestOptions) -> Verifier | None:
    """The verifier that the request brings, if any; several parts must all pass."""
    brought: list[tuple[Any, Spec]] = [
        (options.verifier, options.verifier or ""),
        (options.tests, "unit_tests"),
        (options.schema_, {"name": "json_schema", "definition": options.schema_}),
        (options.format, {"name": "regex", "pattern": options.format}),
        (options.rubric, {"name": "judge", "rubric": options.rubric}),
    ]
    specs = [spec for given, spec in brought if given is not None]
    if not specs:
        return None
    if strategy.verifier is not None:
        raise bad_request(f"{strategy.name} already has a verifier of its own", "tts.verifier")
    members = [_make(settings, "verifiers", spec) for spec in specs]
    return members[0] if len(members) == 1 else registry.make("verifiers", {"name": "all_of", "verifiers": members})


def smallest(*budgets: Budget) -> Budget:
    """The smallest cap of each kind."""
    caps = {name: [cap for one in budgets if (cap := getattr(one, name)) is not None] for name in Budget.model_fields}
    return Budget(**{name: min(given, default=None) for name, given in caps.items()})


async def vet(plan: RequestPlan, resources: Resources) -> None:
    """Raise `ConfigError` for what the request's own specs hold that cannot be checked at once, such as a schema."""
    for part in nested(plan.strangers):
        if isinstance(part, Verifier):
            await part.vet(resources)
