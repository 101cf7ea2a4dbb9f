"""The gateway's routes, and their description in OpenAPI."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

from pydantic.json_schema import models_json_schema
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tts.concurrency import aside
from tts.errors import EndpointError
from tts.gateway.exchange import EVENTS, KINDS, PASSED, APIError, bad_request
from tts.gateway.link import WorkerLink
from tts.gateway.reloading import Reread, reloading
from tts.gateway.responses import replayed
from tts.gateway.routing import SLOWER, allowed
from tts.gateway.schemas import BODIES
from tts.gateway.service import Gateway
from tts.gateway.settings import GatewaySettings
from tts.gateway.telemetry import origin_of
from tts.sampler.client import ORIGIN


def gateway_app(settings: GatewaySettings, link: WorkerLink | None = None, reread: Reread | None = None) -> Starlette:
    """The ASGI app. Its endpoints open with its lifespan.

    `link` has what it shares with further workers; `reread` gives the settings to go by after a SIGHUP.
    """
    gateway = Gateway(settings, link)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with gateway, reloading(reread, gateway.reload):
            yield

    def cards(request: Request) -> list[dict[str, Any]]:
        settings = gateway.settings
        may_use = gateway.caller(request).may_use
        plain = [name for name, roles in settings.models.items() if "policy" in roles]
        names = [name for name in (*plain, *settings.presets) if may_use(name)]
        strategies = allowed(settings, "strategies")
        names += [f"{name}@{model}" for model in settings.models if may_use(model) for name in strategies]
        return [{"id": name, "object": "model", "created": 0, "owned_by": "ttscale-gateway"} for name in names]

    async def models(request: Request) -> Response:
        """The models, the presets, and each strategy that may be chosen on each model."""
        return JSONResponse({"object": "list", "data": cards(request)})

    async def model(request: Request) -> Response:
        """One of them."""
        name = request.path_params["name"]
        for card in cards(request):
            if card["id"] == name:
                return JSONResponse(card)
        raise APIError(404, f"no model named '{name[:200]}'", "model_not_found", "model")

    async def response(request: Request) -> Response:
        """A response that this key was given, or, with DELETE, its end."""
        owner, name, asked = gateway.caller(request).key.sha256, request.path_params["id"], request.query_params
        after = asked.get("starting_after", "-1")
        if request.method == "GET" and asked.get("stream", "false") != "false":
            if not re.fullmatch(r"-1|\d{1,9}", after):
                raise bad_request("starting_after must be the sequence number of an event", "starting_after")
            whole = await gateway.responses.find(owner, name)
            events = await aside(SLOWER * len(whole), lambda: replayed(json.loads(whole), int(after)))
            return Response(events, headers={name.decode(): value.decode() for name, value in EVENTS})
        if request.method == "DELETE":
            await gateway.responses.delete(owner, name)
            return JSONResponse({"id": name, "object": "response", "deleted": True})
        return Response(await gateway.responses.find(owner, name), media_type="application/json")

    async def cancel(request: Request) -> Response:
        """Nothing: only what was asked in the background could be cancelled, and that is not offered."""
        owner, name = gateway.caller(request).key.sha256, request.path_params["id"]
        await gateway.responses.find(owner, name)
        raise bad_request("this response is complete; only those in the background can be cancelled", "response_id")

    async def input_items(request: Request) -> Response:
        """What it answers, page by page."""
        owner, name = gateway.caller(request).key.sha256, request.path_params["id"]
        page = await gateway.responses.page(owner, name, request.query_params)
        return Response(page, media_type="application/json")

    async def healthz(request: Request) -> Response:
        """Whether the gateway runs."""
        return JSONResponse({"status": "ok"})

    async def readyz(request: Request) -> Response:
        """Whether its models can be reached."""
        gateway.check_page(request)
        try:
            await gateway.check()
        except EndpointError:
            return JSONResponse({"status": "a model cannot be reached"}, 503)
        return JSONResponse({"status": "ready"})

    async def metrics(request: Request) -> Response:
        """For Prometheus."""
        gateway.check_page(request)
        return Response(await gateway.metrics.text(), media_type="text/plain; version=0.0.4")

    async def openapi(request: Request) -> Response:
        """This document."""
        return JSONResponse(document(gets))

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, APIError)
        headers = {name.decode(): value.decode() for name, value in error.headers}
        return Response(error.body("responses"), error.status, headers)

    async def no_route(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return JSONResponse({"detail": error.detail}, error.status_code, error.headers)

    gets = [
        Route("/v1/models", models),
        Route("/v1/models/{name:path}", model),
        Route("/v1/responses/{id}", response, methods=["GET", "DELETE"]),
        Route("/v1/responses/{id}/input_items", input_items),
        Route("/v1/responses/{id}/cancel", cancel, methods=["POST"]),
        Route("/healthz", healthz),
        Route("/readyz", readyz),
        Route("/metrics", metrics),
        Route("/openapi.json", openapi),
    ]
    beside = [f"/{kind}" for kind, places in PASSED.items() if len(places) > 1]  # where vLLM has them
    posts = [Route(path, gateway, methods=["POST"]) for path in (*(f"/v1/{kind}" for kind in KINDS), *beside)]
    handlers = {APIError: refused, HTTPException: no_route}
    beside_all = [Middleware(identified), Middleware(welcoming, gateway=gateway)]
    app = Starlette(routes=[*posts, *gets], lifespan=lifespan, exception_handlers=handlers, middleware=beside_all)
    app.state.gateway = gateway
    return app


def serving_options(app: Starlette) -> dict[str, Any]:
    """How to put a gateway's app on a port: options of `tts.serving.server_for`."""
    gateway: Gateway = app.state.gateway
    limits = gateway.settings.limits
    return {"drain_seconds": limits.drain_seconds, "client_seconds": limits.client_seconds, "tls": gateway.tls}


