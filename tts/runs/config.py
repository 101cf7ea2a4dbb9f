"""The configuration of an experiment: from Python, from TOML, with dotted overrides; what may change on resume."""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)

from tts.base import Strategy, VerifierField, as_config, made_from_spec
from tts.errors import ConfigError, RunMismatch, complaints
from tts.sampler import Endpoint
from tts.sampler.endpoint import check_params
from tts.tasks import Example, Task
from tts.types import Budget

if TYPE_CHECKING:
    from tts.runs.progress import Progress
    from tts.runs.run import Run


TaskField = Annotated[Task, made_from_spec("tasks"), as_config]
StrategyField = Annotated[Strategy, made_from_spec("strategies"), as_config]


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
    return {"policy": {"model": name, **own}, **roles} if own or not roles else roles


class Experiment(BaseModel):
    """A grid of strategies x models x seeds over the problems of a task."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    task: TaskField
    """The benchmark: `humaneval`, `gsm8k:path=...`, or an object."""
    strategies: Annotated[
        tuple[StrategyField, ...],
        BeforeValidator(lambda value: (value,) if isinstance(value, str | Strategy) else value),
        Field(min_length=1),
    ]
    """Strategies or their specs."""
    models: ModelsField
    """Endpoints by a name of your choice; each may have further roles: `[models.NAME.judge]`."""
    verifier: VerifierField | None = None
    """What strategies verify with; by default what the task's problems name."""
    sampling: dict[str, Any] = Field(default_factory=dict)
    """Sampling parameters of the role `policy`: temperature, max_tokens, top_p, ..."""
    budget: Budget = Budget()
    """Caps for each problem and strategy."""
    seeds: tuple[int, ...] = (0,)
    """Each seed is an independent repetition."""
    limit: PositiveInt | None = None
    """Use the first so many problems."""
    stop_early: bool = False
    """End a search when its selection is settled. Cheaper, but the curves then have what was drawn until there."""

    @field_validator("strategies")
    @classmethod
    def _each_once(cls, strategies: tuple[Strategy, ...]) -> tuple[Strategy, ...]:
        return tuple({strategy.spec: strategy for strategy in strategies}.values())

    @field_validator("sampling")
    @classmethod
    def _check_sampling(cls, sampling: dict[str, Any]) -> dict[str, Any]:
        return check_params(sampling)

    @model_validator(mode="after")
    def _set_once(self) -> Experiment:
        for name, roles in self.models.items():
            params = roles["policy"].params if "policy" in roles else {}
            for key in params.keys() & self.sampling.keys():
                if params[key] != self.sampling[key]:
                    raise ValueError(
                        f"{key} is {self.sampling[key]} in sampling and {params[key]} in models.{name}.params; keep one"
                    )
        return self

    def endpoints(self, model: str) -> dict[str, Endpoint]:
        """The endpoints of a model by role, with `sampling` in the policy's parameters."""
        roles = dict(self.models[model])
        if "policy" in roles:
            policy = roles["policy"]
            roles["policy"] = policy.model_copy(update={"params": {**self.sampling, **policy.params}})
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
        return json.loads(json.dumps(essence, default=str))

    @classmethod
    def parse(cls, table: Mapping[str, Any]) -> Experiment:
        """An experiment from a table as in TOML. Raises `ConfigError` naming the keys at fault."""
        try:
            return cls.model_validate(table)
        except ValidationError as error:
            raise ConfigError(f"the configuration is not usable: {complaints(error)}") from None

    async def run(self, out: Path | str, *, resume: bool = False, progress: Progress | None = None) -> Run:
        """Run the grid into the directory `out` and return it for reading.

        A run that was interrupted, in whatever way, continues with `resume=True`: finished cells are kept, stored
        answers are used again, only what is missing is asked for.
        """
        from tts.runs.runner import execute

        return await execute(self, Path(out), resume=resume, progress=progress)


