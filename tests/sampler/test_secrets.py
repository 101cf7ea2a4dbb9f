"""A server that repeats the client's secrets, in any way, gets none of them shown, stored, logged or passed on."""

from __future__ import annotations

import base64
import html
import json
import logging
import string
import time
import traceback
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.support.lag import MOST, standstill
from tests.support.raw_answers import Scripted, answer, delta, response, stream
from tests.support.solving import PROBLEM
from tts.concurrency import aside
from tts.errors import TTSError
from tts.runs.config import Grid
from tts.sampler import Endpoint
from tts.sampler.redaction import HIDDEN, PLACEHOLDERS, WINDOW, Redactor, secret_headers
from tts.session import Session
from tts.solving import open_models, solve
from tts.strategies.single import Single

KEY = 'sk-Live/4f"9b+Q~77\\x&z'
HEADER = "tok_8842-aa/Bc=="
IN_URL = "q-7f+3/Zk29"
SECRETS = [KEY, HEADER, IN_URL]

WRITTEN: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "JSON": lambda s: json.dumps(s)[1:-1],
    "JSON, slashes escaped": lambda s: json.dumps(s)[1:-1].replace("/", "\\/"),
    "JSON, all escaped": lambda s: "".join(f"\\u{ord(c):04x}" for c in s),
    "JSON, all escaped in capitals": lambda s: "".join(f"\\u{ord(c):04X}" for c in s),
    "JSON in JSON": lambda s: json.dumps(json.dumps(s)[1:-1])[1:-1],
    "JSON in JSON in JSON": lambda s: json.dumps(json.dumps(json.dumps(s)[1:-1])[1:-1])[1:-1],
    "Python": lambda s: repr(s)[1:-1],
    "Python bytes": lambda s: repr(s.encode())[2:-1],
    "all escaped in hexadecimal": lambda s: "".join(f"\\x{ord(c):02x}" for c in s),
    "URL": lambda s: urllib.parse.quote(s, safe=""),
    "URL, but for slashes": urllib.parse.quote,
    "URL in lower case": lambda s: urllib.parse.quote(s, safe="").replace("%2F", "%2f").replace("%2B", "%2b"),
    "URL, all escaped": lambda s: "".join(f"%{byte:02X}" for byte in s.encode()),
    "URL in a URL": lambda s: urllib.parse.quote(urllib.parse.quote(s, safe=""), safe=""),
    "form": urllib.parse.quote_plus,
    "HTML": html.escape,
    "HTML, numbers": lambda s: "".join(f"&#{ord(c)};" for c in s),
    "HTML, hexadecimal numbers": lambda s: "".join(f"&#x{ord(c):x};" for c in s),
    "base64": lambda s: base64.b64encode(s.encode()).decode(),
    "base64 of a credential": lambda s: base64.b64encode(f"user:{s}".encode()).decode(),
    "base64 of a header": lambda s: base64.b64encode(f"Bearer {s} ".encode()).decode(),
    "base64 for URLs": lambda s: base64.urlsafe_b64encode(s.encode()).decode(),
    "hexadecimal": lambda s: s.encode().hex(),
    "hexadecimal in capitals": lambda s: s.encode().hex().upper(),
    "hexadecimal, apart": lambda s: s.encode().hex(":"),
    "base64 in lines": lambda s: base64.encodebytes(b"x" * 50 + s.encode()).decode(),
    "JSON in a URL": lambda s: urllib.parse.quote(json.dumps(s)[1:-1], safe=""),
    "HTML without ends": lambda s: "".join(f"&#{ord(c)}" for c in s),
    "upper case": str.upper,
    "lower case": str.lower,
}


@pytest.mark.parametrize("way", WRITTEN.values(), ids=WRITTEN)
@pytest.mark.parametrize("secret", SECRETS)
def test_a_secret_is_found_however_it_is_written(secret, way):
    hide, written = Redactor(SECRETS), way(secret)
    text = hide(f"say: {written} and so on")
    assert HIDDEN in text
    assert text.startswith("say: ")
    assert text.endswith(" and so on")
    assert written not in text
    assert hide(f"say: {written} and so on".encode()) == text.encode()
    assert hide.finds(written.encode())


KEYS = st.one_of(
    st.text(string.ascii_letters + string.digits + "-_", min_size=8, max_size=60),
    st.text(string.hexdigits.lower(), min_size=16, max_size=64),
    st.text(string.digits + string.ascii_letters + string.punctuation, min_size=8, max_size=40),
    st.text(string.ascii_letters + "éß漢😀", min_size=8, max_size=20),
)


