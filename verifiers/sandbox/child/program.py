"""Runs one program, in the fork that exists for it and is already confined. Standard library alone.

It reads orders, one line of JSON each, and answers each with one line: `[status, [values], stdout, error]`. The judge
trusts nothing here: a program that takes this code over gains nothing but answers that it could have returned anyway.
"""

from __future__ import annotations

import builtins
import io
import json
import operator
import os
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import codec

TEXT = 500  # characters of an exception
CHUNK = 1 << 18
WARM = 16
ANSWERS = 3  # the descriptor
STDOUT = 4000  # characters of output that are kept with a call, for people to read


def serve(descriptor: int) -> None:
    """Carry out orders until there are no more, then exit."""
    global orders
    say(b"[]\n")
    orders = map(json.loads, lines(descriptor))  # whose text no frame keeps
    for order in orders:
        if isinstance(order, list):
            say(call_all(order))
        elif "ask" in order:
            say(tell(*order["ask"]))
        elif "load" in order:
            cases = iter(order.pop("cases"))
            say(load(order.pop("load"), order["output"], order["large"]))
            for case in cases:
                say(call_all(case))
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

module: ModuleType = ModuleType("program")
space: dict[str, Any] = module.__dict__
fresh: dict[str, Any] = {**space}
stored: dict[str, Any] = {}
orders: Iterator[Any] = iter(())
large: int = 0


class Capture(io.RawIOBase):
    """Keeps the start of what is printed; too much output ends the program."""

    def __init__(self, limit: int) -> None:
        self.left: int = limit
        self.most: int = STDOUT
        self.text: bytearray = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        size = len(data)
        self.left -= size
        if self.left < 0:
            say(answer("output"))
            os._exit(1)
        if len(self.text) < self.most:
            self.text += bytes(data[: self.most - len(self.text)])
        return size

    def take(self) -> str:
        """What was printed since the last time."""
        text = self.text.decode("utf-8", "replace")
        self.text.clear()
        return text


capture: Capture = Capture(0)


def prepare() -> None:
    """In the zygote: set up what is the same for all programs."""
    words: Any = capture
    sys.stdin = io.TextIOWrapper(io.BytesIO(), "utf-8")
    sys.stdout = sys.stderr = io.TextIOWrapper(words, "utf-8", "backslashreplace", write_through=True)
    sys.argv = ["program.py"]
    module.__file__ = fresh["__file__"] = "program.py"
    from _sitebuiltins import Quitter  # the names that `site` would have added

    builtins.exit, builtins.quit = Quitter("exit", "Ctrl-D"), Quitter("quit", "Ctrl-D")
    if sys.version_info >= (3, 14):  # whose locks would start a process, which is not allowed; older ones need none
        from multiprocessing import context

        context._default_context._default_context = context._concrete_contexts["fork"]
    warm_up()


def warm_up() -> None:
    """Do what is done for every program, until the interpreter has adapted its own code: else each fork does it."""
    value = codec.encode(([1, 2.5, "a", None, [True, "b"]], {"c": (1, 2)}, {3}))
    call, this = json.dumps([["sample", value, "", None]]), sys.modules["program"]
    for _ in range(WARM):
        load("from typing import List\n\ndef sample(*args: List) -> List:\n    return args\n", 0, 1 << 10)
        call_all(json.loads(call.encode()))
    space.clear()
    space.update(fresh)
    sys.modules["program"] = this


def load(source: str, output: int, most: int) -> bytes:
    """Execute the program's text as the module `program`; the judge reads so many characters of values.

    What it does behind its last definition, such as tests of its own that are wrong, may fail: it is judged by calls.
    """
    global large
    capture.left, large = output, most
    sys.modules["program"] = module
    try:
        exec(compile(source, "program.py", "exec", dont_inherit=True), space)
    except BaseException as error:
        if not behind_definitions(source, error):
            return failure(error, [])
    return answer("ok")


def behind_definitions(source: str, error: BaseException) -> bool:
    """Whether `error` comes from a statement at top level that follows a definition, and none follows it."""
    import ast

    place = error.__traceback__ and error.__traceback__.tb_next
    if place is None or place.tb_frame.f_globals is not space or isinstance(error, MemoryError):
        return False
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom, ast.Raise)
    last = max((node.lineno for node in ast.parse(source).body if isinstance(node, kinds)), default=place.tb_lineno)
    return place.tb_lineno > last


def call_all(calls: list[list[Any]]) -> bytes:
    """One case: its calls, up to the first that fails."""
    values: list[str] = []
    try:
        for path, arguments, named, store in calls:
            target = found(path)
            if arguments:
                target = target(*codec.decode(arguments), **(codec.decode(named) if named else {}))
            if store is not None:
                stored[store] = target
            values.append("null" if store else codec.encode(target))
    except BaseException as error:
        return failure(error, values if sum(map(len, values)) <= large else [])
    if sum(map(len, values)) > large:
        return answer("large", [f'"{codec.digest(text)}"' for text in values])
    return answer("ok", values)


