"""Importing the package is cheap, and its names are where they are said to be."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
from importlib.metadata import distribution
from pathlib import Path
from zipfile import ZipFile

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import tts

ROOT = Path(__file__).parents[1]
PLUGINS = (
    "strategies/best_of_n.py",
    "strategies/planning/tree.py",
    "verifiers/unit_tests.py",
    "verifiers/programs/plan.py",
)

MODEL = "tts.MockModel(lambda request: 'Answer: 42')"
SOLVED = f"tts.solve_sync('6 * 7?', 'self_consistency:n=2,answer=numeric_answer', {MODEL}).answer"


def loaded(statement: str) -> set[str]:
    """Top-level modules in memory after `statement` in a fresh interpreter."""
    script = f"{statement}\nimport sys\nprint(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_the_package_loads_no_library() -> None:
    extra = loaded("import tts") - loaded("pass")
    libraries = {"numpy", "httpx", "aiohttp", "pydantic", "typer", "rich", "matplotlib", "pyarrow"}
    assert extra & libraries == set()


def test_running_loads_nothing_that_belongs_to_an_extra() -> None:
    everything = loaded("import tts\nfor name in tts.__all__: getattr(tts, name)")
    extras = {"litellm", "math_verify", "matplotlib", "mlflow", "pyarrow", "ray", "starlette", "torch", "vllm", "wandb"}
    assert everything & extras == set()


def test_every_public_name_is_there() -> None:
    for name in tts.__all__:
        assert getattr(tts, name).__name__ in (name, f"tts.{name}", "solve", "MockModel")


def test_a_checkout_without_links_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "tts").mkdir()
    shutil.copy(ROOT / "tts" / "__init__.py", tmp_path / "tts")
    (tmp_path / "tts" / "strategies").write_text("../strategies")  # what a clone without links has
    done = subprocess.run([sys.executable, "-c", "import tts"], capture_output=True, text=True, cwd=tmp_path)
    assert "ImportError" in done.stderr
    assert "git config core.symlinks true" in done.stderr


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and the wheel built from what the sdist holds."""
    folder = tmp_path_factory.mktemp("dist")
    hatch = [sys.executable, "-m", "hatchling", "build", "-d", str(folder)]
    subprocess.run([*hatch, "-t", "sdist"], cwd=ROOT, check=True, capture_output=True)
    (sdist,) = folder.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extraction_filter = getattr(tarfile, "data_filter", None)  # Python 3.11.4 and later
        archive.extractall(folder / "sdist")
    (source,) = (folder / "sdist").iterdir()
    subprocess.run([*hatch, "-t", "wheel"], cwd=source, check=True, capture_output=True)
    return folder


def test_the_wheel_has_the_plugins_as_files_and_is_the_same_from_the_sdist(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    with ZipFile(wheel) as archive:
        names = set(archive.namelist())
        assert {f"tts/{name}" for name in PLUGINS} <= names
        assert all(archive.read(f"tts/{name}") == (ROOT / name).read_bytes() for name in PLUGINS)
    ours = {f"tts/{path.relative_to(ROOT / 'tts')}" for path in (ROOT / "tts").rglob("*.py")}
    ours |= {
        str(Path("tts", path.relative_to(ROOT)))
        for top in ("strategies", "verifiers")
        for path in (ROOT / top).rglob("*.py")
    }
    assert {name for name in names if name.endswith(".py")} == ours


def core() -> set[str]:
    """The packages that are installed without an extra."""
    names, wanted = set[str](), ["ttscale"]
    while wanted:
        names.add(name := canonicalize_name(wanted.pop()))
        needs = [Requirement(line) for line in distribution(name).requires or ()]
        named = (one.name for one in needs if one.marker is None or one.marker.evaluate({"extra": ""}))
        wanted += [one for one in named if canonicalize_name(one) not in names]
    return names


def test_the_core_installs_few_packages_and_megabytes(built: Path) -> None:
    names = core()
    (wheel,) = built.glob("*.whl")
    with ZipFile(wheel) as archive:
        size = sum(one.file_size for one in archive.infolist())
    for name in names - {"ttscale"}:
        files = [Path(str(one.locate())) for one in distribution(name).files or ()]
        size += sum(one.stat().st_size for one in files if one.suffix != ".pyc" and one.is_file())
    assert len(names) <= 25, sorted(names)
    assert size <= 100e6


def test_the_core_works_with_its_own_packages_alone(built: Path, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path)], check=True)
    (site,) = tmp_path.glob("lib/python*/site-packages")
    (wheel,) = built.glob("*.whl")
    with ZipFile(wheel) as archive:
        archive.extractall(site)
    for name in core() - {"ttscale"}:
        files = [file for file in distribution(name).files or () if ".." not in file.parts]
        for top in {file.parts[0] for file in files} - {"__pycache__"}:
            (site / top).symlink_to(Path(str(distribution(name).locate_file(top))))
    run = [tmp_path / "bin" / "python", "-c"]
    script = f"import tts, tts.sampler.transport\nfor name in tts.__all__: getattr(tts, name)\nprint({SOLVED})"
    done = subprocess.run([*run, script], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout == "42\n", done.stderr
    command = [*run, "from tts.cli import main; main()", "embedded", "list"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_the_wheel_works_where_it_is_installed(built: Path, tmp_path: Path) -> None:
    (wheel,) = built.glob("*.whl")
    with ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    script = "import tts, tts.strategies.best_of_n as one; print(tts.__file__, one.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=tmp_path / "site"
    )
    assert done.stdout.split() == [
        str(tmp_path / "site/tts" / name) for name in ("__init__.py", "strategies/best_of_n.py")
    ]
