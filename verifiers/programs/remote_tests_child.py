"""Runs test code in an interpreter of its own, beside the program's.

This file is the source of a sandboxed program. Calls of the program under test go over a descriptor, in the format
that the judge itself uses, and its answers are plain data (`codec`), read strictly.
"""

import _thread
import builtins
import dataclasses
import importlib
import json
import operator
import os
import re
import sys
import types
from typing import Any

import codec  # pyright: ignore[reportMissingImports] - beside the program, in the sandbox

PROGRAM = 4  # the descriptor at whose other end the program under test listens
MOST_CALLS = 100_000  # that one test may make
LONGEST = 64 << 20  # bytes of one answer
CHUNK = 256  # items of an iterator that are fetched at once, at most
SHOWN = 160  # characters

tests = types.ModuleType("tests")
sys.modules["tests"] = tests
space: dict = tests.__dict__
STDIN, STDOUT, INPUT = sys.stdin, sys.stdout, builtins.input


class Broken(BaseException):
    """The program under test has ended, or the test cannot go on: not an exception that the test itself raised."""


class Remote:
    """An object of the program under test, or a name in it; what is done to it is done there.

    Each class of the program has a class of its own here (`kind`), with the same special methods. Two things are never
    left to the program, since it would see what is expected: to compare an object with what is none of its own, and to
    calculate with both in a way that tells how far they are apart.
    """

    __slots__ = ("path",)
    names: tuple = ()
    """Of its classes."""
    holds = False
    """Whether it holds plain data."""

    def __init__(self, path):
        object.__setattr__(self, "path", path)

    def __getattr__(self, name):
        if name.startswith("__") and name not in TOLD:
            raise AttributeError(name)
        return link.ask("getattr", self.path, name)

    def __setattr__(self, name, item):
        link.ask("setattr", self.path, [name, item])

    def __delattr__(self, name):
        link.ask("delattr", self.path, name)

    @property
    def __class__(self):  # pyright: ignore[reportIncompatibleMethodOverride]
        return next(filter(None, map(local_class, type(self).names)), type(self))

    @property
    def __dict__(self):  # pyright: ignore[reportIncompatibleVariableOverride]
        return link.ask("state", self.path)

    def __eq__(self, other):
        if self is other:
            return True
        one, two = counterpart(self), counterpart(other)
        if isinstance(one, Remote) and isinstance(two, Remote):
            return link.ask("eq", one.path, two)
        return not isinstance(one, Remote) and not isinstance(two, Remote) and one == two

    def __hash__(self):
        found = counterpart(self)
        return hash(found if not isinstance(found, Remote) else self.path)

    def __instancecheck__(self, instance):
        return isinstance(instance, Remote) and link.ask("isinstance", self.path, instance)

    def __str__(self):
        return link.ask("str", self.path)

    def __repr__(self):
        return link.ask("repr", self.path)

    def __format__(self, form):
        return link.ask("format", self.path, form)

    def __copy__(self):
        return link.ask("copy", self.path, False)

    def __deepcopy__(self, memo):
        return link.ask("copy", self.path, True)


TOLD = ("__name__", "__qualname__", "__doc__", "__module__")
OWN = {"__slots__": (), **{_name: property(lambda self, name=_name: self.__getattr__(name)) for _name in TOLD[2:]}}
"""What each class derived from `Remote` has."""


def asked(what):
    """A method that lets the program do what a builtin does."""
    return lambda remote, *given: link.ask(what, remote.path, *given)


def calculated(name, *, swapped=False):
    """A method of two operands: done here where both are plain data, by the program where both are its own."""
    operation, free = getattr(operator, name), name in FREE

    def method(self, other):
        one, two = value(self), value(other)
        if not isinstance(one, Remote) and not isinstance(two, Remote):
            return operation(two, one) if swapped else operation(one, two)
        if not (free or (isinstance(one, Remote) and isinstance(two, Remote))):
            raise TypeError("an object of the program is not plain data")
        return link.ask(f"r{name.strip('_')}" if swapped else name, self.path, other)

    return method


def iterate(self):
    """Items that the program is asked for, more and more of them at once."""
    iterator, size = link.ask("iter", self.path), 1
    if not isinstance(iterator, Remote):
        raise TypeError(f"{self.path} is not iterable")
    while True:
        items = link.ask("some", iterator.path, size)
        yield from items
        if len(items) < size:
            return
        size = min(2 * size, CHUNK)


