"""Makes the site of the repository's own Markdown files, so that links lead the same way here and there."""

from __future__ import annotations

import json
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

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


def _page_of(notebook: Path) -> str:
    """A notebook's text and code."""
    cells = json.loads(notebook.read_text())["cells"]
    parts = ["".join(cell["source"]) for cell in cells]
    shown = [
        f"```python\n{part}\n```" if cell["cell_type"] == "code" else part
        for cell, part in zip(cells, parts, strict=True)
    ]
    return "\n\n".join([*shown, f"This is the notebook `docs/notebooks/{notebook.name}`."])
