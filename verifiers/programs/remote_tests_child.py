"""Runs test code in an interpreter of its own, beside the program's.

This file is the source of a sandboxed program. Calls of the program under test go over a descriptor, in the format
that the judge itself uses, and its answers are plain data (`codec`), read strictly.
"""

import builtins
import importlib
import json
import operator
import os
import sys

import codec  # pyright: ignore[reportMissingImports] - beside the program, in the sandbox

PROGRAM = 4  # the descriptor at whose other end the program under test listens
MOST_CALLS = 100_000  # that one test may make
LONGEST = 64 << 20  # bytes of one answer
SHOWN = 160  # characters

space: dict = {"__name__": "tests"}


class Broken(BaseException):
    """The program under test has ended, or the test cannot go on: not an exception that the test itself raised."""


class Remote:
    """A name of the program under test, or an object that it has returned."""

    def __init__(self, path):
        self.__dict__["path"] = path

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return Remote(f"{self.path}.{name}")

    def __call__(self, *args, **kwargs):
        """Make the call in the program."""
        return link.ask(self.path, args, kwargs)

    def __hash__(self):
        return hash(self.path)


def forwarded(operation):
    """A method that applies the operation to the values."""
    return lambda *operands: operation(*map(value, operands))


for _name in ("eq", "lt", "le", "gt", "ge", "contains", "getitem", "sub", "add"):
    setattr(Remote, f"__{_name}__", forwarded(getattr(operator, _name)))
for _operation in (len, iter, bool):
    setattr(Remote, f"__{_operation.__name__}__", forwarded(_operation))


def value(thing):
    """What a remote name holds, as plain data."""
    if not isinstance(thing, Remote):
        return thing
    found = link.ask(thing.path)
    if isinstance(found, Remote):
        raise TypeError(f"{thing.path} is not plain data")
    return found


class Link:
    """The way to the program under test and back."""

    def __init__(self):
        self.calls = self.objects = 0
        self.last = ""  # the last call and its result, for the model to read

    def ask(self, path, args=None, kwargs=None):
        """Make a call, or read a name where there are no arguments: the value. Raises what the program raised."""
        self.calls += 1
        if self.calls > MOST_CALLS:
            raise Broken("wrong", f"more than {MOST_CALLS:,} calls in one test")
        given = "" if args is None else codec.encode(args), codec.encode(kwargs) if kwargs else ""
        if '{"o":' in given[0] + given[1] and not (codec.is_plain(args) and codec.is_plain(kwargs)):
            # made by the test, unless the program returned such a thing before
            raise Broken("wrong" if self.objects else "infra", f"a test hands {path} something that is not plain data")
        kept = f"object_{self.calls}"
        send(json.dumps([[path, *given, kept]]).encode() + b"\n")
        status, values, error = self.answer(path)
        self.last = shown_call(path, args, kwargs) + (f" raised {error}" if error else f" gave {shown(values[-1])}")
        if status == "error":
            raise exception(error)
        if isinstance(values[-1], codec.Opaque):
            self.objects += 1
            return Remote(kept)
        return values[-1]

    def answer(self, path):
        """The next answer: status, values, and the exception's words."""
        data = receive()
        try:
            status, values, _, error = codec.read_answer(data)
            if (status == "ok") != bool(values):
                raise ValueError("not an answer")
        except ValueError as problem:
            raise Broken("crashed", f"its answer cannot be read: {problem}") from None
        if status in ("memory", "output"):
            raise Broken(status, f"{path}: {error}" if error else path)
        return status, values, error


link = Link()


def send(data):
    """Send an order to the program."""
    try:
        while data:
            data = data[os.write(PROGRAM, data) :]
    except OSError:
        raise Broken("ended", "") from None


def receive():
    """One line from the program."""
    parts, size = [], 0
    while not parts or not parts[-1].endswith(b"\n"):
        data = os.read(PROGRAM, 1 << 16)
        size += len(data)
        if not data:
            raise Broken("ended", "")
        if size > LONGEST:
            raise Broken("output", "its answer is too long")
        parts.append(data)
    return b"".join(parts)


def exception(words):
    """The exception that the program raised; a RuntimeError where its type is not built in."""
    name, _, text = words.partition(": ")
    kind = getattr(builtins, name, None)
    if name == "UnicodeDecodeError" or not (isinstance(kind, type) and issubclass(kind, Exception)):
        return ValueError(text) if name == "UnicodeDecodeError" else RuntimeError(text)
    return kind(text)


def shown(thing):
    """A short text of a value."""
    if isinstance(thing, codec.Opaque):
        return f"an object of type {thing.type[:60]}"
    text = repr(thing)
    return text if len(text) <= SHOWN else f"{text[: SHOWN // 2]} ... {text[-SHOWN // 2 :]}"


def shown_call(path, args, kwargs):
    """A call as it is written."""
    if args is None:
        return path
    words = [*map(shown, args), *(f"{key}={shown(item)}" for key, item in kwargs.items())]
    return f"{path}({', '.join(words)})"


def prepare(setup, helpers, remote):
    """Execute what the tests build upon. `remote` maps names to paths in the program; these take precedence."""
    for source in (setup, helpers):
        exec(compile(source, "tests.py", "exec"), space)
    space.update({name: Remote(path) for name, path in remote.items()})


def run_test(source, names, call_check):
    """Run a test to its end: ("passed",), ("failed", exception, words, last call), or how the program failed."""
    link.calls, link.last = 0, ""
    code = compile(source, "tests.py", "exec")
    bind_unknown(names)
    try:
        exec(code, space)
        if call_check:
            space["check"](space["candidate"])
    except Broken as broken:
        return broken.args
    except BaseException as error:
        return ("failed", type(error).__name__, str(error)[:400], link.last)
    return ("passed",)


def bind_unknown(names):
    """Bind names that nothing here defines: to the standard module of that name, else to the program's name."""
    for name in names:
        if name not in space and not hasattr(builtins, name):
            if name in sys.stdlib_module_names:
                space[name] = importlib.import_module(name)
            else:
                space[name] = Remote(name)
