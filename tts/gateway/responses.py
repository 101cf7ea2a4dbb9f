"""The Responses API: its requests as chat, chat's answers as responses, and what is remembered of them."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from tts.gateway.exchange import APIError, bad_request
from tts.gateway.formats import AnswerPiece, Json, Translation, event, table_of, unsupported, usage_body
from tts.types import Usage


class ResponsesFormat(Translation):
    """The format of the answers to one request of the Responses API."""

    def __init__(self, body: Mapping[str, Any], chat: Mapping[str, Any], run: str) -> None:
        super().__init__(body, chat, run, thoughts=bool(body.get("reasoning")))  # where the client knows of thoughts
        self._created = int(time.time())
        self._sequence = -1
        self._output: list[Json] = []
        self.store: bool = body.get("store") is not False
        """Whether the response is kept."""

    def start(self, usage: Usage | None = None) -> bytes:
        return self._event("response.created", response=self._response("in_progress"))

    def failed(self, error: APIError) -> bytes:
        """The error, and the response that failed."""
        self._sequence += 1
        told = error.event("responses", self._sequence)
        response = self._response("failed")
        response["error"] = {"code": error.code or "server_error", "message": error.told["message"]}
        return told + self._event("response.failed", response=response)

    def begun(self, piece: AnswerPiece) -> bytes:
        item = self._item(piece, "in_progress")
        emptied = {"content": []} if "content" in item else {"arguments": ""}
        added = self._event("response.output_item.added", output_index=piece.place, item={**item, **emptied})
        if piece.kind == "call":
            return added
        empty = self._part(AnswerPiece(piece.kind, piece.place))
        return added + self._event("response.content_part.added", **self._of(piece), part=empty)

    def told(self, piece: AnswerPiece, text: str, logprobs: Sequence[Json]) -> bytes:
        kind = "function_call_arguments" if piece.kind == "call" else PARTS[piece.kind][0]
        known = {"logprobs": [_token(one) for one in logprobs]} if piece.kind == "text" else {}
        return self._event(f"response.{kind}.delta", **self._of(piece), delta=text, **known)

    def done(self, piece: AnswerPiece) -> bytes:
        item = self._item(piece, self._status(piece))
        if piece.kind == "call":
            call = {"name": piece.name, "arguments": item["arguments"]}
            ends = self._event("response.function_call_arguments.done", **self._of(piece), **call)
        else:
            (kind, field), part = PARTS[piece.kind], item["content"][0]
            known = {"logprobs": part["logprobs"]} if piece.kind == "text" else {}
            of = self._of(piece)
            ends = self._event(f"response.{kind}.done", **of, **{field: part[field]}, **known)
            ends += self._event("response.content_part.done", **of, part=part)
        return ends + self._event("response.output_item.done", output_index=piece.place, item=item)

    def finish(self, usage: Usage, extra: Json) -> bytes:
        told = b"" if self._says_something else b"".join(self._add(AnswerPiece("text", len(self.pieces))))
        return told + super().finish(usage, extra)

    def end(self, usage: Usage, extra: Json) -> bytes:
        response = self.complete(usage, extra)
        return self._event(f"response.{response['status']}", response=response)

    def complete(self, usage: Usage, extra: Json) -> Json:
        if not self._says_something:
            self.pieces.append(AnswerPiece("text", len(self.pieces)))
        reason = CUT.get(self._reason or "")
        response = self._response("incomplete" if reason else "completed")
        response["output"] = [self._item(piece, self._status(piece)) for piece in self.pieces]
        if reason:
            response["incomplete_details"] = {"reason": reason}
        else:
            response["completed_at"] = int(time.time())
        counted = usage_body(usage)
        response["usage"] = {
            "input_tokens": counted["prompt_tokens"],
            "input_tokens_details": counted["prompt_tokens_details"],
            "output_tokens": counted["completion_tokens"],
            "output_tokens_details": counted["completion_tokens_details"],
            "total_tokens": counted["total_tokens"],
        }
        self.made: Json = {**response, **extra}
        return self.made

    @property
    def _says_something(self) -> bool:
        """Whether there is more than thoughts; where there is not, a message says that it says nothing."""
        return any(piece.kind != "thought" for piece in self.pieces)

    def _status(self, piece: AnswerPiece) -> str:
        """What is told last is where an answer was cut."""
        return "incomplete" if self._reason in CUT and piece is self.pieces[-1] else "completed"

    def _event(self, kind: str, **fields: Any) -> bytes:
        self._sequence += 1
        return event(kind, {"type": kind, "sequence_number": self._sequence, **fields}, large=self.large)

    def _of(self, piece: AnswerPiece) -> Json:
        """Where an event of a piece belongs."""
        part = {} if piece.kind == "call" else {"content_index": 0}
        return {"item_id": self._id(piece), "output_index": piece.place, **part}

    def _id(self, piece: AnswerPiece) -> str:
        return f"{ITEMS[piece.kind]}_{piece.place}_{self._run}"

    def _item(self, piece: AnswerPiece, status: str) -> Json:
        item: Json = {"id": self._id(piece), "status": status}
        if piece.kind == "call":
            call = {"call_id": piece.id, "name": piece.name, "arguments": piece.text}
            return {**item, "type": "function_call", **call}
        if piece.kind == "thought":
            return {**item, "type": "reasoning", "summary": [], "content": [self._part(piece)]}
        return {**item, "type": "message", "role": "assistant", "content": [self._part(piece)]}

    def _part(self, piece: AnswerPiece) -> Json:
        kind, field = PARTS[piece.kind]
        known = {"annotations": [], "logprobs": [*map(_token, piece.logprobs)]} if piece.kind == "text" else {}
        return {"type": kind, field: piece.text, **known}

    def _response(self, status: str) -> Json:
        body = self._body
        return {
            "id": f"resp_{self._run}",
            "object": "response",
            "created_at": self._created,
            "status": status,
            "background": False,
            "error": None,
            "incomplete_details": None,
            "instructions": body.get("instructions"),
            "max_output_tokens": body.get("max_output_tokens"),
            "metadata": body.get("metadata") or {},
            "model": body["model"],
            "output": [],
            "parallel_tool_calls": body.get("parallel_tool_calls", True),
            "previous_response_id": body.get("previous_response_id"),
            "reasoning": body.get("reasoning"),
            "temperature": body.get("temperature"),
            "text": body.get("text") or {"format": {"type": "text"}},
            "tool_choice": body.get("tool_choice", "auto"),
            "tools": body.get("tools") or [],
            "top_logprobs": body.get("top_logprobs"),
            "top_p": body.get("top_p"),
            "truncation": "disabled",
            "store": self.store,
            "usage": None,
            **{name: body[name] for name in ECHOED if body.get(name) is not None},
        }


ITEMS = {"thought": "rs", "text": "msg", "refusal": "msg", "call": "fc"}
"""What the ids of items begin with."""
PARTS = {
    "thought": ("reasoning_text", "text"),
    "text": ("output_text", "text"),
    "refusal": ("refusal", "refusal"),
}
"""The type of the part that a piece is, and the field with its words."""
KINDS_OF_PARTS = {kind: (kind, field) for kind, field in PARTS.values()}
ECHOED = ("user", "safety_identifier", "prompt_cache_key", "service_tier")


CUT = {"length": "max_output_tokens", "content_filter": "content_filter"}
"""Why a response is incomplete, by the finish reason of the choice."""


def replayed(response: Mapping[str, Any], after: int) -> bytes:
    """A response that is kept as a stream tells it: the events behind the sequence number `after`."""
    events: list[Json] = []

    def say(kind: str, **fields: Any) -> None:
        events.append({"type": f"response.{kind}", "sequence_number": len(events), **fields})

    begun = {"status": "in_progress", "output": [], "usage": None, "incomplete_details": None}
    say("created", response={**response, **begun})
    for place, item in enumerate(response.get("output", ())):
        of, parts = {"item_id": item.get("id"), "output_index": place}, item.get("content") or ()
        emptied = {name: type(item[name])() for name in ("content", "arguments") if item.get(name) is not None}
        say("output_item.added", output_index=place, item={**item, "status": "in_progress", **emptied})
        if item.get("type") == "function_call":
            say("function_call_arguments.delta", **of, delta=item["arguments"])
            say("function_call_arguments.done", **of, name=item["name"], arguments=item["arguments"])
        for index, part in enumerate(parts):
            at, (kind, field) = {**of, "content_index": index}, KINDS_OF_PARTS.get(part.get("type"), ("", ""))
            say("content_part.added", **at, part={**part, **({field: ""} if kind else {})})
            if kind:
                known = {"logprobs": part.get("logprobs") or []} if kind == "output_text" else {}
                say(f"{kind}.delta", **at, delta=part[field], **known)
                say(f"{kind}.done", **at, **{field: part[field]}, **known)
            say("content_part.done", **at, part=part)
        say("output_item.done", output_index=place, item=item)
    say(response["status"], response=response)
    return b"".join(event(one["type"], one, large=True) for one in events[after + 1 :])


def _token(known: Mapping[str, Any]) -> Json:
    """A token's log-probability, as a response has it."""
    tops = [{**top, "bytes": top.get("bytes") or []} for top in known.get("top_logprobs") or ()]
    return {**known, "bytes": known.get("bytes") or [], "top_logprobs": tops}


