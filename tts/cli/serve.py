"""`tts serve`: the gateway, any strategy behind an OpenAI-compatible endpoint."""

from __future__ import annotations

import asyncio
import shlex
import sys
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tts.cli.common import BaseUrl, Model, dotted, place, say, served
from tts.errors import ConfigError

if TYPE_CHECKING:
    from tts.gateway import GatewaySettings

EPILOG = """\
\b
Examples:
  tts serve --base-url http://127.0.0.1:8000/v1
  tts serve gateway.toml --port 8080 --trace runs/today
  tts serve --new-key alice

\b
Settings of the file's tables:   --limits.running 200 --budget.requests 64
Settings of the models:          --models.NAME.base_url URL --models.NAME.judge.model NAME

\b
Clients then use, with OPENAI_BASE_URL as printed:
  model="NAME"                   the model itself
  model="best_of_n:n=8,verifier=judge@NAME"
  model="PRESET"                 a strategy under [presets.PRESET] in the file
"""


def serve(
    ctx: typer.Context,
    config: Annotated[Path | None, typer.Argument(metavar="[FILE]", help="The configuration, in TOML.")] = None,
    port: Annotated[int, typer.Option(metavar="PORT", min=0, max=65535, help="0: any free port.")] = 8080,
    host: Annotated[str, typer.Option(metavar="HOST", help="0.0.0.0: reachable from other machines.")] = "127.0.0.1",
    model: Model = None,
    base_url: BaseUrl = None,
    workers: Annotated[
        int, typer.Option(metavar="N", min=1, help="Processes that answer; limits hold for all together.")
    ] = 1,
    new_key: Annotated[
        str | None, typer.Option("--new-key", metavar="NAME", help="Make a key for a client, and exit.")
    ] = None,
    run_code: Annotated[
        bool,
        typer.Option("--run-code", help="Let requests run programs, isolated, with their own or a model's tests."),
    ] = False,
    trace: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Keep every request; tts report shows those with a strategy.")
    ] = None,
    open_: Annotated[bool, typer.Option("--open", help="Let other machines in without keys.")] = False,
) -> None:
    """Serve strategies to OpenAI clients until Ctrl-C or SIGTERM.

    Prints the setting that points a client to it, on stdout.
    """
    if new_key is not None:
        return _new_key(new_key)
    from tts.errors import MissingExtra
    from tts.gateway import GatewaySettings

    overrides = dotted(ctx)
    if model or base_url or (config is None and not any(key.startswith("models.") for key in overrides)):
        overrides = {**_models(model, base_url), **overrides}
    overrides |= {"run_code": True} if run_code else {}
    overrides |= {"trace": trace} if trace is not None else {}

    def read() -> GatewaySettings:
        settings = GatewaySettings.read(config, overrides)
        _check_reach(settings, host, open_)
        settings.check_keys()  # which must be there before a client asks
        return settings

    settings, reread = read(), read if config is not None else None
    try:
        from tts.gateway.app import gateway_app, serving_options
        from tts.serving import listening_at, url_of
        from tts.serving import serve as put_on_port
    except ImportError:
        raise MissingExtra("serve", "the gateway") from None

    def announce(base_url: str) -> None:
        say(f"serving {', '.join([*settings.models, *settings.presets])} at {base_url}; stop with Ctrl-C")
        typer.echo(f"export OPENAI_BASE_URL={shlex.quote(base_url)}")
        sys.stdout.flush()

    if workers > 1 or settings.redis is not None:
        from tts.gateway.workers import serve_with

        with listening_at(host, port) as listening:
            url = url_of(host, listening, scheme="https" if settings.tls else "http")
            serve_with(workers, settings, listening, lambda: announce(url), reread)
        return say("stopped")
    app = gateway_app(settings, reread=reread)
    put_on_port(app, host, port, announce, **serving_options(app))
    say("stopped")


def _new_key(name: str) -> None:
    from tts.gateway.admission import new_key
    from tts.gateway.settings import NAME

    if not NAME.fullmatch(name):
        raise ConfigError(f"'{name}' cannot name a key; use letters, digits, dots, dashes and underscores")
    key, digest = new_key()
    say("Give this key to the client; it is shown only once. Add this table to the gateway's configuration:")
    say(f'\n[keys."{name}"]\nsha256 = "{digest}"\n')
    typer.echo(key)


def _models(model: str | None, base_url: str | None) -> dict[str, Any]:
    """The named model, or all that the endpoint serves, as settings."""
    names = [model] if model else asyncio.run(served(base_url))[1]
    if not names:
        raise ConfigError("the endpoint serves no model; name one with --model")
    return {"models": {name: place(base_url) for name in names}}


def _check_reach(settings: GatewaySettings, host: str, open_: bool) -> None:
    """Without keys the gateway is for this machine alone, unless its operator says otherwise."""
    try:
        local = ip_address(host).is_loopback
    except ValueError:
        local = host == "localhost"
    if not (local or settings.keys or open_):
        raise ConfigError(f"at {host} anybody could use it: add keys (tts serve --new-key NAME), or pass --open")
