"""Samples that others have drawn, in the forms in which their programs write them, become runs like any other."""

from __future__ import annotations

import gzip
import json
import tracemalloc
import zipfile
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.tasks.test_tasks import NEXT
from tts import Endpoint, Experiment, MockModel, Run
from tts.cli import main
from tts.errors import ConfigError
from tts.report.exports import exported
from tts.runs.importing import import_samples
from tts.sampler.transport import Reply, Request
from tts.tasks.humaneval import HumanEval
from tts.tasks.jsonl import Jsonl


def lm_eval(id: int, asked: str, target: str, *texts: str, used: str = "strict-match") -> dict[str, Any]:
    arguments = {"gen_args_0": {"arg_0": asked, "arg_1": {"until": ["Question:"], "do_sample": False}}}
    doc = {"question": asked, "answer": target}
    return {
        "doc_id": id, "doc": doc, "target": target, "arguments": arguments, "resps": [list(texts)],
        "filtered_resps": ["[invalid]"], "filter": used, "metrics": ["exact_match"], "exact_match": 0.0,
    }  # fmt: skip


CHAT = json.dumps([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2 + 3?"}])
HARNESS = [
    lm_eval(0, "6 + 12?", "6 and 12 are\n#### 18", "It is 18.", "Answer: 17"),
    lm_eval(0, "6 + 12?", "6 and 12 are\n#### 18", "It is 18.", "Answer: 17", used="flexible-extract"),
    lm_eval(1, CHAT, "5", "5", "Answer: 5"),
]


def inspected(id: int | str, epoch: int, text: str, *, target: Any = "18", stop: str = "stop") -> dict[str, Any]:
    said = {"role": "assistant", "content": [{"type": "text", "text": text}]}
    asked = {"role": "user", "content": f"{id}: 6 + 12?"}
    usage = {"input_tokens": 11, "output_tokens": 7, "total_tokens": 18}
    output = {"model": "openai/m", "choices": [{"message": said, "stop_reason": stop}], "usage": usage}
    return {
        "id": id, "epoch": epoch, "input": asked["content"], "target": target, "messages": [asked, said],
        "output": output, "scores": {"match": {"value": "C"}},
    }  # fmt: skip


LOG = [inspected("a", 1, "Answer: 18"), inspected("a", 2, "Answer: 1", stop="max_tokens"), inspected("b", 1, "18")]
LOG += [inspected("b", 2, "18"), inspected("c", 1, "18", target=["17", "18"])]


def batched(id: str, text: str, status: int = 200) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 20, "completion_tokens": len(text), "total_tokens": 20 + len(text)}
    body = {"id": "x", "object": "chat.completion", "model": "m-1", "choices": [choice], "usage": usage}
    return {"id": "r", "custom_id": id, "response": {"status_code": status, "body": body}, "error": None}


def write(path: Path, records: list[Any]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.fixture
def sums(tmp_path: Path) -> Jsonl:
    """The problems p0 to p2; 42 is the answer."""
    lines = [{"id": f"p{i}", "prompt": f"p{i}: 6 * 7?", "answer": 42} for i in range(3)]
    return Jsonl(path=write(tmp_path / "sums.jsonl", lines), answer_verifier="numeric_answer")


async def test_samples_of_lm_eval_are_a_run_with_its_prompts_and_are_graded_anew(tmp_path: Path):
    made = await import_samples(
        write(tmp_path / "s.jsonl", HARNESS), tmp_path / "run", answer_verifier="numeric_answer"
    )
    (track,) = made.run.tracks
    assert (made.left_out, track.strategy) == ((), "self_consistency:n=2")
    assert [(row.problem, list(flags)) for row, flags in zip(track.rows, track.correct, strict=True)] == [
        ("0", [1.0, 0.0]),
        ("1", [1.0, 1.0]),
    ]
    assert track.usage().estimated_tokens == track.usage().total_tokens > 0  # which the file does not have
    problems = [example.problem for example in Jsonl(path=tmp_path / "run" / "problems.jsonl").examples()]
    assert list(problems[0].messages) == [{"role": "user", "content": "6 + 12?"}]
    assert list(problems[1].messages) == json.loads(CHAT)


@pytest.mark.parametrize("kind", ["eval", "json"])
async def test_a_log_of_inspect_is_a_run_with_its_tokens(kind: str, tmp_path: Path):
    path = tmp_path / f"log.{kind}"
    if kind == "json":
        path.write_text(json.dumps({"version": 2, "eval": {}, "samples": LOG}))
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("header.json", "{}")
            for sample in LOG:
                archive.writestr(f"samples/{sample['id']}_epoch_{sample['epoch']}.json", json.dumps(sample))
    made = await import_samples(path, tmp_path / "run", answer_verifier="numeric_answer")
    assert made.left_out == ("c, which has 2 right answers",)
    (track,) = made.run.tracks
    assert [list(flags) for flags in track.correct] == [[1.0, 0.0], [1.0, 1.0]]
    assert (track.usage().completion_tokens, track.usage().estimated_tokens) == (28, 0)
    assert [row["finish_reason"] for row in made.run.export()] == ["stop", "length", "stop", "stop"]


async def test_samples_of_human_eval_are_judged_by_the_tasks_tests(tmp_path: Path):
    path = write(tmp_path / "he.jsonl", [NEXT, {**NEXT, "task_id": "HumanEval/901", "prompt": NEXT["prompt"] + "\n"}])
    solutions = [{"task_id": NEXT["task_id"], "completion": f"    return {value}\n"} for value in ("x + 1", "x", "2")]
    made = await import_samples(write(tmp_path / "s.jsonl", solutions), tmp_path / "run", task=HumanEval(path=path))
    (track,) = made.run.tracks
    assert track.strategy == "best_of_n:n=3"
    assert [list(flags) for flags in track.correct] == [[1.0, 0.0, 0.0]]
    assert [list(flags) for flags in track.passed] == [[1.0, 0.0, 1.0]]  # by the example in the prompt


@pytest.mark.parametrize("key", ["completion", "solution"])
@pytest.mark.parametrize("style", ["chat", "completion"])
async def test_what_is_learnt_from_imported_programs_is_asked_as_it_is_answered(
    tmp_path: Path, key: str, style: Literal["chat", "completion"]
):
    head = NEXT["prompt"] if key == "solution" else ""
    said = [f"{head}    return {value}\n" for value in ("x + 1", "x")]
    path = write(tmp_path / "s.jsonl", [{"task_id": NEXT["task_id"], key: text} for text in said])
    task = HumanEval(path=write(tmp_path / "he.jsonl", [NEXT]), style=style)
    made = await import_samples(path, tmp_path / "run", task=task)
    (right,), (pair,) = exported(made.run, "sft"), exported(made.run, "preference")
    if key == "completion":
        assert (right["prompt"], right["completion"]) == (NEXT["prompt"], said[0])
        assert (pair["prompt"], pair["chosen"], pair["rejected"]) == (NEXT["prompt"], *said)
    else:
        asked, answer = right["messages"]
        assert (asked["role"], answer) == ("user", {"role": "assistant", "content": said[0]})
        assert list(pair["prompt"]) == [asked]


async def test_whole_programs_and_continued_prompts_are_not_mixed(tmp_path: Path):
    task = HumanEval(path=write(tmp_path / "he.jsonl", [NEXT]))
    lines = [{"task_id": NEXT["task_id"], key: "    return x + 1\n"} for key in ("completion", "solution")]
    with pytest.raises(ConfigError, match="import them apart"):
        await import_samples(write(tmp_path / "s.jsonl", lines), tmp_path / "run", task=task)


async def test_the_output_of_a_batch_is_a_run_and_what_failed_is_told(sums: Jsonl, tmp_path: Path):
    lines = [batched(f"p{i}#{k}", f"Answer: {42 + (k > i)}") for k in range(3) for i in (1, 0)]
    path = write(tmp_path / "batch.jsonl", [*lines, batched("p2", "", status=500)])
    made = await import_samples(path, tmp_path / "run", task=sums, strategies=["self_consistency:n=3", "single"])
    assert made.left_out == (f"{path}:7: the request for p2 failed",)
    tracks = {track.strategy: track for track in made.run.tracks}
    vote = tracks["self_consistency:n=3"]
    assert {row.problem: sum(flags) for row, flags in zip(vote.rows, vote.correct, strict=True)} == {"p0": 1, "p1": 2}
    assert (vote.usage().completion_tokens, vote.usage().estimated_tokens) == (6 * len("Answer: 42"), 0)
    assert tracks["single"].usage().requests == 2


async def test_what_does_not_fit_is_told_and_what_can_be_is_kept(sums: Jsonl, tmp_path: Path):
    path = write(tmp_path / "uneven.jsonl", [batched("p0", "42"), batched("p0", "41"), batched("p1", "42")])
    with pytest.raises(ConfigError, match=r"'p1' has fewer samples \(1\) than others \(2\)"):
        await import_samples(path, tmp_path / "no", task=sums)
    made = await import_samples(path, tmp_path / "first", task=sums, samples=1)
    assert made.run.tracks[0].strategy == "single"
    made = await import_samples(path, tmp_path / "both", task=sums, samples=2)
    assert made.left_out == ("1 problem with fewer than 2 samples, p1 first",)
    with pytest.raises(ConfigError, match="holds a run already"):
        await import_samples(path, tmp_path / "both", task=sums, samples=2)
    with pytest.raises(ConfigError, match="name the task that has them, by --task"):
        await import_samples(path, tmp_path / "no", samples=1)
    with pytest.raises(ConfigError, match="has no problem 'p9'; its ids look like 'p0'"):
        await import_samples(write(tmp_path / "strange.jsonl", [batched("p9", "42")]), tmp_path / "no", task=sums)
    twins = [lm_eval(i, "6 + 12?", "18", "18") for i in range(2)]
    made = await import_samples(write(tmp_path / "twins.jsonl", twins), tmp_path / "twins")
    assert made.left_out == ("1, whose prompt is that of 0",)
    scored = {**HARNESS[0], "resps": [[["-1.5", "False"]]]}
    with pytest.raises(ConfigError, match=r"scored.jsonl:1: 'resps' holds no texts"):
        await import_samples(write(tmp_path / "scored.jsonl", [scored]), tmp_path / "no")


REQUEST = {"custom_id": "p0", "method": "POST", "url": "/v1/chat/completions", "body": {"model": "m", "messages": []}}
EMBEDDED = {"object": "list", "model": "m", "data": []}
RESPONSE = {"object": "response", "model": "m-1", "status": "completed", "error": None, "incomplete_details": None}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (REQUEST, r"s.jsonl:1: a request of a batch; import the file that the batch made of it"),
        (
            {"custom_id": "p0", "response": {"status_code": 200, "body": EMBEDDED}},
            r"s.jsonl:1: an answer of another API",
        ),
        (
            {"custom_id": "p0", "response": None, "error": {"code": "batch_expired", "message": "late"}},
            "p0 failed: late",
        ),
        (
            {"custom_id": "p0", "response": {"status_code": 429, "body": {"error": {"message": "rate"}}}},
            "p0 failed: rate",
        ),
        (
            {
                "custom_id": "p0",
                "response": {"status_code": 200, "body": {**RESPONSE, "status": "failed", "error": {"message": "odd"}}},
            },
            "p0 failed: odd",
        ),
        (
            {"custom_id": "p0", "response": {"status_code": 200, "body": {**RESPONSE, "status": "cancelled"}}},
            "p0 failed: cancelled",
        ),
        ({"custom_id": "p0", "response": {"status_code": 502, "body": "<html>"}}, "p0 failed: <html>"),
        ({"custom_id": "p0", "response": {"status_code": 500, "body": {}}}, "p0 failed$"),
    ],
)
async def test_a_line_of_a_batch_without_an_answer_says_why(line: Any, words: str, sums: Jsonl, tmp_path: Path):
    with pytest.raises(ConfigError, match=words):
        await import_samples(write(tmp_path / "s.jsonl", [line]), tmp_path / "run", task=sums)


