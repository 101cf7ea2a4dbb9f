"""The configuration of an experiment: from Python, or from TOML with dotted overrides."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PositiveInt,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from tts.allocation import TotalBudget
from tts.base import Strategy, StrategyField, Verifier, VerifierField, as_config, made_from_spec
from tts.errors import ConfigError, complaints
from tts.policies import as_roles, policies_of
from tts.registry import parse_spec
from tts.sampler import Endpoint
from tts.sampler.parameters import check_params, token_limit
from tts.settings import Settings
from tts.tasks import Task
from tts.trajectories import Environment
from tts.types import Budget

TaskField = Annotated[Task, made_from_spec("tasks"), as_config]
EnvironmentField = Annotated[Environment, made_from_spec("environments"), as_config]


def _models(value: Any) -> Any:
    """One endpoint, endpoints by name, or tables that mix an endpoint's fields with tables of further roles."""
    if isinstance(value, Endpoint):
        return {value.model: {"policy": value}}
    if not isinstance(value, Mapping):
        return value
    return {name: _roles(name, entry) for name, entry in value.items()}


ModelsField = Annotated[dict[str, dict[str, Endpoint]], BeforeValidator(_models), Field(min_length=1)]
"""Endpoints by name and role."""


def _roles(name: str, entry: Any) -> Any:
    if isinstance(entry, Endpoint):
        return {"policy": entry}
    if not isinstance(entry, Mapping) or (entry and all(isinstance(one, Endpoint) for one in entry.values())):
        return entry
    roles = {
        key: {"model": key, **one} if isinstance(one, Mapping) else one
        for key, one in entry.items()
        if key not in Endpoint.model_fields and isinstance(one, Mapping | Endpoint)
    }
    own = {key: one for key, one in entry.items() if key not in roles}
    if isinstance(roles.pop("policies", None), Mapping):  # what stands beside them holds for each
        return {**as_roles(entry["policies"], own), **roles}
    return {"policy": {"model": name, **own}, **roles} if own or not roles else roles


def _each_once(strategies: tuple[Strategy, ...], info: ValidationInfo) -> tuple[Strategy, ...]:
    task: Task | None = info.data.get("task")  # none where it is at fault itself
    if task is not None and (training := task.training) is not None:
        strategies = tuple(strategy.taught(training) for strategy in strategies)
    return tuple({strategy.spec: strategy for strategy in strategies}.values())


