"""Files that are written whole: where they go, and what stays as it was."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tts.errors import ConfigError
from tts.files import check_writable, write_atomically, written_whole

NOBODY = 65534


@pytest.fixture
def sealed() -> Iterator[Path]:
    """A folder that takes no new files, for the superuser as somebody else, with a file that may be written."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "report.md").write_text("before")
        (folder / "report.md").chmod(0o666)
        folder.chmod(0o555)
        superuser = os.geteuid() == 0
        if superuser:
            os.seteuid(NOBODY)
        yield folder
        if superuser:
            os.seteuid(0)
        folder.chmod(0o755)


@pytest.mark.parametrize("there", [True, False])
def test_a_link_stays_and_what_it_leads_to_is_written(tmp_path: Path, there: bool):
    (tmp_path / "kept").mkdir()
    target, link = tmp_path / "kept" / "report.md", tmp_path / "latest.md"
    if there:
        target.write_text("before")
    link.symlink_to(Path("kept", "report.md"))
    assert check_writable(link, ["md"]) == "md"
    write_atomically(link, "after")
    assert link.is_symlink()
    assert target.read_text() == "after"
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["kept", "latest.md", "report.md"]


def test_a_link_into_a_folder_that_is_missing_is_told(tmp_path: Path):
    (tmp_path / "latest.md").symlink_to(tmp_path / "gone" / "report.md")
    with pytest.raises(ConfigError, match=r"there is no folder .*gone"):
        check_writable(tmp_path / "latest.md")


def test_a_file_that_may_be_written_is_where_its_folder_takes_no_other(sealed: Path):
    check_writable(sealed / "report.md")
    write_atomically(sealed / "report.md", "after")
    assert (sealed / "report.md").read_text() == "after"
    with suppress(RuntimeError), written_whole(sealed / "report.md") as partial:
        partial.write_text("half")
        raise RuntimeError
    assert (sealed / "report.md").read_text() == "after"
    with pytest.raises(PermissionError):
        write_atomically(sealed / "other.md", "after")
    assert [path.name for path in sealed.iterdir()] == ["report.md"]


def test_a_disk_that_takes_no_new_file_leaves_the_one_that_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (tmp_path / "report.md").write_text("before")
    monkeypatch.setattr(Path, "touch", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(tmp_path / "report.md", "after")
    assert (tmp_path / "report.md").read_text() == "before"
