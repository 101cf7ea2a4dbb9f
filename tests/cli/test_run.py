"""`tts run`: flags and files make one configuration; what is stored survives Ctrl-C and is never paid for twice."""

import json
import os
import resource
import shlex
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import typer
from aiohttp import web

from tests.cli.conftest import Command, finished, start
from tests.support.double import ModelDouble
from tests.support.scripted import choice, scripted
from tests.support.threaded import serving
from tts.cli.common import Commands

VOTE = "self_consistency:n=4"


def named(double: ModelDouble) -> Counter[str]:
    """How many requests each question has had."""
    return Counter(seen.body["messages"][-1]["content"] for seen in double.requests)


def finished_cells(out: Path) -> int:
    if not (out / "run.sqlite").exists():
        return 0
    with closing(sqlite3.connect(f"file:{out}/run.sqlite?mode=ro", uri=True)) as db:
        try:
            return db.execute("SELECT COUNT(*) FROM cells").fetchone()[0]
        except sqlite3.OperationalError:  # not even the tables are there yet
            return 0


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    while not condition():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


def test_runs_a_grid_and_shows_what_it_found(tts: Command, double: ModelDouble, task: str, clean: Path):
    strategies = ["--strategy", VOTE, "--strategy", "single"]
    ended = tts("run", "--task", task, *strategies, "--limit", 6, "--out", "found", "--base-url", double.base_url)
    assert ended.code == 0
    assert double.stats.choices == 6 * 4  # `single` uses the first of the four
    assert "self_consistency:n=4" in ended.out
    assert (clean / "found" / "run.json").exists()
    assert "12 cells over 6 problems, 30 samples at most\n" in ended.err
    assert "tts report found" in ended.err


def test_a_whole_benchmark_begins_with_what_it_takes_and_how_to_take_less(tts: Command, double: ModelDouble):
    words = ["--task", "lab_math:size=120", "--strategy", "self_consistency:n=2", "--base-url", double.base_url]
    told = "120 cells over 120 problems, 240 samples at most; --limit N takes the first N problems\n"
    assert told in tts("run", *words, "--out", "all").err
    assert "first N problems" not in tts("run", *words, "--limit", 120, "--out", "some").err


def test_a_tracker_follows_on_request(tts: Command, double: ModelDouble, task: str, clean: Path):
    pytest.importorskip("tensorboard")
    words = ["--task", task, "--strategy", VOTE, "--limit", 2, "--out", "found", "--base-url", double.base_url]
    assert tts("run", *words, "--track", "tensorboard").code == 0
    assert (clean / "found" / "tensorboard" / "report.html").exists()
    assert tts("run", *words, "--track", "neptune").code == 2


def test_json_is_the_summary_alone(tts: Command, double: ModelDouble, task: str):
    words = ["--strategy", VOTE, "--out", "found", "--json", "--quiet", "--base-url", double.base_url]
    ended = tts("run", "--task", task, *words)
    (row,) = ended.json["summary"]
    assert ended.json["run"] == "found"
    assert (row["problems"], row["candidates"]) == (10, 40)
    assert row["completion_tokens"] == double.stats.completion_tokens
    assert ended.err.count("\n") == 1  # where it is stored


def test_the_directory_names_task_model_and_time_by_default(tts: Command, double: ModelDouble, task: str, clean: Path):
    double.models = ["org/test-model"]
    assert tts("run", "--task", task, "--strategy", "single", "--limit", 1, "--base-url", double.base_url).code == 0
    (made,) = (clean / "runs").iterdir()
    assert made.name.startswith("jsonl-org-test-model-2")


