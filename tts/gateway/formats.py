"""Answers in the formats of the APIs, whole or streamed, and requests of the stateless Responses API as chat."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tts.gateway.exchange import bad_request
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


class ChatFormat:
    """The format of the answers to one request; a text completion unless `chat`."""

    def __init__(self, body: Mapping[str, Any], run: str, *, chat: bool) -> None:
        self.chat, self._body = chat, body
        self._id = f"{'chatcmpl' if chat else 'cmpl'}-{run}"
        self._created = int(time.time())

    def start(self) -> bytes:
        """How a stream starts: with a comment."""
        return b": at work\n\n"

    def progress(self, report: Json) -> bytes:
        """A progress report inside a stream: an event without choices."""
        return self._event(choices=[], tts=report)

    def whole(self, candidates: Sequence[Candidate], usage: Usage, extra: Json) -> bytes:
        choices = [self.choice(candidate, i) for i, candidate in enumerate(candidates)]
        kind = "chat.completion" if self.chat else "text_completion"
        return json.dumps({**self._head(kind), "choices": choices, "usage": usage_body(usage), **extra}).encode()

    def choice(self, candidate: Candidate, index: int) -> Json:
        """The choice as the model server sent it, if it sent exactly this answer; else built from what is known."""
        sample = candidate.samples[-1] if candidate.samples else None
        field = "message" if self.chat else "text"
        if sample and sample.raw and field in sample.raw and candidate.content == sample.text:
            unasked = {"token_ids": "return_token_ids", "logprobs": "logprobs"}  # asked for by the strategy alone
            drop = {name for name, parameter in unasked.items() if not self._asked(parameter)}
            kept = {name: value for name, value in sample.raw.items() if name not in drop}
            return {**({"logprobs": None} if "logprobs" in drop else {}), **kept, "index": index}
        reason = sample.finish_reason if sample else None
        choice: Json = {"index": index, "logprobs": None}
        choice["finish_reason"] = {"abandoned": "length", "budget": "length", None: "stop"}.get(reason, reason)
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
        return b"data: " + json.dumps({**self._head(kind), **fields}).encode() + b"\n\n"

    def _head(self, kind: str) -> Json:
        return {"id": self._id, "object": kind, "created": self._created, "model": self._body["model"]}

    def _asked(self, parameter: str) -> bool:
        value = self._body.get(parameter)
        return value is not None and value is not False


class ResponsesFormat:
    """The format of the answers to one request of the Responses API."""

    def __init__(self, body: Mapping[str, Any], chat: Mapping[str, Any], run: str) -> None:
        self._body, self._run = body, run
        self._chat = ChatFormat(chat, run, chat=True)
        self._created = int(time.time())
        self._sequence = -1

    def start(self) -> bytes:
        """The first event of a stream."""
        return self._event("response.created", response=self._response("in_progress", []))

    def progress(self, report: Json) -> bytes:
        """A progress report inside a stream: a comment, since this API has no event for it."""
        return b": " + json.dumps(report).encode() + b"\n\n"

    def whole(self, candidates: Sequence[Candidate], usage: Usage, extra: Json) -> bytes:
        return json.dumps(self._complete(candidates[0], usage, extra)).encode()

    def chunks(self, candidates: Sequence[Candidate], usage: Usage, extra: Json) -> Iterator[bytes]:
        response = self._complete(candidates[0], usage, extra)
        for place, item in enumerate(response["output"]):
            at = {"output_index": place}
            of = {**at, "item_id": item["id"]}
            begun = {**item, "status": "in_progress", **({"content": []} if "content" in item else {"arguments": ""})}
            yield self._event("response.output_item.added", **at, item=begun)
            for i, part in enumerate(item.get("content", ())):
                of |= {"content_index": i}
                yield self._event("response.content_part.added", **of, part={**part, "text": ""})
                yield self._event("response.output_text.delta", **of, delta=part["text"], logprobs=[])
                yield self._event("response.output_text.done", **of, text=part["text"], logprobs=[])
                yield self._event("response.content_part.done", **of, part=part)
            if "arguments" in item:
                call = {"name": item["name"], "arguments": item["arguments"]}
                yield self._event("response.function_call_arguments.delta", **of, delta=item["arguments"])
                yield self._event("response.function_call_arguments.done", **of, **call)
            yield self._event("response.output_item.done", **at, item=item)
        yield self._event(f"response.{response['status']}", response=response)

    def _event(self, kind: str, **fields: Any) -> bytes:
        self._sequence += 1
        data = {"type": kind, "sequence_number": self._sequence, **fields}
        return f"event: {kind}\ndata: {json.dumps(data)}\n\n".encode()

    def _complete(self, candidate: Candidate, usage: Usage, extra: Json) -> Json:
        choice = self._chat.choice(candidate, 0)
        message, output = choice["message"], []
        if message.get("content"):
            part = {"type": "output_text", "text": message["content"], "annotations": []}
            item = {"id": f"msg_{self._run}", "type": "message", "role": "assistant", "content": [part]}
            output.append(item | {"status": "completed"})
        for i, call in enumerate(message.get("tool_calls") or ()):
            item = {"id": f"fc_{i}_{self._run}", "type": "function_call", "call_id": call.get("id")}
            function = {name: call["function"][name] for name in ("name", "arguments")}
            output.append(item | function | {"status": "completed"})
        cut = choice.get("finish_reason") == "length"
        response = self._response("incomplete" if cut else "completed", output)
        if cut:
            response["incomplete_details"] = {"reason": "max_output_tokens"}
        counted = usage_body(usage)
        response["usage"] = {
            "input_tokens": counted["prompt_tokens"],
            "input_tokens_details": counted["prompt_tokens_details"],
            "output_tokens": counted["completion_tokens"],
            "output_tokens_details": counted["completion_tokens_details"],
            "total_tokens": counted["total_tokens"],
        }
        return {**response, **extra}

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
            "metadata": body.get("metadata") or {},
            "model": body["model"],
            "output": output,
            "parallel_tool_calls": body.get("parallel_tool_calls", True),
            "temperature": body.get("temperature"),
            "text": body.get("text") or {"format": {"type": "text"}},
            "tool_choice": body.get("tool_choice", "auto"),
            "tools": body.get("tools") or [],
            "top_p": body.get("top_p"),
            "store": False,
            "usage": None,
        }


SAME = ("model", "tts", "stream", "temperature", "top_p", "top_logprobs", "parallel_tool_calls", "user", "seed")
STATE = ("previous_response_id", "conversation", "background", "prompt")
TEXTS = ("input_text", "output_text", "text")


def as_chat(body: Mapping[str, Any]) -> Json:
    """The request as a chat completion's body. Raises `APIError` for what needs state or does not exist in chat."""
    for name in STATE:
        if body.get(name):
            message = f"strategies keep no state, so {name} is not supported; send the whole input"
            raise bad_request(message, name, "not_supported")
    chat: Json = {name: body[name] for name in SAME if body.get(name) is not None}
    chat["messages"] = _messages(body)
    if (most := body.get("max_output_tokens")) is not None:
        chat["max_tokens"] = most
    if effort := (body.get("reasoning") or {}).get("effort"):
        chat["reasoning_effort"] = effort
    form = (body.get("text") or {}).get("format")
    if isinstance(form, Mapping) and form.get("type") == "json_schema":
        schema = {key: value for key, value in form.items() if key != "type"}
        chat["response_format"] = {"type": "json_schema", "json_schema": schema}
    elif isinstance(form, Mapping) and form.get("type") == "json_object":
        chat["response_format"] = {"type": "json_object"}
    if body.get("tools"):
        chat["tools"] = [_tool(tool) for tool in body["tools"]]
        choice = body.get("tool_choice")
        if isinstance(choice, Mapping) and choice.get("type") == "function":
            choice = {"type": "function", "function": {"name": choice.get("name")}}
        if choice is not None:
            chat["tool_choice"] = choice
    return chat


