"""Counts that hold the code to its structural goals: `python experiments/house/counts.py [--root DIR]`.

Counts the checkout that contains this script, or the one in DIR. What has to be run runs in that checkout's own
`.venv` (`make install`). `README.md` explains each count.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import Any

from imports import Module, circles, imports, read

HERE = Path(__file__).resolve().parent
TINY = 3
"""A docstring of at most this many words says nothing."""
FRESH = 5
"""Interpreters started for each CPU time; the median counts."""

SPINE = [
    *("tts/*.py", "tts/sampler", "tts/runs", "tts/experiment", "tts/curves"),
    *(f"tts/cli/{name}.py" for name in ("__init__", "common", "tables", "solve", "run")),
]
"""What a reader needs first, as folders and files. Annexes and `SUPPORT` are matched before it."""

SUPPORT = [
    *("tts/prompting.py", "tts/confidence.py", "tts/images.py", "tts/tables.py", "tts/serving.py", "tts/tracing.py"),
    *("tts/sampler/probe.py", "tts/sampler/mock.py", "tts/runs/progress.py", "tts/curves/plot.py"),
    *("tts/structured.py", "tts/pictures.py", "tts/port.py", "tts/sampler/capabilities.py", "tts/curves/export.py"),
    *("tts/experiment/progress.py", "tts/conformal.py", "tts/tournaments.py", "tts/cli/tables.py"),
    "tts/sampler/shares.py",
]
"""Beside the spine, for whoever comes to need it: what plug-ins and printing share, the probe, the mock, figures. The
last two lines are their places before the redesign."""

OLD_STUDIES = {
    "curves": (
        *("flaws", "counts", "two_types", "heterogeneity", "repeats", "judging", "timeline", "reward_plot"),
        *("diversity", "diversity_plot"),
    ),
    "experiment": (
        *("resampling", "verifier_report", "diversity", "protocols", "lineage", "contact_sheet", "style", "ideas"),
    ),
}
ANNEXES = {
    "lab": ["tts/lab", "tts/embedded", "tts/tasks/lab_*.py"],
    "gateway": ["tts/gateway"],
    "report": ["tts/report"],
    "studies": [
        "tts/studies",
        *(f"tts/{folder}/{name}.py" for folder, names in OLD_STUDIES.items() for name in names),
    ],
}
"""Each can be read alone, and nothing in the spine may import it. `tts/embedded`, `tts/experiment`, `lab_*.py` and
`OLD_STUDIES` exist only before the redesign; they are listed so that both layouts can be counted."""

PROBE = "import time; start = time.process_time(); {code}; print(time.process_time() - start)"
TIMED = {
    "import tts": "import tts",
    "tts.solve ready": "import tts; tts.solve",
    "httpx, numpy and pydantic (for scale)": "import httpx, numpy, pydantic",
}
OWN_MODULES = "import sys, tts; tts.Endpoint; print(sum(name.split('.')[0] == 'tts' for name in sys.modules))"


def part_of(module: Module) -> str:
    """The name of the annex the module belongs to, else "support" or "spine", or "" if it belongs to none."""
    for part, places in {**ANNEXES, "support": SUPPORT, "spine": SPINE}.items():
        for place in places:
            if module.path.is_relative_to(place) or (place.endswith(".py") and module.path.match(place)):
                return part
    return ""


def repeated(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """From (name, place) pairs, the names with more than one place."""
    places: dict[str, set[str]] = defaultdict(set)
    for name, place in pairs:
        places[name].add(place)
    return {name: sorted(where) for name, where in sorted(places.items()) if len(where) > 1}


def tiny_docstrings(modules: list[Module]) -> list[str]:
    """Every class and function, public or not, whose docstring has at most `TINY` words."""
    return [
        f"{module.path}: {node.name}"
        for module in modules
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and 0 < len((ast.get_docstring(node) or "").split()) <= TINY
    ]


def run(root: Path, *arguments: str) -> str:
    """Run the Python of the checkout's `.venv` and return its output."""
    python = root / ".venv/bin/python"
    if not python.exists():
        sys.exit(f"{root} has no .venv; run `make -C {root} install` first")
    env = {**os.environ, "PYTHONPATH": str(root)}
    # `python -c` looks in the working directory first, so that is the checkout as well
    return subprocess.run([python, *arguments], env=env, cwd=root, stdout=subprocess.PIPE, text=True, check=True).stdout