def test_options_win_over_the_file(tts: Command, task: str, clean: Path):
    (clean / "grid.toml").write_text(
        f"""task = '{task}'
strategies = ["single", "best_of_n:n=2,verifier=oracle"]
seeds = [1, 2]
[sampling]
temperature = 0.2
top_p = 0.9
[models.here]
base_url = "http://one/v1"
max_concurrency = 3
[models.there]
base_url = "http://two/v1"
"""
    )
    words = ["--temperature", 0.7, "--sampling.min_p", 0.1, "--budget.requests", 9, "-n", 6, "--limit", 4]
    ended = tts("run", "grid.toml", *words, "--model", "here", "--base-url", "http://three/v1", "--dry-run", "--json")
    config = ended.json["config"]
    assert config["sampling"] == {"temperature": 0.7, "top_p": 0.9, "min_p": 0.1}
    assert config["budget"] == {"requests": 9}
    assert [strategy.get("n") for strategy in config["strategies"]] == [None, 6]
    assert list(config["models"]) == ["here"]
    policy = config["models"]["here"]["policy"]
    assert (policy["base_url"], policy["max_concurrency"]) == ("http://three/v1", 3)
    assert (ended.json["problems"], ended.json["cells"]) == (4, 4 * 2 * 2)
    assert ended.json["samples_at_most"] == 4 * 2 * (1 + 6)


def test_a_dry_run_asks_no_model_and_writes_nothing(tts: Command, double: ModelDouble, task: str, clean: Path):
    words = ["--model", "test-model", "--base-url", double.base_url, "--dry-run"]
    ended = tts("run", "--task", task, "--strategy", VOTE, *words)
    assert ended.code == 0
    assert "10 problems, 10 cells, 40 samples at most" in ended.out
    assert double.stats.received == 0
    assert not (clean / "runs").exists()


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ([], "--task and --strategy"),
        (["absent.toml"], "absent.toml"),
        (["--task", "jsonl:path=absent", "--strategy", "single"], "absent"),
        (["--task", "nope", "--strategy", "single"], "gsm8k"),
        (["--task", "TASK", "--strategy", "single", "-n", "3"], "-n"),
        (["--task", "TASK", "--strategy", "single", "--sampling", "3"], "--sampling"),
        (["--task", "TASK", "--strategy", "single", "--smapling.top_k", "3"], "smapling"),
        (["--task", "TASK", "--strategy", "single", "--resume"], "--out"),
        (["--task", "TASK", "--strategy", "best_of_n"], "--verifier"),
    ],
)
def test_what_the_user_must_put_right_is_exit_code_2(
    tts: Command, double: ModelDouble, task: str, words: list[str], named: str
):
    given = [task if word == "TASK" else word for word in words]
    ended = tts("run", *given, "--base-url", double.base_url)
    assert ended.code == 2
    assert named in ended.err
    assert double.stats.received == 0


def test_another_configuration_is_refused_with_the_key_that_differs(tts: Command, double: ModelDouble, task: str):
    words = ["run", "--task", task, "--strategy", "single", "--out", "found", "--base-url", double.base_url]
    assert tts(*words, "--temperature", 0.5).code == 0
    served = double.stats.received
    again = tts(*words, "--temperature", 0.5)
    assert (again.code, "--resume" in again.err) == (2, True)
    other = tts(*words, "--temperature", 0.6, "--resume")
    assert other.code == 2
    assert "models.test-model.policy.params.temperature was 0.5, is 0.6" in other.err
    assert tts(*words, "--temperature", 0.5, "--resume").code == 0
    assert double.stats.received == served


def test_a_run_is_continued_and_enlarged_by_its_directory_alone(tts: Command, double: ModelDouble, task: str):
    first = ["--task", task, "--strategy", VOTE, "--temperature", 0.5, "--limit", 3, "--base-url", double.base_url]
    assert tts("run", *first, "--out", "found").code == 0
    served = double.stats.received
    again = tts("run", "--resume", "--out", "found")
    assert again.code == 0, again.err
    assert double.stats.received == served
    more = tts("run", "--resume", "--out", "found", "--limit", 5, "--json")
    assert more.json["summary"][0]["problems"] == 5
    assert double.requests[-1].body["temperature"] == 0.5
    absent = tts("run", "--resume", "--out", "absent")
    assert absent.code == 2
    assert "absent is not a run directory (run.json: No such file or directory)" in absent.err


