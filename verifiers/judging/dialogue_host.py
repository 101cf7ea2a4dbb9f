"""Runs test code in an interpreter of its own, beside the program's.

This file is the source of a sandboxed program. Whatever the tests call of the program under test is handed out as a
request and waits for its answer, which is plain data. So a test runs in a thread, and `step` goes back and forth:
it takes the answer to the last request and returns the next one, or how the test ended.
"""

import ast
import builtins
import importlib
import queue
import sys
import threading

requests = queue.SimpleQueue()
answers = queue.SimpleQueue()
space = {"__name__": "tests"}
numbers = iter(range(10**9))


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
        return ask("call", self.path, args, kwargs)

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
    found = ask("read", thing.path, (), {})
    if isinstance(found, Remote):
        raise TypeError(f"{thing.path} is no plain data")
    return found


def ask(*request):
    """Hand out a request and wait for its answer."""
    kept = f"object_{next(numbers)}"
    requests.put((*request, kept))
    kind, got, words = answers.get()
    if kind == "object":
        return Remote(kept)
    if kind == "raised":
        error = getattr(builtins, got, None)
        is_error = isinstance(error, type) and issubclass(error, Exception)
        raise (error if is_error else RuntimeError)(words) if got != "UnicodeDecodeError" else ValueError(words)
    return got


def prepare(setup, helpers, remote):
    """Execute what the tests build upon. `remote` maps names to paths in the program; they win over all others."""
    for source in (setup, helpers):
        exec(compile(source, "tests.py", "exec"), space)
    space.update({name: Remote(path) for name, path in remote.items()})


def begin(source, call_check):
    """Start a test and return its first request, or how it ended."""
    tree = ast.parse(source)
    bind_unknown(tree)
    threading.Thread(target=run, args=(compile(tree, "tests.py", "exec"), call_check), daemon=True).start()
    return requests.get()


def step(kind, got, words):
    """Answer the last request and return the next one, or how the test ended."""
    answers.put((kind, got, words))
    return requests.get()


def bind_unknown(tree):
    """A name that nothing here defines is the standard module of that name, else the program's."""
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    for name in names:
        if name not in space and not hasattr(builtins, name):
            if name in sys.stdlib_module_names:
                space[name] = importlib.import_module(name)
            else:
                space[name] = Remote(name)


def run(code, call_check):
    """Run a test to its end."""
    try:
        exec(code, space)
        if call_check:
            space["check"](space["candidate"])
        requests.put(("passed",))
    except BaseException as error:
        requests.put(("failed", type(error).__name__, str(error)[:400]))