class Grid(Settings):
    """Strategies x models x seeds over the problems of a task."""

    task: TaskField
    """The benchmark: `humaneval`, `gsm8k:path=...`, or an object."""
    strategies: Annotated[
        tuple[StrategyField, ...],
        BeforeValidator(lambda value: (value,) if isinstance(value, str | Strategy) else value),
        AfterValidator(_each_once),
        Field(min_length=1),
    ]
    """Strategies or their specs."""
    models: ModelsField
    """Endpoints by a name of your choice, with further roles, `[models.NAME.judge]`, or as a set of policies from the
    cheapest to the strongest, `[models.NAME.policies.small]`."""
    verifier: VerifierField | None = None
    """What strategies verify with; by default what the task's problems name."""
    environment: EnvironmentField | None = None
    """In what answers are sought, turn by turn; by default what the task's problems name."""
    agent: str | None = None
    """The command of an outside agent that acts in the environment: `mini -y -m openai/{model} -t {problem}`. It speaks
    to the model through a gateway of the run's own (docs/agents.md)."""
    sampling: Annotated[dict[str, Any], AfterValidator(check_params)] = Field(default_factory=dict)
    """Sampling parameters of the role `policy`: temperature, max_tokens, top_p, ..."""
    budget: Budget = Budget()
    """Caps for each problem and strategy."""
    total_budget: Annotated[
        TotalBudget | None,
        BeforeValidator(lambda value: parse_spec(f"total:{value}")[1] if isinstance(value, str) else value),
    ] = None
    """One cap over all problems, for each strategy, model and seed: samples go where they gain most for their cost."""
    seeds: tuple[int, ...] = (0,)
    """Each seed is an independent repetition."""
    limit: PositiveInt | None = None
    """Use only the first so many problems."""
    stop_early: bool = False
    """End a search when its selection is settled. Cheaper, but the curves then cover only what was drawn by then."""

    if TYPE_CHECKING:

        def __init__(
            self,
            *,
            task: Task | str | Mapping[str, Any],
            strategies: Strategy | str | Sequence[Strategy | str | Mapping[str, Any]],
            models: Endpoint | Mapping[str, Any],
            verifier: Verifier | str | Mapping[str, Any] | None = None,
            sampling: Mapping[str, Any] = ...,
            budget: Budget | Mapping[str, Any] = ...,
            total_budget: TotalBudget | str | Mapping[str, Any] | None = None,
            seeds: Sequence[int] = (0,),
            limit: int | None = None,
            stop_early: bool = False,
            environment: Environment | str | Mapping[str, Any] | None = None,
            agent: str | None = None,
        ) -> None: ...

    else:

        def __init__(self, **fields: Any) -> None:
            """Fields may be given as specs and tables. Raises `ConfigError` that names those at fault."""
            try:
                super().__init__(**fields)
            except ValidationError as error:
                raise ConfigError(f"the configuration cannot be used: {complaints(error)}") from None

    @model_validator(mode="after")
    def _set_once(self) -> Self:
        for name, roles in self.models.items():
            if len(policies := policies_of(roles)) > 1 and "policy" in policies:
                raise ValueError(f"models.{name} has a policy and a set of policies; keep one")
            for key, value in (item for role in policies for item in roles[role].params.items()):
                if self.sampling.get(key, value) != value:
                    raise ValueError(
                        f"{key} is {self.sampling[key]} in sampling and {value} in models.{name}.params; keep one"
                    )
        return self

    @model_validator(mode="after")
    def _can_be_shared_out(self) -> Self:
        if self.total_budget is None:
            return self
        if stiff := [strategy.spec for strategy in self.strategies if strategy.gains is None]:
            raise ValueError(
                f"{stiff[0]} draws its samples together, and a total budget shares them out one by one; use best_of_n, "
                "repeated_sampling, self_consistency, pass_until or format_spread:bandit=true"
            )
        for name in self.models if self.total_budget.cap[0] != "requests" else ():
            own = self.endpoints(name)
            if any(not (params := own[role].params).get(token_limit(params)) for role in policies_of(own)):
                raise ValueError("a total budget of tokens needs to know the most that a sample takes: set max_tokens")
        return self

    @model_validator(mode="after")
    def _one_currency(self) -> Self:
        for name, roles in self.models.items():
            currencies = {endpoint.card.currency for endpoint in roles.values() if endpoint.card.priced}
            if len(currencies) > 1:
                raise ValueError(f"models.{name} has prices in {' and '.join(sorted(currencies))}; use one currency")
        return self

    @model_validator(mode="after")
    def _told_apart(self) -> Self:
        known: dict[tuple[str, str], Endpoint] = {}
        for one in (one for roles in self.models.values() for one in roles.values() if one.transport is not None):
            if known.setdefault((one.filed_as, one.model), one).transport is not one.transport:
                raise ValueError(
                    f"two functions are called '{one.model}', and answers are stored by name; use MockModel(model=NAME)"
                )
        return self

    @classmethod
    def parse(cls, table: Mapping[str, Any]) -> Self:
        """An experiment from a table as in TOML. Raises `ConfigError` that names the keys at fault."""
        return cls(**table)

    def endpoints(self, model: str) -> dict[str, Endpoint]:
        """The endpoints of a model by role, with `sampling` in the policies' parameters."""
        roles = dict(self.models[model])
        for role in policies_of(roles):
            roles[role] = roles[role].model_copy(update={"params": {**self.sampling, **roles[role].params}})
        return roles

    def essence(self) -> dict[str, Any]:
        """All that gives stored results their meaning; it must not change on resume."""
        models = {
            name: {
                role: {"model": endpoint.model, "served_at": endpoint.filed_as, "params": endpoint.params}
                for role, endpoint in self.endpoints(name).items()
            }
            for name in self.models
        }
        essence = {
            "task": {key: value for key, value in self.task.config().items() if key != "path"},  # problems tell
            "verifier": self.verifier.config() if self.verifier else None,
            "budget": self.budget.model_dump(exclude_none=True),
            "stop_early": self.stop_early,
            "models": models,
        }
        if self.environment is not None:
            essence["environment"] = self.environment.config()
        if self.agent is not None:
            essence["agent"] = self.agent
        if self.total_budget is not None:
            essence["total_budget"] = self.total_budget.model_dump(exclude_none=True)
        return json.loads(json.dumps(essence, default=str))


def load(source: Path | dict[str, Any] | None, overrides: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A table, or that of a TOML file, with dotted `overrides` (`sampling.temperature` -> 0.5) applied to it."""
    try:
        table = tomllib.loads(source.read_text(encoding="utf-8")) if isinstance(source, Path) else source or {}
    except OSError as error:
        raise ConfigError(f"cannot read {source}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # of TOML, of UTF-8, of depth
        raise ConfigError(f"{source} is not valid TOML: {error}") from None
    for dotted, value in (overrides or {}).items():
        *parents, last = dotted.split(".")
        place = table
        for parent in parents:
            place = place.setdefault(parent, {})
            if not isinstance(place, dict):
                raise ConfigError(f"cannot set {dotted}: {parent} is not a table")
        place[last] = value
    return table
