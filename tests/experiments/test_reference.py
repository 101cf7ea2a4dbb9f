"""The runs behind the reference table replay it offline, and what is kept of a run says what the run says."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from experiments.reference import kept, run, table
from tests.support.processes import tts_app
from tts import Experiment, MockModel, Run
from tts.runs.analysis import summary

README = Path(table.__file__).with_name("README.md")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return kept.unpack(tmp_path_factory.mktemp("kept"))


def test_the_page_has_the_tables_of_the_kept_runs(runs: list[Path]):
    made = table.tables(runs[0].parent)
    page = README.read_text()
    for line in made.splitlines():
        assert line in page.splitlines() or not line
