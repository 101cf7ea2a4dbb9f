"""`tts embedded`: lists the models that need no server, or serves one to other clients."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from tts.cli.common import AsJson, console, say, show_json
from tts.tables import Table

EPILOG = """\
\b
Examples:
  tts embedded list
  tts embedded serve lab-target --port 8000
  tts solve "..." --base-url embedded://lab-target

A MODEL is a name from the list, or a folder as transformers saves it (a small Llama with byte-level BPE).
"""

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, epilog=EPILOG)


@app.callback()
def embedded() -> None:
    """Use models that run in this process, at embedded://MODEL."""


@app.command("list", epilog=EPILOG)
def list_(as_json: AsJson = False) -> None:
    """List the models that ship with the library."""
    from tts.lab.engine.models import SCHEME, bundled_models, read_shape

    rows = [
        {"model": folder.name, "base_url": SCHEME + folder.name, "for": shape.kind, "context": shape.positions}
        | {"layers": shape.layers, "width": shape.width, "megabytes": _megabytes(folder / "model.safetensors")}
        for folder in bundled_models()
        for shape in [read_shape(folder)]
    ]
    if as_json:
        show_json(rows)
        return
    made = Table("", ("model", "base_url", "for"), ("context", "layers", "width", "megabytes"))
    for row in rows:
        made.add_row(*map(str, row.values()))
    console().print(made)


@app.command("serve", epilog=EPILOG)
def serve(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A name from the list, or a folder.")],
    port: Annotated[int, typer.Option(metavar="PORT", min=0, max=65535, help="0: any free port.")] = 8000,
    host: Annotated[str, typer.Option(metavar="HOST", help="0.0.0.0: reachable from other machines.")] = "127.0.0.1",
) -> None:
    """Serve a model to OpenAI clients until Ctrl-C.

    Prints the settings that point a client at it to stdout.
    """
    from tts.lab.engine.models import model_folder
    from tts.lab.engine.routes import load_service
    from tts.lab.engine.transport import ServiceApp
    from tts.serving import serve as put_on_port

    service = load_service(model_folder(model))

    def announce(base_url: str) -> None:
        say(f"{service.engine.name} is ready at {base_url}; stop it with Ctrl-C")
        typer.echo(f"export OPENAI_BASE_URL={shlex.quote(base_url)}")
        typer.echo(f"export OPENAI_MODEL={shlex.quote(service.engine.name)}")
        sys.stdout.flush()

    put_on_port(ServiceApp(service), host, port, announce)
    say("stopped")


def _megabytes(path: Path) -> float:
    return round(path.stat().st_size / 1e6, 1)