async def test_text_completions_of_a_batch_are_answers(sums: Jsonl, tmp_path: Path):
    line = batched("p0", "Answer: 42")
    line["response"]["body"]["choices"] = [{"index": 0, "text": "Answer: 42", "finish_reason": "stop"}]
    made = await import_samples(write(tmp_path / "s.jsonl", [line]), tmp_path / "run", task=sums)
    assert [row["content"] for row in made.run.export()] == ["Answer: 42"]


async def test_responses_of_a_batch_are_answers(sums: Jsonl, tmp_path: Path):
    thought = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "It is 1."}]}
    told = [{"type": "output_text", "text": text, "annotations": []} for text in ("Answer: ", "42")]
    whole = {**RESPONSE, "output": [thought, {"type": "message", "role": "assistant", "content": told}]}
    whole["usage"] = {"input_tokens": 20, "output_tokens": 9, "output_tokens_details": {"reasoning_tokens": 4}}
    cut = {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}, "output": [thought]}
    bodies = {"p0": whole, "p1": {**RESPONSE, **cut}}
    lines = [{"custom_id": id, "response": {"status_code": 200, "body": body}} for id, body in bodies.items()]
    made = await import_samples(write(tmp_path / "s.jsonl", lines), tmp_path / "run", task=sums)
    first, second = made.run.export()
    assert (first["content"], first["finish_reason"], first["model"]) == ("Answer: 42", "stop", "m-1")
    assert (first["prompt_tokens"], first["completion_tokens"], first["estimated_tokens"]) == (20, 9, 0)
    assert (second["content"], second["finish_reason"]) == ("", "length")
    assert (first["correct"], second["correct"]) == (1, 0)


