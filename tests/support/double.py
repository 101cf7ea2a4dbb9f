"""A model server that speaks the OpenAI protocol over real HTTP, for tests and benchmarks.

In a test: `async with ModelDouble(answer=solvable({"p": 0.3}), latency=0.02) as double: ... double.base_url`.
As a process of its own: `python -m tests.support.double --latency 0.02`, whose first line is
`ready http://127.0.0.1:PORT/v1`, with its counters at `/stats`, cleared by `/reset`.
"""

import argparse
import asyncio
import json
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aiohttp import web

from tests.support.answers import reply, solvable
from tests.support.delivery import LOST_ON_THE_WAY, cut_connection, deliver
from tests.support.engine import Engine, tokens_of
from tests.support.faults import Fault, FaultKind, Faults, Refusal, fault_plan, refuse
from tests.support.ledger import Ledger, Seen, Stats
from tests.support.listening import Listening
from tests.support.wire import Json

__all__ = ["Fault", "FaultKind", "ModelDouble", "Seen", "Stats", "reply", "solvable"]


@dataclass(kw_only=True, eq=False)
class ModelDouble(Listening, Engine):
    """An engine and the server in front of it, as an async context manager inside the running loop."""

    tokens_per_chunk: int = 8
    faults: Faults = None
    max_running: int | None = None
    """Requests generated at the same time; those above it are refused with 429, or wait if `queue`."""
    queue: bool = False
    api_key: str | None = None
    holding: bool = False
    """Whether answers wait until this is false again. Any thread may change it."""
    log: int = 10_000
    """How many requests, and times of answers and cancellations, are kept."""
    host: str = "127.0.0.1"
    port: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._slots = asyncio.Semaphore(self.max_running or 1)
        self._endpoints = {
            "/v1/chat/completions": self._complete,
            "/v1/completions": self._complete,
            "/v1/models": self._list_models,
        }
        if self.owned_by == "vllm":
            self._endpoints["/tokenize"] = self._tokenize
            self._endpoints["/detokenize"] = self._detokenize
        self._open_endpoints = {"/health": self._health, "/stats": self._show_stats, "/reset": self._reset}
        self._ledger = Ledger(self.log)
        self.reset()

    def reset(self) -> None:
        """Clear counters and logs, and start the fault plan at its first request. RuntimeError while busy."""
        if not self._ledger.nothing_open.is_set():
            raise RuntimeError("requests are still open; wait for idle() before reset()")
        self._ledger = ledger = Ledger(self.log)
        self.stats, self.by_model, self.requests = ledger.total, ledger.by_model, ledger.requests
        self.cancel_times, self.served_times = ledger.cancel_times, ledger.served_times
        self._fault_for = fault_plan(self.faults, self.seed)

    @property
    def is_idle(self) -> bool:
        """Whether no request is open."""
        return self._ledger.nothing_open.is_set()

    async def idle(self) -> None:
        """Wait until no request is open: a disconnect is noticed a moment after it happens."""
        await self._ledger.nothing_open.wait()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if endpoint := self._open_endpoints.get(request.path):
            return await endpoint(request)
        try:
            if self.api_key and request.headers.get("Authorization") != f"Bearer {self.api_key}":
                raise Refusal("unauthorized", 401, "The API key is missing or wrong.")
            if not (endpoint := self._endpoints.get(request.path)):
                raise Refusal("not_found", 404, f"There is no {request.path} here.")
            return await endpoint(request)
        except Refusal as refusal:
            self._ledger.count_fault(refusal.kind)
            return web.json_response(refusal.body, status=refusal.status, headers=refusal.headers)

    async def _health(self, request: web.BaseRequest) -> web.StreamResponse:
        return web.Response()

    async def _show_stats(self, request: web.BaseRequest) -> web.StreamResponse:
        return web.json_response(self._ledger.as_json())

    async def _reset(self, request: web.BaseRequest) -> web.StreamResponse:
        self.reset()
        return web.Response()

    async def _list_models(self, request: web.BaseRequest) -> web.StreamResponse:
        card = {"object": "model", "created": 0, "owned_by": self.owned_by}
        if self.owned_by == "vllm":
            card["max_model_len"] = self.max_model_len
        return web.json_response({"object": "list", "data": [{"id": model} | card for model in self.models]})

    async def _tokenize(self, request: web.BaseRequest) -> web.StreamResponse:
        tokens = tokens_of(await _body_of(request))
        fields = {"tokens": list(tokens), "count": len(tokens), "max_model_len": self.max_model_len}
        return web.json_response(fields)

    async def _detokenize(self, request: web.BaseRequest) -> web.StreamResponse:
        return web.json_response({"prompt": bytes((await _body_of(request))["tokens"]).decode(errors="replace")})

    async def _complete(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await _body_of(request)
        model = body.setdefault("model", self.models[0])
        ledger, loop = self._ledger, asyncio.get_running_loop()
        fault = self._fault_for(ledger.total.received, body)
        if self.log:
            headers = {name.lower(): value for name, value in request.headers.items()}
            ledger.requests.append(Seen(request.path, headers, body, loop.time()))
        ledger.open(model)
        try:
            response = await self._answer(request, body, fault)
        except Refusal as refusal:
            ledger.by_model[model].faults[refusal.kind] += 1
            raise
        except (asyncio.CancelledError, ConnectionError) as left:
            ledger.count(model, cancelled=1)
            ledger.cancel_times.append(loop.time())
            raise asyncio.CancelledError from left
        finally:
            ledger.close()
        if response is None:
            cut_connection(request, reset=fault is not None and fault.kind is FaultKind.RESET)
            raise asyncio.CancelledError
        return response

    async def _answer(self, request: web.BaseRequest, body: Json, fault: Fault | None) -> web.StreamResponse | None:
        """Answer a request, or meet its fault; None asks for the connection to be cut."""
        model, kind = body["model"], fault and fault.kind
        if fault:
            refuse(fault)
        if model not in self.models:
            raise Refusal("not_found", 404, f"The model `{model}` is not served here.", param="model")
        async with self._slot(model):
            if kind is not None:
                self._ledger.count_fault(kind, model)
            if kind is FaultKind.HANG:
                await asyncio.Event().wait()
            if kind in (FaultKind.DROPPED, FaultKind.RESET):
                return None
            if kind is FaultKind.NOT_JSON:
                return web.Response(text="<html><body>Bad gateway</body></html>", content_type="text/html")
            return await self._generate_and_deliver(request, body, kind)

    @asynccontextmanager
    async def _slot(self, model: str) -> AsyncIterator[None]:
        waits = self.max_running is not None and self.queue
        if waits:
            await self._slots.acquire()
        elif self.max_running is not None and self.stats.running >= self.max_running:
            raise Refusal("busy", 429, f"Already {self.max_running} requests are running.")
        self._ledger.start(model)
        try:
            yield
        finally:
            self._ledger.finish(model)
            if waits:
                self._slots.release()

    async def _generate_and_deliver(
        self, request: web.BaseRequest, body: Json, kind: FaultKind | None
    ) -> web.StreamResponse | None:
        work = self.generate(body, kind)
        ledger, loop = self._ledger, asyncio.get_running_loop()
        start, delivered = loop.time(), False
        try:
            while self.holding:
                await asyncio.sleep(0.005)
            response = await deliver(request, work, kind, self.tokens_per_chunk)
            delivered = kind not in LOST_ON_THE_WAY
            return response
        finally:
            if delivered:
                ledger.count_served(work)
                ledger.served_times.append(loop.time())
            else:
                ledger.count_wasted(work, loop.time() - start)


async def _body_of(request: web.BaseRequest) -> Json:
    try:
        return json.loads(await request.content.read())
    except ValueError as error:
        raise Refusal(FaultKind.BAD_REQUEST, 400, f"The body is not JSON: {error}") from error


async def _serve(double: ModelDouble) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with double:
        print(f"ready {double.base_url}", flush=True)
        await stop.wait()


def main() -> None:
    """Serve as a process of its own until SIGINT or SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.double", description=__doc__)
    add = parser.add_argument
    add("--port", type=int, default=0, help="0 takes a free one")
    add("--latency", type=float, nargs="+", default=[0.0], metavar="S", help="seconds, or least and greatest")
    add("--tokens", type=int, nargs=2, metavar="N", help="least and greatest tokens of a choice")
    add("--model", action="append", metavar="NAME", help="a served model; may be repeated")
    add("--says", action="append", default=[], metavar="NAME=TEXT", help="what a model always says")
    add("--fault", action="append", default=[], metavar="KIND=RATE", help="a fault and its rate")
    add("--max-running", type=int)
    add("--queue", action="store_true")
    add("--api-key")
    add("--seed", type=int, default=0)
    add("--log", type=int, default=0, help="how many requests to keep")
    options = parser.parse_args()
    said = dict(entry.split("=", 1) for entry in options.says)
    rates = dict(entry.split("=", 1) for entry in options.fault)
    solve = solvable({}, otherwise=0.5)
    double = ModelDouble(
        models=[*(options.model or ["test-model"]), *said],
        answer=lambda request, rng: said.get(request["model"]) or solve(request, rng),
        tokens=tuple(options.tokens) if options.tokens else None,
        latency=options.latency[0] if len(options.latency) == 1 else tuple(options.latency[:2]),
        faults={Fault(FaultKind(kind)): float(rate) for kind, rate in rates.items()},
        max_running=options.max_running,
        queue=options.queue,
        api_key=options.api_key,
        seed=options.seed,
        log=options.log,
        port=options.port,
    )
    asyncio.run(_serve(double))


if __name__ == "__main__":
    main()
