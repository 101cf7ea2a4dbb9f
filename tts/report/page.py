"""The page: HTML, style and scripts of the folder `web`, with the data inside or asked for from `tts view`."""

from __future__ import annotations

import gzip
import json
from base64 import b64encode
from collections.abc import Iterable, Iterator
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

from tts.files import written_whole
from tts.report.details import Details
from tts.report.overview import overview
from tts.report.tracks import RunComparison
from tts.tables import plain

STYLES = ("vendor/uplot-1.6.32.min.css", "report.css")
LIBRARY = ("language.js", "vendor/uplot-1.6.32.min.js")
SCRIPTS = ("charts.js", "summary.js", "curves.js", "problems.js", "tree.js", "detail.js", "verifiers.js",
           "made.js", "main.js")  # fmt: skip
MOST_CHARACTERS = 20_000_000
"""Characters of candidates in a page; for larger runs it has the details of some problems only."""
CHUNK = 200_000
"""Characters of JSON from which a chunk is closed."""


def write_page(comparison: RunComparison, path: Path, *, most: int = MOST_CHARACTERS) -> None:
    """Write the report as one self-contained HTML file.

    Where the candidates have more than `most` characters, it has the details of evenly spaced problems, and says so.
    """
    summary = overview(comparison)
    details = Details(comparison)
    shown = sampled(len(comparison.problems), min(1.0, most / max(1, size(comparison))))
    with written_whole(path) as partial, partial.open("w", encoding="utf-8") as file:
        before, after = page(f"{summary['title']} · tts report").split(DATA)
        file.write(before)
        chunk_of: dict[int, int] = {}
        for number, (inside, text) in enumerate(chunks((i, details.of(comparison.problems[i])) for i in shown)):
            chunk_of |= dict.fromkeys(inside, number)
            file.write(f'<script type="text/plain" id="chunk-{number}">{text}</script>\n')
        summary["chunks"] = [chunk_of.get(i) for i in range(len(comparison.problems))]
        file.write(f'<script type="text/plain" id="overview">{packed(summary)}</script>\n')
        file.write(after)


def size(comparison: RunComparison) -> int:
    """Characters of all candidates and their details."""
    parts = (part for shown in comparison.tracks for part in shown.track.columns)
    return sum(part.characters + 150 * len(part.numbers) for part in parts)


def sampled(problems: int, share: float) -> Iterator[int]:
    """The positions of a `share` of the problems, evenly spaced."""
    kept = int(problems * share)
    return (i * problems // kept for i in range(kept))


DATA = "<!-- data -->"


def page(title: str, *, template: str = "report.html", scripts: tuple[str, ...] = SCRIPTS, live: bool = False) -> str:
    """The page without data. Its policy lets only its own scripts run, and only a `live` page ask its own server."""
    style = "\n".join(map(_text, STYLES))
    code = "\n".join(["(() => {", '"use strict";', *(_text(name) for name in ("base.js", *scripts)), "})();"])
    library = "\n".join(map(_text, LIBRARY))
    asked = "'self'" if live else "'none'"
    policy = "; ".join(
        [
            "default-src 'none'",
            f"script-src {_digest(library)} {_digest(code)}",
            f"style-src {_digest(style)}",
            "img-src data:",
            f"connect-src {asked}",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )
    ours = {"style": Markup(style), "library": Markup(library), "code": Markup(code)}
    return (
        Environment(autoescape=True).from_string(_text(template)).render(title=title, policy=policy, live=live, **ours)
    )


def _text(name: str) -> str:
    return (files("tts.report") / "web" / name).read_text(encoding="utf-8").strip()


def _digest(text: str) -> str:
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


# -- data inside a page: compressed, and split so that a browser unpacks only what is looked at ------------------------


def packed(data: Any) -> str:
    """`data` as JSON, gzip and Base64: nothing in it can be taken for HTML."""
    return _compressed(as_json(data))


def chunks(items: Iterable[tuple[int, Any]]) -> Iterator[tuple[list[int], str]]:
    """Numbered items as packed objects `{number: item}` of about `CHUNK` characters, each with its numbers."""
    open_: dict[int, str] = {}
    size = 0
    for number, item in items:
        open_[number] = as_json(item)
        size += len(open_[number])
        if size >= CHUNK:
            yield list(open_), _joined(open_)
            open_, size = {}, 0
    if open_:
        yield list(open_), _joined(open_)


def _joined(items: dict[int, str]) -> str:
    return _compressed("{" + ",".join(f'"{number}":{item}' for number, item in items.items()) + "}")


def _compressed(text: str) -> str:
    return b64encode(gzip.compress(text.encode(), 1, mtime=0)).decode()


def as_json(data: Any) -> str:
    """JSON that browsers read, in ASCII: without the NaN that Python would write, and with lone surrogates escaped."""
    try:
        return _JSON.encode(data)
    except ValueError:  # what is infinite, or no number
        return _JSON.encode(plain(data))


_JSON = json.JSONEncoder(
    separators=(",", ":"),
    allow_nan=False,
    default=lambda value: plain(value) if hasattr(value, "tolist") else str(value),
)
