"""What a gateway offers, to whom, and within which limits: a TOML file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)

from tts.base import VerifierField
from tts.errors import ConfigError, complaints
from tts.runs.config import ModelsField, StrategyField, load
from tts.sampler.endpoint import check_params
from tts.types import Budget

PLAIN = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class Limits(BaseModel):
    """What protects the gateway and the servers behind it."""

    model_config = PLAIN

    running: PositiveInt = 2048
    """Requests that are worked on at once."""
    queue: NonNegativeInt = 1024
    """Requests that wait for that; any more are refused with 429 and a Retry-After."""
    body_bytes: PositiveInt = 16 * 2**20
    """Size of a request."""
    body_seconds: PositiveFloat = 30.0
    """Time for a request to arrive in full."""
    client_seconds: PositiveFloat = 60.0
    """Time for a client to send the head of a request, and to read what is ready for it."""
    seconds: PositiveFloat = 600.0
    """Time for a request with a strategy; the best answer so far is given then."""
    samples: PositiveInt = 256
    """The largest number that a request may give to any parameter of a strategy or verifier (or its default)."""
    keep_alive: PositiveFloat = 10.0
    """Between the comments that keep a stream open while a strategy works."""
    drain_seconds: PositiveInt = 30
    """For the requests that are being answered when the gateway is told to stop."""


class Preset(BaseModel):
    """A strategy under a name of the operator's."""

    model_config = PLAIN

    strategy: StrategyField
    """Its spec: `plan_search:verifier=generated_tests`."""
    model: str | None = None
    """The model it uses; by default `PRESET@MODEL` says which, or there is only one."""
    verifier: VerifierField | None = None
    """What it verifies with, unless a request brings tests, a schema, a format or a rubric."""
    answer: str | None = None
    """How answers are read and compared, for votes: `numeric_answer`."""
    sampling: dict[str, Any] = Field(default_factory=dict)
    """Sampling parameters where the request has none of the name."""
    budget: Budget = Budget()
    """Caps on each request."""

    @field_validator("sampling")
    @classmethod
    def _check_sampling(cls, sampling: dict[str, Any]) -> dict[str, Any]:
        return check_params(sampling)


class Key(BaseModel):
    """What one client may do. The key itself is not here: `tts serve --new-key NAME` makes one and prints its hash."""

    model_config = PLAIN

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """The key's SHA-256 in hexadecimal digits."""
    models: tuple[str, ...] | None = None
    """The models and presets that it may use; None: all."""
    tokens_per_day: NonNegativeInt | None = None
    """Prompt and completion tokens from midnight to midnight, UTC."""
    money_per_day: NonNegativeFloat | None = None
    """In the currency of the models' prices."""
    requests_per_minute: PositiveInt | None = None
    running: PositiveInt | None = None
    """Requests at once."""


def _specs(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


class Settings(BaseModel):
    """The whole configuration of a gateway."""

    model_config = PLAIN

    models: ModelsField
    """Endpoints by the names that clients use; `[models.NAME.judge]` gives one a model for another role."""
    presets: dict[str, Preset] = Field(default_factory=dict)
    """Strategies by names of your choice."""
    keys: dict[str, Key] = Field(default_factory=dict)
    """Who may use it; without any everybody who reaches the port may."""
    strategies: Annotated[tuple[str, ...] | None, BeforeValidator(_specs)] = None
    """Names of the strategies that requests may choose themselves; None: all, (): presets only."""
    verifiers: Annotated[tuple[str, ...] | None, BeforeValidator(_specs)] = None
    """Names of the verifiers that requests may choose; None: all."""
    verifier: VerifierField | None = None
    """What is verified with where nothing else is said."""
    answer: str | None = None
    """How answers are read and compared for votes where nothing else is said."""
    budget: Budget = Budget(requests=1024)
    """Caps on each request with a strategy."""
    run_code: bool = False
    """Whether requests may have programs run, in the sandbox: their own tests, or those that a model writes."""
    limits: Limits = Limits()
    trace: Path | None = None
    """A directory where every request is kept, those with a strategy as a run that `tts report` opens."""
    otel: bool = False
    """Whether OpenTelemetry spans are sent, to where its environment variables say (`OTEL_EXPORTER_OTLP_ENDPOINT`)."""

    @model_validator(mode="before")
    @classmethod
    def _room(cls, table: Any) -> Any:
        """An endpoint takes as many requests as the gateway does, unless it says otherwise."""
        if not isinstance(table, dict) or not isinstance(table.get("models"), Mapping):
            return table
        running = (table.get("limits") or {}).get("running", 2048) if isinstance(table.get("limits"), Mapping) else 2048

        def with_room(entry: Any) -> Any:
            return {"max_concurrency": running, "max_attempts": 3, **entry} if isinstance(entry, Mapping) else entry

        return {**table, "models": {name: with_room(entry) for name, entry in table["models"].items()}}

    @model_validator(mode="after")
    def _names(self) -> Settings:
        for name in self.models:
            if "policy" not in self.models[name]:
                raise ValueError(f"models.{name} has no endpoint of its own")
        for name, preset in self.presets.items():
            if not NAME.fullmatch(name):
                raise ValueError(f"presets.{name}: a name has letters, digits, dots, dashes and underscores only")
            if name in self.models:
                raise ValueError(f"presets.{name} is the name of a model too")
            if preset.model is not None and preset.model not in self.models:
                raise ValueError(f"presets.{name}.model: no '{preset.model}' among the models")
        hashes = [key.sha256 for key in self.keys.values()]
        if len(set(hashes)) < len(hashes):
            raise ValueError("keys: two of them are the same key")
        return self

    @classmethod
    def parse(cls, table: Mapping[str, Any]) -> Settings:
        """Settings from a table as in TOML. Raises `ConfigError` naming the keys at fault."""
        try:
            return cls.model_validate(table)
        except ValidationError as error:
            raise ConfigError(f"the gateway's configuration is not usable: {complaints(error, 'settings')}") from None

    @classmethod
    def read(cls, path: Path | None, overrides: Mapping[str, Any] | None = None) -> Settings:
        """Settings of a TOML file, with dotted overrides written over it."""
        return cls.parse(load(path, overrides))
