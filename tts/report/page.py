"""The page: HTML, style and scripts of the folder `web`, with the data inside or asked for from `tts view`."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

from tts.report.details import Details
from tts.report.embed import chunks, packed
from tts.report.overview import overview
from tts.report.tracks import Comparison

STYLES = ("vendor/uplot-1.6.32.min.css", "report.css")
LIBRARY = "vendor/uplot-1.6.32.min.js"
SCRIPTS = ("charts.js", "summary.js", "curves.js", "problems.js", "detail.js", "verifiers.js", "made.js",
           "main.js")  # fmt: skip
MOST_CHARACTERS = 60_000_000
"""Characters of candidates in a page; of larger runs it has the details of some problems only."""


def write_page(comparison: Comparison, path: Path, *, most: int = MOST_CHARACTERS) -> None:
    """Write the report as one file of HTML that needs nothing else.

    Where the candidates have more than `most` characters, the details are those of problems at equal distances; the
    page says so.
    """
    summary = overview(comparison)
    details = Details(comparison)
    shown = sampled(len(comparison.problems), min(1.0, most / max(1, size(comparison))))
    with path.open("w", encoding="utf-8") as file:
        before, after = page(comparison_title(summary)).split(DATA)
        file.write(before)
        chunk_of: dict[int, int] = {}
        for number, (inside, text) in enumerate(chunks((i, details.of(comparison.problems[i])) for i in shown)):
            chunk_of |= dict.fromkeys(inside, number)
            file.write(f'<script type="text/plain" id="chunk-{number}">{text}</script>\n')
        summary["chunks"] = [chunk_of.get(i) for i in range(len(comparison.problems))]
        file.write(f'<script type="text/plain" id="overview">{packed(summary)}</script>\n')
        file.write(after)


def size(comparison: Comparison) -> int:
    """Characters of all candidates with what is known of them."""
    query = "SELECT COALESCE(SUM(LENGTH(content) + LENGTH(details) + 150), 0) FROM candidates"
    return sum(run.db.execute(query).fetchone()[0] for run in comparison.runs.values())


def sampled(problems: int, share: float) -> Iterator[int]:
    """The places of a `share` of the problems, at equal distances."""
    kept = int(problems * share)
    return (i * problems // kept for i in range(kept))


def comparison_title(summary: dict[str, Any]) -> str:
    """What the browser's tab says."""
    return f"{summary['title']} · tts report"


DATA = "<!-- data -->"


def page(title: str, *, template: str = "report.html", scripts: tuple[str, ...] = SCRIPTS, live: bool = False) -> str:
    """The page without data. Its policy lets only its own scripts run, and nothing be asked for from anywhere.

    A `live` page may ask the server that it came from.
    """
    style = "\n".join(map(_text, STYLES))
    code = "\n".join(["(() => {", '"use strict";', *(_text(name) for name in ("base.js", *scripts)), "})();"])
    library = _text(LIBRARY)
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
