"""Anthropic's Messages API: its requests as chat, and chat's answers as messages."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from tts.gateway.exchange import APIError, bad_request
from tts.gateway.formats import AnswerPiece, Json, Translation, event, table_of, unsupported
from tts.types import Usage


class MessagesFormat(Translation):
    """The format of the answers to one request of the Messages API."""

    alive: bytes = event("ping", {"type": "ping"})

    def __init__(self, body: Mapping[str, Any], chat: Mapping[str, Any], run: str) -> None:
        thinking = body.get("thinking") or {}
        shown = thinking.get("type", "disabled") != "disabled" and thinking.get("display") != "omitted"
        super().__init__(body, chat, run, thoughts=shown)

    def start(self, usage: Usage | None = None) -> bytes:
        return self._event("message_start", message=self._message([], None, usage or Usage()))

    def failed(self, error: APIError) -> bytes:
        return error.event("messages", 0)

    def begun(self, piece: AnswerPiece) -> bytes:
        emptied = AnswerPiece(piece.kind, piece.place, piece.id, piece.name)
        return self._event("content_block_start", index=piece.place, content_block=self._block(emptied, ""))

    def told(self, piece: AnswerPiece, text: str, logprobs: Sequence[Json]) -> bytes:
        kind, field = DELTAS[piece.kind]
        return self._event("content_block_delta", index=piece.place, delta={"type": kind, field: text})

    def done(self, piece: AnswerPiece) -> bytes:
        signed = b""
        if piece.kind == "thought":
            delta = {"type": "signature_delta", "signature": self._run}
            signed = self._event("content_block_delta", index=piece.place, delta=delta)
        return signed + self._event("content_block_stop", index=piece.place)

    def complete(self, usage: Usage, extra: Json) -> Json:
        return {**self._message([self._block(piece, self._run) for piece in self.pieces], self._why(), usage), **extra}

    def end(self, usage: Usage, extra: Json) -> bytes:
        delta = {"stop_reason": self._why(), "stop_sequence": self._sequence()}
        told = self._event("message_delta", delta=delta, usage=usage_body(usage), **extra)
        return told + self._event("message_stop")

    def _message(self, content: list[Json], reason: str | None, usage: Usage) -> Json:
        return {
            "id": f"msg_{self._run}",
            "type": "message",
            "role": "assistant",
            "model": self._body["model"],
            "content": content,
            "stop_reason": reason,
            "stop_sequence": self._sequence() if reason else None,
            "usage": usage_body(usage),
        }

    def _block(self, piece: AnswerPiece, signature: str) -> Json:
        if piece.kind == "call":
            made = piece.arguments
            given = {"INVALID_JSON": piece.text} if made is None else made
            return {"type": "tool_use", "id": piece.id, "name": piece.name, "input": given}
        if piece.kind == "thought":  # clients send back only thoughts that are signed
            return {"type": "thinking", "thinking": piece.text, "signature": signature}
        return {"type": "text", "text": piece.text}

    def _why(self) -> str:
        """Why the answer ends."""
        if any(piece.kind == "refusal" for piece in self.pieces):
            return "refusal"
        if self._reason not in CUT and any(piece.kind == "call" for piece in self.pieces):
            return "tool_use"
        return CUT.get(self._reason or "", "end_turn" if self._sequence() is None else "stop_sequence")

    def _sequence(self) -> str | None:
        return self._stop if self._stop in (self._body.get("stop_sequences") or ()) else None

    def _event(self, kind: str, **fields: Any) -> bytes:
        return event(kind, {"type": kind, **fields}, large=self.large)


UNCITED = (None, {}, {"enabled": False})
"""What a document says of citations where it wants none."""
CUT = {"length": "max_tokens", "content_filter": "refusal", "refusal": "refusal"}
"""Why an answer is not complete, by the finish reason of the choice."""
DELTAS = {
    "thought": ("thinking_delta", "thinking"),
    "text": ("text_delta", "text"),
    "refusal": ("text_delta", "text"),
    "call": ("input_json_delta", "partial_json"),
}


def usage_body(usage: Usage) -> Json:
    """Usage in Anthropic's form, where input that was cached is counted apart."""
    estimated = {"estimated_tokens": round(usage.estimated_tokens)} if usage.estimated_tokens else {}
    return {
        "input_tokens": round(usage.prompt_tokens) - round(usage.cached_tokens),
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": round(usage.cached_tokens),
        "output_tokens": round(usage.completion_tokens),
        "output_tokens_details": {"thinking_tokens": round(usage.reasoning_tokens)},
        **estimated,
    }


# -- a request as chat -------------------------------------------------------------------------------------------------

