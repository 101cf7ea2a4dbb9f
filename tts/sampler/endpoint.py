"""Which model to talk to, where, and within which limits."""

from __future__ import annotations

import os
import re
import resource
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from pkgutil import resolve_name
from typing import Annotated, Any, ClassVar
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    SecretStr,
    field_validator,
    model_validator,
)
from yarl import URL

from tts.compute import PRICES, ModelCard
from tts.errors import ConfigError, UnreadableKey
from tts.sampler.parameters import check_params
from tts.sampler.providers import SCHEME as PROVIDERS
from tts.sampler.providers import check_provider
from tts.sampler.transport import Transport
from tts.settings import Settings
from tts.types import Usage

IN_PROCESS = {"embedded": "tts.lab.engine.transport:EmbeddedTransport"}
"""Models that run in this process: the scheme of their URLs, and the transport that answers it.

The transport is made from the base URL, which raises `ConfigError` if there is no such model; its `fingerprint` of a
base URL is a digest of the model's weights.
"""

ENGINES = {"ray:vllm": ("ray-vllm", "tts.cluster.engine:EngineTransport")}
"""Engines that a run starts for itself: the scheme of their URLs, and their transports."""

BATCHED: dict[str, float] = {"attempt_timeout": 90_000.0, "total_timeout": 180_000.0, "max_concurrency": 10_000}
"""What an endpoint with `batch` has by default: a batch takes up to a day, and has as many requests as possible."""

FILES_ELSEWHERE = 128
"""Open files that are left to the rest of the process."""

SECRET_QUERY = re.compile(
    r"(?:api|access|auth|subscription|[\w-]*[-_])?(?:key|token|code|sig|signature|secret|password)", re.IGNORECASE
)
"""Query parameters of a URL that are secrets."""


