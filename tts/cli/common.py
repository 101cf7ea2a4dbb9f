"""What several commands share: dotted options, the endpoint they talk to, output and interruption."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from io import TextIOWrapper
from threading import current_thread, main_thread
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup

from tts.errors import ConfigError, complaints
from tts.text import visible, visible_json

if TYPE_CHECKING:
    from pydantic import BaseModel
    from rich.console import Console

    from tts.base import Strategy
    from tts.registry import Group

M = TypeVar("M", bound="BaseModel")


def choices(kind: type[StrEnum]) -> str:
    """How help shows what an option may be that takes several of them: `<html|md>`."""
    return f"<{'|'.join(kind)}>"


def plugin_option(group: Group, help: str, *names: str) -> Any:
    """An option for a plug-in of a group. The shell completes what is written of its name, `best_` say."""

    def begun(incomplete: str) -> list[str]:
        from tts import registry

        return [name for name in registry.names(group) if name.startswith(incomplete)]

    return typer.Option(*names, metavar="SPEC", help=help, autocompletion=begun)


INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""
TERMINATED = 143
"""Exit code after SIGTERM, as shells have it."""

BaseUrl = Annotated[
    str | None,
    typer.Option("--base-url", metavar="URL", help="Base URL of the server, with /v1. Default: $OPENAI_BASE_URL."),
]
Model = Annotated[
    str | None,
    typer.Option(
        "--model", metavar="NAME", help="Model to sample from. Default: $OPENAI_MODEL, or the only one the server has."
    ),
]
Verifier = Annotated[
    str | None,
    plugin_option("verifiers", "Verifies candidates; see: tts list verifiers.", "--verifier"),
]
EnvironmentSpec = Annotated[
    str | None,
    plugin_option("environments", "Where the model acts; see: tts list environments.", "--environment"),
]
Temperature = Annotated[
    float | None, typer.Option("--temperature", metavar="T", min=0, help="Sampling temperature. Default: the server's.")
]
MaxTokens = Annotated[int | None, typer.Option("--max-tokens", metavar="N", min=1, help="Most tokens of one sample.")]
N = Annotated[int | None, typer.Option("-n", metavar="N", min=1, help="Set n of every strategy that has it.")]
Trackers = StrEnum("Trackers", ["mlflow", "tensorboard", "wandb"])
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


# -- interruption -----------------------------------------------------------------------------------------------


class CommandGroup(TyperGroup):
    """Commands whose help shows an argument by its name alone: the types that Typer adds are Python's."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        command = super().get_command(ctx, cmd_name)
        for one in command.params if command else ():
            if one.param_type_name == "argument":
                vars(one)["display_type_rich"] = lambda ctx: None
        return command


class Commands(CommandGroup):
    """Commands that Ctrl-C, SIGTERM and a terminal that closes (SIGHUP) end in order, at whatever moment, with exit
    code 130 or 143 and a word.

    A command that has more to say raises `KeyboardInterrupt` with it. What is wrong with an option is told in the words
    that settings have.
    """

    def invoke(self, ctx: Any) -> Any:
        with _signals_interrupt() as terminated:
            try:
                return super().invoke(ctx)
            except typer.BadParameter as error:
                from pydantic import ValidationError  # Typer reads options by it

                if isinstance(error.__cause__, ValidationError):
                    error.message = complaints(error.__cause__)
                raise
            except KeyboardInterrupt as error:
                say("; ".join(["terminated" if terminated else "interrupted", *map(str, error.args)]))
                raise typer.Exit(TERMINATED if terminated else INTERRUPTED) from None