def found(path: str) -> Any:
    """What is at a dotted path."""
    first, *rest = path.split(".")
    if first in stored:
        target = stored[first]
    elif first in kept:
        target = kept[first]
    elif first in space:
        target = space[first]
    else:
        raise NameError(f"name '{first}' is not defined")
    for name in rest:
        target = getattr(target, name)
    return target


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


# -- an interpreter of tests, which asks for more than values -------------------------------------------------------

kept: dict[str, Any] = {}
"""Objects that the tests know, by the names under which they know them."""
names: dict[int, str] = {}
kinds: dict[int, int] = {}


def keep(value: Any) -> int | str:
    """What stands for an object: its name and its class's number, or the number of one that the tests have lent."""
    kind = type(value)
    if kind is Borrowed:
        return value.number
    if id(value) not in names:
        number = kinds.setdefault(id(kind), len(kinds))
        names[id(value)] = f"object_{len(kept)}@{number}"
        kept[names[id(value)]] = value
    return names[id(value)]


def tell(what: str, path: str, arguments: str, named: str, reader: int | None = None) -> bytes:
    """Do what tests ask of the object at `path`: call it, read it, or do what a builtin does with it.

    The values of a call are the result, the arguments where they have changed, and the number of the one that was
    returned. An exception's are what `described` says. `reader` is what reads the standard input, if the tests do.
    """
    codec.resolve, codec.refer, capture.most = borrowed, keep, 1 << 20
    builtins.input = read_line if reader is None else borrowed(reader)
    try:
        target = found(path)
        if what == "data":
            return answer("ok", [codec.as_builtin(as_data(target))])
        if what == "call":
            args, keywords = codec.decode(arguments), codec.decode(named)
            before = codec.encode([args, keywords])
            value = target(*args, **keywords)
            after = codec.encode([args, keywords])
            same = next((i for i, one in enumerate(args) if one is value and isinstance(one, MUTABLE)), None)
            extra = [after if after != before else "null", codec.encode(same)]
        else:
            value, extra = ASKED[what](target, codec.decode(arguments)), []
        return answer("ok", [codec.encode(value), *extra])
    except BaseException as error:
        try:
            return failure(error, list(map(codec.encode, described(error))))
        except BaseException:
            known = (class_names(type(error)), (), "", {}, None)
            return failure(error, list(map(codec.encode, known)))


def described(error: BaseException, depth: int = 3) -> list[Any]:
    """The names of an exception's classes, its arguments, words and attributes, and the exception that caused it."""
    cause = described(error.__cause__, depth - 1) if error.__cause__ is not None and depth else None
    return [class_names(type(error)), error.args, str(error), vars(error), cause]


def mirrored(target: Any) -> list[str] | None:
    """The names of an exception's classes; None for anything else."""
    if isinstance(target, type) and issubclass(target, BaseException):
        return class_names(target)
    return None


def class_names(kind: type) -> list[str]:
    """The names of a class and of its bases, with the module where that is another of the standard library's."""
    return [
        f"{one.__module__}.{one.__name__}" if one.__module__.partition(".")[0] in LIBRARY else one.__name__
        for one in kind.__mro__
    ]


def kind_of(target: Any) -> list[Any]:
    """The names of an object's classes, the special methods that it has, and the fields of a dataclass."""
    kind = type(target)
    special = {name for one in kind.__mro__[:-1] for name in vars(one) if name.startswith("__")}
    fields = getattr(kind, "__dataclass_fields__", None)
    return [class_names(kind), sorted(special), None if fields is None else [*fields]]


def state(target: Any) -> dict[str, Any]:
    """The attributes of an object."""
    slots = [getattr(one, "__slots__", ()) for one in type(target).__mro__]
    listed = [name for one in slots for name in ([one] if isinstance(one, str) else one)]
    return {name: getattr(target, name) for name in listed if hasattr(target, name)} | getattr(target, "__dict__", {})


def as_data(target: Any) -> Any:
    """The plain data that an object of the standard library holds."""
    holders = [HOLDERS[name] for name in class_names(type(target)) if name in HOLDERS]
    return holders[0](target) if holders else target


def alike(one: Any, other: Any) -> bool:
    """Whether two objects are equal. Raises `TypeError` where one is equal to everything."""
    return bool(one == other) and told_apart(lambda odd: one == odd)


def contains(target: Any, item: Any) -> bool:
    """Whether `item` is in an object. Raises `TypeError` where everything is."""
    return item in target and told_apart(lambda odd: odd in target)


def told_apart(accepts: Callable[[object], Any]) -> bool:
    """True, unless an object that nothing here can know is accepted, too."""
    try:
        accepted = accepts(object())
    except Exception:
        accepted = False
    if accepted:
        raise TypeError("it is the same for every object")
    return True


def copied(target: Any, deep: bool) -> Any:
    """A copy of an object."""
    import copy

    return copy.deepcopy(target) if deep else copy.copy(target)


def awaited(target: Any) -> Any:
    """What an awaitable gives, on a loop that goes on from one to the next."""
    global loop
    import asyncio

    async def wait() -> Any:
        return await target

    loop = loop or asyncio.new_event_loop()
    return loop.run_until_complete(wait())