ELSEWHERE_ONLY = ("access_programs", "background_options", "context_management", "image")
OTHERWISE = {
    **dict.fromkeys(ELSEWHERE_ONLY, "only the vendor's own servers have that"),
    "conversation": "send previous_response_id, or the whole input",
    "background": "wait for the answer, as a stream if it is long",
    "prompt": "send instructions and input",
    "n": "a response has one answer; ask chat/completions for more",
    "messages": "it is called input here",
    "max_tokens": "it is called max_output_tokens here",
    "max_completion_tokens": "it is called max_output_tokens here",
    "response_format": "it is called text.format here",
    "reasoning_effort": "it is called reasoning.effort here",
    "verbosity": "it is called text.verbosity here",
    "logprobs": "ask for top_logprobs, or include message.output_text.logprobs",
    "functions": "they are called tools here",
    "function_call": "it is called tool_choice here",
    "max_tool_calls": "only functions are supported, which the client calls",
}
"""Fields that cannot be honoured here, and what to do about each."""
ANSWERED = frozenset(
    {
        *("include", "input", "instructions", "metadata", "previous_response_id", "store"),
        *("stream_options", "truncation"),
    }
)
"""Fields that are honoured here, before and after chat."""
TRANSLATED = frozenset({"max_output_tokens", "parallel_tool_calls", "reasoning", "text", "tool_choice", "tools"})
INCLUDED = frozenset(
    {
        *("code_interpreter_call.outputs", "computer_call_output.output.image_url", "file_search_call.results"),
        *("message.input_image.image_url", "message.output_text.logprobs", "reasoning.encrypted_content"),
        *("web_search_call.action.sources", "web_search_call.results"),
    }
)
"""What `include` may name; all but the log-probabilities are parts of what no answer has here."""
LOGPROBS = "message.output_text.logprobs"
TEXTS = ("input_text", "output_text", "text")


