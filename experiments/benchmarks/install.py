"""What it takes to have a library: packages, megabytes, seconds to install, import and ask for help, beside its peers.

`python experiments/benchmarks/install.py` builds the wheel and installs each into environments of its own, in turn,
without a cache; it needs `uv` and a package index. The figures go to install.json, and as a table to stdout.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from peer_envs import PEERS

ROOT = Path(__file__).parents[2]
LIBRARIES: dict[str, tuple[list[str], str, str | None]] = {
    "tts": (["WHEEL"], "tts", "tts"),
    "its-hub": (PEERS["its-hub"][-1], "its_hub", None),
    "its-hub, core": (["its-hub==1.2.0"], "its_hub", None),
    "optillm": (["optillm==0.4.0"], "optillm", "optillm"),
    "inspect-ai": (["inspect-ai==0.3.285"], "inspect_ai", "inspect"),
}
"""What is installed, the module that is imported and the program that is asked for `--help`, where there is one."""


def installed(requirements: list[str], module: str, program: str | None) -> dict[str, Any]:
    """The figures of one installation."""
    with tempfile.TemporaryDirectory() as place:
        subprocess.run(["uv", "venv", "-q", "--python", sys.executable, place], check=True)
        python = str(Path(place, "bin", "python"))
        install = ["uv", "pip", "install", "-q", "--no-cache", "--link-mode", "copy", "--python", python, *requirements]
        found: dict[str, Any] = {"install_seconds": seconds(install)}
        site = next(Path(place).glob("lib/python*/site-packages"))
        sizes = [file.stat().st_size for file in site.rglob("*") if file.is_file() and file.suffix != ".pyc"]
        found |= {"packages": len([*site.glob("*.dist-info")]), "megabytes": round(sum(sizes) / 1e6, 1)}
        commands = {"import": [python, "-c", f"import {module}"]}
        if program:
            commands["help"] = [str(Path(place, "bin", program)), "--help"]
        for name, command in commands.items():
            seconds(command)  # compiles
            found[f"{name}_seconds"] = min(seconds(command) for _ in range(5))
        return found


def seconds(command: list[str]) -> float:
    """How long `command` takes. Raises `subprocess.CalledProcessError` if it fails."""
    began = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return round(time.perf_counter() - began, 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("names", nargs="*", choices=[[], *LIBRARIES], help="all by default")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    chosen = options.names or list(LIBRARIES)
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in chosen}
    with tempfile.TemporaryDirectory() as dist:
        subprocess.run(["uv", "build", "-q", "--wheel", "--out-dir", dist, str(ROOT)], check=True)
        (wheel,) = Path(dist).glob("*.whl")
        for _ in range(options.rounds):
            for name in chosen:
                requirements, module, program = LIBRARIES[name]
                wanted = [str(wheel) if one == "WHEEL" else one for one in requirements]
                runs[name].append(installed(wanted, module, program))
                print(name, runs[name][-1], file=sys.stderr)
    figures = {name: {key: median(one[key] for one in each) for key in each[0]} for name, each in runs.items()}
    Path(__file__).with_suffix(".json").write_text(json.dumps(figures, indent=2) + "\n")
    print("| | packages | MB | install, s | import, s | help, s |\n|---|--:|--:|--:|--:|--:|")
    for name, row in figures.items():
        cells = [row.get(key, "") for key in ("packages", "megabytes")]
        cells += [row.get(f"{key}_seconds", "") for key in ("install", "import", "help")]
        print(f"| {name} | {' | '.join(map(str, cells))} |")


if __name__ == "__main__":
    main()
