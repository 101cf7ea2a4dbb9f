"""`engine = "ray:vllm"`: a model served by actors of the run's cluster, without a server that anybody else can reach.

Each actor holds a vLLM engine and is asked through Ray; the engine listens on its node's loopback alone. Answers come
whole, also where a stream was asked for.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from typing import Any, Self

from pydantic import Field, NonNegativeFloat
from yarl import URL

from tts.errors import ConfigError
from tts.sampler.transport import Network, Reply, Request
from tts.settings import Settings

Answer = tuple[int, bytes, dict[str, str]]
"""Status, body and headers."""


class EngineSettings(Settings):
    """What an engine needs, beside its model."""

    path: str | None = None
    """Folder or hub name of the weights. Default: the endpoint's model."""
    num_gpus: NonNegativeFloat = 1.0
    """GPUs of the actor; more than one make a tensor-parallel engine."""
    num_cpus: NonNegativeFloat = 1.0
    resources: dict[str, float] = Field(default_factory=dict)
    """Custom resources of Ray."""
    options: list[str] = Field(default_factory=list)
    """Further command-line options of vLLM, such as `["--max-model-len", "4096"]`."""
    python: str | None = None
    """An interpreter on the nodes that has vLLM. Default: Ray's own."""

    def requests(self) -> dict[str, Any]:
        """What Ray is asked for."""
        return {"num_gpus": self.num_gpus, "num_cpus": self.num_cpus, "resources": dict(self.resources)}

    def command(self) -> list[str]:
        """The options of the engine."""
        parallel = ["--tensor-parallel-size", f"{self.num_gpus:g}"] if self.num_gpus > 1 else []
        return [*parallel, *self.options]


class NodeEngine:
    """The class of the actor: a vLLM engine, loaded with the first request."""

    def __init__(self, model: str, settings: EngineSettings) -> None:
        self._model, self._settings = model, settings
        self._network = Network()
        self._loading: asyncio.Task[str] | None = None

    async def ask(self, method: str, path: str, body: bytes) -> Answer:
        """Its answer to a request."""
        if self._loading is None or (self._loading.done() and self._loading.exception()):
            self._loading = asyncio.create_task(self._load())
        url = await asyncio.shield(self._loading)
        reply = await self._network(Request(method, URL(url + path), {"content-type": "application/json"}, body))
        kept = {name: reply.headers[name] for name in ("content-type", "retry-after") if name in reply.headers}
        return reply.status, await reply.read(), kept

    async def _load(self) -> str:
        """Where the engine listens."""
        from tts.local_vllm import LocalVLLM

        settings = self._settings
        place = settings.path or self._model
        server = LocalVLLM(place, name=self._model, python=settings.python, options=settings.command())
        await server.__aenter__()  # it ends with this process
        return server.base_url.removesuffix("/v1")


class EngineTransport:
    """Asks the actor that serves a model; the first one to ask makes it."""

    def __init__(self, model: str, settings: dict[str, Any]) -> None:
        self._model, self._settings = model, EngineSettings(**settings)
        self._actor: Any = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, EngineTransport) and self._name == other._name

    __hash__ = None  # pyright: ignore[reportAssignmentType]

    def __reduce__(self) -> tuple[type[Self], tuple[str, dict[str, Any]]]:
        return type(self), (self._model, self._settings.model_dump())  # the actor is found by name

    @property
    def _name(self) -> str:
        told = json.dumps([self._model, self._settings.model_dump()], sort_keys=True)
        return f"engine-{hashlib.blake2b(told.encode(), digest_size=8).hexdigest()}"

    def _make(self) -> Any:
        from tts.cluster.fleet import import_ray

        ray = import_ray()
        if not ray.is_initialized():
            raise ConfigError(f'{self._model} has engine = "ray:vllm", which needs a cluster: --executor ray')
        there, needs = ray.cluster_resources(), self._settings.requests()
        wanted = {"GPU": needs["num_gpus"], "CPU": needs["num_cpus"], **needs["resources"]}
        if lacking := [f"{name} {amount:g}" for name, amount in wanted.items() if there.get(name, 0) < amount]:
            raise ConfigError(f"no room for the engine of {self._model}: the cluster lacks {', '.join(lacking)}")
        actor = ray.remote(NodeEngine).options(
            **needs, name=self._name, get_if_exists=True, max_concurrency=1000, max_restarts=3
        )
        return actor.remote(self._model, self._settings)

    async def __call__(self, request: Request) -> Reply:
        from tts.cluster.fleet import import_ray

        if self._actor is None:
            self._actor = await asyncio.to_thread(self._make)
        path = request.url.path.removeprefix(f"/{self._model}")
        errors = import_ray().exceptions
        try:
            return Reply.whole(*await self._actor.ask.remote(request.method, path, request.content))
        except errors.RayTaskError as error:
            raise ConfigError(f"the engine of {self._model} cannot be loaded: {error.cause}") from error
        except errors.RayError as error:
            raise ConnectionError(str(error).strip().splitlines()[0]) from error