def as_chat(body: Mapping[str, Any]) -> tuple[Json, list[str]]:
    """The request as a chat completion's body, and what of it changes nothing: every field is honoured, or refused by
    name.

    Fields that the Responses API does not have are taken to be the model server's own sampling parameters. Raises
    `APIError` for what does not exist in chat.
    """
    given = {name: value for name, value in body.items() if value is not None}
    if given.get("background") is False:
        del given["background"]
    for name in OTHERWISE.keys() & given.keys():
        raise unsupported(f"{name} is not supported: {OTHERWISE[name]}", name)
    if given.get("truncation", "disabled") != "disabled":
        raise unsupported("inputs are not truncated here; leave truncation out", "truncation")
    chat: Json = {name: value for name, value in given.items() if name not in ANSWERED | TRANSLATED}
    chat["messages"] = _messages(given)
    included = given.get("include", [])
    if not isinstance(included, list) or not all(isinstance(name, str) and name in INCLUDED for name in included):
        raise bad_request(f"include may name: {', '.join(sorted(INCLUDED))}", "include")
    if LOGPROBS in included or "top_logprobs" in chat:
        chat["logprobs"] = True
    if "max_output_tokens" in given:
        chat["max_tokens"] = given["max_output_tokens"]
    reasoning = table_of(given, "reasoning", {"effort", "summary", "generate_summary"})
    if reasoning.get("effort") is not None:
        chat["reasoning_effort"] = reasoning["effort"]
    for name in ("summary", "generate_summary"):  # what a model thought is given whole
        if reasoning.get(name, "auto") not in ("auto", None):
            raise unsupported(f"reasoning.{name} is not supported: thoughts are given as they are", f"reasoning.{name}")
    text = table_of(given, "text", {"format", "verbosity"})
    if text.get("verbosity") is not None:
        chat["verbosity"] = text["verbosity"]
    if text.get("format") is not None:
        chat |= _format(text["format"])
    items = given["input"] if isinstance(given["input"], list) else ()
    # what only its author can read
    sealed = any(item.get("encrypted_content") and not _thoughts(item) for item in items)
    return chat | _tools(given), ["input.reasoning.encrypted_content"] if sealed else []


