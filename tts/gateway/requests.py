"""Requests as they come in: read, matched with a plan, and turned into problems."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal, get_args

from tts.gateway.access import Client
from tts.gateway.answers import Form as ChatForm
from tts.gateway.choosing import Plan, choose
from tts.gateway.failures import Refused
from tts.gateway.responses import ResponsesForm, as_chat
from tts.gateway.settings import Settings
from tts.gateway.solving import Form
from tts.gateway.wire import Out
from tts.types import Problem

Kind = Literal["chat/completions", "completions", "responses"]
KINDS: tuple[Kind, ...] = get_args(Kind)


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
    if kind == "responses" and plan.strategy is not None:
        plan = choose(settings, as_chat(body))  # its sampling parameters have chat's names
    for model in {plan.model, *plan.wishes.models.values()}:
        if not client.may_use(model) and not client.may_use(plan.label):
            raise Refused(403, f"this key may not use '{model}'", "not_allowed", "model")
    return Request(kind, run, client, content, body, plan, out)


def posed(request: Request, most: int) -> tuple[Form, Problem, int]:
    """How the answer looks, the problem, and how many answers are wanted, `most` at most. Raises `Refused`."""
    body, plan, run = request.body, request.plan, request.run
    if request.kind == "responses":
        chat = as_chat(body)
        problem = plan.problem(run, checked_messages(chat["messages"]), chat.get("tools"))
        return ResponsesForm(body, chat, run), problem, 1
    n = body.get("n") or 1
    if not isinstance(n, int) or isinstance(n, bool) or not 1 <= n <= most:
        raise Refused(400, f"n must be a whole number from 1 to {most}", "invalid_value", "n")
    if request.kind == "chat/completions":
        problem = plan.problem(run, checked_messages(body.get("messages")), body.get("tools"))
        return ChatForm(body, run, chat=True), problem, n
    prompt = body.get("prompt")
    if not isinstance(prompt, str):
        raise Refused(400, "a strategy completes one text: prompt must be a string", "invalid_value", "prompt")
    return ChatForm(body, run, chat=False), plan.problem(run, prompt), n


def checked_messages(messages: Any) -> list[dict[str, Any]]:
    """Messages as chat has them. Raises `Refused` where they are not."""
    if not isinstance(messages, list) or not messages or not all(isinstance(one, dict) for one in messages):
        raise Refused(400, "messages must be a list of messages", "invalid_value", "messages")
    for one in messages:
        content = one.get("content")
        if content is None or isinstance(content, str):
            continue
        if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
            raise Refused(400, "content must be text, or a list of parts", "invalid_value", "messages.content")
    return messages