UNHEARD = ("context_management", "diagnostics", "speed")
"""Fields that change nothing here, which the client is told."""
ELSEWHERE = frozenset({"metadata", "model", "service_tier", "system", "tts", *UNHEARD, "cache_control", "thinking"})
TRANSLATED = frozenset({"messages", "output_config", "output_format", "stop_sequences", "tool_choice", "tools"})
EFFORTS = {"xhigh": "high", "max": "high"}
"""Efforts that chat has no word for."""
SOME, MUCH = 2048, 8192
"""Thinking tokens up to which the effort is low, and beyond which it is high."""


def as_chat(body: Mapping[str, Any]) -> tuple[Json, list[str]]:
    """The request as a chat completion's body, and the fields that change nothing here.

    Every other field is honoured, or refused by name with `APIError`.
    """
    given = {name: value for name, value in body.items() if value is not None}
    unheard = [name for name in UNHEARD if given.get(name, "standard") != "standard"]
    chat = {name: value for name, value in given.items() if name not in ELSEWHERE | TRANSLATED}
    chat["model"] = given["model"]
    chat["messages"] = [*_system(given), *_joined(_messages(given["messages"], unheard))]
    if chat["messages"][-1]["role"] == "assistant":  # the answer goes on with it
        chat |= {"continue_final_message": True, "add_generation_prompt": False}
    if "stop_sequences" in given:
        chat["stop"] = given["stop_sequences"]
    if user := table_of(given, "metadata", {"user_id"}).get("user_id"):
        chat["user"] = user
    if "service_tier" in given:
        chat["service_tier"] = "default" if given["service_tier"] == "standard_only" else given["service_tier"]
    thinking = table_of(given, "thinking", {"type", "budget_tokens", "display"})
    if thinking.get("type", "disabled") not in ("enabled", "disabled", "adaptive"):
        raise bad_request("thinking.type must be enabled, disabled or adaptive", "thinking.type")
    if isinstance(budget := thinking.get("budget_tokens"), int):
        chat.setdefault("reasoning_effort", "low" if budget <= SOME else "medium" if budget <= MUCH else "high")
    config = table_of(given, "output_config", {"effort", "format"})
    if effort := config.get("effort"):
        chat["reasoning_effort"] = EFFORTS.get(effort, effort) if isinstance(effort, str) else effort
    if form := config.get("format") or given.get("output_format"):
        chat["response_format"] = _format(form)
    return chat | _tools(given, unheard), unheard


def _system(given: Mapping[str, Any]) -> list[Json]:
    system = given.get("system")
    return [{"role": "system", "content": _content(system, "system")}] if system else []


def _format(form: Any) -> Json:
    schema = form.get("schema") if isinstance(form, Mapping) and form.get("type") == "json_schema" else None
    if not isinstance(schema, Mapping):
        raise unsupported("output_config.format must be of the type json_schema, with a schema", "output_config.format")
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}


def _tools(given: Mapping[str, Any], unheard: list[str]) -> Json:
    tools, choice = (
        given.get("tools") or (),
        table_of(given, "tool_choice", {"type", "name", "disable_parallel_tool_use"}),
    )
    kind, name = choice.get("type"), choice.get("name")
    if kind not in (None, "auto", "any", "tool", "none"):
        raise bad_request("tool_choice.type must be auto, any, tool or none", "tool_choice.type")
    if kind == "tool" and not isinstance(name, str):
        raise bad_request("tool_choice.name must name a tool", "tool_choice.name")
    if not tools:
        if kind in ("any", "tool"):
            raise bad_request("tool_choice asks for a call, but there are no tools", "tool_choice")
        return {}
    made: Json = {"tools": [_tool(tool, i, unheard) for i, tool in enumerate(tools)]}
    if kind is not None:
        chosen = {"type": "function", "function": {"name": name}}
        made["tool_choice"] = {"any": "required", "tool": chosen}.get(kind, kind)
    if isinstance(alone := choice.get("disable_parallel_tool_use"), bool):
        made["parallel_tool_calls"] = not alone
    return made


TOOL = {"name": "name", "description": "description", "input_schema": "parameters", "strict": "strict"}
IDLE = frozenset({"type", "cache_control", "eager_input_streaming"})


def _tool(tool: Json, place: int, unheard: list[str]) -> Json:
    if tool.get("type") not in (None, "custom"):
        words = f"tools of type {tool['type']!r} are not supported, only those with an input_schema are"
        raise unsupported(words, f"tools.{place}.type")
    if not isinstance(tool.get("name"), str):
        raise bad_request(f"tools.{place} must have a name", f"tools.{place}.name")
    for name in tool.keys() - TOOL.keys() - IDLE:
        if tool[name] and f"tools.{name}" not in unheard:
            unheard.append(f"tools.{name}")
    return {"type": "function", "function": {TOOL[name]: tool[name] for name in TOOL if tool.get(name) is not None}}