@contextmanager
def _signals_interrupt() -> Iterator[list[int]]:
    """Within, Ctrl-C raises `KeyboardInterrupt`, and so do SIGTERM and SIGHUP, which are then in the list."""
    received: list[int] = []

    def interrupt(number: int, _: object) -> None:
        received.append(number)
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as shells have it for what is started with `&`
            signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.raise_signal(signal.SIGINT)

    if current_thread() is not main_thread():  # where Python delivers no signals
        yield received
        return
    numbers = [signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:  # not under nohup
        numbers.append(signal.SIGHUP)
    before: dict[int, Any] = {number: signal.signal(number, interrupt) for number in numbers}
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        before[signal.SIGINT] = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# -- dotted options ---------------------------------------------------------------------------------------------

_DOTTED = re.compile(r"--([A-Za-z_]\w*(?:\.[^.=\s]+)+)(?:=(.*))?", re.DOTALL)


class DottedCommand(TyperCommand):
    """A command that takes `--any.dotted.key VALUE` besides its declared options; `dotted(ctx)` has them."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ctx.meta["tts.dotted"], rest = take_dotted(args)
        return super().parse_args(ctx, rest)


def dotted(ctx: typer.Context) -> dict[str, Any]:
    """The dotted options of a `DottedCommand`, in the order given."""
    return ctx.meta["tts.dotted"]


def take_dotted(words: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Dotted options with their values (JSON if they parse as JSON, else text), and the other words."""
    from tts.registry import plain_value

    found, others, left = {}, [], iter(words)
    for word in left:
        if word == "--":
            return found, [*others, word, *left]
        match = _DOTTED.fullmatch(word)
        if match is None:
            others.append(word)
            continue
        key, value = match.groups()
        if value is None and (value := next(left, "--")).startswith("--"):
            raise ConfigError(f"--{key} needs a value: --{key} VALUE, or --{key}=VALUE")
        found[key] = plain_value(value)
    return found, others


def tree(options: Mapping[str, Any], roots: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Dotted options as nested tables below `roots`. Raises `ConfigError` for any other root."""
    from tts.runs.config import load

    for key in options:
        if key.partition(".")[0] not in roots:
            raise ConfigError(f"no option --{key}; dotted options start with: --{'., --'.join(roots)}.")
    return {**{root: {} for root in roots}, **load(None, options)}


# -- endpoint -------------------------------------------------------------------------------------------------------


def checked(kind: type[M], **fields: Any) -> M:
    """`kind(**fields)`, with validation errors as one `ConfigError`."""
    from pydantic import ValidationError

    try:
        return kind(**fields)
    except ValidationError as error:
        unknown = any(one["type"] == "extra_forbidden" for one in error.errors())
        known = f"; there are: {', '.join(kind.model_fields)}" if unknown else ""
        raise ConfigError(f"{kind.__name__.lower()}: {complaints(error)}{known}") from None


def place(base_url: str | None) -> dict[str, str]:
    """The field of an endpoint that `--base-url` sets; left out, the default applies."""
    return {"base_url": base_url} if base_url else {}


async def served(base_url: str | None) -> tuple[str, list[str]]:
    """The URL of the server, and the models that it lists."""
    from tts.sampler import Endpoint, Sampler
    from tts.sampler.probe import list_models

    async with Sampler(checked(Endpoint, model="", **place(base_url))) as sampler:
        return sampler.endpoint.urls[0], await list_models(sampler)


async def model_or_default(model: str | None, base_url: str | None) -> str:
    """`model`, else $OPENAI_MODEL, else the only model of the server; a `ConfigError` if it has none or several."""
    if model or (model := os.environ.get("OPENAI_MODEL")):
        return model
    url, names = await served(base_url)
    if len(names) == 1:
        return names[0]
    there = ", ".join(names) or "none"
    raise ConfigError(f"name a model of {url} (--model or OPENAI_MODEL); it serves {there}")


def with_n(strategies: Sequence[Strategy], n: int | None) -> tuple[Strategy, ...]:
    """`strategies` with their parameter `n` set. Raises `ConfigError` if none has it."""
    from tts import registry

    if n is None:
        return tuple(strategies)
    having = [strategy for strategy in strategies if "n" in type(strategy).model_fields]
    if not having:
        raise ConfigError(f"-n has nothing to set: no n in {', '.join(strategy.spec for strategy in strategies)}")
    changed = (
        registry.make("strategies", {**strategy.config(), "n": n}) if strategy in having else strategy
        for strategy in strategies
    )
    return tuple({strategy.spec: strategy for strategy in changed}.values())


# -- output -----------------------------------------------------------------------------------------------------------


def say(words: str) -> None:
    """Print a line for the user to stderr; stdout is for results."""
    typer.echo(visible(words), err=True)


def show_json(data: Any) -> None:
    """Print `data` as indented JSON on stdout, in ASCII where stdout cannot show all characters."""
    unicode = (sys.stdout.encoding or "").lower().startswith("utf")
    typer.echo(visible_json(json.dumps(data, indent=2, ensure_ascii=not unicode, default=str)))


def show_any_text() -> None:
    """Have stdout and stderr spell out (`\\u2713`) the characters that their encoding lacks, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def console(*, stderr: bool = False) -> Console:
    """stdout or stderr for tables, which are not cut to 80 columns when it is a file or a pipe."""
    from rich.console import Console

    width = None if (sys.stderr if stderr else sys.stdout).isatty() else 240
    return Console(stderr=stderr, width=width, highlight=False, markup=False, soft_wrap=False)
