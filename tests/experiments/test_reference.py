"""The reference table is what the kept runs say, which replay offline; what is kept of a run says what the run says."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from experiments.reference import kept, run, table
from tts import Experiment, Run
from tts.cli import app
from tts.runs.analysis import summary


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kept")
    assert kept.unpack(folder)
    return folder


def reported(path: Path) -> list[dict[str, object]]:
    """The summary that `tts report` gives."""
    done = CliRunner().invoke(app, ["report", str(path), "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)["summary"]


def test_the_page_has_the_tables_of_the_kept_runs(folder: Path):
    page = table.PAGE.read_text()
    assert table.written(page, table.tables(folder)) == page


def test_a_report_of_a_kept_run_has_the_tables_figures(folder: Path):
    lines = [line for line in table.PAGE.read_text().splitlines() if line.startswith("| ")]
    for name, title in table.TITLES.items():
        for row in reported(folder / name):
            (line,) = [line for line in lines if line.startswith(f"| {title} | `{row['strategy']}` |")]
            cells = [cell.strip() for cell in line.split("|")]
            accuracy = table.share(row["accuracy"], row["low"], row["high"])  # type: ignore[arg-type]
            assert cells[3:5] == [str(row["problems"]), accuracy]


def test_kept_runs_are_small_and_name_no_place_of_their_own(folder: Path):
    assert sum(path.stat().st_size for path in kept.KEPT.iterdir()) < 3_500_000
    for path in folder.glob("*/run.json"):
        for place in ("/work/", "/root", "/home"):
            assert place not in path.read_text()


async def test_what_is_kept_of_a_run_reports_the_same(tmp_path: Path):
    grid = {
        "task": "lab_math:size=3",
        "strategies": ["self_consistency:n=3"],
        "models": {"lab": {"model": "lab-draft", "base_url": "embedded://lab-draft"}},
        "sampling": {"temperature": 0.8, "max_tokens": 64, "logprobs": True},
    }
    await Experiment.parse(grid).run(tmp_path / "whole")
    (tmp_path / "whole" / kept.LEDGER).write_text("[]")
    kept.pack(tmp_path / "whole", tmp_path / "kept")
    (copy,) = kept.unpack(tmp_path / "copy", tmp_path / "kept")
    logged = "SELECT COUNT(*) FROM samples WHERE json_extract(data, '$.logprobs') IS NOT NULL"
    assert [Run(path).db.execute(logged).fetchone() for path in (tmp_path / "whole", copy)] == [(9,), (0,)]
    assert summary(Run(copy)) == summary(Run(tmp_path / "whole"))  # and no checksum is wrong
    assert table.stored(Run(copy)) == table.stored(Run(tmp_path / "whole"))


async def test_a_server_that_was_restarted_counts_on():
    counts = iter([(10, 100), (12, 150), (3, 30), None, (5, 60)])

    def answer(request: httpx.Request) -> httpx.Response:
        now = next(counts)
        if now is None:
            raise httpx.ConnectError("down")
        requests, tokens = now
        return httpx.Response(
            200,
            text=f'vllm:request_success_total{{reason="stop"}} {requests}\n'
            f'vllm:request_success_total{{reason="length"}} 1.0\nvllm:generation_tokens_total{{}} {tokens}.0\n'
            f"vllm:generation_tokens_created{{}} 1e9\nvllm:num_requests_running{{}} 7.0\n",
        )

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as client:
        meter = run.Meter(client, "http://server")
        for _ in range(3):
            await meter.read()
        with pytest.raises(httpx.ConnectError):
            await meter.read()
        await meter.read()
    assert meter.counted["generation_tokens"] == 50 + 30 + 30
    assert meter.counted["request_success"] == 2 + 4 + 2
    assert meter.running == [7.0] * 4