def some(target: Any, most: int) -> list[Any]:
    """The next items of an iterator."""
    return [item for _, item in zip(range(most), target, strict=False)]


def swapped(operation: Any) -> Any:
    """The operation with its operands in the other order."""
    return lambda target, given: operation(given, target)


loop: Any = None
read_line: Callable[..., str] = builtins.input
LIBRARY = sys.stdlib_module_names - {"builtins", "__main__"}
HOLDERS: dict[str, Any] = {
    "dict_keys": set,
    "dict_items": set,
    "memoryview": bytes,
    "collections.UserDict": dict, "collections.ChainMap": dict, "mappingproxy": dict,
    "collections.UserList": list, "collections.UserString": str,
}  # fmt: skip
MUTABLE = (list, dict, set, bytearray, codec.deque)
BINARY = ("add", "sub", "mul", "matmul", "truediv", "floordiv", "mod", "pow", "and_", "or_", "xor", "lshift", "rshift")
ASKED: dict[str, Any] = {
    "read": lambda target, given: target,
    "kind": lambda target, given: kind_of(target),
    "state": lambda target, given: state(target),
    "getattr": lambda target, given: getattr(target, given),
    "setattr": lambda target, given: setattr(target, *given),
    "delattr": lambda target, given: delattr(target, given),
    "isinstance": lambda target, given: isinstance(given, target),
    **{kind.__name__: lambda target, given, kind=kind: kind(target) for kind in (bool, str, int, float, complex)},
    **{
        one.__name__: lambda target, given, one=one: one(target) for one in (iter, next, len, repr, hash, abs, reversed)
    },
    **{
        name: lambda target, given, name=name: getattr(operator, name)(target)
        for name in ("neg", "pos", "invert", "index")
    },
    **{
        name: getattr(operator, name)
        for name in ("lt", "le", "gt", "ge", *BINARY, *(f"i{one.strip('_')}" for one in BINARY))
    },
    **{f"r{name.strip('_')}": swapped(getattr(operator, name)) for name in BINARY},
    "some": some,
    "eq": alike,
    "contains": contains,
    "copy": copied,
    "round": lambda target, given: round(target, *given),
    "format": lambda target, given: format(target, given),
    "getitem": lambda target, given: target[given],
    "setitem": lambda target, given: operator.setitem(target, *given),
    "delitem": lambda target, given: operator.delitem(target, given),
    "enter": lambda target, given: target.__enter__(),
    "exit": lambda target, given: [target.__exit__(None, None, None), None][1],
    "await": lambda target, given: awaited(target),
    "aiter": lambda target, given: target.__aiter__(),
    "anext": lambda target, given: awaited(target.__anext__()),
    "mirror": lambda target, given: mirrored(target),
}


def borrowed(key: int | str) -> Any:
    """What a reference means: an object of the program, by name, or one of the tests' own, by number."""
    return found(key) if isinstance(key, str) else lendings.setdefault(key, Borrowed(key))


lendings: dict[int, Any] = {}


class Borrowed:
    """An object of the tests, such as a function that they hand over; what is done to it is done there.

    Where its class is one that the program has, too, it is of that class.
    """

    def __init__(self, number: int) -> None:
        self.__dict__["number"] = number

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return lent(self.number, "", args, kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") and name not in TOLD:
            raise AttributeError(name)
        return lent(self.number, "getattr", (name,), {})

    def __setattr__(self, name: str, value: Any) -> None:
        lent(self.number, "setattr", (name, value), {})

    @property
    def __class__(self) -> type:  # pyright: ignore[reportIncompatibleMethodOverride]
        kind = space.get(lent(self.number, "class", (), {}))
        return kind if isinstance(kind, type) else Borrowed

    def __bool__(self) -> bool:
        return lent(self.number, "bool", (), {})

    def __iter__(self) -> Any:
        return iter(lent(self.number, "list", (), {}))

    def __next__(self) -> Any:
        items = lent(self.number, "next", (), {})
        if not items:
            raise StopIteration
        return items[0]

    def __len__(self) -> int:
        return lent(self.number, "len", (), {})

    def __getitem__(self, key: Any) -> Any:
        return lent(self.number, "getitem", (key,), {})

    def __eq__(self, other: object) -> bool:
        return type(other) is Borrowed and other.number == self.number

    def __hash__(self) -> int:
        return hash(self.number)


TOLD = ("__name__", "__qualname__", "__doc__", "__module__")
for _name in TOLD[2:]:
    setattr(Borrowed, _name, property(lambda self, name=_name: self.__getattr__(name)))


def lent(number: int, what: str, args: Any, kwargs: Any) -> Any:
    """Ask the tests to use their object; meanwhile they may ask for something in turn."""
    say(answer("ask", [codec.encode([number, what, codec.encode(list(args)), codec.encode(kwargs)])]))
    for order in orders:
        if "reply" in order:
            return codec.decode(order["reply"])
        if "raise" in order:
            name, text = order["raise"]
            kind = getattr(builtins, name, RuntimeError)
            raise kind(text) if isinstance(kind, type) and issubclass(kind, Exception) else RuntimeError(text)
        say(tell(*order["ask"]))
    os._exit(0)


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
