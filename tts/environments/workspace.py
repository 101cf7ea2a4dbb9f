"""`workspace`: a folder of files with the tools `bash`, `read`, `write` and `apply_patch`.

The folder is a value (`tts.environments.folder`), and nothing runs between two turns. `read`, `write` and `apply_patch`
work on the value; `bash` puts it into a fresh sandbox, runs one command there, and takes back what has become of it. So
a command can reach nothing but its own copy, nothing that it starts outlives it, and a fork costs nothing.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field, PositiveFloat, PositiveInt

from tts.concurrency import aside
from tts.environments.folder import (
    HIDDEN,
    Folder,
    PatchError,
    applied,
    difference,
    digest_of,
    folder_of,
    path_of,
    text_of,
    visible,
)
from tts.errors import ConfigError
from tts.resources import Resources
from tts.trajectories import EndState, Environment, Episode, Observation, ToolCall, shortened
from tts.types import Problem
from tts.verifiers.sandbox import Job, ProgramLimits, Sandbox

CHILD = Path(__file__).with_name("workspace_child.py").read_text(encoding="utf-8")
NOT_READ = HIDDEN | {"__pycache__", ".pytest_cache", ".mypy_cache", ".ruff_cache"}
"""Names that are left out of a folder of this machine."""
SLOW = 64
"""Work with patches, as `aside` counts it, for each byte."""
SHOWN = 100
"""Files that are listed at the beginning."""
INTRODUCTION = """\
You work in a folder with these files:
{files}

Use the tools; they all work in this folder. Each bash command starts in it anew. There is no network. When you are \
done, reply without calling a tool."""


def tool(name: str, description: str, required: int, **parameters: tuple[str, str]) -> dict[str, Any]:
    """A tool in OpenAI's form, of parameters with their type and meaning, the first of which are `required`."""
    properties = {key: {"type": kind, "description": words} for key, (kind, words) in parameters.items()}
    schema = {"type": "object", "properties": properties, "required": [*parameters][:required]}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": schema}}


TOOLS = (
    tool("bash", "Run a command with bash and see what it prints.", 1, command=("string", "The command.")),
    tool(
        "read",
        "Read a file.",
        1,
        path=("string", "Its path in the folder."),
        begin=("integer", "The first line to read, from 1."),
        lines=("integer", "How many lines to read."),
    ),
    tool(
        "write",
        "Write a file, in place of what it holds.",
        2,
        path=("string", "Its path in the folder."),
        content=("string", "All that is to be in it."),
    ),
    tool("apply_patch", "Change files by a unified diff.", 1, patch=("string", "--- a/FILE, +++ b/FILE, @@ hunks.")),
)


@dataclass(frozen=True)
class Ran:
    """What came of a command."""

    output: str
    ended: str
    """How it ended, unless with the exit status 0."""
    folder: Folder
    """What the folder has become."""
    left_out: list[str]
    """What is there and cannot be kept."""
    cpu: float
    """Seconds of CPU time, also of what was still running at the end."""


