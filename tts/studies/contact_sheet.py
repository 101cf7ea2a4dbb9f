"""Every image of a run with what the verifier said of each element, in one HTML file."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from math import inf
from pathlib import Path
from typing import Annotated, Any

from jinja2 import Environment

from tts.curves import writing
from tts.errors import ConfigError
from tts.files import pictures_in
from tts.runs.run import Row, Run, Track
from tts.studies import Study, StudyFindings, written_as
from tts.types import Candidate

PAGE = """<!doctype html>
<meta charset="utf-8">
<title>{{ title }}</title>
<style>
body { font: 14px/1.4 system-ui, sans-serif; margin: 2em; color: #222; background: #fff }
section { display: flex; flex-wrap: wrap; gap: 12px; margin-bottom: 2em }
figure { width: 220px; margin: 0; padding: 8px; border: 1px solid #ccc; border-radius: 6px }
figure.selected { border: 3px solid #1a7f37; padding: 6px }
img { width: 100% }
ul { list-style: none; padding: 0; margin: 4px 0; font-size: 12px }
.met::before { content: "✓ "; color: #1a7f37 } .missed::before { content: "✗ "; color: #b42318 }
.extra { color: #777 } .why { color: #777 } figcaption { font-size: 12px }
</style>
<h1>{{ title }}</h1>
{% for sheet in sheets %}
<h2>{{ sheet.title }}</h2>
<section>
{% for one in sheet.candidates %}
<figure{% if one.selected %} class="selected"{% endif %}>
{% set number = loop.index0 %}
{% for image in one.images %}<img alt="candidate {{ number }}" src="{{ image }}">{% endfor %}
<figcaption>{{ one.caption }}</figcaption>
<ul>
{% for element in one.elements %}
<li class="{{ 'met' if element.met else 'missed' }} {{ element.kind }}">{{ element.text }}
{%- if not element.met %} <span class="why">({{ element.why }})</span>{% endif %}</li>
{% endfor %}
</ul>
{% if one.prompt %}<details><summary>prompt</summary>{{ one.prompt }}</details>{% endif %}
</figure>
{% endfor %}
</section>
{% endfor %}
"""


class ContactSheet(Study):
    """Every image of a run with its verdict, on one page of HTML."""

    out: Annotated[Path, written_as("html")]
    """The file to write (.html)."""

    def findings(self, runs: Mapping[str, Run]) -> StudyFindings:
        if len(runs) > 1:
            raise ConfigError("a contact sheet shows one run; name that one alone")
        (run,) = runs.values()
        sheets = [sheet for track in run.tracks for row in track.rows if (sheet := _sheet(run, track, row))]
        if not sheets:
            raise ConfigError(f"{run.path} has no images; a contact sheet is for strategies with images=true")
        page = Environment(autoescape=True).from_string(PAGE).render(title=run.path.name, sheets=sheets)
        with writing(self.out):
            self.out.write_text(page, encoding="utf-8")
        return StudyFindings({"images": sum(len(sheet["candidates"]) for sheet in sheets)}, files=[self.out])


def _sheet(run: Run, track: Track, row: Row) -> dict[str, Any] | None:
    shown = [
        {
            "images": [inline(run.path / name) for name in pictures],
            "selected": place == row.selected,
            "caption": _caption(candidate),
            "elements": candidate.verdict.details.get("elements", ()) if candidate.verdict else (),
            "prompt": next((text for kind, text in candidate.notes.get("lineage", ()) if kind == "prompt"), ""),
        }
        for place, candidate in enumerate(track.candidates(row))
        if (pictures := pictures_in(candidate.content))
    ]
    return {"title": f"{row.problem} · {track.label} · seed {row.seed}", "candidates": shown} if shown else None


def inline(path: Path, largest: float = inf) -> str:
    """The image as a data URL; empty where its file is gone, or has more than `largest` bytes."""
    if not path.is_file() or path.stat().st_size > largest:
        return ""
    return f"data:image/{path.suffix[1:]};base64,{b64encode(path.read_bytes()).decode()}"


def _caption(candidate: Candidate) -> str:
    verdict, notes = candidate.verdict, candidate.notes
    score = "not rated" if verdict is None or verdict.score is None else f"score {verdict.score:.3f}"
    return ", ".join([score, *(f"{name} {notes[name]}" for name in ("round", "seed") if name in notes)])
