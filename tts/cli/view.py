"""`tts view`: the reports of a folder of runs in the browser, updated while runs go on."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from tts.cli.common import say

EPILOG = """\
\b
Examples:
  tts view
  tts view runs/gsm8k-small --port 9000

To get a report as a file that you can send: tts report RUN
"""


def view(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A folder of runs, or a run.")] = Path("runs"),
    port: Annotated[int, typer.Option(metavar="PORT", min=0, max=65535, help="0 picks a free port.")] = 8090,
) -> None:
    """Show runs in the browser until Ctrl-C, on this machine only; pages are updated while runs go on.

    Prints the address on stdout.
    """
    from tts.errors import MissingExtra
    from tts.serving import serve as put_on_port

    try:
        from tts.report.viewer import view_app
    except ImportError:
        raise MissingExtra("serve", "viewing runs") from None

    def announce(address: str) -> None:
        say(f"showing the runs in {folder}; stop with Ctrl-C")
        typer.echo(f"{address}/")
        sys.stdout.flush()

    put_on_port(view_app(folder), "127.0.0.1", port, announce, path="")
