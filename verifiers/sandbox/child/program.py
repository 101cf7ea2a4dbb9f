"""Runs one program, in the fork that exists for it and is already confined. Standard library alone.

It reads orders, one line of JSON each, and answers each with one line: `[status, [values], stdout, error]`. The judge
trusts nothing here: a program that takes this code over gains nothing but answers that it could have returned anyway.
"""

from __future__ import annotations

import builtins
import io
import json
import os
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import codec

TEXT = 500  # characters of an exception
CHUNK = 1 << 18
ANSWERS = 3  # the descriptor
STDOUT = 4000  # characters of output that are kept with a call, for people to read


def serve(descriptor: int) -> None:
    """Carry out orders until there are no more, then exit."""
    say(b"[]\n")
    for line in lines(descriptor):
        order = json.loads(line)
        if isinstance(order, list):
            say(call_all(order))
        elif "load" in order:
            say(load(order["load"], order["output"]))
        elif "script" in order:
            run_script(order["script"], order["stdin"])
        else:
            become(order)
    os._exit(0)


def lines(descriptor: int) -> Iterator[bytes]:
    """The orders, line by line."""
    parts: list[bytes] = []
    while data := os.read(descriptor, CHUNK):
        first, *others = data.split(b"\n")
        parts.append(first)
        for other in others:
            yield b"".join(parts)
            parts = [other]


def say(data: bytes) -> None:
    """Send an answer."""
    while data:
        data = data[os.write(ANSWERS, data) :]


# -- calls ---------------------------------------------------------------------------------------------------------

module = ModuleType("program")
space = module.__dict__
stored: dict[str, Any] = {}


class Capture(io.RawIOBase):
    """Keeps the start of what is printed; too much output ends the program."""

    def __init__(self, limit: int) -> None:
        self.left = limit
        self.text = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        size = len(data)
        self.left -= size
        if self.left < 0:
            say(answer("output"))
            os._exit(1)
        if len(self.text) < STDOUT:
            self.text += bytes(data[: STDOUT - len(self.text)])
        return size

    def take(self) -> str:
        """What was printed since the last time."""
        text = self.text.decode("utf-8", "replace")
        self.text.clear()
        return text


capture = Capture(0)


def prepare() -> None:
    """In the zygote: set up what is the same for all programs."""
    words: Any = capture
    sys.stdin = io.TextIOWrapper(io.BytesIO(), "utf-8")
    sys.stdout = sys.stderr = io.TextIOWrapper(words, "utf-8", "backslashreplace", write_through=True)
    sys.argv = ["program.py"]
    module.__file__ = "program.py"
    from _sitebuiltins import Quitter  # the names that `site` would have added

    builtins.exit, builtins.quit = Quitter("exit", "Ctrl-D"), Quitter("quit", "Ctrl-D")


def load(source: str, output: int) -> bytes:
    """Execute the program's text as the module `program`."""
    capture.left = output
    sys.modules["program"] = module
    try:
        exec(compile(source, "program.py", "exec", dont_inherit=True), space)
    except BaseException as error:
        return failure(error, [])
    return answer("ok")


def call_all(calls: list[list[Any]]) -> bytes:
    """One case: its calls, up to the first that fails."""
    values: list[str] = []
    try:
        for path, arguments, named, store in calls:
            first, *rest = path.split(".")
            if first in stored:
                target = stored[first]
            elif first in space:
                target = space[first]
            else:
                raise NameError(f"name '{first}' is not defined")
            for name in rest:
                target = getattr(target, name)
            if arguments:
                target = target(*codec.decode(arguments), **(codec.decode(named) if named else {}))
            if store is not None:
                stored[store] = target
            values.append(codec.encode(target))
    except BaseException as error:
        return failure(error, values)
    return answer("ok", values)


def answer(status: str, values: list[str] | None = None, error: str = "") -> bytes:
    """An answer as one line."""
    words = json.dumps([capture.take(), error])
    return f'["{status}",[{",".join(values or [])}],{words[1:]}\n'.encode()


def failure(error: BaseException, values: list[str]) -> bytes:
    """The answer of a case that raised."""
    return answer("memory" if isinstance(error, MemoryError) else "error", values, describe(error))


def describe(error: BaseException) -> str:
    """Type and message, shortened."""
    name = type(error).__name__
    try:
        text = str(error)[:TEXT]
    except BaseException:
        text = ""
    return f"{name}: {text}" if text else name


# -- scripts -------------------------------------------------------------------------------------------------------


def run_script(source: str, given: str) -> None:
    """Run the program as `__main__`; ends as the interpreter would: threads joined, output flushed, an exit status."""
    put_stdin(given)
    if "/dev/stdin" in source:  # there it is a link to this place
        with open("stdin", "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(given)
    sys.stdin = open(0, encoding="utf-8", errors="surrogateescape", closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
    sys.argv = ["program.py"]
    module = sys.modules["__main__"] = ModuleType("__main__")
    module.__dict__.update(__file__="program.py", __builtins__=builtins)
    code = 0
    try:
        exec(compile(source, "program.py", "exec", dont_inherit=True), module.__dict__)
    except SystemExit as error:
        code = exit_code(error.code)
        if code:
            say(answer("error", [], f"SystemExit: {str(error.code)[:TEXT]}"))
    except BaseException as error:
        code = 1
        say(failure(error, []))
    code = finish() or code
    os._exit(code)


def finish() -> int:
    """Do what the interpreter does when it exits; the exit status."""
    import atexit

    try:
        if threading := sys.modules.get("threading"):
            threading._shutdown()
        atexit._run_exitfuncs()
        sys.stdout.flush()
    except BaseException:
        return 120
    return 0


def exit_code(code: Any) -> int:
    """The status that `sys.exit(code)` means."""
    if code is None:
        return 0
    return code & 0xFF if isinstance(code, int) else 1


def put_stdin(given: str) -> None:
    """Write the text to the standard input, a file without a name, and rewind it."""
    rest = memoryview(given.encode("utf-8", "surrogateescape"))
    while rest:
        rest = rest[os.write(0, rest) :]
    os.lseek(0, 0, os.SEEK_SET)


def become(order: dict[str, Any]) -> None:
    """Become another program, whose standard error goes where answers go."""
    for name, text in order["files"].items():
        with open(name, "w", encoding="utf-8") as file:
            file.write(text)
    put_stdin(order["stdin"])
    os.dup2(ANSWERS, 2)
    os.closerange(3, 1024)
    os.execve(order["run"][0], order["run"], {"PATH": "/usr/bin:/bin", "TMPDIR": os.getcwd()})
