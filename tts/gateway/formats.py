"""Answers in the formats of the APIs, whole or streamed, and requests of the stateless Responses API as chat."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tts.gateway.exchange import APIError, bad_request
from tts.sampler.protocol import bytes_of, text_of
from tts.types import Candidate, Usage

Json = dict[str, Any]


def usage_body(usage: Usage) -> Json:
    """Usage in OpenAI's form."""
    return {
        "prompt_tokens": round(usage.prompt_tokens),
        "completion_tokens": round(usage.completion_tokens),
        "total_tokens": round(usage.prompt_tokens) + round(usage.completion_tokens),
        "prompt_tokens_details": {"cached_tokens": round(usage.cached_tokens)},
        "completion_tokens_details": {"reasoning_tokens": round(usage.reasoning_tokens)},
    }


REASONS = {"abandoned": "length", "budget": "length", "refusal": "stop", None: "stop"}
"""What clients are told of finish reasons that OpenAI does not have."""


class ChatFormat:
    """The format of the answers to one request; a text completion unless `chat`."""

    def __init__(self, body: Mapping[str, Any], run: str, *, chat: bool) -> None:
        self.chat, self._body = chat, body
        self.large = False
        """Whether the answer is written in a thread."""
        self._id = f"{'chatcmpl' if chat else 'cmpl'}-{run}"
        self._created = int(time.time())

    def start(self) -> bytes:
        """What a stream starts with: nothing."""
        return b""

    def progress(self, report: Json) -> bytes:
        """A progress report inside a stream: an event without choices."""
        return self._event(choices=[], tts=report)

    def whole(self, candidates: Sequence[Candidate], usage: Usage, extra: Json) -> bytes:
        choices = [self.choice(candidate, i) for i, candidate in enumerate(candidates)]
        kind = "chat.completion" if self.chat else "text_completion"
        body = {**self._head(kind), "choices": choices, "usage": usage_body(usage), **extra}
        return bytes_of(body, large=self.large)

    def choice(self, candidate: Candidate, index: int) -> Json:
        """The choice as the model server sent it, if it sent exactly this answer; else built from what is known."""
        sample = candidate.samples[-1] if candidate.samples else None
        field = "message" if self.chat else "text"
        reason = sample.finish_reason if sample else None
        reason = REASONS.get(reason, reason)
        if sample and sample.raw and field in sample.raw and candidate.content == sample.text:
            unasked = {"token_ids": "return_token_ids", "logprobs": "logprobs"}  # asked for by the strategy alone
            drop = {name for name, parameter in unasked.items() if not self._asked(parameter)}
            kept = {name: value for name, value in sample.raw.items() if name not in drop}
            empty = {"logprobs": None} if "logprobs" in drop else {}
            return {**empty, **kept, "index": index, "finish_reason": reason}
        choice: Json = {"index": index, "logprobs": None, "finish_reason": reason}
        if not self.chat:
            return {**choice, "text": candidate.content}
        message: Json = {"role": "assistant", "content": candidate.content}
        if sample and sample.reasoning:
            message["reasoning_content"] = sample.reasoning
        if candidate.tool_calls:
            message["tool_calls"] = [dict(call) for call in candidate.tool_calls]
            message["content"] = candidate.content or None
        return {**choice, "message": message}

    def chunks(self, candidates: Sequence[Candidate], usage: Usage, extra: Json) -> Iterator[bytes]:
        for index, candidate in enumerate(candidates):
            choice = self.choice(candidate, index)
            last = {"index": index, "finish_reason": choice.get("finish_reason"), "logprobs": None}
            if self.chat:
                message = {"role": "assistant", **choice.pop("message")}
                if calls := message.pop("tool_calls", None):
                    message["tool_calls"] = [{"index": i, **call} for i, call in enumerate(calls)]
                # log-probabilities do not ride on the first event: clients add up what follows to a copy of it
                first: Json = {"index": index, "delta": {"role": message.pop("role"), "content": ""}}
                yield self._event(choices=[{**first, "logprobs": None, "finish_reason": None}])
                choice["delta"], last["delta"] = message, {}
            else:
                last["text"] = ""
            yield self._event(choices=[{**choice, "finish_reason": None}])
            yield self._event(choices=[last])
        if extra:
            yield self._event(choices=[], **extra)
        if (self._body.get("stream_options") or {}).get("include_usage"):
            yield self._event(choices=[], usage=usage_body(usage))
        yield b"data: [DONE]\n\n"

    def _event(self, **fields: Any) -> bytes:
        kind = "chat.completion.chunk" if self.chat else "text_completion"
        return b"data: " + bytes_of({**self._head(kind), **fields}, large=self.large) + b"\n\n"

    def _head(self, kind: str) -> Json:
        return {"id": self._id, "object": kind, "created": self._created, "model": self._body["model"]}

    def _asked(self, parameter: str) -> bool:
        value = self._body.get(parameter)
        return value is not None and value is not False


