"""Runs test code in an interpreter of its own, beside the program's.

This file is the source of a sandboxed program. What the tests call of the program under test is asked of it over a
descriptor, in the words that the judge itself would use, and its answers are plain data (`codec`), read strictly.
"""

import builtins
import importlib
import json
import os
import sys

import codec  # pyright: ignore[reportMissingImports] - beside the program, in the sandbox

PROGRAM = 4  # the descriptor that the program under test is at the other end of
MOST_CALLS = 100_000  # that one test may make
LONGEST = 64 << 20  # bytes of one answer
SHOWN = 160  # characters

space: dict = {"__name__": "tests"}


class Broken(BaseException):
    """The program under test has ended, or the test cannot go on: no exception of a test's own."""


class Remote:
    """A name of the program under test, or an object that it has returned."""

    def __init__(self, path):
        self.__dict__["path"] = path

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return Remote(f"{self.path}.{name}")

    def __call__(self, *args, **kwargs):
        """Have the program make the call."""
        return line.ask(self.path, args, kwargs)

    def __eq__(self, other):
        return value(self) == value(other)

    def __hash__(self):
        return hash(self.path)

    def __lt__(self, other):
        return value(self) < value(other)

    def __le__(self, other):
        return value(self) <= value(other)

    def __gt__(self, other):
        return value(self) > value(other)

    def __ge__(self, other):
        return value(self) >= value(other)

    def __len__(self):
        return len(value(self))

    def __iter__(self):
        return iter(value(self))

    def __contains__(self, item):
        return item in value(self)

    def __getitem__(self, key):
        return value(self)[key]

    def __bool__(self):
        return bool(value(self))

    def __sub__(self, other):
        return value(self) - value(other)

    def __add__(self, other):
        return value(self) + value(other)


def value(thing):
    """What a remote name holds, as plain data."""
    if not isinstance(thing, Remote):
        return thing
    found = line.ask(thing.path)
    if isinstance(found, Remote):
        raise TypeError(f"{thing.path} is no plain data")
    return found


class Line:
    """The way to the program under test and back."""

    def __init__(self):
        self.calls = self.objects = 0
        self.last = ""  # what was called last and what came of it, for the model to read

    def ask(self, path, args=None, kwargs=None):
        """Have a call made, or where there are no arguments a name read; the value, or the exception."""
        self.calls += 1
        if self.calls > MOST_CALLS:
            raise Broken("wrong", f"more than {MOST_CALLS:,} calls in one test")
        given = "" if args is None else codec.encode(args), codec.encode(kwargs) if kwargs else ""
        if '{"o":' in given[0] + given[1] and not (codec.is_plain(args) and codec.is_plain(kwargs)):
            # made by the test, unless the program gave such a thing before
            raise Broken("wrong" if self.objects else "infra", f"a test hands {path} something that is no plain data")
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
            status, values, _, error = codec.parse(data.decode("ascii"))
            values = [codec.unpack(one) for one in values]
            if status not in ("ok", "error", "memory", "output") or (status == "ok") != bool(values):
                raise ValueError("not an answer")
        except (ValueError, TypeError) as problem:
            raise Broken("crashed", f"its answer cannot be read: {problem}") from None
        if status in ("memory", "output"):
            raise Broken(status, f"{path}: {error}" if error else path)
        return status, values, error


line = Line()


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
    """What the program's call raised, as far as it is built in."""
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
    """Execute what the tests build upon. `remote` maps names to paths in the program; they win over all others."""
    for source in (setup, helpers):
        exec(compile(source, "tests.py", "exec"), space)
    space.update({name: Remote(path) for name, path in remote.items()})


def hold(source, names, call_check):
    """Run a test to its end: ("passed",), ("failed", exception, words, last call), or how the program failed."""
    line.calls, line.last = 0, ""
    code = compile(source, "tests.py", "exec")
    bind_unknown(names)
    try:
        exec(code, space)
        if call_check:
            space["check"](space["candidate"])
    except Broken as broken:
        return broken.args
    except BaseException as error:
        return ("failed", type(error).__name__, str(error)[:400], line.last)
    return ("passed",)


def bind_unknown(names):
    """A name that nothing here defines is the standard module of that name, else the program's."""
    for name in names:
        if name not in space and not hasattr(builtins, name):
            if name in sys.stdlib_module_names:
                space[name] = importlib.import_module(name)
            else:
                space[name] = Remote(name)
