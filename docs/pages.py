"""Makes the site of the repository's own Markdown files, so that links lead the same way here and there."""

from __future__ import annotations

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
    return Files([*ours, *(file for file in files if file.src_dir != config.docs_dir)])