@settings(max_examples=60, deadline=None)
@given(KEYS, st.sampled_from(sorted(WRITTEN)), st.text(" ab1.\n", max_size=3))
def test_any_secret_is_found_however_it_is_written(secret: str, way: str, around: str):
    assume(secret not in PLACEHOLDERS)
    assume(secret.isascii() or way not in ("all escaped in hexadecimal", "upper case", "lower case"))  # which bytes?
    written = WRITTEN[way](secret)
    text = Redactor([secret])(f"say: {around} {written} {around} on")
    assert HIDDEN in text
    assert written not in text


def test_passwords_and_cookies_are_secrets_of_their_own():
    basic = "Basic " + base64.b64encode(b"user:a-long-password").decode()
    secrets = secret_headers({"authorization": basic, "cookie": "a=b; session=abc123def456"})
    assert {"a-long-password", "abc123def456"} <= set(secrets)


@pytest.mark.parametrize("piece", ["\\", "s\\", "%25", "&amp;", "c2 ", "&#0", KEY[:-1]])
def test_text_like_a_secret_is_read_in_linear_time(piece):
    start = time.process_time()
    Redactor(SECRETS)(piece * (200_000 // len(piece)))
    assert time.process_time() - start < 5


@given(st.text(max_size=300))
def test_other_text_stays_as_it_is(text):
    assert Redactor(SECRETS)(text) == text or any(secret in text for secret in SECRETS)


HARD = {
    "backslashes": "\\",
    "escapes": "\\u0073",
    "the beginning of a secret": KEY[:3],
    "all but the end of a secret": KEY[:-1],
    "percent signs": "%25",
    "ampersands": "&amp;",
    "zeros": "&#" + "0" * 1000,
    "secrets": KEY + " ",
    "base64": base64.b64encode(KEY.encode())[:4].decode(),
    "hexadecimal": KEY.encode().hex()[:2],
}


@pytest.mark.parametrize("name", HARD)
async def test_long_texts_are_read_in_linear_time_beside_the_loop(name: str):
    text, hide = (HARD[name] * 2**20)[: 2**20].encode(), Redactor(SECRETS)
    right = hide(text)

    async def read() -> None:
        began = time.process_time()
        clean = await aside(len(text), hide, text)
        assert time.process_time() - began < 5
        assert clean == right

    assert await standstill(read) < MOST


@pytest.mark.parametrize("shift", range(-60, 4, 3))
@pytest.mark.parametrize("way", ["as it is", "JSON in JSON", "HTML, numbers", "base64"])
def test_a_secret_across_two_windows_is_found(way: str, shift: int):
    hide, written = Redactor(SECRETS), WRITTEN[way](KEY).encode()
    text = b" " * (WINDOW + shift) + written + b" " * WINDOW
    clean = hide(text)
    assert HIDDEN.encode() in clean
    assert hide.finds(text)
    assert written not in clean


SAID = json.dumps(KEY)[1:-1]


def refusal(words: str, **headers: str) -> bytes:
    return response({"error": {"message": words}}, "400 Bad Request", **headers)


PARTS = [{"type": "text", "text": part} for part in ("key " + KEY[:9], KEY[9:])]

ECHOES: dict[str, bytes] = {
    **{f"in an error: {name}": refusal(f"wrong key {way(KEY)}!") for name, way in WRITTEN.items()},
    **{f"in an error, as bytes: {name}": response(way(KEY).encode(), "403 Forbidden") for name, way in WRITTEN.items()},
    **{f"in an answer: {name}": response(answer(f"Your key is {way(KEY)}")) for name, way in WRITTEN.items()},
    **{
        f"in a stream: {name}": stream(delta(f"key {way(KEY)}"), delta("", "stop"), b"data: [DONE]")
        for name, way in WRITTEN.items()
    },
    "a header of ours": refusal(f"x-token was {HEADER}"),
    "a query of ours": refusal(f"?api-key={urllib.parse.quote(IN_URL, safe='')}"),
    "in a place": response(b"", "307 Temporary Redirect", location=f"http://x/?key={urllib.parse.quote(KEY)}"),
    "in a place, as it is": response(b"", "302 Found", location=f"http://x/{HEADER}"),
    "in an error of good status": response({"error": {"message": f"key {KEY}", "code": 500}}),
    "in an error event": stream({"error": {"message": f"key {KEY}"}}),
    "in an event of kind error": stream(f'event: error\ndata: {{"message": "{SAID}"}}'.encode()),
    "in an unreadable event": stream(f"data: {{key {KEY}".encode()),
    "in an unreadable answer": response(f"<h1>{KEY}</h1>".encode()),
    "in a malformed header": b"HTTP/1.1 200 OK\r\nx: y\r\n" + KEY.encode() + b" : \x00\r\n\r\n{}",
    "in a malformed status line": b"HTTP/9.9 " + KEY.encode() + b"\r\n\r\n",
    "in a malformed chunk": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + KEY.encode() + b"\r\n{}",
    "in the reason": response(b"{}", f"400 {KEY}"),
    "in the content type": response(b"{}", "400 Bad Request", content_type=KEY),
    "in an unknown compression": response(b"{}", content_encoding=KEY),
    "in the model's name": response({**answer("Hi"), "model": KEY}),
    "in the finish reason": response(answer("Hi", finish_reason=KEY)),
    "in pieces": stream(delta("key " + KEY[:9]), delta(KEY[9:]), delta("", "stop"), b"data: [DONE]"),
    "in parts": response({"choices": [{"message": {"content": PARTS}, "finish_reason": "stop"}]}),
    "in another encoding": response(json.dumps(answer(f"key {KEY}")).encode("utf-16")),
    "in what is unreadable in another encoding": response(f"<h1>{KEY}</h1>".encode("utf-16-le")),
    "in pieces of a tool call": stream(
        {"choices": [{"index": 0, "delta": {"tool_calls": [{"index": 0, "id": "a", "function": {"name": "f"}}]}}]},
        {"choices": [{"delta": {"tool_calls": [{"index": 0, "function": {"arguments": HEADER[:7]}}]}}]},
        {"choices": [{"delta": {"tool_calls": [{"index": 0, "function": {"arguments": HEADER[7:]}}]}}]},
        delta("", "tool_calls"),
    ),
    "in reasoning": response({"choices": [{"message": {"content": "a", "reasoning": KEY}, "finish_reason": "stop"}]}),
    "in a failed choice": response(answer("Hi", error={"message": KEY})),
}


@pytest.mark.parametrize("echo", ECHOES.values(), ids=ECHOES)
async def test_no_secret_is_shown_stored_or_logged(echo, caplog):
    caplog.set_level(logging.DEBUG)
    shown: list[str] = []
    async with Scripted(lambda body: echo) as server:
        target = Endpoint(
            model="m",
            base_url=f"{server.base_url}?api-version=1&api-key={urllib.parse.quote(IN_URL, safe='')}",
            api_key=KEY,  # pyright: ignore[reportArgumentType]
            headers={"x-token": HEADER},
            stream="stream" in repr(echo),
            max_attempts=2,
            retry_wait=0.001,
        )
        shown += [repr(target), target.model_dump_json(), target.filed_as, target.base_url]
        async with open_models({"policy": target}) as models:
            session = Session(PROBLEM, models)
            try:
                async for sample in session.sample():
                    shown.append(repr(sample))
            except TTSError as error:
                shown += [*traceback.format_exception(error), str(error), getattr(error, "body", "")]
            shown += map(repr, session.ledger.failures)
            try:
                result = await solve(PROBLEM, Single(), models)
                shown += [repr(result), repr(result.candidates), repr([c.samples for c in result.candidates])]
            except TTSError as error:
                shown += [*traceback.format_exception(error), str(error)]
    shown += [caplog.text]
    assert f"api-key={IN_URL}" in urllib.parse.unquote(server.head)  # it was sent all the same
    assert "api-version=1" in server.head
    for secret in SECRETS:
        for way in WRITTEN.values():
            assert not any(way(secret) in text for text in shown), [t for t in shown if way(secret) in t]


def test_a_key_in_a_url_is_no_part_of_a_configuration():
    table: dict[str, Any] = {
        "task": "sat3",
        "strategies": "single",
        "models": {"m": {"base_url": f"http://localhost:1/v1?api-key={IN_URL}", "headers": {"x": HEADER}}},
    }
    experiment = Grid.parse(table)
    for text in (repr(experiment), experiment.model_dump_json(serialize_as_any=True), json.dumps(experiment.essence())):
        assert IN_URL not in text
        assert HEADER not in text


def test_short_and_usual_keys_do_not_change_answers_but_are_hidden_in_errors():
    for key in ("EMPTY", "ollama", "lm-studio", "x1"):
        hide = Redactor([key])
        assert hide(f"{key} it is") == f"{key} it is"
        assert hide.error(f"wrong key {key}") == f"wrong key {HIDDEN}"


def test_a_key_file_may_begin_with_a_byte_order_mark(tmp_path: Path):
    (tmp_path / "key").write_text("sk-from-file\n", encoding="utf-8-sig")
    assert Endpoint(model="m", base_url="http://a/v1", api_key_file=tmp_path / "key").key() == "sk-from-file"
