"""`tts list`: the strategies, verifiers, tasks, environments and studies that are installed, with their parameters."""

from __future__ import annotations

import inspect
import json
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

import typer

from tts.cli.common import AsJson, show_json
from tts.errors import ConfigError

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from tts.registry import Group, Plugin

EPILOG = """\
\b
Examples:
  tts list
  tts list strategies
  tts list best_of_n
  tts list verifiers --details

A parameter is set in a spec: best_of_n:n=32,verifier=unit_tests(timeout=5)
"""

GROUPS: Sequence[Group] = ("strategies", "verifiers", "tasks", "environments", "studies")
BOUNDS = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}


def _begun(ctx: typer.Context, incomplete: str) -> list[str]:
    """For the shell's completion: groups and names, after a group those in it."""
    words = ctx.params.get("words") or []
    names = [name for _, name in _wanted([word for word in words[:1] if word in GROUPS])]
    return [word for word in (*names, *(() if words else GROUPS)) if word.startswith(incomplete)]


def list_(
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar=f"[{'|'.join(GROUPS)}] [NAME]", show_default=False, autocompletion=_begun),
    ] = None,
    details: Annotated[bool, typer.Option("--details", help="Show the parameters of all.")] = False,
    as_json: AsJson = False,
) -> None:
    """List strategies, verifiers, tasks, environments and studies.

    In a line each; one that is named, with its parameters.
    """
    words = words or []
    in_lines = not details and not as_json and all(word in GROUPS for word in words[:2])
    entries = [describe(group, name, brief=in_lines) for group, name in _wanted(words)]
    if as_json:
        show_json(entries)
        return
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 120
    longest = max((len(entry["name"]) for entry in entries), default=0)
    for group in GROUPS:
        members = [entry for entry in entries if entry["group"] == group]
        if members:
            typer.secho(group, bold=True)
        for entry in members:
            _show_line(entry, longest, width) if in_lines else _show(entry, width)
    if in_lines:
        typer.echo("\nParameters: tts list NAME, or --details for all")


def _wanted(words: list[str]) -> list[tuple[Group, str]]:
    """What the words ask for: everything, a group, a name in a group, or a name in any group."""
    from tts import registry

    groups: list[Group] = [group for group in GROUPS if words[:1] == [group]]
    names = words[1:] if groups else words
    everything: list[tuple[Group, str]] = [
        (group, name) for group in groups or GROUPS for name in registry.names(group)
    ]
    for name in names:
        if not any(name == known for _, known in everything):
            near = registry.near_names(name, [known for _, known in everything])
            hint = f"did you mean {' or '.join(near)}? " if near else ""
            where = groups[0] if groups else f"{', '.join(GROUPS[:-1])} and {GROUPS[-1]}"
            raise ConfigError(f"no '{name}' among the {where}; {hint}`tts list{' '.join(['', *groups])}` has all")
    return [entry for entry in everything if not names or entry[1] in names]


def describe(group: Group, name: str, *, brief: bool = False) -> dict[str, Any]:
    """A plug-in as plain data, `brief` without parameters; one that cannot be loaded has an `error` that says why."""
    from tts import registry

    entry: dict[str, Any] = {"group": group, "name": name, "source": registry.source(group, name)}
    try:
        plugin = registry.load(group, name)
        parameters = [] if brief else _parameters(plugin)
    except Exception as error:  # a third-party module may fail in any way; the others are listed all the same
        return {**entry, "summary": "", "parameters": [], "error": str(error)}
    summary = inspect.cleandoc(plugin.__doc__ or "").partition("\n")[0]
    return {**entry, "summary": summary, "parameters": parameters, "error": None}


def _parameters(plugin: type[Plugin]) -> list[dict[str, Any]]:
    from tts.settings import documents

    helps = documents(plugin)
    return [_parameter(key, field, helps.get(key, "")) for key, field in plugin.model_fields.items()]


def _parameter(name: str, field: FieldInfo, under: str) -> dict[str, Any]:
    default = None if field.is_required() else field.get_default(call_default_factory=True)
    return {
        "name": name,
        "type": type_text(field.annotation, field.metadata),
        "required": field.is_required(),
        "default": getattr(default, "spec", None) or json.loads(json.dumps(default, default=str)),
        "help": " ".join((field.description or under).split()),
    }


def type_text(annotation: Any, metadata: Any = ()) -> str:
    """A type as users write it: `int > 0`, `str | None`, `Verifier`."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        text = type_text(arguments[0], arguments[1:])
    elif origin in (Union, UnionType):
        text = " | ".join(map(type_text, arguments))
    elif origin is Literal:
        text = " | ".join(map(json.dumps, arguments))
    elif arguments:
        inner = ", ".join("..." if argument is ... else type_text(argument) for argument in arguments)
        text = f"{type_text(origin)}[{inner}]"
    else:
        text = "None" if annotation is type(None) else getattr(annotation, "__name__", str(annotation))
    bounds = (
        f" {sign} {limit:g}"
        for declared in metadata
        for item in getattr(declared, "metadata", [declared])
        for name, sign in BOUNDS.items()
        if isinstance(limit := getattr(item, name, None), int | float)
    )
    return text + "".join(bounds)


def _show_line(entry: Mapping[str, Any], longest: int, width: int) -> None:
    """A plug-in in a line, cut to `width`; the `longest` name says where what is told of it begins."""
    told = f"cannot be used: {entry['error']}" if entry["error"] else entry["summary"]
    line = f"  {entry['name']:<{longest}}  {_origin(entry).lstrip()}{told}"
    typer.echo(line if len(line) <= width else f"{line[: width - 1].rstrip()}…")


def _origin(entry: Mapping[str, Any]) -> str:
    return f" (from {entry['source']}) " if entry["source"] not in (None, "ttscale") else ""


def _show(entry: Mapping[str, Any], width: int) -> None:
    """A plug-in with its parameters, in lines that end between words."""

    def show(indent: int, words: str, further: int) -> None:
        wrapped = textwrap.wrap(
            words, width - indent, subsequent_indent=" " * further, break_long_words=False, break_on_hyphens=False
        )
        typer.echo(textwrap.indent("\n".join(wrapped), " " * indent))

    theirs = _origin(entry).rstrip()
    if entry["error"]:
        show(2, f"{entry['name']}{theirs}: cannot be used: {entry['error']}", 2)
        typer.echo()
        return
    show(2, f"{entry['name']}{theirs}: {entry['summary']}", 2)
    for parameter in entry["parameters"]:
        default = "required" if parameter["required"] else f"= {_short(parameter['default'])}"
        show(6, f"{parameter['name']}: {parameter['type']} {default}", 8)
        if parameter["help"]:
            show(10, parameter["help"], 0)
    typer.echo()


def _short(default: Any) -> str:
    """A default on one line; the start of a long one, such as a prompt (`--json` has all of it)."""
    text = json.dumps(default, ensure_ascii=False)
    return text if len(text) <= 100 else f'{text[:80]}..."'