def _thoughts(item: Mapping[str, Any]) -> Any:
    return item.get("content") or item.get("summary") or []


def _format(form: Any) -> Json:
    kind = form.get("type") if isinstance(form, Mapping) else None
    if kind == "json_schema":
        schema = {key: value for key, value in form.items() if key != "type"}
        return {"response_format": {"type": "json_schema", "json_schema": schema}}
    if kind == "json_object":
        return {"response_format": {"type": "json_object"}}
    if kind != "text":
        raise unsupported("text.format must be of the type text, json_object or json_schema", "text.format")
    return {}


def _tools(given: Mapping[str, Any]) -> Json:
    """The tools as chat has them, and how they are chosen."""
    choice, tools = given.get("tool_choice"), given.get("tools")
    if isinstance(choice, Mapping):
        choice = _chosen(choice)
    elif choice not in (None, "auto", "none", "required"):
        raise bad_request("tool_choice must be auto, none, required, or name a function", "tool_choice")
    if not tools:
        if choice not in (None, "auto", "none"):
            raise bad_request("tool_choice asks for a call, but there are no tools", "tool_choice")
        return {}
    more = {"tool_choice": choice, "parallel_tool_calls": given.get("parallel_tool_calls")}
    return {
        "tools": [_tool(tool) for tool in tools],
        **{key: value for key, value in more.items() if value is not None},
    }


def _chosen(choice: Mapping[str, Any]) -> Json:
    if choice.get("type") == "function":
        if not isinstance(choice.get("name"), str):
            raise bad_request("tool_choice.name must name a function", "tool_choice.name")
        return {"type": "function", "function": {"name": choice["name"]}}
    if choice.get("type") == "allowed_tools":
        tools = choice.get("tools")
        if isinstance(tools, list) and all(isinstance(tool, Mapping) for tool in tools):
            allowed = {"mode": choice.get("mode", "auto"), "tools": [_chosen(tool) for tool in tools]}
            return {"type": "allowed_tools", "allowed_tools": allowed}
    raise unsupported(f"a tool_choice of the type {choice.get('type')!r} is not supported", "tool_choice")


