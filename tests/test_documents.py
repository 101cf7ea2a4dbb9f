"""The documents: their code runs and passes a type checker, their commands name what exists, their links lead on."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, cast

import pytest
from typer.main import get_command

import tts
from tests.support.double import ModelDouble
from tts import MockModel, Problem, errors, registry, solve
from tts.cli import app
from tts.cli.listing import GROUPS, describe
from tts.runs import Experiment
from tts.studies import StudyFindings

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "ARCHITECTURE.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path) -> list[str]:
    """The Python code of a page."""
    return re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.M | re.S)


@pytest.fixture(scope="module")
def plugins() -> Mapping[str, Any]:
    """What CONTRIBUTING.md defines, by the name of the file that each block says it is."""
    space: dict[str, Any] = {}
    for block in blocks(ROOT / "CONTRIBUTING.md"):
        exec(compile(block, block.splitlines()[0].removeprefix("# "), "exec", dont_inherit=True), space)
    return space


async def test_the_strategy_asks_again_with_the_words_of_the_verifier(plugins: Mapping[str, Any]):
    asked: list[Any] = []

    def answer(body: dict[str, Any]) -> str:
        asked.append(body["messages"])
        return "word " * 60 if len(body["messages"]) == 1 else "short"

    verifier, strategy = plugins["ShortAnswer"](words=50), plugins["TwoTries"](hint="No: ")
    result = await solve("Tell me.", strategy, MockModel(answer), verifier=verifier)
    assert result.text == "short"
    assert [candidate.passed for candidate in result.candidates] == [False, True]
    assert asked[1][-1]["content"] == "No: 60 words are too many; use 50 at most"
    assert result.candidates[1].usage.requests == result.usage.requests == 2


async def test_the_task_is_graded_and_the_study_reads_the_run(plugins: Mapping[str, Any], tmp_path: Path):
    task, study = plugins["Sums"](upto=4), plugins["Lengths"](unit=2)
    problems = [example.problem for example in task.examples()]
    assert [problem.id for problem in problems] == ["sum-1", "sum-2", "sum-3", "sum-4"]
    assert isinstance(problems[0], Problem)
    grid = Experiment.parse(
        {"task": task, "strategies": ["single"], "models": {"mock": MockModel(lambda body: "Answer: 6")}}
    )
    registry.register("tasks", type(task))
    run = await grid.run(tmp_path / "run")
    (track,) = run.tracks
    assert [bool(flags[0]) for flags in track.correct] == [False, True, False, False]
    found = study.findings({"": run})
    assert isinstance(found, StudyFindings)
    assert list(found.data.values()) == [len("Answer: 6") / 2]


ABSENT = (
    r"^(?:from|import) (?!tts\b)(\w+).*$",
    lambda found: found[0] + ("" if find_spec(found[1]) else "  # pyright: ignore[reportMissingImports]"),
)
"""Imports of other libraries' packages that are not installed."""


def test_the_code_passes_a_type_checker(tmp_path: Path):
    for page in PAGES:
        for number, block in enumerate(blocks(page)):
            (tmp_path / f"{page.stem.lower()}_{number}.py").write_text(re.sub(*ABSENT, block, flags=re.M))
    assert len(list(tmp_path.iterdir())) >= 7
    command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, "--project", str(tmp_path)]
    checked = subprocess.run(command, capture_output=True, text=True, timeout=900, cwd=tmp_path)
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_experiments_can_be_read_as_they_stand(page: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    for block in re.findall(r"^```toml\n(.*?)^```$", page.read_text(), re.M | re.S):
        if "strategies" in (table := tomllib.loads(block)):
            Experiment.parse(table)


async def test_what_replaces_ask_and_tell_runs(monkeypatch: pytest.MonkeyPatch):
    (block,) = blocks(ROOT / "docs" / "from_other_libraries.md")
    space: dict[str, Any] = {}
    async with ModelDouble(answer=lambda body, rng: "Yes" if "correct" in str(body) else "Answer: 42") as double:
        exec(
            block.replace("http://127.0.0.1:8000/v1", double.base_url).replace(
                "Qwen/Qwen2.5-7B-Instruct", "test-model"
            ),
            space,
        )
        await space["main"]()
    assert double.stats.choices >= 50


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


def test_one_version_is_named_everywhere_and_the_changelog_fits_a_screen():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    changes = (ROOT / "CHANGELOG.md").read_text().splitlines()
    assert next(line for line in changes if line.startswith("## ")).split()[1] == version
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert [line for line in changes if len(line) > 120] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_name_what_exists(page: Path):
    groups: dict[str, registry.Group] = {"strategy": "strategies", "task": "tasks", "study": "studies"}
    for option, name in re.findall(r"--(strategy|task|study) (\w+)\b(?!\.toml)", page.read_text()):
        if name.islower() and name != "lengths":
            registry.load(groups[option], name)


def test_the_afternoon_path_is_as_short_as_it_says():
    text = (ROOT / "ARCHITECTURE.md").read_text()
    rows = re.findall(r"^\| ([\d,]+) \| `([^`]+)` \|", text, re.M)
    lines = [len((ROOT / path).read_text().splitlines()) for _, path in rows]
    assert len(rows) > 15
    assert sum(lines) <= 5030
    assert all(abs(int(said.replace(",", "")) - true) <= 40 for (said, _), true in zip(rows, lines, strict=True))


@pytest.mark.parametrize("name", ["best_of_n", "self_consistency", "first_pass"])
def test_exemplary_strategies_are_short_and_stand_on_the_contract_alone(name: str):
    text = (ROOT / "strategies" / f"{name}.py").read_text()
    ours = set(re.findall(r"^from (tts[.\w]*) import", text, re.M))
    assert len(text.splitlines()) <= 60
    assert ours <= {"tts.base", "tts.session", "tts.types", "tts.stopping", "tts.strategies.voting"}


@pytest.fixture(scope="module")
def written() -> Any:
    """What the site writes from the code."""
    pytest.importorskip("mkdocs")
    spec = spec_from_file_location("pages", ROOT / "docs" / "pages.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_reference_has_every_public_name():
    paths = re.findall(r"^::: (\S+)$", (ROOT / "docs" / "reference.md").read_text(), re.M)
    found = {path.rpartition(".")[2] for path in paths} | {name for name in vars(errors) if "tts.errors" in paths}
    assert set(tts.__all__) <= found
    for path in paths:
        assert inspect.getdoc(resolve_name(path)), path


def test_the_reference_has_every_command_and_option(written: Any):
    text = "\n".join(written.commands())
    for name, command in cast(Any, get_command(app)).commands.items():
        assert f"## tts {name}\n" in text
        for option in (word for one in command.params for word in one.opts if word.startswith("-")):
            assert option in text, f"{name} {option}"


def test_the_reference_has_every_plug_in_and_parameter(written: Any):
    text = "\n".join(written.plugins())
    for group in GROUPS:
        for name in registry.names(group):
            if (entry := describe(group, name))["source"] == "ttscale":
                part = (
                    text.partition(f"## {group.capitalize()}\n")[2]
                    .partition(f"\n### {name}\n")[2]
                    .partition("\n### ")[0]
                )
                assert part.strip(), name
                for parameter in entry["parameters"]:
                    assert f"- `{parameter['name']}: " in part, f"{name}: {parameter['name']}"
