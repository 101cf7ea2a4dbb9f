"""`python`: an interpreter in the sandbox that keeps its variables from one call to the next."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any, ClassVar

from pydantic import PositiveFloat, PositiveInt

from tts.environments.workspace import text_in, tool
from tts.resources import Resources
from tts.trajectories import EndState, Environment, Episode, Observation, ToolCall
from tts.types import Problem
from tts.verifiers.sandbox import Invocation, Job, ProgramLimits, RunningProgram, Sandbox, encode

INTERPRETER = """
import ast, contextlib, io, traceback
cells = {"__name__": "__main__"}

class Words(io.TextIOBase):
    def __init__(self, most):
        self.left, self.text = most, []
    def write(self, text):
        self.text.append(text[:self.left])
        self.left -= len(self.text[-1])
        return len(text)

def run(code, most):
    words = Words(most)
    with contextlib.redirect_stdout(words), contextlib.redirect_stderr(words):
        try:
            tree = ast.parse(code, "cell")
            last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
            exec(compile(tree, "cell", "exec"), cells)
            value = None if last is None else eval(compile(ast.Expression(last.value), "cell", "eval"), cells)
            if value is not None:
                print(repr(value))
        except BaseException as error:
            error.__traceback__ = error.__traceback__ and error.__traceback__.tb_next
            traceback.print_exc()
    return "".join(words.text) + ("[... and more]" if words.left <= 0 else "")
"""
TOOL = tool(
    "python",
    "Run Python code and see what it prints, and the value of its last line. Variables are kept for the next call.",
    1,
    code=("string", "The code."),
)
LOST = {"cpu": "it took too long", "wall": "it took too long", "memory": "it needs too much memory"}
"""Why an interpreter was ended, where there is more to say than how."""


class PythonInterpreter(Environment):
    """A persistent interpreter in the sandbox, the tool `python`. The answer is the policy's last message."""

    name: ClassVar[str] = "python"
    runs_code: ClassVar[bool] = True
    forks: ClassVar[bool | None] = False

    timeout: PositiveFloat = 10.0
    """Seconds of CPU time for a call; one that idles is ended after ten times as many, at least 30."""
    output: PositiveInt = 10_000
    """Characters of an observation."""
    memory_mb: PositiveInt = 1024
    """Address space of the interpreter, in MB."""

    async def reset(self, problem: Problem, resources: Resources) -> Episode:
        return Interpreter(self, resources.get(Sandbox))


class Interpreter(Episode):
    """An interpreter, started when it is first called, and anew after it was ended."""

    tools: Sequence[Mapping[str, Any]] = (TOOL,)

    def __init__(self, environment: PythonInterpreter, sandbox: Sandbox) -> None:
        self.environment: PythonInterpreter = environment
        self.sandbox: Sandbox = sandbox
        self._said = hashlib.blake2b(digest_size=16)
        self._program: RunningProgram | None = None
        self._stack = AsyncExitStack()

    async def step(self, action: ToolCall | str) -> Observation:
        if isinstance(action, str):
            return Observation(done=True)
        try:
            observation = await self._run(text_in(action, "code"))
        except ValueError as error:
            observation = Observation(f"error: {error}")
        self._said.update(f"{len(observation.text)} {observation.text}".encode(errors="replace"))
        return observation

    async def state(self) -> EndState:
        """What it has said so far tells where it is; the answer is what the policy says."""
        return EndState(self._said.hexdigest())

    async def _run(self, code: str) -> Observation:
        program = self._program or await self._started()
        try:
            async with self.sandbox.core(), asyncio.timeout(max(30.0, 10 * self.environment.timeout)):
                result = await program.call(Invocation("run", encode((code, self.environment.output))))
            ended = "" if program.fate is None else result.status
        except TimeoutError:
            result, ended = None, "wall"
        if ended:
            await self.close()
            return Observation(
                f"error: {LOST.get(ended, ended)}; the interpreter was ended, and its variables are lost"
            )
        assert result is not None
        text: Any = result.values[0] if result.status == "ok" else f"error: {result.error or result.status}"
        return Observation(str(text) or "(no output)", cpu_seconds=result.cpu_seconds)

    async def _started(self) -> RunningProgram:
        space = self.environment
        limits = ProgramLimits(
            cpu_seconds=space.timeout * space.turns,
            case_cpu_seconds=space.timeout,
            wall_seconds=86_400,
            memory_mb=space.memory_mb,
            output_kb=1 << 16,
            answer_kb=1024,
        )
        opened = self.sandbox.open(Job(INTERPRETER, limits=limits), seldom=True)
        self._program = await self._stack.enter_async_context(opened)
        return self._program

    async def close(self) -> None:
        self._program = None
        await self._stack.aclose()
