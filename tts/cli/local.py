"""`tts embedded` and `tts vllm`: models on this machine, in this process or served until Ctrl-C."""

from __future__ import annotations

import asyncio
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from tts.cli.common import INTERRUPTED, AsJson, CommandGroup, console, say, show_json
from tts.tables import Table
from tts.text import visible

EPILOG = """\
\b
Examples:
  tts embedded list
  tts embedded serve lab-target --port 8000
  tts solve "..." --base-url embedded://lab-target
  tts embedded fetch smollm2
  tts solve "..." --base-url embedded://smollm2

A MODEL is a name from the list, a folder as transformers saves it (a small Llama with byte-level BPE), or a GGUF file
of any model that llama.cpp runs. GGUF files need an extra: pip install 'ttscale[gguf]'
"""

app: typer.Typer = typer.Typer(cls=CommandGroup, no_args_is_help=True, rich_markup_mode=None, epilog=EPILOG)


@app.callback()
def embedded() -> None:
    """Use models that run in this process, at embedded://MODEL."""


@app.command("list", epilog=EPILOG)
def list_(as_json: AsJson = False) -> None:
    """List the models that ship with the library, and the public ones that it can fetch."""
    from tts.lab.engine.models import SCHEME, bundled_models, parameters_of, read_shape
    from tts.lab.public_models import MODELS, public_file

    rows = [
        {"model": folder.name, "base_url": SCHEME + folder.name, "for": shape.kind, "here": True}
        | {"parameters": parameters_of(str(folder)), "megabytes": _megabytes(folder / "model.safetensors")}
        for folder in bundled_models()
        for shape in [read_shape(folder)]
    ]
    rows += [
        {"model": name, "base_url": SCHEME + name, "for": "generate", "here": public_file(name).exists()}
        | {"parameters": model.parameters, "megabytes": model.megabytes}
        for name, model in MODELS.items()
    ]
    if as_json:
        show_json(rows)
        return
    made = Table("", ("model", "base_url", "for", "here"), ("parameters", "megabytes"))
    for row in rows:
        made.add_row(
            row["model"],
            row["base_url"],
            row["for"],
            "yes" if row["here"] else "no",
            f"{row['parameters'] / 1e6:,.1f} M",
            str(row["megabytes"]),
        )
    console().print(made)


@app.command("fetch", epilog=EPILOG)
def fetch(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A public model from the list, or how its name begins.")
    ],
) -> None:
    """Fetch a public model once, from the model hub or where else it can be had.

    Prints its file to stdout.
    """
    from tts.lab.public_models import located

    typer.echo(located(model, say))


@app.command("serve", epilog=EPILOG)
def serve(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A name from the list, or a folder.")],
    port: Annotated[int, typer.Option(metavar="PORT", min=0, max=65535, help="0: any free port.")] = 8000,
    host: Annotated[str, typer.Option(metavar="HOST", help="0.0.0.0: reachable from other machines.")] = "127.0.0.1",
) -> None:
    """Serve a model to OpenAI clients until Ctrl-C.

    Prints the settings that point a client at it to stdout.
    """
    from tts.lab.engine.transport import EmbeddedApp, EmbeddedTransport
    from tts.serving import serve as put_on_port

    transport = EmbeddedTransport(model)
    transport.load()

    def announce(base_url: str) -> None:
        say(f"{transport.name} is ready at {base_url}; stop it with Ctrl-C")
        typer.echo(f"export OPENAI_BASE_URL={shlex.quote(base_url)}")
        typer.echo(f"export OPENAI_MODEL={shlex.quote(transport.name)}")
        sys.stdout.flush()

    put_on_port(EmbeddedApp(transport), host, port, announce)
    say("stopped")


def _megabytes(path: Path) -> float:
    return round(path.stat().st_size / 1e6, 1)


VLLM_EPILOG = """\
\b
Examples:
  tts vllm Qwen/Qwen2.5-0.5B-Instruct
  tts vllm ./my-model --name mine --port 8000 -- --max-model-len 4096

It needs vLLM: pip install 'ttscale[vllm]', or name an interpreter that has it with --python or $TTS_VLLM_PYTHON.
"""

QUIET_SECONDS = 10.0
"""Between two lines of progress where stderr is no terminal."""


def vllm(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A folder, or a name on a model hub.")],
    options: Annotated[
        list[str] | None, typer.Argument(metavar="-- VLLM OPTIONS", help="Passed on to vLLM unchanged.")
    ] = None,
    port: Annotated[int | None, typer.Option(metavar="PORT", min=1, max=65535, help="Default: a free port.")] = None,
    name: Annotated[str | None, typer.Option(metavar="NAME", help="The model's name in requests.")] = None,
    python: Annotated[str | None, typer.Option(metavar="PY", help="Interpreter that has vLLM installed.")] = None,
    log: Annotated[Path | None, typer.Option(metavar="FILE", help="Keep the server's log in this file.")] = None,
    startup_timeout: Annotated[float, typer.Option(metavar="S", min=1, help="Give up after S seconds.")] = 600.0,
) -> None:
    """Serve a model with vLLM until Ctrl-C.

    Prints to stdout the settings that point an OpenAI client to it.
    """
    from rich.console import Console
    from rich.text import Text

    from tts.local_vllm import LocalVLLM, serve

    console = Console(stderr=True)
    status = console.status("loading")  # one redrawn line on a terminal
    ready, due = False, QUIET_SECONDS

    def show(seconds: float, last_line: str) -> None:
        nonlocal due
        words = f"loading for {seconds:.0f} s: {last_line[:100]}"
        status.update(Text(visible(words)))
        if not console.is_terminal and seconds >= due:
            due = seconds + QUIET_SECONDS
            say(words)

    def announce(line: str) -> None:
        nonlocal ready
        ready = True
        status.stop()
        say(f"{line}; stop with Ctrl-C")
        typer.echo(f"export OPENAI_BASE_URL={shlex.quote(server.base_url)}")
        typer.echo(f"export OPENAI_MODEL={shlex.quote(server.name)}")
        sys.stdout.flush()

    server = LocalVLLM(
        model,
        name=name,
        python=python,
        port=port,
        options=options or (),
        log=log,
        startup_timeout=startup_timeout,
        on_progress=show,
    )
    try:
        with status:
            asyncio.run(serve(server, announce))
    except KeyboardInterrupt:
        say("stopped")
        raise typer.Exit(0 if ready else INTERRUPTED) from None
