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
CHUNK = 256  # items of an iterator that are fetched at once, at most
SHOWN = 160  # characters

space: dict = {"__name__": "tests"}


class Broken(BaseException):
    """The program under test has ended, or the test cannot go on: not an exception that the test itself raised."""


class Remote:
    """A name of the program under test, or an object that it has returned.

    What it contains and says may be asked for, since that is then compared here. It never compares itself: the program
    would see what is expected.
    """

    def __init__(self, path):
        self.__dict__["path"] = path

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        path = f"{self.path}.{name}"
        return link.ask("read", path) if self.path.startswith("object_") else Remote(path)

    def __call__(self, *args, **kwargs):
        """Make the call in the program."""
        return link.call(self.path, args, kwargs)

    def __hash__(self):
        return hash(self.path)

    def __eq__(self, other):
        if self is other:
            return True
        numpy = sys.modules.get("numpy")
        if numpy is not None and isinstance(other, numpy.ndarray):
            items = numpy.array(link.call(f"{self.path}.tolist", (), {}))
            return items == other if items.shape == other.shape else numpy.False_
        one, two = value(self), value(other)
        return not isinstance(one, Remote) and not isinstance(two, Remote) and one == two

    def __contains__(self, item):
        return item in value(self) if not isinstance(value(self), Remote) else any(item == one for one in self)

    def __getitem__(self, key):
        if isinstance(key, slice):
            return value(self)[key] if not isinstance(value(self), Remote) else list(self)[key]
        return link.ask("item", self.path, key)

    def __iter__(self):
        inside = value(self)
        if not isinstance(inside, Remote):
            yield from inside
            return
        iterator, size = link.ask("iter", self.path), 1
        if not isinstance(iterator, Remote):
            raise TypeError(f"{self.path} is not iterable")
        while True:
            items = link.ask("some", iterator.path, size)
            yield from items
            if len(items) < size:
                return
            size = min(2 * size, CHUNK)

    def __enter__(self):
        return link.ask("enter", self.path)

    def __exit__(self, *_):
        link.ask("exit", self.path)  # what it answers counts nothing: it could take back a failure

    def __next__(self):
        return link.ask("next", self.path, stops=True)


def forwarded(operation):
    """A method that applies the operation to the values, which must be plain data."""

    def method(*operands):
        values = list(map(value, operands))
        if any(isinstance(one, Remote) for one in values):
            raise TypeError("an object of the program is not plain data")
        return operation(*values)

    return method


def asked(what):
    """A method that lets the program do what a builtin does."""
    return lambda remote: link.ask(what, remote.path)


for _name in ("lt", "le", "gt", "ge", "sub", "add"):
    setattr(Remote, f"__{_name}__", forwarded(getattr(operator, _name)))
for _name in ("len", "bool", "str", "repr", "int", "float", "abs"):
    setattr(Remote, f"__{_name}__", asked(_name))


def value(thing):
    """What a remote name holds, if it is plain data."""
    return link.ask("read", thing.path) if isinstance(thing, Remote) else thing