def cpu_seconds(root: Path, code: str) -> float:
    """Median CPU seconds of `code` in a fresh interpreter, start-up excluded. A first run compiles and is dropped."""
    return median([float(run(root, "-c", PROBE.format(code=code))) for _ in range(FRESH + 1)][1:])


def show(title: str, figure: object, lines: Iterable[str] = ()) -> None:
    print(f"{title}: {figure}")
    for line in lines:
        print(f"    {line}")


def show_sizes(modules: list[Module]) -> None:
    lines = sum(module.lines for module in modules)
    show("lines and modules in all", f"{lines:,} in {len(modules)}", sizes((one.room, one) for one in modules))
    parts = [(part, one) for one in modules if (part := part_of(one))]
    show("spine and annexes", f"{len(parts)} modules", sizes(parts))


def sizes(named: Iterable[tuple[str, Module]]) -> list[str]:
    named = list(named)
    lines = Counter[str]()
    for name, module in named:
        lines[name] += module.lines
    count = Counter(name for name, _ in named)
    return [f"{name:24} {amount:6,} lines {count[name]:4} modules" for name, amount in lines.most_common()]


def show_imports(modules: list[Module]) -> None:
    path = {module.name: str(module.path) for module in modules}
    part = {module.name: part_of(module) for module in modules}
    edges = imports(modules)
    arrow = {edge: f"{path[edge.source]} -> {path[edge.target]}{edge.how and f' ({edge.how})'}" for edge in edges}
    running = circles(edge for edge in edges if edge.how != "for types")
    found = circles(edges)
    show("import circles", f"{len(found)}; {len(running)} without imports for types")
    for circle in found:
        inner = sorted(edge for edge in edges if {edge.source, edge.target} <= set(circle))
        show(f"  {len(circle)} files", ", ".join(path[name] for name in circle), (arrow[edge] for edge in inner))
    back = sorted(edge for edge in edges if part[edge.source] == "spine" and part[edge.target] in ANNEXES)
    show("imports from the spine into an annex", len(back), (arrow[edge] for edge in back))


def show_names(modules: list[Module]) -> None:
    classes = repeated(
        (node.name, str(module.path))
        for module in modules
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ClassDef)
    )
    files = repeated((one.path.name, str(one.path)) for one in modules if one.path.name != "__init__.py")
    for title, found in (
        ("class names defined in more than one module", classes),
        ("file names used more than once", files),
    ):
        show(title, len(found), (f"{name}: {', '.join(places)}" for name, places in found.items()))
    tiny = tiny_docstrings(modules)
    show(f"docstrings of at most {TINY} words", len(tiny), tiny)


def show_running(root: Path) -> None:
    for title, code in TIMED.items():
        show(f"CPU seconds of {title}", f"{cpu_seconds(root, code):.3f}")
    show("own modules that tts.Endpoint loads", run(root, "-c", OWN_MODULES).strip())
    found: dict[str, dict[str, Any]] = json.loads(run(root, str(HERE / "trips.py"), "--json"))
    for title, figures in found.items():
        frequent = (f"{times:4} {left} -> {entered}" for times, left, entered in figures["frequent"])
        show(f"file changes in {title}", f"{figures['trips']} in {figures['files']} files", frequent)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, default=HERE.parents[1], help="the checkout to count")
    root: Path = parser.parse_args().root.resolve()
    modules = read(root)
    show_sizes(modules)
    show_imports(modules)
    show_names(modules)
    show_running(root)