class Workspace(Environment):
    """A folder in the sandbox, with bash, read, write and apply_patch. The answer is what has changed, as a patch.

    It begins with the texts by path in the problem's `metadata["files"]`, or with a `folder` of this machine.
    """

    runs_code: ClassVar[bool] = True
    forks: ClassVar[bool | None] = True
    reader: ClassVar[str | None] = "patch"

    folder: Path | None = None
    """A folder to begin with a copy of; by default the problem's own files."""
    timeout: PositiveFloat = 30.0
    """Elapsed seconds for a command."""
    output: PositiveInt = 10_000
    """Characters of an observation; the middle of what is longer is left out."""
    size_kb: PositiveInt = 4096
    """KB that the folder may hold."""
    files: int = Field(default=1000, ge=1, le=3000)
    """Files that it may hold."""
    memory_mb: PositiveInt = 1024
    """Address space of each process, in MB."""
    processes: int = Field(default=32, ge=4)
    """Processes and threads of a command at once."""

    def ready(self, problem: Problem) -> None:
        held = self.begin(problem)
        if sum(map(len, held.values())) > self.size_kb * 1024 or len(held) > self.files:
            raise ConfigError(
                f"the folder of {problem.id} is larger than size_kb={self.size_kb}, files={self.files} allow"
            )

    def begin(self, problem: Problem) -> dict[str, bytes]:
        """The files at the beginning. Raises `ConfigError` where they cannot be read."""
        if self.folder is None:
            return folder_of(problem)
        try:
            found = sorted(path for path in self.folder.rglob("*") if path.is_file() and not path.is_symlink())
            named = {path.relative_to(self.folder).as_posix(): path for path in found}
            named = {name: path for name, path in named.items() if not NOT_READ.intersection(name.split("/"))}
            if not self.folder.is_dir() or len(named) > self.files:
                raise ConfigError(f"{self.folder} is no folder, or has more than files={self.files} files")
            return {path_of(name): path.read_bytes() for name, path in named.items()}
        except (OSError, ValueError) as error:
            raise ConfigError(f"cannot read {self.folder}: {error}") from error

    async def run(self, sandbox: Sandbox, folder: Folder, command: str) -> Ran:
        """Run one command in a sandboxed copy of `folder`. Raises `SandboxError` where there are no namespaces."""
        order = {
            "files": {path: base64.b64encode(data).decode() for path, data in folder.items()},
            "command": command,
            "seconds": self.timeout,
            "output": self.output,
            "bytes": self.size_kb * 1024,
            "count": self.files,
        }
        limits = ProgramLimits(
            cpu_seconds=4 * self.timeout,
            wall_seconds=2 * self.timeout + 30,
            memory_mb=max(self.memory_mb, 8 * self.size_kb // 1024 + 64),
            output_kb=2 * self.size_kb + 1024,
            processes=self.processes,
        )
        done = await sandbox.run(Job(CHILD, scripts=(json.dumps(order),), limits=limits, starting="processes"))
        result = done.cases[0] if done.cases else done.loaded
        try:
            answer = json.loads(result.stdout)
            output, ended = base64.b64decode(answer["output"]).decode(errors="replace"), answer["ended"]
            changed = {path: base64.b64decode(data) for path, data in answer["changed"].items()}
            cpu = done.cpu_seconds + answer["left_running"]
        except (ValueError, KeyError, TypeError):
            words = f"error: it could not be run to its end ({result.status}), and the folder is as it was before"
            return Ran(words, result.status, folder, [], done.cpu_seconds)
        odd = [f"{path!r} (its name)" for path in changed if not is_path(path)]
        kept = {path: data for path, data in folder.items() if path not in answer["removed"]}
        kept |= {path: data for path, data in changed.items() if is_path(path)}
        return Ran(output, ended, kept, [*answer["left_out"], *odd], cpu)

    async def reset(self, problem: Problem, resources: Resources) -> Episode:
        return FolderEpisode(self, self.begin(problem), resources.get(Sandbox))


class FolderEpisode(Episode):
    """A folder that tools change."""

    tools: Sequence[Mapping[str, Any]] = TOOLS

    def __init__(self, workspace: Workspace, folder: Mapping[str, bytes], sandbox: Sandbox) -> None:
        self.workspace: Workspace = workspace
        self.sandbox: Sandbox = sandbox
        self.start: Mapping[str, bytes] = folder
        self.folder: dict[str, bytes] = dict(folder)
        names = sorted(folder)
        more = [f"... and {len(names) - SHOWN} more"] if len(names) > SHOWN else []
        self.observation: str = INTRODUCTION.format(files="\n".join([*names[:SHOWN], *more]) or "(none)")

    async def fork(self) -> Episode:
        other = FolderEpisode(self.workspace, self.start, self.sandbox)
        other.folder = dict(self.folder)
        return other

    async def state(self) -> EndState:
        size = sum(map(len, self.folder.values()))
        patch, left_out = await aside(SLOW * size, difference, self.start, self.folder)
        old, new = visible(self.start), visible(self.folder)
        notes: dict[str, Any] = {"changed": sorted(path for path in old | new if old.get(path) != new.get(path))}
        return EndState(digest_of(self.folder), patch, {**notes, "left_out": left_out} if left_out else notes)

    async def step(self, action: ToolCall | str) -> Observation:
        if isinstance(action, str):
            return Observation(done=True)
        try:
            if action.name == "bash":
                return await self._bash(text_in(action, "command"))
            if action.name == "apply_patch":
                words = await self._patch(text_in(action, "patch"))
            else:
                words = {"read": self._read, "write": self._write}[action.name](action)
        except ValueError as error:
            words = f"error: {error}"
        return Observation(shortened(words, self.workspace.output))

    def _read(self, call: ToolCall) -> str:
        path = path_of(text_in(call, "path"))
        if path not in self.folder:
            raise ValueError(f"there is no file {path}")
        if (text := text_of(self.folder[path])) is None:
            raise ValueError(f"{path} is no text")
        begin, lines = number_in(call, "begin", 1), number_in(call, "lines", 1 << 30)
        return "\n".join(text.split("\n")[begin - 1 : begin - 1 + lines]) or "(nothing)"

    def _write(self, call: ToolCall) -> str:
        path = path_of(text_in(call, "path"))
        self.put({**self.folder, path: text_in(call, "content").encode()})
        return f"{path} has been written"

    async def _patch(self, patch: str) -> str:
        try:
            self.put(await aside(SLOW * len(patch), applied, self.folder, patch))
        except PatchError as error:
            raise ValueError(f"nothing has been changed: {error}") from error
        return "the patch has been applied"

    def put(self, folder: Mapping[str, bytes]) -> None:
        """Go on with these files. Raises `ValueError` for more than fits, and for a file where a folder is."""
        if sum(map(len, folder.values())) > self.workspace.size_kb * 1024 or len(folder) > self.workspace.files:
            raise ValueError(f"the folder may hold {self.workspace.size_kb} KB in {self.workspace.files} files")
        above = {path[:i] for path in folder for i, letter in enumerate(path.rstrip("/")) if letter == "/"}
        if both := above & folder.keys():
            raise ValueError(f"{min(both)} cannot be a file and a folder")
        filled = {f"{path}/" for path in above}  # which are no longer empty
        self.folder = {path: data for path, data in folder.items() if path not in filled}

    async def _bash(self, command: str) -> Observation:
        ran = await self.workspace.run(self.sandbox, self.folder, command)
        words = [shortened(ran.output, self.workspace.output)]
        if ran.left_out:
            words.append(f"(not kept in the folder: {', '.join(ran.left_out)[:1000]})")
        try:
            self.put(ran.folder)
        except ValueError as error:
            words.append(f"(the folder is as it was before: {error})")
        if ran.ended:
            words.append(f"({ran.ended})")
        return Observation("\n".join(filter(None, words)) or "(no output)", cpu_seconds=ran.cpu)


def is_path(path: str) -> bool:
    """Whether a path that a command has made can be kept."""
    try:
        return path_of(path) == path.removesuffix("/")
    except ValueError:
        return False


def text_in(call: ToolCall, name: str) -> str:
    """The argument called `name`. Raises `ValueError` unless it is a text."""
    value = call.arguments.get(name)
    if not isinstance(value, str):
        raise ValueError(f"{call.name} needs {name}, a text")
    value.encode()  # a half of a character is none
    return value


def number_in(call: ToolCall, name: str, otherwise: int) -> int:
    """The argument called `name`, a whole number from 1 on. Raises `ValueError` for anything else."""
    value = call.arguments.get(name, otherwise)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be a whole number from 1 on")
    return value