def identified(app: ASGIApp) -> ASGIApp:
    """Gives every request an id, its own if it comes with one: in the response, in calls of models, in the log."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await app(scope, receive, send)
        origin = origin_of(Headers(scope=scope))
        named = [(b"x-request-id", origin.id.encode())]
        if scope["path"].startswith("/v1/messages"):  # where Anthropic's clients look
            named.append((b"request-id", origin.id.encode()))
        ORIGIN.set(origin)

        async def tell(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], *named]}
            await send(message)

        await app(scope, receive, tell)

    return answer


def welcoming(app: ASGIApp, gateway: Gateway) -> ASGIApp:
    """Lets the web pages in that the operator names."""
    allowed = {"allow_methods": ("GET", "POST", "DELETE"), "allow_headers": ("*",), "expose_headers": ("*",)}

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        origins = gateway.settings.origins
        asked = scope["type"] == "http" and any(name == b"origin" for name, _ in scope["headers"])
        await (CORSMiddleware(app, origins, **allowed) if origins and asked else app)(scope, receive, send)

    return answer


def document(gets: list[Route]) -> dict[str, Any]:
    """The OpenAPI document: the POST requests by their schemas, the GET requests by their routes."""
    schemas = "#/components/schemas/"
    _, found = models_json_schema([(body, "validation") for body in BODIES.values()], ref_template=schemas + "{model}")
    responses = {"200": {"description": "The answer."}, "default": {"description": "An error in OpenAI's form."}}
    paths: dict[str, Any] = {}
    for kind, body in BODIES.items():
        content = {"application/json": {"schema": {"$ref": schemas + body.__name__}}}
        operation = {"summary": body.__doc__, "requestBody": {"required": True, "content": content}}
        paths[f"/v1/{kind}"] = {"post": {**operation, "responses": responses, "security": [{}, {"bearer": []}]}}
    for route in gets:
        place = {"in": "path", "required": True, "schema": {"type": "string"}}
        parameters = [{"name": name, **place} for name in route.param_convertors]
        operation = {"summary": route.endpoint.__doc__, "parameters": parameters, "responses": responses}
        methods = sorted((route.methods or {"GET"}) - {"HEAD"})
        paths[route.path_format] = {method.lower(): operation for method in methods}
    bearer = {"type": "http", "scheme": "bearer"}
    return {
        "openapi": "3.1.0",
        "info": {"title": "tts gateway", "version": version("ttscale")},
        "paths": paths,
        "components": {"schemas": found["$defs"], "securitySchemes": {"bearer": bearer}},
    }