class Link:
    """The way to the program under test and back."""

    def __init__(self):
        self.calls = 0
        self.kept = 0  # objects of the program, each under a name of its own
        self.last = ""  # the last call and its result, for the model to read
        self.lent = []  # objects of the tests that the program may use

    def call(self, path, args, kwargs):
        """Make a call: the value. Arguments that it changed in place are changed here, too."""
        result, changed, same = self._values("call", path, args, kwargs, shown_call(path, args, kwargs))
        if changed is not None:
            after, named = changed
            for old, new in [*zip(args, after, strict=False), *((kwargs[key], new) for key, new in named.items())]:
                refilled(old, new)
        return args[same] if type(same) is int and 0 <= same < len(args) else result

    def ask(self, what, path, given=None, *, stops=False):
        """What a builtin says of a name or an object of the program."""
        return self._values(what, path, given, {}, f"{what}({path})", stops=stops)[0]

    def _values(self, what, path, given, kwargs, words, *, stops=False):
        self.calls += 1
        if self.calls > MOST_CALLS:
            raise Broken("wrong", f"more than {MOST_CALLS:,} calls in one test")
        self.kept += 1
        kept = f"object_{self.kept}"
        texts = [codec.encode(self.outgoing(one)) for one in (given, kwargs)]
        send({"ask": [what, path, *texts, kept]})
        status, values, error = self.answer(path)
        if status == "error":
            self.last = f"{words} raised {error}"
            raise exception(values, error, stops)
        opaque = isinstance(values[0], codec.Opaque)
        self.last = f"{words} gave {shown(values[0])}"
        return [Remote(kept) if opaque else values[0], *values[1:]]

    def answer(self, path):
        """The next answer: status, values, and the exception's words. Requests that come before are granted."""
        while True:
            data = receive()
            number, what, args, kwargs = 0, "", "", ""
            try:
                status, values, _, error = codec.read_answer(data, asking=True)
                if status in ("ok", "ask") and not values:
                    raise ValueError("not an answer")
                if status == "ask":
                    number, what, args, kwargs = values[0]
                    args, kwargs = codec.decode(args), codec.decode(kwargs)
                    if not (type(number) is int and 0 <= number < len(self.lent)):
                        raise ValueError("not an object of the tests")
            except (ValueError, TypeError) as problem:
                raise Broken("crashed", f"its answer cannot be read: {problem}") from None
            if status in ("memory", "output", "large"):
                raise Broken("output" if status == "large" else status, f"{path}: {error}" if error else path)
            if status != "ask":
                return status, values, error
            self.calls += 1
            if self.calls > MOST_CALLS:
                raise Broken("wrong", f"more than {MOST_CALLS:,} calls in one test")
            try:
                reply = {"reply": codec.encode(self.outgoing(used(self.lent[number], what, args, kwargs)))}
            except Exception as problem:
                reply = {"raise": [type(problem).__name__, str(problem)[:400]]}
            send(reply)

    def outgoing(self, thing):
        """What goes to the program: plain data, references to its own objects, and things lent to it."""
        if isinstance(thing, Remote):
            return codec.ObjectReference(thing.path) if thing.path.startswith("object_") else value(thing)
        if codec.is_plain(thing):
            return thing
        if isinstance(thing, (list, tuple, set, frozenset)) and type(thing).__module__ in ("builtins", "collections"):
            return type(thing)([self.outgoing(item) for item in thing])
        if isinstance(thing, dict):
            return {key: self.outgoing(item) for key, item in thing.items()}
        if type(codec.decode(codec.encode(thing))) is not codec.Opaque:  # a named tuple, a number of numpy
            return thing
        number = next((i for i, one in enumerate(self.lent) if one is thing), len(self.lent))
        self.lent[number:] = self.lent[number:] or [thing]
        return codec.ObjectReference(number)


def used(thing, what, args, kwargs):
    """Do for the program what it may do with an object of the tests."""
    if what == "":
        return thing(*args, **kwargs)
    if what in ("getattr", "setattr"):
        if args[0].startswith("_"):
            raise AttributeError(args[0])
        return getattr(thing, args[0]) if what == "getattr" else setattr(thing, args[0], args[1])
    if what == "next":
        return [item for item, _ in zip(thing, range(1), strict=False)]
    return {"list": list, "len": len, "bool": bool, "getitem": operator.getitem}[what](thing, *args)


def refilled(old, new):
    """`old` with the contents of `new`, in place where both are containers of one kind; `new` where they are not."""
    if type(old) is not type(new) or isinstance(old, codec.Opaque):
        return new
    if isinstance(old, list):
        old[:] = [refilled(old[i], item) if i < len(old) else item for i, item in enumerate(new)]
    elif isinstance(old, dict):
        items = {key: refilled(old[key], item) if key in old else item for key, item in new.items()}
        old.clear()
        old.update(items)
    elif isinstance(old, (set, codec.deque, bytearray)):
        old.clear()
        old.extend(new) if not isinstance(old, set) else old.update(new)
    elif isinstance(old, tuple) and len(old) == len(new):
        for one, other in zip(old, new, strict=True):
            refilled(one, other)
    else:
        return new
    return old


link = Link()


def lent_before(key):
    """The object of the tests that the program hands back."""
    if type(key) is int and 0 <= key < len(link.lent):
        return link.lent[key]
    raise ValueError("not an object of the tests")


codec.resolve = lent_before


def send(order):
    """Send an order to the program."""
    data = json.dumps(order).encode() + b"\n"
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


mirrors: dict = {}


def mirror(names):
    """The class here that stands for an exception class of the program, by the names of its classes."""
    name = names[0] if names else "Exception"
    module, _, last = name.rpartition(".")
    library = module.partition(".")[0] in sys.stdlib_module_names
    known = getattr(sys.modules.get(module) if library else builtins, last, None)
    if isinstance(known, type) and issubclass(known, Exception):
        return known
    if name not in mirrors:
        bases = [base for base in names[1:] if base not in ("object", "BaseException")]
        base = mirror(bases) if bases else Exception
        mirrors[name] = type(last, (base,), {"__str__": lambda error: vars(error).get("_words", "")})
    return mirrors[name]


