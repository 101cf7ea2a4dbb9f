"""The gateway's routes, as a FastAPI app."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI, Request, Response

from tts.errors import EndpointError
from tts.gateway.asgi import Receive, Scope, Send
from tts.gateway.errors import Refused
from tts.gateway.openapi import describe, operation
from tts.gateway.routing import allowed
from tts.gateway.schemas import KINDS, Kind
from tts.gateway.service import Gateway
from tts.gateway.settings import Settings


class Answer(Response):
    """Hands the exchange to the gateway, which reads the request and answers it by itself."""

    def __init__(self, gateway: Gateway, kind: Kind) -> None:
        self._gateway = gateway
        self._kind: Kind = kind
        self.background = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Answer."""
        await self._gateway.answer(self._kind, scope, receive, send)


def gateway_app(settings: Settings) -> FastAPI:
    """The ASGI app. Its endpoints open with its lifespan."""
    gateway = Gateway(settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with gateway:
            yield

    app = FastAPI(title="tts gateway", version=version("ttscale"), lifespan=lifespan, redoc_url=None)
    app.state.gateway = gateway

    @app.exception_handler(Refused)
    async def refused(request: Request, error: Refused) -> Response:
        headers = {name.decode(): value.decode() for name, value in error.headers}
        return Response(error.body, error.status, headers)

    def post(kind: Kind) -> None:
        @app.post(f"/v1/{kind}", openapi_extra=operation(kind), operation_id=kind.replace("/", "_"))
        async def answer() -> Response:
            return Answer(gateway, kind)

    for kind in KINDS:
        post(kind)

    def cards(request: Request) -> list[dict[str, Any]]:
        may_use = gateway.client(request.scope).may_use  # pyright: ignore[reportArgumentType]
        names = [name for name in (*settings.models, *settings.presets) if may_use(name)]
        strategies = allowed(settings, "strategies")
        names += [f"{name}@{model}" for model in settings.models if may_use(model) for name in strategies]
        return [{"id": name, "object": "model", "created": 0, "owned_by": "ttscale-gateway"} for name in names]

    @app.get("/v1/models")
    async def models(request: Request) -> Any:
        """The models, the presets, and each strategy that may be chosen on each model."""
        return {"object": "list", "data": cards(request)}

    @app.get("/v1/models/{name:path}", responses={404: {"description": "There is no such model."}})
    async def model(name: str, request: Request) -> Any:
        """One of them."""
        for card in cards(request):
            if card["id"] == name:
                return card
        raise Refused(404, f"there is no model '{name[:200]}'", "model_not_found", "model")

    @app.get("/healthz")
    async def healthz() -> Any:
        """Whether the gateway runs."""
        return {"status": "ok"}

    @app.get("/readyz", responses={503: {"description": "A model cannot be reached."}})
    async def readyz() -> Response:
        """Whether its models can be reached."""
        try:
            await gateway.ready()
        except EndpointError:
            return Response('{"status": "a model cannot be reached"}', 503, media_type="application/json")
        return Response('{"status": "ready"}', media_type="application/json")

    @app.get("/metrics")
    async def metrics() -> Response:
        """For Prometheus."""
        return Response(gateway.metrics.text(), media_type="text/plain; version=0.0.4")

    describe(app)
    return app
