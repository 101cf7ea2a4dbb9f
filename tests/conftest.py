"""Settings of all tests, and the data that some read."""

from __future__ import annotations

import gc
import os
import signal
from collections import Counter
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from tts import registry
from tts.cycles import look_past_what_is_there

settings.register_profile(
    "tts", deadline=None, max_examples=50, derandomize=True
)  # neither load nor luck decides a test
settings.register_profile("explore", deadline=None, max_examples=500)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "tts"))

# Every client that is made reads the certificates of all authorities, for 20 ms, and every process that loads aiohttp,
# for 35. No test leaves this machine.
os.environ["SSL_CERT_FILE"] = str(Path(__file__).parent / "support" / "nobody.pem")

# Started with `&` or `nohup`: what tests start would not hear Ctrl-C, or a terminal that goes.
for _ignored, _handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(_ignored) is signal.SIG_IGN:
        signal.signal(_ignored, _handler)


BESIDE = Path(__file__).parents[2] / "shared" / "data"


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, Any, Any]:
    """All tests and what they import are there to stay: the garbage collector need not look through them."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()
        look_past_what_is_there()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests are dealt out by their ids: of several with one id, all but one would be left out in silence."""
    twice = [id for id, times in Counter(item.nodeid for item in items).items() if times > 1]
    if twice:
        raise pytest.UsageError(f"only one test of each of these ids would run: {', '.join(twice)}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol() -> Generator[None, Any, Any]:
    """What a test adds to the registry is gone after it, whichever test comes next."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(registry, "_registered", registry.registered())
        return (yield)


@pytest.fixture
def real_data() -> Callable[[str], Path]:
    """A file of the benchmarks' own data, from the folder `$TTS_TEST_DATA`."""

    def find(name: str) -> Path:
        path = Path(os.environ.get("TTS_TEST_DATA") or BESIDE) / name
        if not path.is_file():
            pytest.skip(f"no {name}: set TTS_TEST_DATA to a folder that has it")
        return path

    return find
