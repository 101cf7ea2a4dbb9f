"""Reports of runs for people: one page of HTML that opens from disk, the same page live, Markdown, figures, tables."""

from tts.report.page import write_page
from tts.report.tracks import Comparison

__all__ = ["Comparison", "write_page"]
