"""A strategy and a study of another package: installed for real, listed and run without a line of ours changed."""

from __future__ import annotations

import base64
import ensurepip
import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from zipfile import ZipFile

import pytest

from tests.support.threaded import serving

ROOT = Path(__file__).parents[1]

MODULE = '''
"""Answers with the shortest sample."""

from tts import Candidate, Problem, Session, Strategy


class Shortest(Strategy):
    """Draws n samples and keeps the shortest."""

    n: int = 3
    """Samples to draw."""

    async def search(self, problem: Problem, session: Session):
        async for candidate in session.propose(n=self.n):
            yield candidate

    def select(self, candidates):
        return min(candidates, key=lambda candidate: len(candidate.content), default=None)

    def settled(self, candidates):
        return False
'''

STUDY = '''
"""How long candidates are."""

from collections.abc import Mapping

from tts import Run
from tts.studies import Study, StudyFindings, Table, labelled_tracks


class Lengths(Study):
    """How long candidates are on average."""

    unit: int = 1
    """Characters that count as one."""

    def findings(self, runs: Mapping[str, Run]) -> StudyFindings:
        table, means = Table("Lengths", ("strategy",), ("mean",)), {}
        for label, track in labelled_tracks(runs):
            texts = [candidate.content for row in track.rows for candidate in track.candidates(row)]
            means[label] = sum(map(len, texts)) / len(texts) / self.unit
            table.add_row(label, f"{means[label]:.2f}")
        return StudyFindings(means, [table])
'''

FILES = {
    "shortest_strategy.py": MODULE,
    "lengths_study.py": STUDY,
    "shortest_strategy-0.3.dist-info/METADATA": "Metadata-Version: 2.1\nName: shortest-strategy\nVersion: 0.3\n",
    "shortest_strategy-0.3.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    "shortest_strategy-0.3.dist-info/entry_points.txt": "[tts.strategies]\nshortest = shortest_strategy:Shortest\n"
    "[tts.studies]\nlengths = lengths_study:Lengths\n",
}


def build_wheel(folder: Path) -> Path:
    """A wheel of the package, made by hand so that no build tool has to be fetched."""
    wheel = folder / "shortest_strategy-0.3-py3-none-any.whl"
    with ZipFile(wheel, "w") as archive:
        record = ""
        for name, text in FILES.items():
            archive.writestr(name, text)
            digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
            record += f"{name},sha256={digest},{len(text.encode())}\n"
        name = "shortest_strategy-0.3.dist-info/RECORD"
        archive.writestr(name, f"{record}{name},,\n")
    return wheel


def pip() -> dict[str, str]:
    """The environment in which `python -m pip` runs: this one, or with the pip that comes with Python."""
    if importlib.util.find_spec("pip"):
        return dict(os.environ)
    wheels = sysconfig.get_config_var("WHEEL_PKG_DIR") or Path(ensurepip.__file__).parent / "_bundled"
    bundled = next(Path(wheels).glob("pip-*.whl"))
    return {**os.environ, "PYTHONPATH": str(bundled)}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of installed packages with ours in it."""
    folder = tmp_path_factory.mktemp("third-party")
    site = folder / "site"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--target", str(site)]
    subprocess.run([*command, str(build_wheel(folder))], check=True, env=pip(), timeout=120)
    return site


def tts(site: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": f"{site}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-m", "tts", *words]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, cwd=site)


def test_it_is_listed_with_its_package_and_parameters(site: Path):
    said = tts(site, "list", "strategies", "--details").stdout
    assert "  shortest (from shortest-strategy): Draws n samples and keeps the shortest.\n" in said
    assert "      n: int = 3\n          Samples to draw.\n" in said
    studies = tts(site, "list", "studies", "--details").stdout
    assert "  lengths (from shortest-strategy): How long candidates are on average.\n" in studies
    assert "  verifiers: " in studies


def test_it_solves_by_its_name(site: Path):
    with serving(answer=lambda request, rng: "x" * int(rng.integers(5, 50))) as double:
        ended = tts(site, "solve", "What?", "--strategy", "shortest:n=6", "--json", "--base-url", double.base_url)
        assert ended.returncode == 0, ended.stderr
        assert double.stats.choices == 6
    result = json.loads(ended.stdout)
    assert result["strategy"] == "shortest:n=6"
    lengths = [len(candidate["content"]) for candidate in result["candidates"]]
    assert len(result["answer"]) == min(lengths)


def test_it_runs_over_a_task_and_its_curve_is_drawn_from_its_own_selection(site: Path, tmp_path: Path):
    lines = ['{"prompt": "one", "answer": 1}', '{"prompt": "two", "answer": 2}']
    (tmp_path / "questions.jsonl").write_text("\n".join(lines))
    out = str(tmp_path / "out")
    task = f"jsonl:path={tmp_path}/questions.jsonl"
    with serving(answer=lambda request, rng: "Answer: 1" if rng.random() < 0.5 else "Answer: 2000") as double:
        ended = tts(site, "run", "--task", task, "--strategy", "shortest", "--out", out, "--base-url", double.base_url)
    assert ended.returncode == 0, ended.stderr
    report = tts(site, "report", out)
    assert "shortest" in report.stdout
    assert "replay" in report.stdout
    shown = tts(site, "report", out, "--study", "lengths").stdout
    assert "Lengths" in shown
    (mean,) = json.loads(tts(site, "report", out, "--study", "lengths:unit=2", "--json").stdout)["lengths"].values()
    assert len("Answer: 1") <= 2 * mean <= len("Answer: 2000")
    assert f"{2 * mean:.2f}" in shown
