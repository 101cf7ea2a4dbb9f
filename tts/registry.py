"""Plug-ins: what strategies, verifiers, tasks and studies have in common, how they are found by name, and their specs.

They are entry points of groups such as `tts.strategies`, ours like anyone's: a package that declares one in its own
metadata adds it. `register` adds one by hand, in a notebook or a test.

A spec is text: `best_of_n:n=16,verifier=unit_tests(timeout=5)`. A TOML file can hold one, as a table.
"""

from __future__ import annotations

import difflib
import functools
import json
import operator
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, TypeVar, cast

from pydantic import ConfigDict, ValidationError, model_validator

from tts.errors import ConfigError, MissingExtra, complaints
from tts.settings import Settings

Group = Literal["strategies", "verifiers", "tasks", "environments", "studies"]
SINGULAR: dict[Group, str] = {
    "strategies": "strategy",
    "verifiers": "verifier",
    "tasks": "task",
    "environments": "environment",
    "studies": "study",
}
P = TypeVar("P", bound="type[Plugin]")

_trusted: ContextVar[bool] = ContextVar("trusted", default=True)
DEEPEST = 16
"""How deep brackets may be nested in a spec: each level is read once more."""

_MARKS = re.compile(r'\\"|"(?:\\.?|[^"\\])*(?:"|$)|[()\[\]{},]', re.DOTALL)
"""What tells how a spec is built: brackets, commas and whole quoted texts."""

_registered: dict[tuple[str, str], type[Plugin]] = {}


class Plugin(Settings):
    """A named, immutable, serialisable set of parameters. The string under a field documents the parameter."""

    model_config: ClassVar[ConfigDict] = ConfigDict(
        coerce_numbers_to_str=True,  # a spec reads reference=42 as a number
    )

    name: ClassVar[str] = ""
    """The name it is found by: the class name in snake case unless set."""
    stated: ClassVar[frozenset[str]] = frozenset()
    """Parameters that its `spec` names even where they have their defaults."""

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        if "name" not in cls.__dict__:
            cls.name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cls.__name__).lower()

    @model_validator(mode="after")
    def _names_no_file_of_ours(self) -> Self:
        for name in () if trusted() else type(self).model_fields:
            if _has_path(getattr(self, name)):
                raise ValueError(f"{name}: a request may not name files; the operator can, in a preset")
        return self

    def config(self) -> dict[str, Any]:
        """Name and all parameters as plain data, from which `make` builds an equal object."""
        return {"name": self.name, **self.model_dump(mode="json")}

    @property
    def spec(self) -> str:
        """The short text form, with the parameters that differ from their defaults or are always `stated`:
        `best_of_n:n=16`."""
        known = vars(self)  # by hand: type checkers do not take a `cached_property` for a protocol's property
        if "spec" not in known:
            arguments = _arguments(self)
            known["spec"] = f"{self.name}:{arguments}" if arguments else self.name
        return known["spec"]

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """See pydantic. The copy's `spec` is its own."""
        copied = super().model_copy(update=update, deep=deep)
        vars(copied).pop("spec", None)
        return copied


