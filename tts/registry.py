"""Finds strategies, verifiers, tasks and studies by name.

They are entry points of the groups `tts.strategies`, `tts.verifiers`, `tts.tasks` and `tts.studies`, ours like
anyone's: a package that declares one in its own metadata adds it. `register` adds one by hand, in a notebook or a test.
"""

from __future__ import annotations

import difflib
import functools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

from tts.errors import ConfigError, MissingExtra, complaints

if TYPE_CHECKING:
    from tts.base import Plugin

Group = Literal["strategies", "verifiers", "tasks", "studies"]
P = TypeVar("P", bound="type[Plugin]")

_files: ContextVar[bool] = ContextVar("files", default=True)
_registered: dict[tuple[str, str], type[Plugin]] = {}


@functools.cache
def _installed(group: str) -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=f"tts.{group}")}


def names(group: Group) -> list[str]:
    """All names of a group, sorted."""
    return sorted({*_installed(group), *(name for kind, name in _registered if kind == group)})


def register(group: Group, plugin: P) -> P:
    """Add a class under its `name`; usable as `functools.partial(register, "strategies")` decorator."""
    _registered[group, plugin.name] = plugin
    return plugin


def load(group: Group, name: str) -> type[Plugin]:
    """The class called `name`.

    Raises `ConfigError` that lists what exists, or says why its package cannot be imported.
    """
    if (group, name) in _registered:
        return _registered[group, name]
    point = _installed(group).get(name)
    if point is None:
        near = difflib.get_close_matches(name, names(group), n=1)
        hint = f"did you mean '{near[0]}'? " if near else ""
        raise ConfigError(f"no '{name}' among the {group}; {hint}there are: {', '.join(names(group))}")
    try:
        return cast("type[Plugin]", point.load())
    except MissingExtra:
        raise
    except Exception as error:  # a stranger's module may fail in any way
        words = f"{type(error).__name__}: {error}"
        raise ConfigError(f"{group} '{name}' ({point.value}) cannot be imported: {words}") from error


def make(group: Group, spec: str | dict[str, Any]) -> Any:
    """An object from its spec: `best_of_n`, `best_of_n:n=16,verifier=unit_tests(timeout=5)` or a mapping with `name`.

    Raises `ConfigError` naming the parameter at fault and those that exist.
    """
    from pydantic import ValidationError

    name, parameters = parse_spec(spec)
    plugin = load(group, name)
    try:
        return plugin(**parameters)
    except ValidationError as error:
        known = ", ".join(plugin.model_fields) or "none"
        raise ConfigError(f"cannot make {group} '{name}': {complaints(error, name)}. Parameters: {known}") from error


@contextmanager
def without_files() -> Iterator[None]:
    """Objects made inside may not read files: their specs come from strangers."""
    token = _files.set(False)
    try:
        yield
    finally:
        _files.reset(token)


def may_read_files() -> bool:
    """Whether a parameter may name a file to be read. Plug-ins that read one when they are made must ask."""
    return _files.get()


def parse_spec(spec: str | dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Name and parameters of a spec. Values are JSON where they parse as JSON, nested specs in (), else text; what is
    in [] and no JSON is a list of such values."""
    if isinstance(spec, dict):
        parameters = dict(spec)
        try:
            return str(parameters.pop("name")), parameters
        except KeyError:
            raise ConfigError(f"a spec given as a table needs the key 'name': {spec}") from None
    value = _value(spec.strip())
    if isinstance(value, dict) and "name" in value:  # written as it would be inside another spec: name(key=value)
        return parse_spec(value)
    name, _, rest = spec.strip().partition(":")
    return name, {key: _value(text) for key, text in _pairs(rest, spec)}


def _pairs(text: str, spec: str) -> list[tuple[str, str]]:
    pairs = []
    for part in _split(text):
        key, equals, value = part.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"cannot read '{part}' in '{spec}'; write name:key=value,key=value")
        pairs.append((key.strip(), value.strip()))
    return pairs


def _value(text: str) -> Any:
    head, parenthesis, inner = text.partition("(")
    if parenthesis and inner.endswith(")") and head.isidentifier():
        return {"name": head, **{key: _value(value) for key, value in _pairs(inner[:-1], text)}}
    value = plain_value(text)
    if value == text and text.startswith("[") and text.endswith("]"):  # a list of words and specs
        return [_value(part.strip()) for part in _split(text[1:-1])]
    return value


def plain_value(text: str) -> Any:
    """What a word of a spec or of the command line stands for: JSON where it is JSON, else the text itself."""
    try:
        return json.loads(text)
    except ValueError:
        return {"true": True, "false": False, "none": None}.get(text.lower(), text)


def _split(text: str) -> list[str]:
    """`text` cut at the commas outside brackets and quotes."""
    parts, depth, quoted, begin = [], 0, False, 0
    for i, character in enumerate(text):
        if character == '"' and (i == 0 or text[i - 1] != "\\"):
            quoted = not quoted
        elif not quoted and character in "([{":
            depth += 1
        elif not quoted and character in ")]}":
            depth -= 1
        elif not quoted and depth == 0 and character == ",":
            parts.append(text[begin:i])
            begin = i + 1
    return [part for part in [*parts, text[begin:]] if part.strip()]
