"""What a gateway offers, to whom, and within which limits: a TOML file."""

from __future__ import annotations

import difflib
import re
import ssl
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    SecretStr,
    ValidationError,
    model_validator,
)

from tts import registry
from tts.base import AnswerVerifier, StrategyField, VerifierField
from tts.errors import ConfigError, complaints
from tts.policies import drawn_from, policies_of
from tts.registry import nested
from tts.runs.config import ModelsField, load
from tts.sampler import Endpoint
from tts.sampler.endpoint import check_prices
from tts.sampler.parameters import check_params
from tts.settings import Settings
from tts.types import Budget

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")

FROM_ONE = BeforeValidator(lambda value: (value,) if isinstance(value, str) else value)
ROLES = ("policy", "draft", "target", "judge", "reward", "embed", "image")
"""What models are asked for by the strategies and verifiers that come with the library."""

Names = Annotated[tuple[str, ...] | None, FROM_ONE]


class GatewayLimits(Settings):
    """What protects the gateway and the model servers behind it."""

    running: PositiveInt = 2048
    """Requests worked on at once."""
    queue: NonNegativeInt = 1024
    """Requests that may wait for a place; further ones are refused with 429 and a Retry-After."""
    body_bytes: PositiveInt = 16 * 2**20
    """Largest request body."""
    bodies_bytes: PositiveInt = 1024 * 2**20
    """Bytes of all request bodies above 256 KiB that each process may hold at once, half of them of one key; in memory
    they take about three times as much. Further ones are refused with 429 and a Retry-After."""
    body_values: PositiveInt = 262_144
    """Most values and keys in the JSON of a request body: what takes time to read is their number, not their size."""
    strategy_bytes: PositiveInt = 4 * 2**20
    """Largest body of a request with a strategy, which sends it many times."""
    body_seconds: PositiveFloat = 30.0
    """Time for a request body to arrive."""
    client_seconds: PositiveFloat = 60.0
    """Time for a client to send a request's head, and to read what was sent to it."""
    seconds: PositiveFloat = 600.0
    """Time for a request with a strategy; after it the client gets the best answer so far."""
    samples: PositiveInt = 256
    """Largest number that a request may give any parameter of a strategy or verifier (or the default, if larger)."""
    keep_alive: PositiveFloat = 10.0
    """Seconds between the comments that keep a stream open while a strategy works."""
    stored_responses: NonNegativeInt = 1000
    """Responses kept for each key, which it may come back to; the oldest give way to new ones."""
    stored_bytes: NonNegativeInt = 64 * 2**20
    """Bytes of them, with what they answered."""
    stored_seconds: PositiveFloat = 86_400.0
    """How long they are kept."""
    drain_seconds: PositiveInt = 30
    """Time for open requests to finish when the gateway is told to stop."""


class Preset(Settings):
    """A strategy under a name that the operator chose."""

    strategy: StrategyField
    """The strategy's spec: `plan_search:verifier=generated_tests`."""
    model: str | None = None
    """The model to use; not needed if there is only one, or if clients write `PRESET@MODEL`."""
    verifier: VerifierField | None = None
    """The verifier, unless the request brings tests, a schema, a format or a rubric."""
    answer: str | None = None
    """How to read and compare answers in votes: `numeric_answer`."""
    sampling: Annotated[dict[str, Any], AfterValidator(check_params)] = Field(default_factory=dict)
    """Sampling parameters, where the request does not set them."""
    budget: Budget = Budget()
    """Caps on each request."""
    on_unverified: Literal["answer", "error"] = "answer"
    """What clients get where the answer could not be verified: the answer, which the response says, or an error."""


class Key(Settings):
    """What one client may do. The key is not stored, only its hash; `tts serve --new-key NAME` makes both."""

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """SHA-256 of the key, in hexadecimal."""
    models: tuple[str, ...] | None = None
    """Models and presets that it may use; None: all."""
    tokens_per_day: NonNegativeInt | None = None
    """Prompt and completion tokens from midnight to midnight, UTC."""
    money_per_day: NonNegativeFloat | None = None
    """In the currency of the models' prices, which every model that the key may use needs (`card`)."""
    requests_per_minute: PositiveInt | None = None
    """Requests for answers; a list of models is free."""
    running: PositiveInt | None = None
    """Requests at once."""


class Tls(Settings):
    """What a gateway that speaks HTTPS shows its clients."""

    cert: Path
    """The certificate, with those that lead to a known authority, in PEM."""
    key: Path | None = None
    """Its private key; None: in the same file."""

    def fill(self, context: ssl.SSLContext) -> None:
        """Have new connections use the files as they are now. Raises `ConfigError`."""
        try:
            context.load_cert_chain(self.cert, self.key, password="")  # or else it would ask the terminal for one
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"cannot use the certificate tls.cert = {self.cert}, tls.key = {self.key}: {error}"
            ) from None


