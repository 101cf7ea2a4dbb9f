"""Policies that act: servers whose answers are tool calls, written by a function of the conversation."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from typing import Any

from tests.support.scripted import ScriptedServer, choice
from tts import Endpoint

Act = Callable[[list[dict[str, Any]], int], Any]
"""(messages, number of the trajectory) -> what the policy says: a text, or a call `("bash", {"command": "ls"})`."""

_ids = itertools.count()


def said(move: Any) -> dict[str, Any]:
    """A choice with this text or these calls."""
    if isinstance(move, str):
        return choice(move)
    moves = move if isinstance(move, list) else [move]
    calls = [
        {"id": f"call_{next(_ids)}", "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}
        for name, arguments in moves
    ]
    return choice(None, "tool_calls", tool_calls=calls)


def acting(act: Act) -> ScriptedServer:
    """A server whose trajectories are numbered, by a mark in their first message, in the order in which they begin."""
    begun = itertools.count()

    def respond(body: dict[str, Any]) -> list[dict[str, Any]]:
        turns = body["messages"]
        first = next((turn for turn in turns if turn["role"] == "assistant"), None)
        if first is not None:
            return [said(act(turns, number_of(first)))]
        numbers = list(itertools.islice(begun, body.get("n") or 1))
        return [{**marked(act(turns, number), number), "index": i} for i, number in enumerate(numbers)]

    return ScriptedServer(respond)


def marked(move: Any, number: int) -> dict[str, Any]:
    """The first move of a trajectory, with its number in the text."""
    made = said(move)
    made["message"]["content"] = f"[{number}] {made['message']['content'] or ''}".strip()
    return made


def number_of(first: dict[str, Any]) -> int:
    """The number of the trajectory that begins with this message."""
    return int(first["content"].partition("]")[0][1:])


def replies(turns: Sequence[dict[str, Any]]) -> list[str]:
    """What the environment has said so far."""
    return [turn["content"] for turn in turns if turn["role"] == "tool"]


def policy(server: ScriptedServer, **settings: Any) -> Endpoint:
    """The endpoint of a server."""
    return Endpoint(**{"model": "test-model", "base_url": server.base_url, "api_key_env": "NO_KEY", **settings})
