"""Settings in a file `.env`: lines KEY=VALUE, `#` for comments, optional quotes and `export`."""

from __future__ import annotations

import re
from collections.abc import MutableMapping
from pathlib import Path

from tts.errors import ConfigError

_LINE = re.compile(
    r"""\s*(?:export\s+)?([A-Za-z_]\w*)\s*=\s*(?:"([^"]*)"|'([^']*)'|((?:[^#]|(?<!\s)\#)*))\s*(?:\#.*)?"""
)


def read(text: str) -> dict[str, str]:
    """The settings in `text`; lines of any other form are of no concern here."""
    matches = filter(None, map(_LINE.fullmatch, text.splitlines()))
    return {match[1]: (match[2] or match[3] or match[4] or "").strip() for match in matches}


def apply(path: Path, environment: MutableMapping[str, str]) -> None:
    """Add the settings of the file, if there is one, to `environment`; what is set there already wins."""
    try:
        settings = read(path.read_text())
    except FileNotFoundError:
        return
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path.absolute()}: {error}") from None
    for key, value in settings.items():
        environment.setdefault(key, value)