def contains(self, item):
    """Whether it has an item that is equal; an object that can only be asked for one is asked."""
    inside = value(self)
    if not isinstance(inside, Remote):
        return item in inside
    if isinstance(item, Remote) or not (hasattr(type(inside), "__iter__") or hasattr(type(inside), "__getitem__")):
        return link.ask("contains", self.path, item)
    return any(item is one or item == one for one in inside)  # pyright: ignore[reportGeneralTypeIssues]


def sliced(self, key):
    """An item, or items of plain data."""
    if not isinstance(key, slice):
        return link.ask("getitem", self.path, key)
    return value(self)[key] if not isinstance(value(self), Remote) else list(self)[key]


def hashed(self):
    """As the program has it, where the object is no plain data."""
    found = counterpart(self)
    return hash(found) if not isinstance(found, Remote) else link.ask("hash", self.path)


def waited(self):
    """What the program gives when it has waited for it."""
    return link.ask("await", self.path)
    yield


async def next_waited(self):
    """The next item of an asynchronous iterator."""
    return link.ask("anext", self.path, stops="StopAsyncIteration")


def sent(self, _):
    """A coroutine goes to its end at once."""
    raise StopIteration(link.ask("await", self.path))


ASKED = (
    *("len", "bool", "int", "float", "complex", "abs", "neg", "pos", "invert", "index", "reversed", "enter", "delitem"),
    "aiter",
)
CALCULATED = (
    "add",
    "sub",
    "mul",
    "matmul",
    "truediv",
    "floordiv",
    "mod",
    "pow",
    "and_",
    "or_",
    "xor",
    "lshift",
    "rshift",
)
COMPARED = ("lt", "le", "gt", "ge")
FREE = {"add", "mul", "matmul", "floordiv", "pow", "and_", "or_", "lshift", "rshift"}
SPECIAL: dict = {
    **{f"__{_name}__": asked(_name) for _name in ASKED},
    **{f"__{_name.strip('_')}__": calculated(_name) for _name in CALCULATED + COMPARED},
    **{f"__r{_name.strip('_')}__": calculated(_name, swapped=True) for _name in CALCULATED},
    **{f"__i{_name.strip('_')}__": asked(f"i{_name.strip('_')}") for _name in CALCULATED},
    "__call__": lambda self, *args, **kwargs: link.call(self.path, args, kwargs),
    "__iter__": iterate,
    "__next__": lambda self: link.ask("next", self.path, stops="StopIteration"),
    "__contains__": contains,
    "__getitem__": sliced,
    "__setitem__": lambda self, key, item: link.ask("setitem", self.path, [key, item]),
    "__round__": lambda self, *digits: link.ask("round", self.path, list(digits)),
    "__hash__": hashed,
    # What `exit` answers counts nothing: it could take back a failure.
    "__exit__": lambda self, *_: link.ask("exit", self.path),
    "__await__": waited,
    "__anext__": next_waited,
}
IN_PLACE = {f"__i{_name.strip('_')}__" for _name in CALCULATED}
Named: Any = type("Named", (Remote,), {**OWN, **{name: one for name, one in SPECIAL.items() if name not in IN_PLACE}})
"""A name of the program: it may mean anything."""
HOLDERS = {"UserDict", "UserList", "UserString", "ChainMap", "mappingproxy", "memoryview", "dict_keys", "dict_items"}
HOLDERS |= {kind.__name__ for kind in (str, int, float, complex, bytes, bytearray, list, tuple, dict, set, frozenset)}
BY_NAME = {one.__name__: one for one in vars(types).values() if isinstance(one, type)}


def kind(names, special, fields):
    """The class here for the objects of a class of the program."""
    inner = {name: SPECIAL[name] for name in special if name in SPECIAL}
    if names[0] == "coroutine":
        inner["send"] = sent
    if fields:
        inner["__dataclass_fields__"] = dataclasses.make_dataclass("Made", fields).__dataclass_fields__
    last = [name.rpartition(".")[2] for name in names]
    holds = not HOLDERS.isdisjoint(last)
    return type(last[0], (Remote,), {**OWN, **inner, "names": tuple(names), "holds": holds})