async def test_a_file_of_json_that_is_no_log_of_inspect_is_told(tmp_path: Path):
    for content in ({"date": "x", "eval": {}}, [1]):
        (tmp_path / "results.json").write_text(json.dumps(content))
        with pytest.raises(ConfigError, match=r"results.json is taken for a log of Inspect.*no 'samples'"):
            await import_samples(tmp_path / "results.json", tmp_path / "run")


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where anything is in a record."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(place for key, one in inner for place in places(one, (*at, key)))] if at or inner else [at]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
async def test_a_record_that_is_out_of_form_is_named_or_does_no_harm(tmp_path_factory: Any, data: st.DataObject):
    folder = tmp_path_factory.mktemp("odd")
    record: Any = deepcopy(data.draw(st.sampled_from([HARNESS[0], LOG[0], batched("p0", "42")])))
    *way, last = data.draw(st.sampled_from(places(record)[1:]))
    place = record
    for key in way:
        place = place[key]
    place[last] = data.draw(st.sampled_from([None, 5, "x", [], {}, [5], [[]]]))
    path = folder / ("log.json" if "output" in record else "s.jsonl")
    path.write_text(json.dumps({"samples": [record]} if "output" in record else record))
    write(folder / "sums.jsonl", [{"id": "p0", "prompt": "6 * 7?", "answer": 42}])
    task = Jsonl(path=folder / "sums.jsonl") if "custom_id" in record else None
    try:
        made = await import_samples(path, folder / "run", task=task)
    except ConfigError:
        return
    assert len(made.run.tracks) == 1


