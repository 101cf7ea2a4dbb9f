"""A patch is the whole difference of two folders, and leads from one to the other."""

from __future__ import annotations

import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tts.environments import folder as module
from tts.environments.folder import PatchError, applied, difference, digest_of, folder_of, path_of, visible
from tts.errors import ConfigError
from tts.types import Problem

LINES = st.lists(
    st.sampled_from(["a", "b", "", " x", "-- c", "++ d", "@@ e", "\\ f", "\r", "\x0c", "\u2028", "é"]), max_size=12
)
TEXTS = st.builds(lambda lines, end: "\n".join(lines) + end, LINES, st.sampled_from(["", "\n"]))
NAMES = st.sampled_from(["a.py", "b/c.py", "b/d e.txt", 'b/"q".txt', "é", " s ", "dev/null", "b/b/a", "a/b"])
FOLDERS = st.dictionaries(NAMES, TEXTS.map(str.encode), max_size=5)


@given(FOLDERS, FOLDERS)
def test_a_difference_leads_from_one_folder_to_the_other(before: dict[str, bytes], after: dict[str, bytes]):
    patch, left_out = difference(before, after)
    assert not left_out
    assert applied(before, patch) == after
    assert (patch == "") == (before == after) == (digest_of(before) == digest_of(after))


@given(FOLDERS, FOLDERS)
def test_so_does_the_difference_of_large_texts(before: dict[str, bytes], after: dict[str, bytes]):
    with pytest.MonkeyPatch.context() as patching:
        patching.setattr(module, "QUADRATIC", 0)
        assert applied(before, difference(before, after)[0]) == after


def test_git_and_patch_take_it(tmp_path: Path):
    before = {"a.txt": b"one\ntwo\nthree", "gone": b"x\n", "b/c": b"".join(b"%d\n" % i for i in range(50))}
    after = {"a.txt": b"one\n2\nthree\n", "new/d": b"y", "b/c": before["b/c"].replace(b"7\n", b"seven\n")}
    for path, data in before.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(data)
    patch = difference(before, after)[0].encode()
    subprocess.run(["git", "apply", "-"], input=patch, cwd=tmp_path, check=True)
    assert {p.relative_to(tmp_path).as_posix(): p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == after


def test_what_is_no_text_is_left_out_and_said_and_what_is_hidden_does_not_count():
    before = {"image": b"\x89PNG\0", "a": b"1\n", ".git/HEAD": b"x", "empty/": b""}
    after = {"image": b"\x89PNG\0\0", "a": b"2\n", ".git/HEAD": b"y", "sub/.git/z": b"", "other/": b""}
    patch, left_out = difference(before, after)
    assert left_out == ["image"]
    assert patch == "--- a/a\n+++ b/a\n@@ -1,1 +1,1 @@\n-1\n+2\n"
    assert visible(after).keys() == {"image", "a"}


FILE = {"f.py": b"".join(b"line %d\n" % i for i in range(1, 31))}


@pytest.mark.parametrize(
    "patch",
    [
        "--- a/f.py\n+++ b/f.py\n@@ -10,3 +10,3 @@\n line 10\n-line 11\n+LINE\n line 12\n",
        "--- f.py\n+++ f.py\n@@ -12,3 +12,3 @@\n line 10\n-line 11\n+LINE\n line 12\n",  # at another place
        "diff --git a/f.py b/f.py\nindex 1..2 100644\n--- a/f.py\n+++ b/f.py\n@@ -9 +9 @@ def f():\n-line 11\n+LINE\n",
        "I change:\n--- a/f.py\t2026-01-01\n+++ b/f.py\n@@ -10,1 +10,9 @@\n line 10\n-line 11\n+LINE\n line 12\n",
    ],
)
def test_patches_as_models_write_them_fit(patch: str):
    assert applied(FILE, patch) == {"f.py": FILE["f.py"].replace(b"line 11\n", b"LINE\n")}


@pytest.mark.parametrize(
    ("patch", "words"),
    [
        ("--- a/f.py\n+++ b/f.py\n@@ -1,1 +1,1 @@\n-line 99\n+x\n", "does not fit"),
        ("--- a/g.py\n+++ b/g.py\n@@ -1,1 +1,1 @@\n-x\n+y\n", "no file g.py"),
        ("--- /dev/null\n+++ b/f.py\n@@ -0,0 +1,1 @@\n+y\n", "already"),
        ("--- a/f.py\n+++ /dev/null\n@@ -1,1 +0,0 @@\n-line 1\n", "would be left"),
        ("--- a/../f.py\n+++ b/../f.py\n@@ -1,1 +1,1 @@\n-x\n+y\n", "no path"),
        ("--- a/f.py\n+++ /etc/passwd\n@@ -1,1 +1,1 @@\n-line 1\n+y\n", "no path"),
        ("@@ -1,1 +1,1 @@\n-x\n+y\n", "has no"),
        ("--- a/f.py\n+++ b/f.py\n@@ here @@\n-x\n", "cannot read"),
        ("--- a/f.py\n+++ b/f.py\n@@ -1,2 +1,2 @@\n-line 1\nwhat\n", "begins with"),
        ("please change line 3", "no unified diff"),
        ("--- /dev/null\n+++ /dev/null\n", "neither"),
    ],
)
def test_one_that_does_not_fit_is_refused_with_the_reason(patch: str, words: str):
    with pytest.raises(PatchError, match=words):
        applied(FILE, patch)


@given(st.text(max_size=300))
def test_any_text_is_a_patch_or_refused(text: str):
    for patch in (text, f"--- a/f.py\n+++ b/f.py\n{text}", f"--- a/f.py\n+++ b/f.py\n@@ -1,3 +1,3 @@\n{text}"):
        with suppress(PatchError):
            assert all(path_of(path) == path for path in applied(FILE, patch))


@given(st.text(max_size=30))
def test_a_path_stays_within_the_folder(text: str):
    try:
        path = path_of(text)
    except ValueError:
        return
    assert (Path("/folder") / path).resolve().is_relative_to("/folder")
    assert path_of(path) == path


@pytest.mark.parametrize("files", [{"../x": ""}, {"/x": ""}, {"x": 1}, ["x"], {"a\nb": ""}, {"": ""}])
def test_a_problem_whose_files_cannot_be_is_refused(files: object):
    with pytest.raises(ConfigError, match="files of p"):
        folder_of(Problem(id="p", messages="", metadata={"files": files}))


@pytest.mark.parametrize("files", [1, 400])
def test_lines_that_are_everywhere_cost_no_more_than_others(files: int):
    """Of a thousand lines a third empty, and then all: compared each with each, one such file took seconds."""
    third = "".join("\n" if i % 3 else f"line {i}\n" for i in range(1000)).encode()
    before = {f"{i}.py": third for i in range(files)}
    after = dict.fromkeys(before, b"\n" * 1000)
    began = time.process_time()
    patch, left_out = difference(before, after)
    assert time.process_time() - began < 2
    assert applied(before, patch) == after
    assert not left_out


def test_a_small_change_among_empty_lines_is_a_small_patch():
    lines = ["\n" if i % 2 else f"line {i}\n" for i in range(900)]
    before, lines[400] = "".join(lines), "other\n"
    patch, _ = difference({"a": before.encode()}, {"a": "".join(lines).encode()})
    assert len(patch.splitlines()) == 2 + 1 + 2 * 3 + 2
