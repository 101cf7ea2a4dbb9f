"""Encrypted connections: who is trusted, and what is said of who is not."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from tests.support.raw_answers import answer
from tests.support.solving import draw
from tts.errors import SamplingFailed
from tts.sampler import Endpoint, Sampler, transport

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl makes a certificate here")


@pytest.fixture
def own_authority(tmp_path: Path) -> Path:
    """A certificate for this machine that vouches for itself, beside its key."""
    cert, subject = tmp_path / "cert.pem", ("-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1")
    new = ("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2")
    files = ("-keyout", tmp_path / "key.pem", "-out", cert)
    subprocess.run([*new, *subject, *files], check=True, capture_output=True)
    return cert


@pytest.fixture
async def url(own_authority: Path) -> AsyncIterator[str]:
    async def handle(request: web.BaseRequest) -> web.Response:
        return web.json_response(answer("Answer: 42"))

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(own_authority, own_authority.with_name("key.pem"))
    runner = web.ServerRunner(web.Server(handle))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    yield f"https://127.0.0.1:{runner.addresses[0][1]}/v1"
    await runner.cleanup()


@pytest.fixture(autouse=True)
def _read_anew() -> None:
    transport._authorities.cache_clear()


async def test_an_authority_that_the_environment_names_is_trusted(
    url: str, own_authority: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SSL_CERT_FILE", str(own_authority))
    async with Sampler(Endpoint(model="m", base_url=url)) as sampler:
        (sample,) = await draw(sampler)
    assert sample.text == "Answer: 42"


async def test_a_stranger_is_refused_and_the_error_says_how_to_trust_it(url: str):
    async with Sampler(Endpoint(model="m", base_url=url, max_attempts=1)) as sampler:
        with pytest.raises(SamplingFailed, match="SSL_CERT_FILE"):
            await draw(sampler)