def local_class(name):
    """The class here of that name: one of the tests or of the standard library."""
    module, _, last = name.rpartition(".")
    if module:
        known = getattr(sys.modules.get(module), last, None) if module.partition(".")[0] in LIBRARY else None
    else:
        known = space.get(name) or getattr(builtins, name, None) or BY_NAME.get(name)
    return known if isinstance(known, type) and known is not object else None


LIBRARY = sys.stdlib_module_names


def value(thing):
    """The plain data that something is; itself, where it is none."""
    if isinstance(thing, Remote) and type(thing) is Named:
        thing = link.ask("read", thing.path)
    return link.ask("data", thing.path) if isinstance(thing, Remote) and type(thing).holds else thing


def counterpart(thing):
    """The plain data that something is, or an object of the tests' own class with the same attributes; else itself."""
    thing = value(thing)
    known = local_class(type(thing).names[0]) if isinstance(thing, Remote) and type(thing).names else None
    if known is None or known.__module__ != "tests":
        return thing
    try:
        made = known.__new__(known)  # pyright: ignore[reportCallIssue]
        for name, item in link.ask("state", thing.path).items():
            object.__setattr__(made, name, item)
    except Exception:
        return thing
    return made


def is_member(kind):
    """Whether a class is an enumeration of the tests: its members are the same on both sides."""
    return "enum" in sys.modules and issubclass(kind, sys.modules["enum"].Enum) and kind.__module__ == "tests"


class Link:
    """The way to the program under test and back."""

    def __init__(self):
        self.calls = 0
        self.last = ""  # the last call and its result, for the model to read
        self.lent = []  # objects of the tests that the program may use
        self.objects = {}  # of the program, by name
        self.kinds = {}  # their classes, by number
        self.lock = _thread.RLock()

    def call(self, path, args, kwargs):
        """Make a call: the value. Arguments that it changed in place are changed here, too."""
        result, changed, same = self._values("call", path, args, kwargs, shown_call(path, args, kwargs))
        if changed is not None:
            after, named = changed
            for old, new in [*zip(args, after, strict=False), *((kwargs[key], new) for key, new in named.items())]:
                refilled(old, new)
        return args[same] if type(same) is int and 0 <= same < len(args) else result

    def ask(self, what, path, given=None, *, stops=None):
        """What a builtin says of a name or an object of the program; `stops` is an exception that tells of its end."""
        return self._values(what, path, given, {}, f"{what}({path})", stops=stops)[0]

    def _values(self, what, path, given, kwargs, words, *, stops=None):
        with self.lock:
            self.calls += 1
            if self.calls > MOST_CALLS:
                raise Broken("wrong", f"more than {MOST_CALLS:,} calls in one test")
            texts = [codec.encode(self.outgoing(one)) for one in (given, kwargs)]
            reads = builtins.input is not INPUT or sys.stdin is not STDIN
            send({"ask": [what, path, *texts, self.number(read_line) if reads else None]})
            status, values, error = self.answer(path)
            if status == "error":
                self.last = f"{words} raised {error}"
                raise exception(values, error, stops)
            if what not in ("kind", "data", "state"):
                self.last = f"{words} gave {shown(values[0])}"
            return values

    def answer(self, path):
        """The next answer: status, values, and the exception's words. Requests that come before are granted."""
        while True:
            data = receive()
            number, what, args, kwargs = 0, "", "", ""
            try:
                status, values, printed, error = codec.read_answer(data, asking=True)
                if status in ("ok", "ask") and not values:
                    raise ValueError("not an answer")
                if status == "ask":
                    number, what, args, kwargs = values[0]
                    args, kwargs = codec.decode(args), codec.decode(kwargs)
                    if not (type(number) is int and 0 <= number < len(self.lent)):
                        raise ValueError("not an object of the tests")
            except (ValueError, TypeError) as problem:
                raise Broken("crashed", f"its answer cannot be read: {problem}") from None
            if printed and sys.stdout is not STDOUT:  # the test looks at it
                sys.stdout.write(printed)
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
            return codec.ObjectReference(thing.path)
        if is_member(type(thing)):
            return codec.ObjectReference(f"{type(thing).__name__}.{thing._name_}")
        if codec.is_plain(thing):
            return thing
        if isinstance(thing, (list, tuple, set, frozenset)) and type(thing).__module__ in ("builtins", "collections"):
            return type(thing)([self.outgoing(item) for item in thing])
        if isinstance(thing, dict):
            return {key: self.outgoing(item) for key, item in thing.items()}
        if type(codec.decode(codec.encode(thing))) is not codec.Opaque:  # a named tuple, a number of numpy
            return thing
        return codec.ObjectReference(self.number(thing))

    def number(self, thing):
        """The number under which the program may use something."""
        number = next((i for i, one in enumerate(self.lent) if one is thing), len(self.lent))
        self.lent[number:] = self.lent[number:] or [thing]
        return number