KEPT = ("quotas", "redis", "responses", "trace", "otel")
"""Settings that hold from the gateway's start to its end."""


class GatewaySettings(Settings):
    """The whole configuration of a gateway."""

    models: ModelsField
    """Endpoints by the names that clients use; `[models.NAME.judge]` adds a model for another role, and
    `[models.NAME.policies.small]`, ... make it a set of policies, which a strategy draws from."""
    presets: dict[str, Preset] = Field(default_factory=dict)
    """Strategies by names of your choice."""
    keys: dict[str, Key] = Field(default_factory=dict)
    """Who may use the gateway; without keys, anybody who can reach the port."""
    hosts: Annotated[tuple[str, ...], FROM_ONE] = ()
    """Names under which a gateway without keys answers on the loopback, besides this machine's own."""
    origins: Annotated[tuple[str, ...], FROM_ONE] = ()
    """Web pages that may use the gateway: `https://chat.example.com`; `*`: all, which needs keys."""
    tls: Tls | None = None
    """How it speaks HTTPS; None: it speaks HTTP."""
    fallbacks: dict[str, Annotated[tuple[str, ...], FROM_ONE]] = Field(default_factory=dict)
    """By a model's name: models to be asked, one after the other, while the server of the one before does not work."""
    strategies: Names = None
    """Strategies that requests may choose themselves; None: all, (): presets only."""
    verifiers: Names = None
    """Verifiers that requests may choose; None: all."""
    verifier: VerifierField | None = None
    """The default verifier."""
    answer: str | None = None
    """How to read and compare answers in votes, by default."""
    budget: Budget = Budget(requests=1024)
    """Caps on each request with a strategy."""
    run_code: bool = False
    """Whether requests may run programs, in the sandbox: with their own tests, or with those that a model writes."""
    limits: GatewayLimits = GatewayLimits()
    quotas: Path | None = None
    """The file that keeps what each key has spent today, where keys have caps for a day. Default: `NAME.quotas` beside
    the settings' file `NAME.toml`; without such a file the memory alone keeps it."""
    redis: SecretStr | None = None
    """The URL of a Redis server, where gateways of several machines keep in common what keys spend and run and what
    model servers take: `redis://HOST:6379/0`. `quotas` is not used then. Needs the extra `redis`."""
    responses: Path | None = None
    """The file that keeps responses, through restarts and for several processes; else they are kept until the end."""
    trace: Path | None = None
    """A directory that keeps every request; those with a strategy form a run that `tts report` opens."""
    otel: bool = False
    """Whether to send OpenTelemetry spans, to where the environment says (`OTEL_EXPORTER_OTLP_ENDPOINT`)."""

    @model_validator(mode="before")
    @classmethod
    def _widen_endpoints(cls, table: Any) -> Any:
        """An endpoint of any role takes as many requests at once as the gateway, unless it says otherwise."""
        if not isinstance(table, dict) or not isinstance(models := table.get("models"), Mapping):
            return table
        limits = table.get("limits")
        running = limits.get("running", 2048) if isinstance(limits, Mapping) else 2048
        wide = {"max_concurrency": running, "max_attempts": 3}

        def widened(entry: Any) -> Any:
            if not isinstance(entry, Mapping):
                return entry
            roles = {role: widened(one) for role, one in entry.items() if role not in Endpoint.model_fields}
            if isinstance(members := entry.get("policies"), Mapping):
                roles["policies"] = {name: widened(one) for name, one in members.items()}
            return {**wide, **entry, **roles}

        return {**table, "models": {name: widened(one) for name, one in models.items()}}

    @model_validator(mode="after")
    def _check_names(self) -> GatewaySettings:
        for name in self.models:
            if not policies_of(self.models[name]):
                raise ValueError(f"models.{name} has no endpoint of its own")
            for role in self.models[name].keys() - {
                *ROLES,
                *policies_of(self.models[name]),
            }:  # a plug-in may have its own
                if near := difflib.get_close_matches(role, ROLES, n=1):
                    raise ValueError(f"models.{name}.{role}: no such role; did you mean '{near[0]}'?")
        for name, preset in self.presets.items():
            if not NAME.fullmatch(name):
                raise ValueError(f"presets.{name}: use letters, digits, dots, dashes and underscores only")
            if name in self.models:
                raise ValueError(f"presets.{name}: a model already has this name")
            if preset.model is not None and preset.model not in self.models:
                raise ValueError(f"presets.{name}.model: no model named '{preset.model}'")
            if model := preset.model or (next(iter(self.models)) if len(self.models) == 1 else None):
                try:
                    drawn_from(preset.strategy, self.models[model])
                except ConfigError as error:
                    raise ConfigError(f"presets.{name}: {error}") from error
        for name, others in self.fallbacks.items():
            self._check_known("fallbacks", (name,), self.models)
            self._check_known(f"fallbacks.{name}", others, self.models)
            for one in {name, *others}:
                if others and "policy" not in self.models[one]:
                    raise ValueError(f"fallbacks.{name}: '{one}' is a set of policies; name single models")
            if name in others:
                raise ValueError(f"fallbacks.{name}: a model cannot stand in for itself")
        if "*" in self.origins and not self.keys:
            raise ValueError("origins: without keys every page that a browser shows could use the gateway; name some")
        for group in ("strategies", "verifiers"):
            self._check_known(group, getattr(self, group), registry.names(group))
        for name, key in self.keys.items():
            self._check_known(f"keys.{name}.models", key.models, [*self.models, *self.presets])
        readers = {f"presets.{name}.answer": preset.answer for name, preset in self.presets.items()}
        for place, spec in {"answer": self.answer, **readers}.items():
            if spec is not None and not isinstance(registry.make("verifiers", spec), AnswerVerifier):
                raise ValueError(f"{place}: {spec} reads no answers")
        if len({key.sha256 for key in self.keys.values()}) < len(self.keys):
            raise ValueError("keys: two entries have the same key")
        return self

    @staticmethod
    def _check_known(place: str, given: Names, known: Collection[str]) -> None:
        for name in given or ():
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"; did you mean '{near[0]}'?" if near else f"; there are: {', '.join(known)}"
                raise ValueError(f"{place}: no '{name}'{hint}")

    @model_validator(mode="after")
    def _check_code(self) -> GatewaySettings:
        """`run_code` holds for all that runs programs, the operator's own presets included."""
        named = {"verifier": [self.verifier]}
        named |= {f"presets.{name}": [preset.strategy, preset.verifier] for name, preset in self.presets.items()}
        answers = {"answer": self.answer} | {f"presets.{name}.answer": one.answer for name, one in self.presets.items()}
        named |= {place: [registry.make("verifiers", spec)] for place, spec in answers.items() if spec is not None}
        for place, plugins in named.items():
            for part in (part for plugin in plugins for part in nested(plugin)):
                if getattr(part, "runs_code", False) and not self.run_code:
                    raise ValueError(f"{place}: '{part.name}' runs programs, which needs run_code = true (--run-code)")
        return self

    @model_validator(mode="after")
    def _check_prices(self) -> GatewaySettings:
        for name, key in self.keys.items():
            if key.money_per_day is not None:
                self._need_prices(f"keys.{name}.money_per_day", self.models if key.models is None else key.models)
        for name, preset in self.presets.items():
            if preset.budget.money is not None:
                self._need_prices(f"presets.{name}.budget.money", [name])
        if self.budget.money is not None:
            self._need_prices("budget.money", self.models)
        return self

    def _need_prices(self, cap: str, names: Iterable[str]) -> None:
        """Check that `cap` can hold for everything that the models and presets of these `names` may ask."""
        used = {self.presets[name].model if name in self.presets else name for name in names}
        models = self.models if None in used else used & self.models.keys()
        roles = [(model, role) for model in self.models if model in models for role in self.models[model]]
        check_prices(cap, {f"models.{model}.{role}": self.models[model][role] for model, role in roles})

    @property
    def endpoints(self) -> Iterator[Endpoint]:
        """Those of all roles of all models."""
        return (endpoint for roles in self.models.values() for endpoint in roles.values())

    def check_keys(self) -> None:
        """Raise `ConfigError` if the API key of an endpoint cannot be read."""
        for endpoint in self.endpoints:
            endpoint.key()

    def check_successor(self, settings: GatewaySettings) -> None:
        """Raise `ConfigError` if `settings` cannot take the place of these without a restart."""
        old, new = self, settings
        names = [name for name in KEPT if getattr(old, name) != getattr(new, name)]
        names += ["tls"] if (old.tls is None) != (new.tls is None) else []
        seconds = ("client_seconds", "drain_seconds")
        names += [f"limits.{one}" for one in seconds if getattr(old.limits, one) != getattr(new.limits, one)]
        if names:
            raise ConfigError(f"{', '.join(names)} cannot change while the gateway runs: restart it")
        new.check_keys()

    @classmethod
    def parse(cls, table: Mapping[str, Any]) -> GatewaySettings:
        """Settings from a table as in TOML. Raises `ConfigError` naming the keys at fault."""
        try:
            return cls.model_validate(table)
        except ValidationError as error:
            raise ConfigError(f"invalid gateway configuration: {complaints(error, 'settings')}") from None

    @classmethod
    def read(cls, path: Path | None, overrides: Mapping[str, Any] | None = None) -> GatewaySettings:
        """Settings of a TOML file, with dotted overrides on top."""
        table = load(path, overrides)
        return cls.parse(table if path is None else {"quotas": path.with_suffix(".quotas"), **table})
