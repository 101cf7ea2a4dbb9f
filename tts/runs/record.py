"""The record of a run, `run.json`: its configuration, its problems and what made it; what may change on resume."""

from __future__ import annotations

import hashlib
import json
import platform
import re
import shlex
import sys
from collections.abc import Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from time import time
from typing import Any

from tts.errors import ConfigError, RunMismatch
from tts.files import write_atomically
from tts.runs.config import Grid
from tts.tasks import Example

installed = cache(version)
"""The version of a package, read once: its metadata hold the whole README."""


def write_record(directory: Path, grid: Grid, examples: Sequence[Example], *, resume: bool, used: bool) -> None:
    """Write `run.json` beside the data, after checking that results already there have the same configuration.

    A resume may add and leave out strategies, seeds, models and problems, and may add roles of a model. `used` says
    whether the directory holds anything that was paid for. Raises `RunMismatch` that names the keys or the problem
    that differ, and `ConfigError` when there are results and no `resume`.
    """
    path = directory / "run.json"
    record = {
        "config": grid.model_dump(mode="json"),
        "essence": grid.essence(),
        "problems": {example.problem.id: fingerprint(example) for example in examples},
        "started": time(),
        "folder": str(Path.cwd()),
        "command": redacted(sys.argv),
        "versions": {"ttscale": installed("ttscale"), "python": platform.python_version()},
    }
    if used and path.exists():
        if not resume:
            raise ConfigError(f"{directory} already holds a run; add --resume to continue it, or choose another --out")
        _merge(record, read_record(directory), directory)
    write_atomically(path, json.dumps(record, indent=2, default=str))


def read_record(directory: Path) -> dict[str, Any]:
    """The contents of `run.json`. Raises `ConfigError` when there are none.

    A file of problems is found from anywhere, be its path relative to the `folder` in which the run was started.
    """
    try:
        record = json.loads((directory / "run.json").read_text())
    except ValueError as error:
        raise ConfigError(
            f"{directory / 'run.json'} is damaged ({error}); restore a copy, or choose another directory"
        ) from None
    except OSError as error:
        if found := sorted(map(str, runs_below(directory))):
            names = ", ".join(found[:5]) + (f" and {len(found) - 5} more" if len(found) > 5 else "")
            raise ConfigError(
                f"{directory} is not a run directory but holds such: {names}. Name one of them, or see all with: "
                f"tts view {shlex.quote(str(directory))}"
            ) from None
        raise ConfigError(
            f"{directory} is not a run directory (run.json: {error.strerror}); `tts run --out {directory}` makes one"
        ) from None
    match record:
        case {"folder": folder, "config": {"task": {"path": str(path)} as task}} if Path(folder, path).is_file():
            task["path"] = str(Path(folder, path))
    return record


def runs_below(folder: Path) -> list[Path]:
    """The run directories in a folder, itself and those in its folders among them, down to the third."""
    return [file.parent for depth in range(4) for file in folder.glob("*/" * depth + "run.json")]


def fingerprint(example: Example) -> str:
    """A digest of a problem and its truth, which tells whether they have changed."""
    unsaid = set[str]() if example.problem.environment else {"environment"}  # older runs have no such field
    problem = example.problem.model_dump(mode="json", exclude=unsaid)
    content = json.dumps([problem, example.truth.config()], sort_keys=True, default=str)
    return hashlib.blake2b(content.encode(), digest_size=6).hexdigest()


def redacted(words: Sequence[str]) -> list[str]:
    """A command's words without its secrets: the values of options that name a key or headers."""
    secret = re.compile(r"--\S*(api_key|headers\.[^=\s]+)(?!_)")
    shown, hide = [], False
    for word in words:
        option, equals, _ = word.partition("=")
        found = bool(secret.fullmatch(option))
        shown.append("***" if hide else f"{option}=***" if found and equals else word)
        hide = found and not equals
    return shown


def _merge(record: dict[str, Any], before: dict[str, Any], directory: Path) -> None:
    """Check that `record` has the same configuration as `before`, and add to it what only `before` has."""
    differ = _differences(before["essence"], record["essence"])
    changed = [name for name, digest in record["problems"].items() if before["problems"].get(name, digest) != digest]
    if changed:
        differ.append(f"problem {changed[0]} has changed")
    if differ:
        raise RunMismatch(
            f"{directory} holds results of another configuration: {'; '.join(differ)}. "
            "Go back to the old settings, or choose another --out. "
            "(If the same model is now served elsewhere, set models.NAME.identity)"
        )
    for part in ("essence", "config"):
        record[part]["models"] = {**before[part]["models"], **record[part]["models"]}
    record["problems"] = {**before["problems"], **record["problems"]}


def _differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    shared = before["models"].keys() & now["models"].keys()
    kept = {name: {role: now["models"][name].get(role) for role in before["models"][name]} for name in shared}
    old = _flat({**before, "models": {name: before["models"][name] for name in shared}})
    new = _flat({**now, "models": kept})  # a role that was not there has no results
    return [
        f"{key} was {old.get(key, 'unset')!r}, is {new.get(key, 'unset')!r}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    ]


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict):
        return {prefix.removesuffix("."): tree}
    return {key: value for name, child in tree.items() for key, value in _flat(child, f"{prefix}{name}.").items()}
