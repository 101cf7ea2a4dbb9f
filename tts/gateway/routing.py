"""What a request asks for: a model as it is, or a strategy with its verifier, sampling and budget.

The model's name or the body's field `tts` says so, and nothing else: the text of messages is never interpreted.

    "model": "best_of_n:n=8,verifier=judge@qwen"      or  "best_of_n@qwen:n=8,verifier=judge"
    "model": "coder"                                  a preset; "coder@qwen" on another model
    "model": "qwen", "tts": "self_consistency:n=8"    or  {"strategy": ..., "tests": {...}, "details": true}
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tts import registry
from tts.base import AnswerVerifier, Strategy, Verifier
from tts.errors import ConfigError
from tts.gateway.admission import Caller
from tts.gateway.exchange import APIError, ResponseWriter, bad_request
from tts.gateway.formats import as_chat
from tts.gateway.schemas import Kind, RequestOptions, Spec, check, options_of
from tts.gateway.settings import GatewaySettings
from tts.registry import Plugin
from tts.types import Budget, Charge, Usage

PROTOCOL = frozenset({"model", "messages", "prompt", "input", "n", "stream", "stream_options", "tts"})
"""Fields of a body that are not sampling parameters."""


@dataclass(frozen=True)
class RequestPlan:
    """What to do for a request."""

    model: str
    """The model's name in the configuration."""
    label: str
    """The name it is counted under: the preset, the strategy, or the plain model."""
    named: frozenset[str]
    """The models and presets that the caller must be allowed to use."""
    strategy: Strategy | None = None
    """None: the request passes through."""
    verifier: Verifier | None = None
    answer: str | None = None
    must_verify: bool = False
    """Whether an answer that could not be verified is an error."""
    sampling: dict[str, Any] = field(default_factory=dict)
    """The request's sampling parameters on top of the preset's."""
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
    """The body; for a strategy, a Responses body as chat."""
    plan: RequestPlan
    out: ResponseWriter
    charges: set[Charge] = field(default_factory=set)
    """What was paid for it."""
    spent: dict[str, Usage] = field(default_factory=dict)
    """The same by role, including wasted work."""

    def book(self, role: str, usage: Usage, money: float) -> None:
        """Count work, for the caller's quota too."""
        self.spent[role] = self.spent.get(role, Usage()) + usage
        self.caller.book(usage.total_tokens, money)


def read(
    settings: GatewaySettings, kind: Kind, run: str, caller: Caller, content: bytes, out: ResponseWriter
) -> GatewayRequest:
    """The request in `content`. Raises `APIError` if it is invalid, or if the caller may not use what it names."""
    try:
        body = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise APIError(400, f"the body is not JSON: {str(error)[:200]}", "invalid_json") from None
    if not isinstance(body, dict):
        raise APIError(400, "the body is not a JSON object", "invalid_json")
    plan, chat = plan_for(settings, body), body
    if plan.strategy is not None:
        if (
            b"\\ud" in content.lower()
        ):  # half a surrogate pair is no character; a plain model's server may decide for itself
            text = json.dumps(body, ensure_ascii=False).encode("utf-16", "surrogatepass").decode("utf-16", "replace")
            body, content = json.loads(text), text.encode()
        check(kind, content)
        chat = as_chat(body) if kind == "responses" else body
        plan.sampling.update((key, value) for key, value in chat.items() if key not in PROTOCOL)
    for name in plan.named:
        if not caller.may_use(name):
            raise APIError(403, f"this key may not use '{name}'", "not_allowed", "model")
    return GatewayRequest(kind, run, caller, content, body, chat, plan, out)


def plan_for(settings: GatewaySettings, body: dict[str, Any]) -> RequestPlan:
    """The plan for a request's body. Raises `APIError` that lists what exists."""
    name = body.get("model")
    if not isinstance(name, str):
        raise bad_request(f"model must be a name; available: {_available(settings)}", "model")
    if "tts" not in body and name in settings.models:
        return RequestPlan(name, name, frozenset({name}))
    options = options_of(body)
    left, on, parameters = _split(settings, name)
    if left and options.strategy is not None:
        raise bad_request("the strategy is given twice, in model and in tts", "tts.strategy")
    spec = left + parameters if left else options.strategy
    if spec is None:
        raise bad_request(f"tts needs a strategy; {_strategies(settings)}", "tts.strategy")
    preset = settings.presets.get(spec) if isinstance(spec, str) else None
    if preset is None and left in settings.presets:
        raise bad_request(f"the preset '{left}' takes no parameters", "model")
    strategy = preset.strategy if preset else _make(settings, "strategies", spec)
    label = str(spec) if preset else strategy.name
    model = on or (preset and preset.model) or _only_model(settings, label)
    if options.answer is not None and not isinstance(_make(settings, "verifiers", options.answer), AnswerVerifier):
        raise bad_request(f"{options.answer[:200]} reads no answers", "tts.answer")
    return RequestPlan(
        model=model,
        label=label,
        named=frozenset({label} if preset else {model}).union([on] if on else [], options.models.values()),
        strategy=strategy,
        verifier=_verifier(settings, strategy, options) or (preset and preset.verifier) or settings.verifier,
        answer=options.answer or (preset and preset.answer) or settings.answer,
        must_verify="error" in (options.on_unverified, preset and preset.on_unverified),
        sampling=dict(preset.sampling) if preset else {},
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
        with registry.without_files():
            plugin: Plugin = registry.make(group, spec)
    except (ConfigError, RecursionError) as error:
        raise bad_request(str(error)[:2000], group) from None
    for part in _nested(plugin):
        _check_allowed(settings, part)
    return plugin


def _nested(value: Any) -> Iterator[Plugin]:
    """`value` and all plug-ins within it."""
    if isinstance(value, Plugin):
        yield value
        for name in type(value).model_fields:
            yield from _nested(getattr(value, name))
    elif isinstance(value, tuple | list):
        for member in value:
            yield from _nested(member)


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