def _tool(tool: Json) -> Json:
    if tool.get("type") != "function":
        message = f"tools of type {tool.get('type')!r} are not supported, only functions are"
        raise bad_request(message, "tools", "not_supported")
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
            messages.append({"role": item.get("role", "user"), "content": _content(item.get("content"))})
        elif kind == "function_call":
            function = {"name": item.get("name"), "arguments": item.get("arguments")}
            call = {"id": item.get("call_id"), "type": "function", "function": function}
            if messages and messages[-1].get("tool_calls"):  # calls that were made together
                messages[-1]["tool_calls"].append(call)
            else:
                messages.append({"role": "assistant", "content": None, "tool_calls": [call]})
        elif kind == "function_call_output":
            output = item.get("output")
            content = output if isinstance(output, str) else json.dumps(output)
            messages.append({"role": "tool", "tool_call_id": item.get("call_id"), "content": content})
        elif kind != "reasoning":  # a model's own thoughts are not part of chat
            raise bad_request(f"items of type {kind!r} are not supported", "input", "not_supported")
    return messages


def _content(content: Any) -> Any:
    """Content as chat has it: one text where all parts are text."""
    if not isinstance(content, list):
        return content
    parts: list[Json] = []
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind in TEXTS:
            parts.append({"type": "text", "text": part.get("text", "")})
        elif kind == "input_image" and part.get("image_url"):
            detail = {"detail": part["detail"]} if part.get("detail") else {}
            parts.append({"type": "image_url", "image_url": {"url": part["image_url"], **detail}})
        else:
            raise bad_request(f"content of type {kind!r} is not supported", "input", "not_supported")
    if all(part["type"] == "text" for part in parts):
        return "".join(part["text"] for part in parts)
    return parts
