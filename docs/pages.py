"""Makes the site of the repository's own Markdown files, so that links lead the same way here and there, and writes the
reference of commands and plug-ins from the code.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
PAGES = ("*.md", "docs/*.md", "docs/*.png", "experiments/*/README.md", "experiments/*/*.png", "experiments/*/*.svg")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """All pages by their place in the repository, and what the theme brings."""
    ours = [
        File(path.relative_to(ROOT).as_posix(), str(ROOT), config.site_dir, config.use_directory_urls)
        for pattern in PAGES
        for path in sorted(ROOT.glob(pattern))
    ]
    ours += [
        File.generated(config, path.relative_to(ROOT).with_suffix(".md").as_posix(), content=_page_of(path))
        for path in sorted(ROOT.glob("docs/notebooks/*.ipynb"))
    ]
    return Files([*ours, *(file for file in files if file.src_dir != config.docs_dir)])


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """The page with what is written from the code in its place."""
    for mark, written in (("<!-- commands -->", commands), ("<!-- plugins -->", plugins)):
        if mark in markdown:
            markdown = markdown.replace(mark, "\n".join(written()))
    return markdown


def commands() -> Iterator[str]:
    """The help of every command."""
    from typer import Context
    from typer.main import get_command

    from tts.cli import app

    def helps(command: Any, path: str) -> Iterator[str]:
        yield f"## {path}\n"
        yield f"```text\n{command.get_help(Context(command, info_name=path)).rstrip()}\n```\n"
        for name, inner in getattr(command, "commands", {}).items():
            yield from helps(inner, f"{path} {name}")

    return helps(get_command(app), "tts")


def plugins() -> Iterator[str]:
    """What every plug-in of ours does, and its parameters."""
    from tts import registry
    from tts.cli.listing import GROUPS, describe

    for group in GROUPS:
        yield f"## {group.capitalize()}\n"
        for name in registry.names(group):
            entry = describe(group, name)
            if entry["source"] != "ttscale":
                continue
            yield f"### {name}\n\n{inspect.cleandoc(registry.load(group, name).__doc__ or '')}\n"
            for one in entry["parameters"]:
                default = "required" if one["required"] else f"= {one['default']!r}"
                yield f"- `{one['name']}: {one['type']}`, {_code(default)}: {one['help'] or 'see above'}"
            yield ""


def _code(text: str) -> str:
    """`text` as code that Markdown takes on one line; the start of a long one, such as a prompt."""
    short = text if len(text) <= 100 else f"{text[:80]}..."
    return f"`` {short} ``"


def _page_of(notebook: Path) -> str:
    """A notebook's text and code."""
    cells = json.loads(notebook.read_text())["cells"]
    parts = ["".join(cell["source"]) for cell in cells]
    shown = [
        f"```python\n{part}\n```" if cell["cell_type"] == "code" else part
        for cell, part in zip(cells, parts, strict=True)
    ]
    return "\n\n".join([*shown, f"This is the notebook `docs/notebooks/{notebook.name}`."])
