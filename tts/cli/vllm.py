"""`tts vllm`: serves a model on this machine until Ctrl-C."""

from __future__ import annotations

import asyncio
import shlex
import sys
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Annotated

import typer

from tts.cli.common import INTERRUPTED, say

if TYPE_CHECKING:
    from rich.status import Status

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
        list[str] | None, typer.Argument(metavar="[-- VLLM OPTIONS]", help="Passed on to vLLM unchanged.")
    ] = None,
    port: Annotated[int | None, typer.Option(metavar="PORT", min=1, max=65535, help="Default: a free one.")] = None,
    name: Annotated[str | None, typer.Option(metavar="NAME", help="The model's name in requests.")] = None,
    python: Annotated[str | None, typer.Option(metavar="PY", help="Interpreter that has vLLM installed.")] = None,
    log: Annotated[Path | None, typer.Option(metavar="FILE", help="Keep the server's log in this file.")] = None,
    startup_timeout: Annotated[float, typer.Option(metavar="S", min=1, help="Give up after S seconds.")] = 600.0,
) -> None:
    """Serve a model with vLLM until Ctrl-C.

    Prints the settings that point an OpenAI client to it on stdout.
    """
    from tts.local_vllm import LocalVLLM, serve

    progress = _Loading()
    server = LocalVLLM(
        model,
        name=name,
        python=python,
        port=port,
        options=options or (),
        log=log,
        startup_timeout=startup_timeout,
        on_progress=progress.show,
    )

    def announce(line: str) -> None:
        progress.stop()
        say(f"{line}; stop with Ctrl-C")
        typer.echo(f"export OPENAI_BASE_URL={shlex.quote(server.base_url)}")
        typer.echo(f"export OPENAI_MODEL={shlex.quote(server.name)}")
        sys.stdout.flush()

    try:
        asyncio.run(serve(server, announce))
    except KeyboardInterrupt:
        say("stopped")
        raise typer.Exit(0 if progress.over else INTERRUPTED) from None
    finally:
        progress.stop()


class _Loading:
    """Progress of a server while it loads: one redrawn line on a terminal, else a line now and then."""

    def __init__(self) -> None:
        self.over = False
        self._status: Status | None = None
        self._said = monotonic()

    def show(self, seconds: float, last_line: str) -> None:
        """Show the elapsed time and the last line of the log."""
        words = f"loading for {seconds:.0f} s: {last_line[:100]}"
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.text import Text

            if self._status is None:
                self._status = Console(stderr=True).status("")
                self._status.start()
            self._status.update(Text(words))
        elif monotonic() - self._said >= QUIET_SECONDS:
            self._said = monotonic()
            say(words)

    def stop(self) -> None:
        self.over = True
        if self._status is not None:
            self._status.stop()
