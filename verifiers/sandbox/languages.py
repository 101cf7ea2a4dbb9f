"""Programs in other languages: how they are compiled and run. They read standard input and write standard output."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Language:
    """A toolchain."""

    file: str
    """The name that the program's text is given."""
    run: tuple[str, ...]
    """The command; its first word is a path."""
    compile: tuple[str, ...] = ()
    """The command that makes what `run` runs, or nothing."""
    memory_mb: int | None = None
    """Address space that the toolchain's programs reserve without using it, in addition to the limit."""

    @property
    def available(self) -> bool:
        """Whether the toolchain is installed."""
        return os.access((self.compile or self.run)[0], os.X_OK)


LANGUAGES: dict[str, Language] = {
    "cpp": Language("main.cpp", ("/tmp/main",), ("/usr/bin/g++", "-O2", "-std=c++17", "-o", "main", "main.cpp")),
    "javascript": Language("main.js", ("/usr/bin/node", "main.js"), memory_mb=1 << 16),
}
"""Add one to have it."""