def _messages(messages: Sequence[Json], unheard: list[str]) -> Iterator[Json]:
    for place, message in enumerate(messages):
        content, at = message["content"], f"messages.{place}.content"
        if message["role"] != "assistant":
            blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
            # results come first: they answer the calls of the turn before
            results = [block for block in blocks if block.get("type") == "tool_result"]
            yield from (_result(block, at) for block in results)
            if len(results) < len(blocks) or not results:
                said = [block for block in blocks if block.get("type") != "tool_result"]
                yield {"role": message["role"], "content": _content(content if said == blocks else said, at)}
        elif isinstance(content, str):
            yield {"role": "assistant", "content": content}
        else:
            yield _turn(content, at)
            if any(block.get("type") == "redacted_thinking" for block in content):  # only its author can read it
                unheard.append(f"messages.{place}.redacted_thinking")


def _joined(messages: Iterable[Json]) -> list[Json]:
    """Messages of the user that follow each other, or of the assistant, as one: many templates refuse two in a row."""
    turns: list[Json] = []
    for message in messages:
        last = turns[-1] if turns else {}
        if message["role"] in ("user", "assistant") and message["role"] == last.get("role"):
            content = _together(last["content"], message["content"])
            both = last.keys() & message.keys() & {"tool_calls", "reasoning_content"}
            message = {**last, **message, "content": content, **{name: last[name] + message[name] for name in both}}
            turns.pop()
        turns.append(message)
    return turns


def _together(one: Any, other: Any) -> Any:
    """The content of two messages as that of one."""
    if not one or not other:
        return one or other
    if isinstance(one, str) and isinstance(other, str):
        return f"{one}\n\n{other}"
    return [
        part for said in (one, other) for part in ([{"type": "text", "text": said}] if isinstance(said, str) else said)
    ]


def _turn(blocks: Sequence[Json], at: str) -> Json:
    """A turn of the model's: what it said, thought and called."""
    kinds = ("thinking", "redacted_thinking", "tool_use")
    said = [block for block in blocks if block.get("type") not in kinds]
    thought = "".join(_text(block, "thinking", at) for block in blocks if block.get("type") == "thinking")
    calls = [
        {
            "id": _text(block, "id", at),
            "type": "function",
            "function": {
                "name": _text(block, "name", at),
                "arguments": json.dumps(block.get("input") or {}, ensure_ascii=False),
            },
        }
        for block in blocks
        if block.get("type") == "tool_use"
    ]
    # blocks of one answer are parts of one text, cut where the model cited or called something
    turn: Json = {"role": "assistant", "content": _content(said, at, between="") if said or not calls else None}
    if thought:
        turn["reasoning_content"] = thought
    return {**turn, "tool_calls": calls} if calls else turn


def _result(block: Json, at: str) -> Json:
    content = _content(block.get("content") or "", at)
    if block.get("is_error"):  # chat can only say so
        failed = "Error: "
        content = failed + content if isinstance(content, str) else [{"type": "text", "text": failed}, *content]
    return {"role": "tool", "tool_call_id": _text(block, "tool_use_id", at), "content": content}


def _text(block: Json, name: str, at: str) -> str:
    if not isinstance(block.get(name), str):
        raise bad_request(f"{at}: {name} of a {block.get('type')} block must be text", at)
    return block[name]


def _content(content: Any, at: str, between: str = "\n\n") -> Any:
    """Content as chat has it: one text where it has no images, with `between` its blocks."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not all(isinstance(block, Mapping) for block in content):
        raise bad_request(f"{at} must be text, or a list of blocks", at)
    parts = [part for block in content for part in _parts(block, at)]
    if all(part["type"] == "text" for part in parts):
        return between.join(part["text"] for part in parts)
    return parts


def _parts(block: Mapping[str, Any], at: str) -> Iterator[Json]:
    kind, source = block.get("type"), block.get("source")
    source = source if isinstance(source, Mapping) else {}
    form = source.get("type")
    if kind == "text":
        yield {"type": "text", "text": _text(dict(block), "text", at)}
    elif kind == "image" and form == "url":
        yield {"type": "image_url", "image_url": {"url": _text(dict(source), "url", at)}}
    elif kind == "image" and form == "base64":
        data, media = (_text(dict(source), name, at) for name in ("data", "media_type"))
        yield {"type": "image_url", "image_url": {"url": f"data:{media};base64,{data}"}}
    elif kind == "document" and form in ("text", "content") and block.get("citations") in UNCITED:
        for name in ("title", "context"):
            if block.get(name):
                yield {"type": "text", "text": _text(dict(block), name, at)}
        inner = source.get("data" if form == "text" else "content")
        told = _content(inner, at)
        yield from [{"type": "text", "text": told}] if isinstance(told, str) else told
    else:
        what = f"{kind} blocks with a source of type {form!r}" if source else f"{kind} blocks"
        raise unsupported(f"{at}: {what} are not supported", at)
