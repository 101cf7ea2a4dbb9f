"""Requests as they come in: read, matched with a plan, and turned into problems."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from tts.gateway.answering import Form
from tts.gateway.asgi import Out
from tts.gateway.chat import Form as ChatForm
from tts.gateway.errors import Refused
from tts.gateway.keys import Client
from tts.gateway.responses import ResponsesForm, as_chat
from tts.gateway.routing import Plan, choose
from tts.gateway.schemas import Kind, check
from tts.gateway.settings import Settings
from tts.types import Charge, Problem, Usage


@dataclass(eq=False)
class Request:
    """One request on its way."""

    kind: Kind
    run: str
    client: Client
    content: bytes
    body: dict[str, Any]
    plan: Plan
    out: Out
    charges: set[Charge] = field(default_factory=set)
    """What was paid for it."""
    spent: dict[str, Usage] = field(default_factory=dict)
    """The same by role, with what was lost on the way."""

    @property
    def streamed(self) -> bool:
        """Whether the client wants a stream."""
        return bool(self.body.get("stream"))


def read(settings: Settings, kind: Kind, run: str, client: Client, content: bytes, out: Out) -> Request:
    """The request in `content`. Raises `Refused` for what is none, and for what the client may not use."""
    try:
        body = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise Refused(400, f"the body is not JSON: {str(error)[:200]}", "invalid_json") from None
    if not isinstance(body, dict):
        raise Refused(400, "the body is not a JSON object", "invalid_json")
    plan = choose(settings, body)
    if plan.strategy is not None:
        check(kind, content)
        if kind == "responses":
            plan = choose(settings, as_chat(body))  # its sampling parameters have chat's names
    for name in plan.named:
        if not client.may_use(name):
            raise Refused(403, f"this key may not use '{name}'", "not_allowed", "model")
    return Request(kind, run, client, content, body, plan, out)


def posed(request: Request, most: int) -> tuple[Form, Problem, int]:
    """How the answer looks, the problem, and how many answers are wanted, `most` at most. Raises `Refused`."""
    body, run = request.body, request.run
    n = body.get("n") or 1
    if n > most:
        raise Refused(400, f"n must be at most {most}", "invalid_value", "n")
    if request.kind == "responses":
        chat = as_chat(body)
        return ResponsesForm(body, chat, run), _problem(request, chat["messages"], chat.get("tools")), 1
    if request.kind == "chat/completions":
        return ChatForm(body, run, chat=True), _problem(request, body["messages"], body.get("tools")), n
    return ChatForm(body, run, chat=False), _problem(request, body["prompt"]), n


def _problem(request: Request, messages: Any, tools: Any = None) -> Problem:
    tests, answer = request.plan.wishes.tests, request.plan.answer
    metadata = {"tools": tools} if tools else {}
    return Problem(id=request.run, messages=messages, tests=tests, answer=answer, metadata=metadata)