def test_ctrl_c_keeps_what_was_answered_and_the_printed_words_resume(double: ModelDouble, task: str, clean: Path):
    def latency(request: dict, index: int) -> float:
        return 0.0 if request["messages"][-1]["content"][:4] in ("[[p0", "[[p1", "[[p2") else 600.0

    double.latency = latency
    out = clean / "found"
    process = start("run", "--task", task, "--strategy", VOTE, "--out", out, "--base-url", double.base_url, cwd=clean)
    wait_for(lambda: finished_cells(out) == 3 and double.stats.running == 7, process)
    process.send_signal(signal.SIGINT)
    ended = finished(process)
    assert ended.code == 130
    assert "Traceback" not in ended.err
    printed = ended.err.splitlines()[-1].strip()
    assert printed.startswith("tts run ")
    assert printed.endswith(" --resume")
    while double.stats.running:
        time.sleep(0.01)
    assert double.stats.cancelled == 7

    answered = named(double)
    double.latency = 0.0
    double.requests.clear()
    resumed = finished(start(*shlex.split(printed)[1:], cwd=clean))
    assert resumed.code == 0, resumed.err
    assert "10 cells over 10 problems, 40 samples at most, 3 stored already" in resumed.err
    assert len(answered) == 10
    assert set(named(double)) == {question for question in answered if question[:4] not in ("[[p0", "[[p1", "[[p2")}
    assert double.stats.choices == 10 * 4
    assert finished_cells(out) == 10


def test_a_second_process_on_the_same_directory_is_refused(double: ModelDouble, task: str, clean: Path):
    double.latency = 600.0
    words = ["run", "--task", task, "--strategy", "single", "--out", "found", "--base-url", double.base_url]
    first = start(*words, cwd=clean)
    try:
        wait_for(lambda: double.stats.running == 10, first)
        second = finished(start(*words, "--resume", cwd=clean))
        assert second.code == 1
        assert second.err.startswith("error: ")
        assert f"(pid {first.pid})" in second.err
        assert double.stats.received == 10
    finally:
        first.send_signal(signal.SIGINT)
        assert finished(first).code == 130


def test_a_resume_may_name_a_further_strategy_alone(tts: Command, double: ModelDouble, task: str):
    words = ["run", "--task", task, "--base-url", double.base_url, "--out", "one", "--quiet", "--temperature", "0.5"]
    assert tts(*words, "--strategy", "best_of_n:n=2,verifier=oracle").code == 0
    paid = double.stats.completion_tokens
    ended = tts(
        "run", "--resume", "--out", "one", "--strategy", "best_of_n:n=2,verifier=regex(pattern=42)", "--json", "-q"
    )
    assert {row["strategy"] for row in ended.json["summary"]} == {
        "best_of_n:n=2,verifier=oracle",
        'best_of_n:n=2,verifier=regex(pattern="42")',
    }
    assert double.stats.completion_tokens == paid
    ended = tts("run", "--resume", "--out", "none", "--strategy", "single", "--quiet")
    assert ended.code == 2
    assert "none is not a run directory" in ended.err


def test_a_run_is_resumed_and_exported_from_another_folder(
    tts: Command, double: ModelDouble, task: str, clean: Path, monkeypatch: pytest.MonkeyPatch
):
    words = ["run", "--task", task, "--strategy", "single", "--base-url", double.base_url, "--out", "one", "--quiet"]
    assert tts(*words, "--limit", 3).code == 0
    (clean / "elsewhere").mkdir()
    monkeypatch.chdir(clean / "elsewhere")
    resumed = tts("run", "--resume", "--out", "../one", "--limit", 10, "--quiet")
    assert (resumed.code, finished_cells(clean / "one")) == (0, 10), resumed.err
    assert tts("report", "../one", "--export", "samples").code == 0
    assert len((clean / "one" / "samples.jsonl").read_text().splitlines()) == 10
    (clean / "questions.jsonl").rename(clean / "moved.jsonl")
    lost = tts("run", "--resume", "--out", "../one", "--quiet")
    assert lost.code == 2
    assert f"there is no file {clean}/questions.jsonl" in lost.err
    moved = tts("run", "--resume", "--out", "../one", "--quiet", "--task", task.replace("questions", "../moved"))
    assert moved.code == 0, moved.err