def read_line(*prompt):
    """`input` as the tests have set it up."""
    return input(*prompt)


def used(thing, what, args, kwargs):
    """Do for the program what it may do with an object of the tests."""
    if what == "":
        return thing(*args, **kwargs)
    if what in ("getattr", "setattr"):
        if args[0].startswith("_") and (args[0] not in TOLD or what == "setattr"):
            raise AttributeError(args[0])
        return getattr(thing, args[0]) if what == "getattr" else setattr(thing, args[0], args[1])
    if what == "class":
        return type(thing).__name__ if type(thing).__module__ == "tests" else ""
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


def meant(key):
    """What a reference means: an object of the tests by its number, or one of the program by its name."""
    if type(key) is int and 0 <= key < len(link.lent):
        return link.lent[key]
    found = type(key) is str and re.fullmatch(r"object_[0-9]{1,9}@([0-9]{1,9})", key)
    if not found:
        raise ValueError("not an object that is known")
    if key not in link.objects:
        if found[1] not in link.kinds:
            link.kinds[found[1]] = kind(*link.ask("kind", key))
        one = link.kinds[found[1]](key)
        member = is_member(one.__class__) and one.__class__.__members__.get(link.ask("getattr", key, "_name_"))
        link.objects[key] = member or one
    return link.objects[key]


def strict_array(body, depth):
    """An array of the program, which is near or equal only to arrays of its own shape."""
    found = codec.read_array(body)
    numpy = sys.modules["numpy"]
    comparing = {getattr(numpy, name) for name in ("equal", "not_equal", "less_equal", "greater_equal", "subtract")}

    class Array(numpy.ndarray):
        def __array_ufunc__(self, function, method, *inputs, **named):
            plain = [numpy.asarray(one) for one in inputs]
            if function in comparing and len({one.shape for one in plain if one.ndim}) > 1:
                raise ValueError("arrays of different shapes")
            return getattr(function, method)(*plain, **named)

    return found.view(Array)


codec.resolve = meant
codec.READERS["p"] = strict_array


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
    if isinstance(known, type) and (issubclass(known, Exception) or known in (SystemExit, KeyboardInterrupt)):
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
        names, args, text, attributes, cause = values
        if not all(type(name) is str for name in names) or type(args) is not tuple:
            raise ValueError("not an exception")
    except (ValueError, TypeError):
        return RuntimeError(words)
    if {"StopIteration", "StopAsyncIteration"} & {*names} and names[0] != stops:
        return RuntimeError(f"the program raised {names[0]}")
    kind = mirror(names)
    try:
        error = kind(*args)
    except Exception:  # a constructor that wants more
        try:
            error = kind.__new__(kind)
        except Exception:
            return RuntimeError(words)
        error.args = args
    if names[0] in mirrors:
        vars(error).update({key: item for key, item in attributes.items() if type(key) is str} | {"_words": text})
    if cause:
        error.__cause__ = exception(cause, "", None)
    return error


def shown(thing):
    """A short text of a value."""
    if isinstance(thing, codec.Opaque):
        return f"an object of type {thing.type[:60]}"
    if isinstance(thing, Remote):
        return f"an object of type {type(thing).__name__}"
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
    space.update({name: Named(path) for name, path in remote.items()})


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
            target = made[first] if first in made else Named(first)
            for name in rest.split(".") if rest else ():
                target = getattr(target, name)
            got = target(*codec.decode(args), **(codec.decode(kwargs) if kwargs else {}))
            if store:
                made[store] = got
            if place in expected:
                wanted = expected[place]
                # `equality` has been executed here before
                rule = same_json if atol is None else same_as_reference  # noqa: F821 # pyright: ignore
                right = rule(value(got), wanted) if atol is None else rule(value(got), wanted, atol)
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
            space[name] = mirror(classes) if type(classes) is list and classes else Named(name)
