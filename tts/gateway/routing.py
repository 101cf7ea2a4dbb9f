"""What a request asks for: a model as it is, or a strategy with its verifier, sampling and budget.

It is said by the name of the model or in the body's field `tts`, nowhere else: text in messages is never read.

    "model": "best_of_n:n=8,verifier=judge@qwen"      or  "best_of_n@qwen:n=8,verifier=judge"
    "model": "coder"                                  a preset; "coder@qwen" on another model
    "model": "qwen", "tts": "self_consistency:n=8"    or  {"strategy": ..., "tests": {...}, "details": true}
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

from tts import registry
from tts.base import AnswerVerifier, Strategy, Verifier
from tts.errors import ConfigError
from tts.gateway.errors import Refused
from tts.gateway.schemas import Spec, Wishes, wishes_of
from tts.gateway.settings import Preset, Settings
from tts.registry import Plugin
from tts.types import Budget

PROTOCOL = frozenset({"model", "messages", "prompt", "input", "n", "stream", "stream_options", "tts"})
"""Fields of a body that are no sampling parameters."""


@dataclass(frozen=True)
class Plan:
    """What is to be done for a request."""

    model: str
    """Name of the model in the configuration."""
    label: str
    """What it is counted under: the preset's or the strategy's name, the model's where it passes through."""
    named: frozenset[str]
    """The models and presets that the client must be allowed to use."""
    strategy: Strategy | None = None
    """None: the request passes through."""
    verifier: Verifier | None = None
    answer: str | None = None
    sampling: Mapping[str, Any] | None = None
    budget: Budget = Budget()  # noqa: RUF009 - immutable
    wishes: Wishes = Wishes()  # noqa: RUF009 - immutable


def choose(settings: Settings, body: dict[str, Any]) -> Plan:
    """The plan for a request's body. Raises `Refused` that lists what exists."""
    name = body.get("model")
    if not isinstance(name, str):
        raise Refused(400, f"model must be a name; there are: {_listed(settings)}", "invalid_value", "model")
    if "tts" not in body and name in settings.models:
        return Plan(name, name, frozenset({name}))
    wishes = wishes_of(body)
    left, on, parameters = _parts(settings, name)
    if left and wishes.strategy is not None:
        raise Refused(400, "the strategy is named twice, in model and in tts", "invalid_value", "tts.strategy")
    spec = left + parameters if left else wishes.strategy
    if spec is None:
        raise Refused(400, "tts needs a strategy here: " + _strategies(settings), "invalid_value", "tts.strategy")
    preset = settings.presets.get(spec) if isinstance(spec, str) else None
    if preset is None and left in settings.presets:
        raise Refused(400, f"the preset '{left}' takes no parameters", "invalid_value", "model")
    strategy = preset.strategy if preset else _made(settings, "strategies", spec)
    label = str(spec) if preset else strategy.name
    model = on or (preset and preset.model) or _only(settings, label)
    if wishes.answer is not None and not isinstance(_made(settings, "verifiers", wishes.answer), AnswerVerifier):
        raise Refused(400, f"{wishes.answer[:200]} reads no answers", "invalid_value", "tts.answer")
    return Plan(
        model=model,
        label=label,
        named=frozenset({label} if preset else {model}).union([on] if on else [], wishes.models.values()),
        strategy=strategy,
        verifier=_verifier(settings, strategy, wishes) or (preset and preset.verifier) or settings.verifier,
        answer=wishes.answer or (preset and preset.answer) or settings.answer,
        sampling={**(preset.sampling if preset else {}), **{k: v for k, v in body.items() if k not in PROTOCOL}},
        budget=_budget(settings, preset, wishes),
        wishes=wishes,
    )


def _parts(settings: Settings, name: str) -> tuple[str, str | None, str]:
    """Strategy or preset, model and parameters of a model's name: `LEFT`, `LEFT@MODEL`, `LEFT@MODEL:PARAMETERS`."""
    if name in settings.models:
        return "", name, ""
    left, at, right = name.rpartition("@")
    while at:
        known = [m for m in settings.models if right == m or right.startswith(f"{m}:")]
        if known and left:
            model = max(known, key=len)
            return left, model, right[len(model) :]
        left, at, further = left.rpartition("@")
        right = f"{further}@{right}"
    if name in settings.presets or name.partition(":")[0] in registry.names("strategies"):
        return name, None, ""
    raise Refused(404, f"there is no model '{name[:200]}'; there are: {_listed(settings)}", "model_not_found", "model")


