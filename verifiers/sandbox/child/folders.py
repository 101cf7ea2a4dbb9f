"""Folders of the host in which programs write, where they have no file system of their own. Standard library alone."""

from __future__ import annotations

import os


def empty(folder: str) -> None:
    """Remove everything that a program left in its folder, however deep, long or protected."""
    todo = [folder]
    while todo:
        place = todo.pop()
        for entry in os.scandir(place):
            if entry.is_dir(follow_symlinks=False):
                os.chmod(entry.path, 0o700)
                try:
                    os.rmdir(entry.path)
                except OSError:  # not empty: its folders come up, so that no path grows long
                    for inner in os.scandir(entry.path):
                        if inner.is_dir(follow_symlinks=False):
                            os.chmod(inner.path, 0o700)
                            os.rename(inner.path, os.path.join(folder, f".{len(todo)}-{inner.inode()}"))
                        else:
                            os.unlink(inner.path)
                    todo = [folder]
                    os.rmdir(entry.path)
            else:
                os.unlink(entry.path)