def exception(values, words, stops):
    """The exception that the program raised, of the class of the same name.

    A StopIteration that no test asked for is a RuntimeError: it would end the test's own loops as if all were well.
    """
    try:
        names, args, text, attributes = values
        if not all(type(name) is str for name in names) or type(args) is not tuple:
            raise ValueError("not an exception")
    except (ValueError, TypeError):
        return RuntimeError(words)
    if {"StopIteration", "StopAsyncIteration"} & {*names} and not (stops and names[0] == "StopIteration"):
        return RuntimeError(f"the program raised {names[0]}")
    kind = mirror(names)
    try:
        error = kind(*args)
    except Exception:  # a constructor that wants more
        error = kind.__new__(kind)
        error.args = args
    if names[0] in mirrors:
        vars(error).update({key: item for key, item in attributes.items() if type(key) is str} | {"_words": text})
    return error


def shown(thing):
    """A short text of a value."""
    if isinstance(thing, codec.Opaque):
        return f"an object of type {thing.type[:60]}"
    if isinstance(thing, Remote):
        return f"an object of the program ({thing.path})"
    try:
        text = repr(thing)
    except Exception:
        text = f"an object of type {type(thing).__name__}"
    return text if len(text) <= SHOWN else f"{text[: SHOWN // 2]} ... {text[-SHOWN // 2 :]}"


def shown_call(path, args, kwargs):
    """A call as it is written."""
    words = [*map(shown, args), *(f"{key}={shown(item)}" for key, item in kwargs.items())]
    return f"{path}({', '.join(words)})"


def prepare(setup, helpers, remote):
    """Execute what the tests build upon. `remote` maps names to paths in the program; these take precedence."""
    for source in (setup, helpers):
        exec(compile(source, "tests.py", "exec"), space)
    space.update({name: Remote(path) for name, path in remote.items()})


def run_test(source, names, call_check):
    """Run a test to its end: ("passed",), ("failed", exception, words, last call), or how the program failed.

    `names` are those that mean the program's where nothing here defines them.
    """
    code = compile(source, "tests.py", "exec")

    def run():
        bind_unknown(names)
        exec(code, space)
        if call_check:
            space["check"](space["candidate"])

    return ended(run)


def run_calls(calls, expected, atol):
    """Make calls, in order, and compare what is expected of each, by its place; the answer is that of `run_test`."""

    def run():
        made = {}
        for place, (path, args, kwargs, store) in enumerate(calls):
            first, _, rest = path.partition(".")
            target = made[first] if first in made else Remote(first)
            for name in rest.split(".") if rest else ():
                target = getattr(target, name)
            got = target(*codec.decode(args), **(codec.decode(kwargs) if kwargs else {}))
            if store:
                made[store] = got
            if place in expected:
                wanted = expected[place]
                # `equality` has been executed here before
                rule = same_json if atol is None else same_as_reference  # noqa: F821 # pyright: ignore
                right = rule(got, wanted) if atol is None else rule(got, wanted, atol)
                assert right, f"expected {shown(wanted)}, got {shown(got)}"

    return ended(run)


def compute(expression, names):
    """The value of an expression in which `names` are known, a bool or a number; ("failed", why) if there is none."""
    for name in ("exec", "compile", "globals", "locals", "__import__"):
        space[name] = None
    link.calls = 0
    try:
        found = eval(compile(f"(\n{expression}\n)", "expression.py", "eval"), space | names)
        return found if type(found) in (bool, int, float) else bool(found)
    except Broken as broken:
        return ("failed", f"eval: {broken.args[1] or broken.args[0]}")
    except Exception as error:
        return ("failed", f"{type(error).__name__}: {said(error)}")


def ended(run):
    """How a test ended."""
    link.calls, link.last = 0, ""
    link.lent.clear()
    try:
        run()
    except Broken as broken:
        return broken.args
    except BaseException as error:
        return ("failed", type(error).__name__, said(error), link.last)
    return ("passed",)


def said(error):
    """An exception's words."""
    try:
        return str(error)[:400]
    except Exception:
        return ""


def bind_unknown(names):
    """Bind names that nothing here defines: to the standard module of that name, else to the program's name.

    The program's exceptions are classes here, so that tests can catch them.
    """
    for name in names:
        if name not in space and not hasattr(builtins, name):
            if name in sys.stdlib_module_names:
                space[name] = importlib.import_module(name)
                continue
            try:
                classes = link.ask("mirror", name)
            except Exception:
                classes = None
            space[name] = mirror(classes) if type(classes) is list and classes else Remote(name)