def _tool(tool: Json) -> Json:
    if tool.get("type") != "function":
        raise unsupported(f"tools of type {tool.get('type')!r} are not supported, only functions are", "tools")
    return {"type": "function", "function": {key: value for key, value in tool.items() if key != "type"}}


def _messages(body: Mapping[str, Any]) -> list[Json]:
    messages: list[Json] = []
    if body.get("instructions"):
        messages.append({"role": "system", "content": body["instructions"]})
    if isinstance(body["input"], str):
        return [*messages, {"role": "user", "content": body["input"]}]
    for item in body["input"]:
        kind = item.get("type", "message")
        if kind == "message":
            role, content = item.get("role", "user"), _content(item.get("content"))
            if role == "assistant" and messages and messages[-1]["role"] == role and messages[-1]["content"] is None:
                messages[-1]["content"] = content  # said together with the thoughts and calls before it
            else:
                messages.append({"role": role, "content": content})
        elif kind == "function_call":
            name, arguments, place = (_text(item, key) for key in ("name", "arguments", "call_id"))
            if not (messages and messages[-1]["role"] == "assistant"):  # a turn of the model's is one message
                messages.append({"role": "assistant", "content": None})
            call = {"id": place, "type": "function", "function": {"name": name, "arguments": arguments}}
            messages[-1].setdefault("tool_calls", []).append(call)
        elif kind == "function_call_output":
            messages.append({"role": "tool", "tool_call_id": _text(item, "call_id"), "content": _output(item)})
        elif kind == "reasoning":
            parts = _thoughts(item)
            if not isinstance(parts, list):
                raise bad_request("the content of reasoning must be a list of parts", "input")
            if thought := "".join(_text(part, "text") for part in parts):
                if not (messages and messages[-1]["role"] == "assistant"):
                    messages.append({"role": "assistant", "content": None})
                messages[-1]["reasoning_content"] = messages[-1].get("reasoning_content", "") + thought
        else:
            raise unsupported(f"items of type {kind!r} are not supported", "input")
    if not messages:
        raise bad_request("input has nothing that could be answered", "input")
    for message in messages:
        if message["content"] is None and "tool_calls" not in message:
            message["content"] = ""
    return messages


def _text(item: Any, name: str) -> str:
    if not isinstance(item, Mapping) or not isinstance(item.get(name), str):
        kind = item.get("type") if isinstance(item, Mapping) else "part"
        raise bad_request(f"{name} of a {kind} must be text", "input")
    return item[name]


def _output(item: Mapping[str, Any]) -> Any:
    """What a function gave back; parts of text and images are content."""
    output = item.get("output")
    if isinstance(output, list) and output and all(isinstance(one, Mapping) and "type" in one for one in output):
        return _content(output)
    return output if isinstance(output, str) else json.dumps(output)


def _content(content: Any) -> Any:
    """Content as chat has it: one text where all parts are text."""
    if not isinstance(content, list):
        if not isinstance(content, str):
            raise bad_request("the content of a message must be text, or a list of parts", "input")
        return content
    parts: list[Json] = []
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind in TEXTS or kind == "refusal":
            said = part.get("refusal" if kind == "refusal" else "text")
            if not isinstance(said, str):
                raise bad_request(f"a part of type {kind!r} must have text", "input")
            parts.append({"type": "text", "text": said})
        elif kind == "input_image" and part.get("image_url"):
            detail = {"detail": part["detail"]} if part.get("detail") else {}
            parts.append({"type": "image_url", "image_url": {"url": part["image_url"], **detail}})
        else:
            raise unsupported(f"content of type {kind!r} is not supported", "input")
    if all(part["type"] == "text" for part in parts):
        return "".join(part["text"] for part in parts)
    return parts
