"""Importing the package is cheap, and its names are where they are said to be."""

from __future__ import annotations

import subprocess
import sys

import tts


def loaded(statement: str) -> set[str]:
    """Top-level modules in memory after `statement` in a fresh interpreter."""
    script = f"{statement}\nimport sys\nprint(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_the_package_loads_no_library() -> None:
    extra = loaded("import tts") - loaded("pass")
    libraries = {"numpy", "httpx", "aiohttp", "pydantic", "typer", "rich", "matplotlib", "pyarrow"}
    assert extra & libraries == set()


def test_running_loads_nothing_that_belongs_to_an_extra() -> None:
    everything = loaded("import tts\nfor name in tts.__all__: getattr(tts, name)")
    assert everything & {"matplotlib", "pyarrow", "ray", "torch", "vllm", "fastapi", "math_verify"} == set()


def test_every_public_name_is_there() -> None:
    for name in tts.__all__:
        assert getattr(tts, name).__name__ in (name, "solve", "MockModel")