def _has_path(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(map(_has_path, value.values()))
    return isinstance(value, Path) or (isinstance(value, list | tuple | set | frozenset) and any(map(_has_path, value)))


# -- finding and making ------------------------------------------------------------------------------------------------


@functools.cache
def _installed() -> dict[str, dict[str, EntryPoint]]:
    """Entry points by group and name. Looking reads the metadata of every installed package, so it is done once."""
    found, everything = {}, entry_points()
    for group in SINGULAR:
        found[group] = {point.name: point for point in everything.select(group=f"tts.{group}")}
    return found


_loaded = functools.cache(EntryPoint.load)
"""What an entry point names: looking for it takes longer than making a small plug-in."""

_name_of = functools.cache(operator.attrgetter("name"))
"""What a distribution is called, which is read from its metadata, README included."""


def names(group: Group) -> list[str]:
    """All names of a group, sorted."""
    return sorted({*_installed()[group], *(name for kind, name in _registered if kind == group)})


def register(group: Group, plugin: P) -> P:
    """Add a class under its `name`; as a decorator, `functools.partial(register, "strategies")`."""
    _registered[group, plugin.name] = plugin
    return plugin


def registered() -> dict[tuple[str, str], type[Plugin]]:
    """What was added by hand, by group and name."""
    return dict(_registered)


def source(group: Group, name: str) -> str | None:
    """The distribution that a plug-in comes from; None for one registered by hand."""
    point = _installed()[group].get(name)
    return _name_of(point.dist) if point and point.dist else None


def _hint(group: Group, name: str) -> str:
    """What may have been meant by a name that there is not."""
    if group == "tasks" and trusted() and re.search(r"\.\w+$", name):
        if name.endswith(".toml"):
            return "the parameters of a task in a file stand in the file; "
        return f"a file of problems is jsonl:path={name} (docs/data.md); "
    near = near_names(name, names(group))
    return f"did you mean '{near[0]}'? " if near else ""


def near_names(name: str, known: Sequence[str]) -> list[str]:
    """Those of `known` that are spelt much like `name` or begin with it, the likeliest first."""
    spelt = difflib.get_close_matches(name, known, n=3)
    return list(dict.fromkeys([*spelt, *(one for one in known if len(name) > 2 and one.startswith(name))]))


def load(group: Group, name: str) -> type[Plugin]:
    """The class called `name`.

    Raises `ConfigError` that lists the names there are, or says why the plug-in's package cannot be imported.
    """
    if (group, name) in _registered:
        return _registered[group, name]
    point = _installed()[group].get(name)
    if point is None:
        raise ConfigError(f"no '{name}' among the {group}; {_hint(group, name)}there are: {', '.join(names(group))}")
    try:
        return cast("type[Plugin]", _loaded(point))
    except MissingExtra:
        raise
    except Exception as error:  # third-party code may fail in any way
        words = f"{type(error).__name__}: {error}"
        raise ConfigError(f"{SINGULAR[group]} '{name}' ({point.value}) cannot be imported: {words}") from error


def make(group: Group, spec: str | dict[str, Any] | Plugin) -> Any:
    """An object from its spec, from a mapping of its `name` and parameters, or from a TOML file that is such a mapping.
    One that is made already is given back.

    Raises `ConfigError` that names the parameter at fault and lists those there are.
    """
    if isinstance(spec, Plugin):
        return spec
    if isinstance(spec, str) and re.fullmatch(r"[^:=(]+\.toml", spec) and trusted():
        spec = _spec_in(Path(spec))
    name, parameters = parse_spec(spec)
    plugin = load(group, name)
    try:
        return plugin(**parameters)
    except ValidationError as error:
        known = ", ".join(plugin.model_fields) or "none"
        raise ConfigError(
            f"cannot make {SINGULAR[group]} '{name}': {complaints(error, name)}. Parameters: {known}"
        ) from error


def nested(value: Any) -> Iterator[Plugin]:
    """`value` and all plug-ins within it."""
    if isinstance(value, Plugin):
        yield value
        for name in type(value).model_fields:
            yield from nested(getattr(value, name))
    elif isinstance(value, tuple | list):
        for member in value:
            yield from nested(member)


@contextmanager
def from_stranger() -> Iterator[None]:
    """Says that the specs of the plug-ins made inside come from untrusted users."""
    token = _trusted.set(False)
    try:
        yield
    finally:
        _trusted.reset(token)


def trusted() -> bool:
    """Whether a plug-in that is being made may read files that its parameters name, and check them at length. What it
    leaves out for a stranger it checks in `vet`, if it is a verifier."""
    return _trusted.get()


# -- specs -------------------------------------------------------------------------------------------------------------


def parse_spec(spec: str | dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Name and parameters of a spec.

    A value is JSON if it parses as JSON, another spec if it reads `name(key=value)`, a list of such values if it
    stands in [], and text otherwise.
    """
    if isinstance(spec, dict):
        parameters = dict(spec)
        try:
            return str(parameters.pop("name")), parameters
        except KeyError:
            raise ConfigError(f"a spec given as a table needs the key 'name': {spec}") from None
    if _depth(spec) > DEEPEST:
        raise ConfigError(f"brackets are nested deeper than {DEEPEST} in '{spec[:200]}'")
    value = _value(spec.strip())
    if isinstance(value, dict) and "name" in value:  # written as inside another spec: name(key=value)
        return parse_spec(value)
    name, _, rest = spec.partition(":")
    return name.strip(), _parameters(rest, spec)


def _spec_in(file: Path) -> dict[str, Any]:
    """The spec that a TOML file holds; a `path` in it starts where the file is."""
    try:
        spec = tomllib.loads(file.expanduser().read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"cannot read {file}: {why}") from None
    if "path" in spec and not str(spec["path"]).startswith("hf:"):
        spec["path"] = str(file.expanduser().parent / Path(spec["path"]).expanduser())
    return spec


def _depth(text: str) -> int:
    """How deep brackets are nested outside quoted texts."""
    depth = deepest = 0
    for mark in _MARKS.findall(text):
        depth += (mark in "([{") - (mark in ")]}")
        deepest = max(deepest, depth)
    return deepest


def plain_value(text: str) -> Any:
    """What a word of a spec or of the command line stands for: JSON if it parses as JSON, else the text itself."""
    try:
        return json.loads(text, strict=False)  # a line break in quotes is one
    except ValueError:
        return {"true": True, "false": False, "none": None}.get(text.lower(), text)


def _parameters(text: str, spec: str) -> dict[str, Any]:
    found = {}
    for part in _split(text):
        key, equals, value = part.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"cannot read '{part}' in '{spec}'; write name:key=value,key=value")
        found[key.strip()] = _value(value.strip() or value.strip(" "))  # a line break that is all there is is meant
    return found


def _value(text: str) -> Any:
    head, parenthesis, inner = text.partition("(")
    if parenthesis and inner.endswith(")") and head.isidentifier():
        return {"name": head, **_parameters(inner[:-1], text)}
    value = plain_value(text)
    if value == text and text.startswith("[") and text.endswith("]"):  # a list of words and specs
        return [_value(part.strip()) for part in _split(text[1:-1])]
    return value


def _split(text: str) -> list[str]:
    """`text` cut at the commas outside brackets and quotes."""
    parts, depth, start = list[str](), 0, 0
    for mark in _MARKS.finditer(text):
        depth += (mark[0] in "([{") - (mark[0] in ")]}")
        if mark[0] == "," and depth == 0:
            parts.append(text[start : mark.start()])
            start = mark.end()
    parts.append(text[start:])
    return [part for part in parts if part.strip()]


LONG = 40
"""Characters of a spec that is told in full."""


def short_names(specs: Iterable[str]) -> dict[str, str]:
    """For each of `specs` that is long, a shorter name by which it is told from the others.

    It has the numbers, the verifier, and the parameters in which those of its name differ: what all of them share, such
    as the file of a calibration, is left out.
    """
    pairs = {spec: (part.partition("=") for part in _split(spec.partition(":")[2])) for spec in specs}
    parts = {spec: {key: value for key, _, value in some} for spec, some in pairs.items()}
    found = {}
    for spec, mine in parts.items():
        name = spec.partition(":")[0]
        others = [theirs for other, theirs in parts.items() if other != spec and other.partition(":")[0] == name]
        kept = [
            f"{key}={value}"
            for key, value in mine.items()
            if value.isdigit() or key == "verifier" or any(theirs.get(key) != value for theirs in others)
        ]
        if len(spec) > LONG and len(kept) < len(mine):
            found[spec] = f"{name}:{','.join(kept)}" if kept else name
    return found


def _arguments(plugin: Plugin) -> str:
    """The parameters that differ from their defaults or are `stated`, as a spec has them, with other plug-ins last."""
    always = {name: getattr(plugin, name) for name in type(plugin).model_fields if name in plugin.stated}
    changed = always | plugin.model_dump(mode="json", exclude_defaults=True)

    def text(value: Any, plain: Any) -> str:
        if isinstance(value, Plugin):
            arguments = _arguments(value)
            return f"{value.name}({arguments})" if arguments else value.name
        if isinstance(value, tuple) and any(isinstance(member, Plugin) for member in value):
            return f"[{','.join(map(text, value, plain))}]"
        if isinstance(plain, str) and re.fullmatch(r"[\w.@/+-]+", plain) and plain_value(plain) == plain:
            return plain
        return json.dumps(plain)  # "42" stays a text

    last = sorted(changed, key=lambda key: isinstance(getattr(plugin, key), Plugin))
    return ",".join(f"{key}={text(getattr(plugin, key), changed[key])}" for key in last)