def load(path: Path | None, overrides: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The table of a TOML file with dotted `overrides` (`sampling.temperature` -> 0.5) written over it."""
    try:
        table = tomllib.loads(path.read_text()) if path else {}
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from None
    for dotted, value in (overrides or {}).items():
        *parents, last = dotted.split(".")
        place = table
        for parent in parents:
            place = place.setdefault(parent, {})
            if not isinstance(place, dict):
                raise ConfigError(f"cannot set {dotted}: {parent} is not a table")
        place[last] = value
    return table


def settle(
    directory: Path,
    experiment: Experiment,
    examples: Sequence[Example],
    made_with: Mapping[str, Any],
    *,
    resume: bool,
    used: bool,
) -> None:
    """Write `run.json` beside the data, after checking that results already there are of the same configuration.

    Strategies, seeds, models and the limit may be added to or taken away, roles of a model added. `used` is whether the
    directory holds anything that was paid for. Raises `RunMismatch` that names the keys or the problem which differ,
    and `ConfigError` when there are results and no `resume`.
    """
    path = directory / "run.json"
    record = {
        "config": experiment.model_dump(mode="json"),
        "essence": experiment.essence(),
        "problems": {example.problem.id: fingerprint(example) for example in examples},
        **made_with,
    }
    if used and path.exists():
        if not resume:
            raise ConfigError(f"{directory} already holds a run; add --resume to continue it, or choose another --out")
        _merge(record, read_record(directory), directory)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(record, indent=2, default=str))
    temporary.replace(path)


def read_record(directory: Path) -> dict[str, Any]:
    """The contents of `run.json`. Raises `ConfigError` when there are none."""
    try:
        return json.loads((directory / "run.json").read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{directory} is not a run directory ({error}); `tts run --out {directory}` makes one"
        ) from None


def _merge(record: dict[str, Any], before: dict[str, Any], directory: Path) -> None:
    """Check that `record` is of the same configuration as `before`, and add to it what only that one knows."""
    differ = _differences(before["essence"], record["essence"])
    changed = [name for name, digest in record["problems"].items() if before["problems"].get(name, digest) != digest]
    if changed:
        differ.append(f"problem {changed[0]} reads otherwise")
    if differ:
        raise RunMismatch(
            f"{directory} holds results of another configuration: {'; '.join(differ)}. "
            "Go back to the old settings, or choose another --out. "
            "(The same model at another place: set models.NAME.identity)"
        )
    for part in ("essence", "config"):
        record[part]["models"] = {**before[part]["models"], **record[part]["models"]}
    record["problems"] = {**before["problems"], **record["problems"]}


def fingerprint(example: Example) -> str:
    """A digest of a problem and its truth: whether it still reads as it did."""
    content = json.dumps([example.problem.model_dump(mode="json"), example.truth.config()], sort_keys=True, default=str)
    return hashlib.blake2b(content.encode(), digest_size=6).hexdigest()


def redacted(words: Sequence[str]) -> list[str]:
    """A command's words without what is secret: values of options that name a key or headers."""
    secret = re.compile(r"--\S*(api_key|headers\.[^=\s]+)(?!_)")
    shown, hide = [], False
    for word in words:
        option, equals, _ = word.partition("=")
        found = bool(secret.fullmatch(option))
        shown.append("***" if hide else f"{option}=***" if found and equals else word)
        hide = found and not equals
    return shown


def _differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    shared = before["models"].keys() & now["models"].keys()
    kept = {name: {role: now["models"][name].get(role) for role in before["models"][name]} for name in shared}
    old = _flat({**before, "models": {name: before["models"][name] for name in shared}})
    new = _flat({**now, "models": kept})  # no result is of a role that was not there
    return [
        f"{key} was {old.get(key, 'unset')!r}, is {new.get(key, 'unset')!r}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    ]


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict):
        return {prefix.removesuffix("."): tree}
    return {key: value for name, child in tree.items() for key, value in _flat(child, f"{prefix}{name}.").items()}