def test_the_command_says_what_it_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any):
    words = [
        "import",
        write(tmp_path / "s.jsonl", HARNESS),
        "--answer-verifier",
        "numeric_answer",
        "--out",
        tmp_path / "r",
    ]
    monkeypatch.setattr("sys.argv", ["tts", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code in (0, None)
    assert "4 samples of 2 problems as self_consistency:n=2" in "".join(capsys.readouterr())


TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\r"), min_size=1, max_size=12)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(["lm_eval", "inspect", "batch", "samples"]),
    st.lists(st.lists(TEXTS, min_size=2, max_size=2), min_size=1, max_size=3),
    st.sampled_from(["stop", "length"]),
    TEXTS,
)
async def test_what_is_exported_is_imported_as_it_was(
    tmp_path_factory: Any, form: Any, said: list[list[str]], finish: str, asked: str
):
    folder = tmp_path_factory.mktemp("trip")
    lines = [{"id": f"p#{i}", "prompt": f"{asked} {i}", "answer": said[i][0].strip() or "x"} for i in range(len(said))]
    task = Jsonl(path=write(folder / "problems.jsonl", lines), answer_verifier="exact_answer")
    left = {json.dumps([{"role": "user", "content": f"{asked} {i}"}]): iter(texts) for i, texts in enumerate(said)}

    async def answer(request: Request) -> Reply:
        if request.method == "GET":
            return Reply.json({"data": [{"id": "m"}]})
        text = next(left[json.dumps(request.json()["messages"])])
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
        usage = {"prompt_tokens": 5, "completion_tokens": len(text)}
        return Reply.json({"model": "m", "choices": [choice], "usage": usage})

    model = Endpoint(model="m", base_url="mock://m", transport=answer, max_n=1, max_concurrency=1)
    run = await Experiment(task=task, strategies="self_consistency:n=2", models=model).run(folder / "run")
    rows = list(exported(run, form))
    path = write(folder / "s.jsonl", rows) if form != "inspect" else folder / "log.json"
    if form == "inspect":
        path.write_text(json.dumps(rows[0]))
    again = await import_samples(path, folder / "again", task=task if form in ("batch", "samples") else None)
    assert again.left_out == ()
    kept = ["problem", "content", "correct"]
    if form in ("inspect", "batch"):
        kept += ["finish_reason", "prompt_tokens", "completion_tokens", "estimated_tokens"]

    def table(run: Run) -> list[list[Any]]:
        return sorted([row[name] for name in kept] for row in run.export())

    assert table(again.run) == table(run)


async def test_answers_that_are_no_words_have_no_place_in_some_forms(tmp_path: Path):
    path = write(tmp_path / "he.jsonl", [NEXT])
    model = MockModel(lambda body: "    return x + 1\n")
    run = await Experiment(task=HumanEval(path=path), strategies="single", models=model).run(tmp_path / "run")
    with pytest.raises(ConfigError, match="no right answer in words"):
        list(exported(run, "lm_eval"))
    assert len(list(exported(run, "batch"))) == 1


def archived(path: Path, *samples: bytes, method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for number, sample in enumerate(samples):
            archive.writestr(f"samples/{number}.json", sample)
    return path


def overwritten(path: Path, place: int, value: int) -> Path:
    """With a byte of each header, of the sample itself and of the archive's list, set: `place` is the former's."""
    data = bytearray(path.read_bytes())
    data[data.find(b"PK\x03\x04") + place] = value
    data[data.find(b"PK\x01\x02") + place + 2] = value
    path.write_bytes(data)
    return path


SAMPLE = json.dumps(LOG[0]).encode()
DEEP = b"[" * 100_000 + b"]" * 100_000

HOSTILE: dict[str, Callable[[Path], Path]] = {
    "nested": lambda folder: archived(folder / "a.eval", SAMPLE[:-1] + b', "x": ' + DEEP + b"}"),
    "encrypted": lambda folder: overwritten(archived(folder / "a.eval", SAMPLE), 6, 1),
    "of an unknown compression": lambda folder: overwritten(archived(folder / "a.eval", SAMPLE), 8, 99),
    "larger than may be": lambda folder: archived(folder / "a.eval", b'"' + b"a" * 2**20 + b'"'),
    "without samples": lambda folder: written(folder / "a.json", b'{"samples": null}'),
    "nested lines": lambda folder: written(folder / "a.jsonl", b'{"task_id": ' + DEEP + b"}"),
    "a line that is larger": lambda folder: written(folder / "a.jsonl.gz", gzip.compress(b"a" * 2**20)),
    "many names": lambda folder: written(folder / "a.jsonl", json.dumps(dict.fromkeys(range(99_999))).encode()),
}  # fmt: skip


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("kind", HOSTILE)
async def test_files_of_whatever_content_are_refused_in_few_words(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("tts.tasks.loading.LARGEST", 2**19)
    with pytest.raises(ConfigError) as raised:
        await import_samples(HOSTILE[kind](tmp_path), tmp_path / "run")
    assert len(str(raised.value)) < 2000


async def test_an_archive_is_read_sample_by_sample(tmp_path: Path):
    """However much there is besides what counts."""
    size = 8 * 2**20
    samples = [json.dumps({**inspected(str(i), 1, "18"), "events": "x" * size}).encode() for i in range(8)]
    path = archived(tmp_path / "a.eval", *samples)
    del samples
    tracemalloc.start()
    try:
        await import_samples(path, tmp_path / "run")
        assert tracemalloc.get_traced_memory()[1] < 5 * size
    finally:
        tracemalloc.stop()


async def test_what_a_file_says_of_its_model_is_kept_as_text(tmp_path: Path):
    sample = inspected("\ud83d../../a\0", 1, "18")
    sample["output"]["model"] = "m\ud83d\n\x1b]0;"
    path = archived(tmp_path / "a.eval", json.dumps(sample).encode())
    made = await import_samples(path, tmp_path / "run")
    [track] = made.run.tracks
    assert track.model == "m\ufffd\n\x1b]0;"
    assert [row.problem for row in track.rows] == ["\ufffd../../a\0"]