class Endpoint(Settings):
    """One model behind one or more replicas of an OpenAI-compatible server."""

    model_config: ClassVar[ConfigDict] = ConfigDict(arbitrary_types_allowed=True)

    model: str
    """Name of the model as the server knows it."""
    base_url: str = Field(default_factory=lambda: os.environ.get("OPENAI_BASE_URL", ""), validate_default=True)
    """Where it is served, up to and including /v1. Replicas, separated by commas, share the load.
    `embedded://NAME` is a model that runs in this process (see: tts embedded list), `litellm://PROVIDER` one of a
    provider with a protocol of its own (docs/providers.md). Default: $OPENAI_BASE_URL."""
    engine: str | None = None
    """`ray:vllm`: the model is served by an actor of the run's Ray cluster, and has no base URL (docs/scale.md)."""
    engine_settings: dict[str, Any] = Field(default_factory=dict)
    """What the engine needs: `num_gpus`, `resources`, `options`, ..."""
    api_key: SecretStr | None = Field(default=None, exclude=True)
    """The key itself; never logged or stored. `api_key_env` or `api_key_file` is safer."""
    api_key_env: str = "OPENAI_API_KEY"
    """Environment variable that holds the key; unset means no key. For `litellm://PROVIDER` it is PROVIDER_API_KEY."""
    api_key_file: Path | None = None
    """File that holds the key."""
    identity: str | None = None
    """What stored answers are filed under. Default: the first base URL. Set it if the same model moves."""
    params: Annotated[dict[str, Any], AfterValidator(check_params)] = Field(default_factory=dict)
    """Sampling parameters of every request, sent unchanged: temperature, max_tokens, top_k, seed, ... What no other
    server knows goes into `extra_body`."""
    headers: dict[str, str] = Field(default_factory=dict, exclude=True, repr=False)
    """Extra HTTP headers; never shown or stored."""
    query: dict[str, SecretStr] = Field(default_factory=dict, exclude=True, repr=False)
    """Query parameters of every request that are never shown or stored. A key in a base URL (`?api-key=...`) is moved
    here; other parameters (`?api-version=...`) stay there."""
    max_concurrency: PositiveInt = 256
    """Most requests in flight at one replica; the sampler finds the best number up to this, and below the number of
    files that the process may open (`ulimit -n`)."""
    max_scoring: PositiveInt = 16
    """Most scoring requests in flight: log-probabilities of a prompt take memory on the server."""
    max_n: PositiveInt = 8
    """Most samples requested at once where the server supports `n`: one prefill, one failure domain."""
    stream: bool = False
    """Read answers token by token: each choice counts as soon as it is complete, and the tokens of cancelled work
    are known. Costs client CPU."""
    batch: bool = False
    """Have requests answered by the server's batch API, within a day and at half the price (docs/providers.md)."""
    batch_folder: Path | None = Field(default=None, exclude=True)
    """Where it is kept which batches there are, so that a program that was killed goes on with them. Default: the
    run's own folder."""
    attempt_timeout: PositiveFloat = 600.0
    """Seconds for one attempt of a request; in a stream, from one part of the answer to the next."""
    total_timeout: PositiveFloat = 3600.0
    """Seconds for a request from when it is first sent, including all retries and the waits between them. Time in the
    queue counts as well from when the endpoint last answered any request."""
    outage_timeout: PositiveFloat = 60.0
    """Seconds without a single answer from any replica, while attempts fail or no sign of life comes, after which the
    endpoint is given up: what waits for it fails, and a run ends with what it has. A pause that the server asks for is
    added, up to 30."""
    connect_timeout: PositiveFloat = 10.0
    """Seconds to open a connection."""
    max_attempts: PositiveInt = 8
    """Most attempts of a request that fails in a way worth retrying."""
    retry_wait: PositiveFloat = 0.25
    """Longest wait in seconds before the second attempt; it doubles with each further one, up to 30. The actual wait
    is random up to this."""
    max_answer_bytes: PositiveInt = 16 * 1024 * 1024
    """Most bytes of an answer or event; the longest text is a quarter. Images and many logprobs may need more."""
    hedge_after: PositiveFloat | None = None
    """Seconds after which a slow request is sent a second time; the first answer wins. None: never. Cannot be combined
    with `stream`."""
    target_latency: PositiveFloat | None = None
    """Seconds per request above which concurrency is reduced; None: only errors reduce it."""
    card: ModelCard = ModelCard()
    """Size and prices (per million tokens), which turn tokens into FLOPs and money."""
    transport: Transport | None = Field(default=None, exclude=True, repr=False)
    """Replaces the network, for `MockModel` and servers in this process: an async function from a
    `tts.sampler.transport.Request` to a `Reply`."""

    @model_validator(mode="before")
    @classmethod
    def _start_engine(cls, data: Any) -> Any:
        if not isinstance(data, Mapping) or (engine := data.get("engine")) is None:
            return data
        if not isinstance(engine, str) or engine not in ENGINES:
            raise ValueError(f"no engine '{engine}'; there are: {', '.join(ENGINES)}")
        scheme, place = ENGINES[engine]
        transport = resolve_name(place)(data.get("model"), data.get("engine_settings") or {})
        return {**data, "base_url": f"{scheme}://engine/{data.get('model')}/v1", "transport": transport}

    @model_validator(mode="before")
    @classmethod
    def _wait_for_batches(cls, data: Any) -> Any:
        if not isinstance(data, Mapping) or data.get("batch") is not True:
            return data
        card = data.get("card") or {}
        card = card.model_dump(exclude_unset=True) if isinstance(card, ModelCard) else card
        return {**BATCHED, **data, "card": {"price_factor": 0.5, **card} if isinstance(card, Mapping) else card}

    @model_validator(mode="before")
    @classmethod
    def _take_keys_out_of_urls(cls, data: Any) -> Any:
        urls = data.get("base_url", os.environ.get("OPENAI_BASE_URL", "")) if isinstance(data, Mapping) else ""
        if not isinstance(urls, str) or "?" not in urls:
            return data
        kept, secrets = [], dict(data.get("query") or {})
        for url in urls.split(","):
            place = urlsplit(url.strip())
            fields = parse_qsl(place.query, keep_blank_values=True)
            for name, value in fields:
                if SECRET_QUERY.fullmatch(name) and secrets.setdefault(name, value) != value:
                    raise ValueError(f"replicas with different values of '{name}' are different endpoints")
            plain = [field for field in fields if not SECRET_QUERY.fullmatch(field[0])]
            kept.append(urlunsplit(place._replace(query=urlencode(plain))))
        return {**data, "base_url": ",".join(kept), "query": secrets}

    @field_validator("base_url", mode="before")
    @classmethod
    def _join_urls(cls, value: Any) -> Any:
        urls = value.split(",") if isinstance(value, str) else value
        if not isinstance(urls, Sequence) or not all(isinstance(url, str) for url in urls):
            raise ValueError("must be a URL, several with commas between them, or a list of URLs")
        return ",".join(_without_slash(url.strip()) for url in urls)

    @field_validator("base_url")
    @classmethod
    def _check_urls(cls, urls: str) -> str:
        if model := in_process(urls):
            model(urls)
            return urls
        for url in urls.split(","):
            if not url:
                raise ValueError("no base URL: give base_url (--base-url) or set OPENAI_BASE_URL")
            if "@" in urlsplit(url).netloc:
                raise ValueError("a password in a base URL would be stored; use api_key_env or headers")
            try:
                scheme = URL(url).scheme if url.isprintable() else ""
            except ValueError:
                scheme = ""
            if scheme == PROVIDERS:
                check_provider(url)
            usable = scheme in ("http", "https", "mock", "ray-vllm", PROVIDERS)
            if not usable:
                raise ValueError(f"'{url}' is not an http(s) URL; write for example http://localhost:8000/v1")
        return urls

    @model_validator(mode="after")
    def _check_hedging(self) -> Endpoint:
        if self.stream and self.hedge_after is not None:
            raise ValueError("hedge_after works only on whole answers; leave it out or set stream=False")
        if self.batch and (self.stream or self.hedge_after is not None or len(self.urls) > 1 or self.provider):
            raise ValueError("batch goes with one server of OpenAI's API, and without stream and hedge_after")
        return self

    @cached_property
    def urls(self) -> tuple[str, ...]:
        """The base URL of each replica."""
        return tuple(self.base_url.split(","))

    @property
    def most_in_flight(self) -> int:
        """Requests that may be in flight at one replica, each with a file: half of those that the process may open, as
        other endpoints need some, shared by the replicas."""
        allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if allowed == resource.RLIM_INFINITY or self.batch:  # whose requests wait without a connection
            return self.max_concurrency
        return max(1, min(self.max_concurrency, (allowed - FILES_ELSEWHERE) // 2 // len(self.urls)))

    @property
    def embedded(self) -> bool:
        """Whether the model runs in this process, or in one that is started for it."""
        return self.engine is not None or in_process(self.base_url) is not None

    @property
    def provider(self) -> str:
        """The provider that LiteLLM translates for; empty if none."""
        place = urlsplit(self.urls[0])
        return (place.hostname or "") if place.scheme == PROVIDERS else ""

    @cached_property
    def filed_as(self) -> str:
        """The endpoint's part of a stored answer's address; for a model in this process, its weights are part of it."""
        if self.identity:
            return self.identity
        model = in_process(self.base_url)
        return f"{self.base_url}#{model.fingerprint(self.base_url)}" if model else self.urls[0]

    def money(self, usage: Usage) -> float:
        """The price of `usage` in the card's currency; 0 if the card has no prices."""
        if not self.card.priced:
            return 0.0
        return float(self.card.price(usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens))

    def key(self) -> str | None:
        """The API key, read now. Raises `UnreadableKey` if its file cannot be read."""
        if self.api_key is not None:
            return _sendable(self.api_key.get_secret_value())
        if self.api_key_file is not None:
            try:
                key = self.api_key_file.expanduser().read_text(encoding="utf-8-sig").strip()
            except (OSError, UnicodeDecodeError) as error:
                why = error.strerror if isinstance(error, OSError) else "it is not a text in UTF-8"
                raise UnreadableKey(f"cannot read the API key file {self.api_key_file}: {why}") from None
            return _sendable(key)
        return _sendable(os.environ.get(self.key_place, "").strip()) or None

    @property
    def key_place(self) -> str:
        """Where the API key is looked for: the variable, the file, or the field that has it."""
        if self.api_key is not None or self.api_key_file is not None:
            return "api_key" if self.api_key is not None else str(self.api_key_file)
        if self.provider and "api_key_env" not in self.model_fields_set:  # nobody else's key is for it
            return f"{self.provider.upper()}_API_KEY"
        return self.api_key_env


def check_prices(cap: str, endpoints: Mapping[str, Endpoint]) -> None:
    """Raise `ConfigError` unless all `endpoints` (by role) have prices, in one currency, so that `cap` can hold."""
    if free := sorted(role for role, endpoint in endpoints.items() if not endpoint.card.priced):
        raise ConfigError(f"{cap} needs prices for: {', '.join(free)}. Set card.{PRICES}")
    if len(currencies := {endpoint.card.currency for endpoint in endpoints.values()}) > 1:
        raise ConfigError(f"{cap} needs prices in one currency, not in {' and '.join(sorted(currencies))}")


def _sendable(key: str) -> str:
    """`key` if a header can hold it."""
    if not (key.isascii() and key.isprintable()):
        raise ConfigError("the API key has characters that no HTTP header can hold, such as a line break; check it")
    return key


def _without_slash(url: str) -> str:
    place = urlsplit(url)
    return urlunsplit(place._replace(path=place.path.rstrip("/"))) if place.query else url.rstrip("/")


def joined(base_url: str, path: str) -> str:
    """The URL of `path` at a server: `/models`, or `/../tokenize` for what is beside its `/v1`."""
    base, question, query = base_url.partition("?")
    if path.startswith("/../"):
        base, path = base.removesuffix("/v1"), path.removeprefix("/..")
    return f"{base}{path}{question}{query}"


def in_process(base_url: str) -> Any:
    """The transport class of a model that runs in this process; None for a model behind a network."""
    place = IN_PROCESS.get(base_url.partition("://")[0])
    return resolve_name(place) if place else None
