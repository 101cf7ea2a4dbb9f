"""An outside agent as the policy: any program that speaks to a model server acts in a copy of a folder.

A trajectory is one run of the program, in a folder of its own, against this gateway on a local port, under a key of its
own. What it asks there is drawn by the search: stored, accounted to the trajectory and held to its caps and the budget.
The program is the user's and runs as the user, with what it brings to contain its own commands; only what it leaves in
the folder is judged.

A program that asks the same again after an interruption finds the answers in the store.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import shlex
import shutil
import socket
import sys
import tempfile
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from tts.environments.workspace import FolderEpisode, Workspace
from tts.errors import BudgetSpent, ConfigError, EndpointRefused
from tts.gateway.admission import Caller, identify, new_key
from tts.gateway.exchange import EVENTS, JSON, SPOKEN, APIError, Kind, ResponseWriter, as_api_error
from tts.gateway.formats import ChatFormat
from tts.gateway.routing import TRANSLATIONS
from tts.gateway.schemas import check, parsed, sampling_of
from tts.gateway.service import read_body, while_connected
from tts.gateway.settings import GatewayLimits, Key
from tts.local_vllm import supervise
from tts.prompting import problem_text
from tts.sampler.parameters import merged
from tts.serving import server_for
from tts.session import Session
from tts.trajectories import Draw, Environment, Episode
from tts.types import Candidate, Charge, Prompt, Sample, total

AT_ONCE = 4 * (os.cpu_count() or 1)
"""Agents at work at the same time."""
SPENT = APIError(429, "this trajectory has used up what it may", "budget_spent")
ENDING = 0.5
"""Seconds that it has after SIGTERM."""
GRACE = 2.0
"""Seconds for which a program may end by itself after it was refused a further answer."""


@dataclass(eq=False)
class AgentRun:
    """One run of the program: what it asked, what it was answered, and what that cost."""

    session: Session
    environment: Environment
    draw: Draw
    spawn: int
    params: dict[str, Any]
    turns: list[Any] = field(default_factory=list)
    """The conversation of its last request, and the answer."""
    answers: list[Sample] = field(default_factory=list)
    charges: dict[Charge, None] = field(default_factory=dict)
    ended: str = "stop"
    over: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when it may ask no more."""
    error: Exception | None = None
    """Why, if that ends more than this trajectory."""

    async def answer(self, chat: dict[str, Any], kind: Kind) -> list[Sample]:
        """Answers to a request. Raises `APIError` once the trajectory's caps, or the budget, allow no more."""
        used = sum(charge.usage.completion_tokens for charge in self.charges)
        if len(self.answers) >= self.environment.turns or used >= (self.environment.tokens or float("inf")):
            raise self._end("turns" if len(self.answers) >= self.environment.turns else "tokens")
        sampling, form = sampling_of(chat)
        prompt: Prompt = chat["prompt"] if kind == "completions" else chat["messages"]
        params = merged(sampling, form, self.params)
        try:
            spawns = [self.spawn] * (chat.get("n") or 1)
            # apart: its folder has a name of its own, and agents that begin at once ask first in any order
            found = [one async for one in self.draw(prompt, spawns, params=params, apart=self.spawn)]
        except (BudgetSpent, EndpointRefused) as error:
            self.error = error
            raise self._end("budget") if isinstance(error, BudgetSpent) else error from error
        if not found:
            raise APIError(400, "the model server refuses this request", "refused")
        self.answers += found
        self.charges |= dict.fromkeys(charge for one in found for charge in one.charges)
        said = {"role": "assistant", "content": found[0].text, "tool_calls": list(found[0].tool_calls)}
        self.turns = [*(chat.get("messages") or []), {name: value for name, value in said.items() if value}]
        return found

    def _end(self, ended: str) -> APIError:
        self.ended = ended
        self.over.set()
        return SPENT


