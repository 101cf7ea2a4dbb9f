"""The command `tts`. Its modules import slow libraries inside the commands, so that --help is quick."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Annotated

import typer

from tts.cli import calibrate, demo, doctor, importing, init, listing, local, report, run, serve, solve, verify
from tts.cli.common import Commands, DottedCommand, say, show_any_text
from tts.cycles import look_seldom_for_cycles
from tts.errors import ConfigError, MissingExtra, TTSError

SETTING = re.compile(
    r"""\s*(?:export\s+)?(?P<name>\w+)\s*=\s*(?:(?P<quote>['"])(?P<quoted>.*?)(?P=quote)|(?P<plain>[^'"#].*?)?)\s*(?:(?<=\s)#.*)?"""
)
"""A line of a file `.env`: a name, `=`, and a value, as it is or in quotes; a comment may follow."""

EPILOG = """\
\b
Examples:
  tts demo
  tts solve "What is 17 * 23?" --strategy self_consistency:n=8
  tts run --task gsm8k --strategy best_of_n:n=16 --limit 100 --temperature 0.8
  tts report runs/gsm8k-*
  tts view runs
  tts list strategies

Server, key and model are read from $OPENAI_BASE_URL, $OPENAI_API_KEY and $OPENAI_MODEL, which a file .env in the
working directory may set.

\b
Exit code: 0 done, 1 failed, 2 what you can correct (usage, settings, a missing extra), 130 interrupted,
143 terminated.
"""

app: typer.Typer = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=EPILOG,
)
app.command("solve", cls=DottedCommand, epilog=solve.EPILOG)(solve.solve)
app.command("init", epilog=init.EPILOG)(init.init)
app.command("run", cls=DottedCommand, epilog=run.EPILOG)(run.run)
app.command("report", epilog=report.EPILOG)(report.report)
app.command("view", epilog=report.VIEW_EPILOG)(report.view)
app.command("calibrate", epilog=calibrate.EPILOG)(calibrate.calibrate)
app.command("verify", epilog=verify.EPILOG)(verify.verify)
app.command("import", epilog=importing.EPILOG)(importing.import_)
app.command("list", epilog=listing.EPILOG)(listing.list_)
app.command("doctor", epilog=doctor.EPILOG)(doctor.doctor)
app.command("demo", epilog=demo.EPILOG)(demo.demo)
app.add_typer(local.app, name="embedded")
app.command("serve", cls=DottedCommand, epilog=serve.EPILOG)(serve.serve)
app.command("vllm", epilog=local.VLLM_EPILOG)(local.vllm)


def _read_settings(path: Path) -> None:
    """Add the settings of a file `.env`, if there is one, to the environment, which wins over it."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines() if path.exists() else []
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path.absolute()}: {error}") from None
    for setting in filter(None, map(SETTING.fullmatch, lines)):
        os.environ.setdefault(setting["name"], setting["quoted"] or setting["plain"] or "")


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"tts {version('ttscale')}")
        raise typer.Exit


@app.callback()
def _tts(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks; may be given anywhere.")] = False,
) -> None:
    """Inference-time scaling: sample, verify, select, and see accuracy against compute."""
    _read_settings(Path(".env"))


def main() -> None:
    """Run the command line. Exits with 0, with 2 for what the user must correct, with 1 for any other failure."""
    look_seldom_for_cycles()
    show_any_text()
    words = sys.argv[1:]
    ours = words[: words.index("--")] if "--" in words else words
    debug = "--debug" in ours
    if debug:
        words.remove("--debug")
    try:
        app(words, prog_name="tts")
    except TTSError as error:
        if debug:
            raise
        say(f"error: {error}")
        sys.exit(2 if isinstance(error, ConfigError | MissingExtra) else 1)
    except OSError as error:  # such as a full disk
        if debug:
            raise
        say(f"error: {': '.join(str(word) for word in (error.filename, error.strerror) if word) or error}")
        sys.exit(1)
