"""A cluster that is not there is told at once, before Ray looks for it."""

from __future__ import annotations

import socket

import pytest

from tts.cluster.fleet import check_reachable
from tts.errors import ConfigError


@pytest.mark.parametrize("form", ["127.0.0.1:{}", "ray://127.0.0.1:{}", "auto"])
def test_an_address_where_nothing_listens_is_refused_and_one_where_something_does_is_not(
    form: str, monkeypatch: pytest.MonkeyPatch
):
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
        with pytest.raises(ConfigError, match=rf"cannot join the Ray cluster at .*:{port}: .*ray start --head"):
            check_reachable(form.format(port))
        server.listen()
        check_reachable(form.format(port))


@pytest.mark.parametrize("address", ["127.0.0.1:99999", "[::1]:1", "no-such-host.invalid:6379"])
def test_an_address_that_cannot_be_one_is_refused(address: str):
    with pytest.raises(ConfigError, match="cannot join"):
        check_reachable(address)


def test_what_is_no_address_is_left_to_ray(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    check_reachable("auto")
    check_reachable("local")