def test_a_file_that_a_resume_from_another_folder_lacks_is_told_with_that_of_the_start(
    tts: Command, double: ModelDouble, task: str, clean: Path, monkeypatch: pytest.MonkeyPatch
):
    (clean / "notes.txt").write_text("Six times seven is 42.")
    strategy = "retrieve:corpus=notes.txt"
    words = ["run", "--task", task, "--strategy", strategy, "--base-url", double.base_url, "--out", "one", "--quiet"]
    assert tts(*words, "--limit", 1).code == 0
    (clean / "elsewhere").mkdir()
    monkeypatch.chdir(clean / "elsewhere")
    lost = tts("run", "--resume", "--out", "../one", "--limit", 2, "--quiet")
    assert lost.code == 2
    assert "notes.txt" in lost.err
    assert f"the run was started in {clean}" in lost.err


def test_cells_that_fail_are_exit_code_1_and_are_tried_again_by_resume(tts: Command, task: str):
    unfit = {"[[p3]]"}

    def answer(request: dict, rng: object) -> str:
        if request["messages"][-1]["content"][:6] in unfit:
            raise RuntimeError("unfit")
        return "Answer: 42"

    with serving(answer=answer) as double:
        words = ["run", "--task", task, "--strategy", "single", "--out", "found", "--base-url", double.base_url]
        ended = tts(*words)
        assert ended.code == 1
        assert "1 cell failed" in ended.err
        assert "unfit" in ended.err
        unfit.clear()
        double.requests.clear()
        assert tts(*words, "--resume").code == 0
        assert [question[:6] for question in named(double)] == ["[[p3]]"]


def test_a_model_that_is_not_served_is_one_line_and_exit_code_1(tts: Command, double: ModelDouble, task: str):
    words = ["--model", "absent", "--quiet", "--base-url", double.base_url]
    ended = tts("run", "--task", task, "--strategy", "single", "--out", "found", *words)
    assert ended.code == 1
    assert ended.err.splitlines()[-1].startswith("error: HTTP 404")


def test_on_a_terminal_progress_is_drawn_on_stderr_and_stdout_stays_clean(double: ModelDouble, task: str, clean: Path):
    reader, terminal = os.openpty()
    double.latency = 1.5  # so that it is drawn while answers are awaited
    words = ["--strategy", "single", "--out", "found", "--json", "--base-url", double.base_url]
    ended = finished(start("run", "--task", task, *words, cwd=clean, stderr=terminal, env={"COLUMNS": "100"}))
    os.close(terminal)
    drawn = os.read(reader, 65536).decode()
    os.close(reader)
    assert ended.code == 0
    assert ended.json["summary"][0]["problems"] == 10
    assert "10/10" in drawn
    assert "Traceback" not in drawn


def test_sigterm_says_how_to_continue(double: ModelDouble, task: str, clean: Path):
    double.latency = 600.0
    words = ["run", "--task", task, "--strategy", "single", "--out", "found", "--base-url", double.base_url]
    process = start(*words, cwd=clean)
    wait_for(lambda: double.stats.running == 10, process)
    process.terminate()
    ended = finished(process)
    assert ended.code == 143
    assert "terminated; all answers so far are stored" in ended.err
    assert ended.err.splitlines()[-1].strip().endswith("--out found --base-url " + double.base_url + " --resume")


