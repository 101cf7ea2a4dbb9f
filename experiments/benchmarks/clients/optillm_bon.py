"""Best-of-n on one prompt through optillm's proxy, which asks the same model to judge every sample.

The second request counts, since the first one warms up; the CPU seconds are those of the proxy.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from importlib.metadata import version

import psutil
from _measure import BEST_OF, MESSAGES, measured, report

START_SECONDS = 180


def ask(url: str) -> None:
    body = json.dumps({"model": "bon-test-model", "messages": MESSAGES}).encode()
    request = urllib.request.Request(f"{url}/v1/chat/completions", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as response:
        assert json.load(response)["choices"][0]["message"]["content"]


def wait_until_ready(url: str, server: psutil.Popen) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        try:
            urllib.request.urlopen(f"{url}/health", timeout=5).close()
            return
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.5)
    sys.exit(f"optillm did not come up within {START_SECONDS} s (exit status {server.poll()})")


def main(base_url: str) -> None:
    # optillm runs any plugin that it finds in the working directory: give it an empty one.
    with tempfile.TemporaryDirectory() as empty, socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a server that sets it too may share the port
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
        url = f"http://127.0.0.1:{port}"
        options = {"--base-url": base_url, "--port": port, "--best-of-n": BEST_OF, "--log": "warning"}
        program = os.path.join(os.path.dirname(sys.executable), "optillm")
        server = psutil.Popen(
            [program, *(str(part) for option in options.items() for part in option)],
            cwd=empty,
            env=os.environ | {"OPENAI_API_KEY": "none", "HF_HUB_OFFLINE": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            wait_until_ready(url, server)
            ask(url)
            before = server.cpu_times()
            with measured() as spent:
                ask(url)
            after = server.cpu_times()
            spent["cpu_seconds"] = round(after.user + after.system - before.user - before.system, 4)
        finally:
            server.terminate()
            server.wait(20)
    report(f"optillm {version('optillm')} bon", BEST_OF, spent)


main(sys.argv[1])
