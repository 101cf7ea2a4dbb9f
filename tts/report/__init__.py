"""Reports on runs for people: one HTML page that opens from disk, the same page live, Markdown, figures, tables."""

from tts.report.page import write_page
from tts.report.tracks import RunComparison

__all__ = ["RunComparison", "write_page"]
