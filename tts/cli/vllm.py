"""`tts vllm`: serves a model on this machine until Ctrl-C."""

from __future__ import annotations

import asyncio
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from tts.cli.common import INTERRUPTED, say

EPILOG = """\
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
        status.update(Text(words))
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