def _only(settings: Settings, left: str) -> str:
    if len(settings.models) == 1:
        return next(iter(settings.models))
    raise Refused(400, f"say on which model: {left}@NAME; models: {', '.join(settings.models)}", "no_model", "model")


def _listed(settings: Settings) -> str:
    names = [*settings.models, *settings.presets]
    return f"{', '.join(names)}, and STRATEGY@MODEL; {_strategies(settings)}"


def allowed(settings: Settings, group: registry.Group) -> list[str]:
    """Names of the strategies or verifiers that requests may choose."""
    given = settings.strategies if group == "strategies" else settings.verifiers
    return [name for name in registry.names(group) if given is None or name in given]


def _strategies(settings: Settings) -> str:
    return f"strategies: {', '.join(allowed(settings, 'strategies')) or 'none but the presets'}"


def _made(settings: Settings, group: registry.Group, spec: Spec) -> Any:
    """An object from a stranger's spec. Raises `Refused` for what he may not have."""
    try:
        with registry.without_files():
            plugin: Plugin = registry.make(group, spec)
    except (ConfigError, RecursionError) as error:
        raise Refused(400, str(error)[:2000], "invalid_value", group) from None
    for part in _inside(plugin):
        _check(settings, part)
    return plugin


def _inside(value: Any) -> Iterator[Plugin]:
    """`value` and all plug-ins within it."""
    if isinstance(value, Plugin):
        yield value
        for name in type(value).model_fields:
            yield from _inside(getattr(value, name))
    elif isinstance(value, tuple | list):
        for member in value:
            yield from _inside(member)


def _check(settings: Settings, part: Plugin) -> None:
    group: registry.Group = "strategies" if isinstance(part, Strategy) else "verifiers"
    if part.name not in allowed(settings, group):
        names = ", ".join(allowed(settings, group)) or "none"
        raise Refused(403, f"'{part.name}' is not open to requests here; {group}: {names}", "not_allowed", group)
    if getattr(part, "runs_code", False):
        if not settings.run_code:
            raise Refused(403, f"'{part.name}' runs programs, which is off here (run_code)", "code_is_off", group)
        if getattr(part, "isolation", "required") != "required":
            raise Refused(403, "programs run isolated here, or not at all", "not_allowed", "isolation")
    for name, field in type(part).model_fields.items():
        value = getattr(part, name)
        most: float = settings.limits.samples
        if isinstance(field.default, int | float):
            most = max(most, field.default)
        if isinstance(value, int | float) and value > most:
            raise Refused(400, f"{part.name}: {name} is {value}; at most {most} here", "over_the_limit", name)


def _verifier(settings: Settings, strategy: Strategy, wishes: Wishes) -> Verifier | None:
    """The verifier that the request brings along, if it does."""
    specs: list[Spec] = [wishes.verifier] if wishes.verifier is not None else []
    specs += ["unit_tests"] if wishes.tests is not None else []
    specs += [{"name": "json_schema", "definition": wishes.schema_}] if wishes.schema_ is not None else []
    specs += [{"name": "regex", "pattern": wishes.format}] if wishes.format is not None else []
    specs += [{"name": "judge", "rubric": wishes.rubric}] if wishes.rubric is not None else []
    if not specs:
        return None
    if strategy.verifier is not None:
        raise Refused(400, f"{strategy.name} has a verifier of its own already", "invalid_value", "tts.verifier")
    if len(specs) == 1:
        return cast(Verifier, _made(settings, "verifiers", specs[0]))
    members = [_made(settings, "verifiers", spec) for spec in specs]
    return cast(Verifier, registry.make("verifiers", {"name": "all_of", "verifiers": members}))


def _budget(settings: Settings, preset: Preset | None, wishes: Wishes) -> Budget:
    """The smallest of all caps."""
    budgets = [settings.budget, wishes.budget, Budget(seconds=settings.limits.seconds)]
    budgets += [preset.budget] if preset else []
    budgets += [Budget(seconds=wishes.deadline)] if wishes.deadline else []
    return least(budgets)


def least(budgets: list[Budget]) -> Budget:
    """The smallest of all caps."""
    caps = {}
    for name in Budget.model_fields:
        given = [cap for budget in budgets if (cap := getattr(budget, name)) is not None]
        caps[name] = min(given, default=None)
    return Budget(**caps)