class ResponsesFormat:
    """The format of the answers to one request of the Responses API."""

    def __init__(self, body: Mapping[str, Any], chat: Mapping[str, Any], run: str) -> None:
        self._body, self._run, self.large = body, run, False
        self._chat = ChatFormat(chat, run, chat=True)
        self._created = int(time.time())
        self._sequence = -1

    def start(self) -> bytes:
        """The first event of a stream."""
        return self._event("response.created", response=self._response("in_progress", []))

    def failed(self, error: APIError) -> bytes:
        """How a stream that has begun ends without an answer: with the error, and with the response that failed."""
        self._sequence += 1
        told = error.event("responses", self._sequence)
        response = self._response("failed", [])
        response["error"] = {"code": error.code or "server_error", "message": error.told["message"]}
        return told + self._event("response.failed", response=response)

    def progress(self, report: Json) -> bytes:
        """A progress report inside a stream: a comment, since this API has no event for it."""
        return b": " + json.dumps(report).encode() + b"\n\n"

    def whole(self, candidates: Sequence[Candidate], usage: Usage, extra: Json) -> bytes:
        return bytes_of(self._complete(candidates[0], usage, extra), large=self.large)

    def chunks(self, candidates: Sequence[Candidate], usage: Usage, extra: Json) -> Iterator[bytes]:
        response = self._complete(candidates[0], usage, extra)
        for place, item in enumerate(response["output"]):
            at = {"output_index": place}
            of = {**at, "item_id": item["id"]}
            begun = {**item, "status": "in_progress", **({"content": []} if "content" in item else {"arguments": ""})}
            yield self._event("response.output_item.added", **at, item=begun)
            for i, part in enumerate(item.get("content", ())):
                yield from self._part({**of, "content_index": i}, part)
            if "arguments" in item:
                call = {"name": item["name"], "arguments": item["arguments"]}
                yield self._event("response.function_call_arguments.delta", **of, delta=item["arguments"])
                yield self._event("response.function_call_arguments.done", **of, **call)
            yield self._event("response.output_item.done", **at, item=item)
        yield self._event(f"response.{response['status']}", response=response)

    def _part(self, of: Json, part: Json) -> Iterator[bytes]:
        """The events of one part of an item."""
        kind = part["type"]
        field = "refusal" if kind == "refusal" else "text"
        known = {"logprobs": part["logprobs"]} if "logprobs" in part else {}
        emptied = {**part, field: "", **({"logprobs": []} if known else {})}
        yield self._event("response.content_part.added", **of, part=emptied)
        yield self._event(f"response.{kind}.delta", **of, delta=part[field], **known)
        yield self._event(f"response.{kind}.done", **of, **{field: part[field]}, **known)
        yield self._event("response.content_part.done", **of, part=part)

    def _event(self, kind: str, **fields: Any) -> bytes:
        self._sequence += 1
        data = {"type": kind, "sequence_number": self._sequence, **fields}
        return b"event: " + kind.encode() + b"\ndata: " + bytes_of(data, large=self.large) + b"\n\n"

    def _complete(self, candidate: Candidate, usage: Usage, extra: Json) -> Json:
        choice = self._chat.choice(candidate, 0)
        reason = CUT.get(choice.get("finish_reason") or "")
        status = "incomplete" if reason else "completed"
        output = self._output(choice, status)
        response = self._response(status, output)
        if reason:
            response["incomplete_details"] = {"reason": reason}
        counted = usage_body(usage)
        response["usage"] = {
            "input_tokens": counted["prompt_tokens"],
            "input_tokens_details": counted["prompt_tokens_details"],
            "output_tokens": counted["completion_tokens"],
            "output_tokens_details": counted["completion_tokens_details"],
            "total_tokens": counted["total_tokens"],
        }
        return {**response, **extra}

    def _output(self, choice: Json, status: str) -> list[Json]:
        """The items of an answer: what was thought, what is said (if only that it is nothing), and the calls."""
        message, output = choice["message"], list[Json]()
        thoughts = message.get("reasoning_content") or message.get("reasoning")
        if thoughts and self._body.get("reasoning"):  # where the client knows of thoughts
            part = {"type": "reasoning_text", "text": str(thoughts)}
            output.append({"id": f"rs_{self._run}", "type": "reasoning", "summary": [], "content": [part]})
        text, calls, parts = text_of(message.get("content")), message.get("tool_calls") or (), list[Json]()
        if refusal := message.get("refusal"):
            parts = [{"type": "refusal", "refusal": str(refusal)}]
        if text or not (parts or calls):
            logprobs = [_token(one) for one in (choice.get("logprobs") or {}).get("content") or ()]
            parts = [{"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}, *parts]
        if parts:
            item = {"id": f"msg_{self._run}", "type": "message", "role": "assistant", "content": parts}
            output.append(item | {"status": status})
        for i, call in enumerate(calls):
            function, place = call.get("function") or {}, f"{i}_{self._run}"
            arguments = function.get("arguments")
            output.append(
                {
                    "id": f"fc_{place}",
                    "type": "function_call",
                    "call_id": call.get("id") or f"call_{place}",
                    "name": str(function.get("name") or ""),
                    "arguments": arguments if isinstance(arguments, str) else json.dumps(arguments or {}),
                    "status": status,
                }
            )
        return output

    def _response(self, status: str, output: list[Json]) -> Json:
        body = self._body
        return {
            "id": f"resp_{self._run}",
            "object": "response",
            "created_at": self._created,
            "status": status,
            "error": None,
            "incomplete_details": None,
            "instructions": body.get("instructions"),
            "max_output_tokens": body.get("max_output_tokens"),
            "metadata": body.get("metadata") or {},
            "model": body["model"],
            "output": output,
            "parallel_tool_calls": body.get("parallel_tool_calls", True),
            "reasoning": body.get("reasoning"),
            "temperature": body.get("temperature"),
            "text": body.get("text") or {"format": {"type": "text"}},
            "tool_choice": body.get("tool_choice", "auto"),
            "tools": body.get("tools") or [],
            "top_logprobs": body.get("top_logprobs"),
            "top_p": body.get("top_p"),
            "truncation": "disabled",
            "store": False,
            "usage": None,
        }


CUT = {"length": "max_output_tokens", "content_filter": "content_filter"}
"""Why a response is incomplete, by the finish reason of the choice."""


def _token(known: Mapping[str, Any]) -> Json:
    """A token's log-probability, as a response has it."""
    tops = [{**top, "bytes": top.get("bytes") or []} for top in known.get("top_logprobs") or ()]
    return {**known, "bytes": known.get("bytes") or [], "top_logprobs": tops}


# -- a Responses request as chat ---------------------------------------------------------------------------------------

STATE = ("previous_response_id", "conversation", "background", "prompt")
"""Fields that need state."""
OTHERWISE = {
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
"""Fields that a strategy cannot honour here, and what to do about each."""
ANSWERED = frozenset({"input", "instructions", "include", "metadata", "store", "stream_options", "truncation"})
"""Fields that are honoured in the answer or have no counterpart in chat."""
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


def as_chat(body: Mapping[str, Any]) -> Json:
    """The request as a chat completion's body: every field is honoured, or refused by name.

    Fields that the Responses API does not have are taken to be the model server's own sampling parameters. Raises
    `APIError` for what needs state, or does not exist in chat.
    """
    given = {name: value for name, value in body.items() if value is not None}
    for name in STATE:
        if given.get(name):
            message = f"strategies keep no state, so {name} is not supported; send the whole input"
            raise _unsupported(message, name)
    for name in OTHERWISE.keys() & given.keys():
        raise _unsupported(f"{name} is not supported: {OTHERWISE[name]}", name)
    if given.get("truncation", "disabled") != "disabled":
        raise _unsupported("inputs are not truncated here; leave truncation out", "truncation")
    handled = {*STATE, *ANSWERED, *TRANSLATED}
    chat: Json = {name: value for name, value in given.items() if name not in handled}
    chat["messages"] = _messages(given)
    included = given.get("include", [])
    if not isinstance(included, list) or not all(isinstance(name, str) and name in INCLUDED for name in included):
        raise bad_request(f"include may name: {', '.join(sorted(INCLUDED))}", "include")
    if LOGPROBS in included or "top_logprobs" in chat:
        chat["logprobs"] = True
    if "max_output_tokens" in given:
        chat["max_tokens"] = given["max_output_tokens"]
    reasoning = _table(given, "reasoning", {"effort", "summary", "generate_summary"})
    if reasoning.get("effort") is not None:
        chat["reasoning_effort"] = reasoning["effort"]
    for name in ("summary", "generate_summary"):  # what a model thought is given whole
        if reasoning.get(name, "auto") not in ("auto", None):
            raise _unsupported(
                f"reasoning.{name} is not supported: thoughts are given as they are", f"reasoning.{name}"
            )
    text = _table(given, "text", {"format", "verbosity"})
    if text.get("verbosity") is not None:
        chat["verbosity"] = text["verbosity"]
    if text.get("format") is not None:
        chat |= _format(text["format"])
    return chat | _tools(given)


def _unsupported(message: str, param: str) -> APIError:
    return bad_request(message, param, "not_supported")


def _table(given: Mapping[str, Any], name: str, known: set[str]) -> Json:
    """The table `name` of the body, none of whose fields is unknown."""
    table = given.get(name) or {}
    for key, value in table.items():
        if key not in known and value is not None:
            raise _unsupported(
                f"{name}.{key} is not supported; {name} has: {', '.join(sorted(known))}", f"{name}.{key}"
            )
    return table


def _format(form: Any) -> Json:
    kind = form.get("type") if isinstance(form, Mapping) else None
    if kind == "json_schema":
        schema = {key: value for key, value in form.items() if key != "type"}
        return {"response_format": {"type": "json_schema", "json_schema": schema}}
    if kind == "json_object":
        return {"response_format": {"type": "json_object"}}
    if kind != "text":
        raise _unsupported("text.format must be of the type text, json_object or json_schema", "text.format")
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
    if choice.get("type") == "function" and isinstance(choice.get("name"), str):
        return {"type": "function", "function": {"name": choice["name"]}}
    if choice.get("type") == "allowed_tools":
        tools = choice.get("tools")
        if isinstance(tools, list) and all(isinstance(tool, Mapping) for tool in tools):
            allowed = {"mode": choice.get("mode", "auto"), "tools": [_chosen(tool) for tool in tools]}
            return {"type": "allowed_tools", "allowed_tools": allowed}
    raise _unsupported(f"a tool_choice of the type {choice.get('type')!r} is not supported", "tool_choice")


def _tool(tool: Json) -> Json:
    if tool.get("type") != "function":
        raise _unsupported(f"tools of type {tool.get('type')!r} are not supported, only functions are", "tools")
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
            if role == "assistant" and messages and messages[-1].get("tool_calls") and not messages[-1]["content"]:
                messages[-1]["content"] = content  # said together with the calls before it
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
        elif kind != "reasoning":  # a model's own thoughts are not part of chat
            raise _unsupported(f"items of type {kind!r} are not supported", "input")
    return messages


def _text(item: Mapping[str, Any], name: str) -> str:
    if not isinstance(item.get(name), str):
        raise bad_request(f"{name} of a {item.get('type')} must be text", "input")
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
            raise _unsupported(f"content of type {kind!r} is not supported", "input")
    if all(part["type"] == "text" for part in parts):
        return "".join(part["text"] for part in parts)
    return parts
