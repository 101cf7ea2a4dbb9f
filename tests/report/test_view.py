"""`tts view` as a server: a folder's runs, reports that change when runs do, and who may ask."""

import json
import os
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.report.conftest import made
from tts.errors import ConfigError
from tts.report.viewer import view_app
from tts.runs import Run


@pytest.fixture
def folder(run: Run) -> Path:
    return run.path.parent


def client(folder: Path, base_url: str = "http://127.0.0.1:8090") -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(view_app(folder)), base_url=base_url)


async def test_runs_are_listed_with_how_far_they_are(folder: Path, tmp_path: Path):
    (folder / "broken").mkdir()
    (folder / "broken" / "run.json").write_text("{}")
    async with client(folder) as http:
        rows = {row["name"]: row for row in (await http.get("/api/runs")).json()}
    assert set(rows) == {"one", "broken"}
    assert "error" in rows["broken"]
    assert rows["one"]["progress"] == {"done": 18, "expected": 18}
    assert rows["one"]["tracks"][0]["accuracy"] == 0.5
    assert rows["one"]["state"] == "finished"
    assert rows["one"]["settings"]["task.answer_verifier"] == "numeric_answer"


async def test_what_runs_has_stalled_or_stopped_is_told_apart_and_problems_are_not_counted_by_seeds(tmp_path: Path):
    record = (
        await made(tmp_path).model_copy(update={"seeds": (0, 1)}).run(tmp_path / "runs" / "one")
    ).path / "run.json"
    folder, config = record.parent.parent, json.loads(record.read_text())

    async def row() -> dict[str, Any]:
        async with client(folder) as http:
            return (await http.get("/api/runs")).json()[0]

    assert (await row())["tracks"][0]["problems"] == 6
    config["config"]["seeds"] = [0, 1, 2]  # as if a seed were missing
    record.write_text(json.dumps(config))
    (record.parent / "lock").write_text("999999999")
    assert (await row())["state"] == "stopped"
    (record.parent / "lock").write_text(str(os.getpid()))
    assert (await row())["state"] == "running"
    for file in record.parent.iterdir():
        os.utime(file, (0, 0))
    assert (await row())["state"] == "stalled"


async def test_a_report_is_sent_again_only_when_the_run_has_changed(folder: Path, tmp_path: Path):
    async with client(folder) as http:
        first = (await http.get("/api/overview", params={"run": "one"})).json()
        same = await http.get("/api/overview", params={"run": "one", "since": first["version"]})
        assert same.status_code == 204
        details = (await http.get("/api/problem", params={"run": "one", "place": 2, "name": "<b>2"})).json()
        assert len(details["cells"]) == 3
        moved = await http.get("/api/problem", params={"run": "one", "place": 2, "name": "<b>3"})
        assert (moved.status_code, "load the page again" in moved.json()["error"]) == (404, True)
    await made(tmp_path, problems=8).run(folder / "one", resume=True)
    async with client(folder) as http:
        more = (await http.get("/api/overview", params={"run": "one", "since": first["version"]})).json()
    assert more["version"] != first["version"]
    assert len(more["overview"]["problems"]) == 8


async def test_only_runs_of_the_folder_are_read_and_only_by_this_machine(folder: Path, run: Run):
    async with client(folder) as http:
        for name in ("../one", str(run.path), "absent"):
            answer = await http.get("/api/overview", params={"run": name})
            assert answer.status_code == 404
        page = await http.get("/report", params={"run": "<script>alert(1)</script>"})
        assert "<script>alert" not in page.text
        assert "connect-src &#39;self&#39;" in page.text
    async with client(folder, "http://evil.example") as http:
        assert (await http.get("/api/runs")).status_code == 400


def test_a_folder_that_is_not_there_is_told(tmp_path: Path):
    with pytest.raises(ConfigError, match="not a folder"):
        view_app(tmp_path / "absent")