class AgentServer:
    """The gateway that agents speak to, one for a run: on a free port of this machine, for whoever has a key."""

    def __init__(self) -> None:
        self.room: asyncio.Semaphore = asyncio.Semaphore(AT_ONCE)
        self._runs: dict[str, AgentRun] = {}
        self._callers: list[Caller] = []
        self._serving: tuple[asyncio.Task[None], Any, str] | None = None
        self._limits = GatewayLimits()
        routes = [Route(f"/v1/{kind}", self, methods=["POST"]) for kind in SPOKEN]
        self._app = Starlette(routes=[*routes, Route("/v1/models", self._models)])

    @property
    def base_url(self) -> str:
        """Where it is; it is put there when it is first asked for."""
        if self._serving is None:
            listening = socket.create_server(("127.0.0.1", 0), backlog=2048)
            server: Any = server_for(self._app, client_seconds=self._limits.client_seconds)
            server.capture_signals = nullcontext  # Ctrl-C is for the run
            task = asyncio.create_task(server.serve(sockets=[listening]))
            self._serving = task, server, f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
        return self._serving[2]

    async def aclose(self) -> None:
        if self._serving is not None:
            task, server, _ = self._serving
            server.should_exit = True
            await task

    def admit(self, run: AgentRun) -> tuple[str, Caller]:
        """A key for a run, and the caller to dismiss in the end."""
        key, digest = new_key()
        caller = Caller(uuid4().hex, Key(sha256=digest))
        self._callers.append(caller)
        self._runs[caller.name] = run
        return key, caller

    def dismiss(self, caller: Caller) -> None:
        """The key opens nothing any more."""
        self._callers.remove(caller)
        del self._runs[caller.name]

    def _run(self, http: Request) -> AgentRun:
        if not self._callers:  # without keys anybody would be let in
            raise APIError(401, "no agent is at work", "invalid_api_key")
        return self._runs[
            identify(self._callers, http.headers.get("authorization"), http.headers.get("x-api-key")).name
        ]

    async def _models(self, http: Request) -> JSONResponse:
        try:
            model = self._run(http).session.sampler("policy").endpoint.model
        except APIError as error:
            return JSONResponse({"error": error.told}, error.status)
        return JSONResponse({"object": "list", "data": [{"id": model, "object": "model", "owned_by": "tts"}]})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request of an agent."""
        http, kind = Request(scope, receive), cast(Kind, scope["path"].rpartition("/v1/")[2])
        out = ResponseWriter(send, kind, [])
        with suppress(ClientDisconnect):
            try:
                run = self._run(http)
                content = await read_body(http, self._limits)
            except APIError as error:
                return await out.refuse(error, http.stream())
            async with while_connected(receive, out):
                try:
                    await self._answer(run, kind, content, out)
                except Exception as error:
                    told = as_api_error(error)
                    if told is None:
                        raise
                    await out.fail(told)

    async def _answer(self, run: AgentRun, kind: Kind, content: bytes, out: ResponseWriter) -> None:
        body = await parsed(content, self._limits)
        check(kind, content)
        translated = TRANSLATIONS.get(kind)
        chat = body if translated is None else translated[0](body)[0]
        found, id = await run.answer(chat, kind), uuid4().hex
        candidates = [Candidate(id=i, content=one.text, spawned=(i,), samples=(one,)) for i, one in enumerate(found)]
        usage = total(charge for one in found for charge in one.charges)
        form = ChatFormat(chat, id, chat=kind != "completions")
        if translated is not None:
            form = translated[1](body, chat, id)
        if not body.get("stream"):
            return await out.whole(200, [JSON], form.whole(candidates, usage, {}))
        await out.start(200, EVENTS)
        await out.write(form.start() + b"".join(form.chunks(candidates, usage, {})))
        return await out.end()


@dataclass(frozen=True)
class OutsideAgent:
    """A program that is started anew for each trajectory, in a copy of the folder of a `workspace`.

    In its `command` {problem} stands for the text of the problem and {model} for the name of the model. It finds the
    gateway under OPENAI_BASE_URL (and OPENAI_API_BASE, ANTHROPIC_BASE_URL) and its key under OPENAI_API_KEY (and
    ANTHROPIC_API_KEY).
    """

    command: str
    seconds: float = 1800.0
    """Elapsed seconds after which it is ended."""

    async def play(
        self, session: Session, environment: Environment, episode: Episode, prompt: Prompt, spawn: int,
        params: dict[str, Any], draw: Draw,
    ) -> tuple[Sample, Exception | None]:  # fmt: skip
        """One trajectory, and what ended more than it. Raises `ConfigError` where there is no folder to work in."""
        if not isinstance(episode, FolderEpisode):
            raise ConfigError(f"an outside agent works in a folder, which {environment.name} has not: use workspace")
        server = session.resources.get(AgentServer)
        run = AgentRun(session, environment, draw, spawn, params)
        async with server.room:
            base_url, (key, caller) = server.base_url, server.admit(run)
            folder = self._folder(session, spawn)
            try:
                for path, data in episode.folder.items():
                    (folder / path).parent.mkdir(parents=True, exist_ok=True)
                    (folder / path).write_bytes(data)
                status, words = await self._executed(session, run, prompt, folder, base_url, key)
                left = Workspace(folder=folder, files=episode.workspace.files)
                try:
                    episode.put(await asyncio.to_thread(left.begin, session.problem))
                except ConfigError as error:
                    raise ValueError(f"what the agent left cannot be taken: {error}") from error
            finally:
                server.dismiss(caller)
                await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
        if not run.answers and run.error is None:
            raise ValueError(f"the agent ended with status {status} before it asked the model anything: {words[-500:]}")
        state, last = await episode.state(), run.answers[-1] if run.answers else Sample("")
        told = {"turns": run.turns, "ended": run.ended, "state": state.digest, "status": status, "printed": words}
        sample = Sample(
            text=state.content or "",
            finish_reason=run.ended,
            charges=tuple(run.charges),
            index=spawn,
            role=last.role,
            model=last.model,
            trajectory={**told, **state.notes},
        )
        return sample, run.error

    def _folder(self, session: Session, spawn: int) -> Path:
        """A new folder, which has the same path when the trajectory is played again: agents tell it to the model."""
        place = f"{session.images.place}\0{session.problem.id}\0{session.stream}\0{session.seed}\0{spawn}"
        name = hashlib.blake2b(place.encode(), digest_size=12).hexdigest()
        folder = Path(tempfile.gettempdir()) / f"tts-agents-{os.getuid()}" / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, mode=0o700)
        return folder

    async def _executed(
        self, session: Session, run: AgentRun, prompt: Prompt, folder: Path, base_url: str, key: str
    ) -> tuple[int | None, str]:
        """The exit status of the program and the end of what it printed."""
        text = (
            prompt if isinstance(prompt, str) else problem_text(session.problem.model_copy(update={"messages": prompt}))
        )
        values = {"{problem}": str(text), "{model}": session.sampler("policy").endpoint.model}
        words = [_filled(word, values) for word in shlex.split(self.command)]
        bare = base_url.removesuffix("/v1")
        places = {"OPENAI_BASE_URL": base_url, "OPENAI_API_BASE": base_url, "ANTHROPIC_BASE_URL": bare}
        keys = {"OPENAI_API_KEY": key, "ANTHROPIC_API_KEY": key, "ANTHROPIC_AUTH_TOKEN": key}
        if shutil.which(words[0]) is None:
            raise ConfigError(f"cannot start the agent {words[0]!r}: there is no such program")
        supervisor = [sys.executable, "-I", "-S", supervise.__file__, str(os.getpid()), f"{ENDING}"]
        with tempfile.TemporaryFile() as printed:
            process = await asyncio.create_subprocess_exec(
                *supervisor,  # ends it, and what it has started, even if this process is killed
                *words,
                cwd=folder,
                env={**os.environ, **places, **keys, "PWD": str(folder)},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=printed,
                stderr=printed,
                start_new_session=True,
            )
            over = asyncio.create_task(run.over.wait())
            ends = asyncio.create_task(process.wait())
            try:
                await asyncio.wait([over, ends], timeout=self.seconds, return_when=asyncio.FIRST_COMPLETED)
                if run.over.is_set():
                    await asyncio.wait([ends], timeout=GRACE)
                elif not ends.done():
                    run.ended = "time"
            finally:
                with suppress(ProcessLookupError):
                    process.terminate()
                over.cancel()
                await process.wait()
                ends.cancel()
                await asyncio.gather(over, ends, return_exceptions=True)
            size = printed.seek(0, os.SEEK_END)
            printed.seek(max(0, size - 4000))
            return process.returncode, printed.read().decode(errors="replace")


def _filled(word: str, values: dict[str, str]) -> str:
    return re.sub("|".join(map(re.escape, values)), lambda found: values[found[0]], word)