def test_a_server_that_dies_is_seen_at_once_ends_the_run_in_time_and_the_rest_is_resumed(task: str, clean: Path):
    answers = [choice("Answer: 42")] * 5

    def respond(_: dict) -> object:
        return answers.pop() if answers else web.json_response({"error": {"message": "engine died"}}, status=500)

    with scripted(respond, alive=lambda: bool(answers)) as server:
        model = ["--model", "test-model", "--base-url", server.base_url]
        (clean / "grid.toml").write_text("[models.test-model]\noutage_timeout = 4.0\nmax_concurrency = 1\n")
        words = ["run", "grid.toml", "--task", task, "--strategy", "single", "--out", "found", *model]
        process, began = start(*words, cwd=clean), time.monotonic()
        ended = finished(process)
        assert time.monotonic() - began < 120
        assert ended.code == 1
        assert "Traceback" not in ended.err
        first = next(line for line in ended.err.splitlines() if "failed" in line)
        assert "engine died" in first or "HTTP 503" in first
        assert "so far/single" in ended.err
        assert "for 4 s (outage_timeout)" in ended.err.splitlines()[-1]
        assert "To continue:" in ended.err
        answers += [choice("Answer: 42")] * 10
        again = finished(start(*words, "--resume", cwd=clean))
        assert again.code == 0, again.err
        assert "5 stored already" in again.err


def test_a_run_needs_no_more_than_256_open_files(clean: Path):
    lines = [{"id": f"p{i}", "prompt": f"[[p{i}]] What?", "answer": 42} for i in range(300)]
    (clean / "many.jsonl").write_text("\n".join(map(json.dumps, lines)))
    with serving(answer=lambda *_: "Answer: 42", latency=0.1) as double:
        words = ["--task", "jsonl:path=many.jsonl", "--strategy", VOTE, "--out", "found", "--base-url", double.base_url]
        ended = finished(
            start(
                "run",
                *words,
                "--models.test-model.max_n=1",
                cwd=clean,
                preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256)),
            )
        )
    assert ended.code == 0, ended.err
    assert "failed" not in ended.err
    assert double.stats.choices == 1200


@pytest.mark.parametrize(
    ("number", "code", "word"),
    [(signal.SIGTERM, 143, "terminated"), (signal.SIGHUP, 143, "terminated"), (signal.SIGINT, 130, "interrupted")],
)
def test_an_interruption_at_any_moment_is_told(number: int, code: int, word: str, capsys: pytest.CaptureFixture[str]):
    app = typer.Typer(cls=Commands)
    app.command("wait")(lambda: signal.raise_signal(number))
    app.command("other")(lambda: None)
    with pytest.raises(SystemExit) as ended:
        app(["wait"])
    assert ended.value.code == code
    assert capsys.readouterr().err == f"{word}\n"


@pytest.mark.parametrize(
    ("moment", "said"), [("typer", ""), ("tts.cli.serve", ""), ("tts.tasks.jsonl", "interrupted\n"), ("the end", "")]
)
def test_ctrl_c_ends_a_command_without_a_traceback_from_its_first_import_to_its_last_step(moment: str, said: str):
    program = f"""
import atexit, runpy, signal, sys
class Interrupted:
    def find_spec(self, name, *_):
        if name == {moment!r}:
            signal.raise_signal(signal.SIGINT)
sys.meta_path.insert(0, Interrupted())
if {moment!r} == "the end":
    atexit.register(signal.raise_signal, signal.SIGINT)
sys.argv = ["tts", "list", "--json"]
runpy.run_module("tts", run_name="__main__")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (130, said)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_what_ignores_ctrl_c_is_terminated_all_the_same(number: int, capsys: pytest.CaptureFixture[str]):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as for what a script starts with `&`
    try:
        test_an_interruption_at_any_moment_is_told(number, 143, "terminated", capsys)
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_full_disk_behind_stdout_is_told_without_a_traceback(clean: Path):
    with open("/dev/full", "w") as full:
        ended = finished(start("list", "tasks", cwd=clean, stdout=full))
    assert (ended.code, ended.err) == (1, "error: No space left on device\n")


def test_what_never_began_is_not_said_to_be_stored(tts: Command, task: str):
    words = ["--task", task, "--strategy", "single", "--out", "found", "--model", "m", "--models.m.max_attempts", 1]
    ended = tts("run", *words, "--base-url", "http://127.0.0.1:9/v1")
    assert ended.code == 1
    assert "Is the server running" in ended.err
    assert "stored" not in ended.err
