"""What a run refuses, shows and remembers, so that nobody is misled by it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.double import Fault, FaultKind, ModelDouble
from tts import (
    Budget,
    Candidate,
    Endpoint,
    Experiment,
    MockModel,
    ModelCard,
    Problem,
    Session,
    Strategy,
    Task,
    registry,
    solve,
)
from tts.errors import ConfigError, RunMismatch
from tts.runs.analysis import curves, summary
from tts.runs.record import redacted
from tts.tasks import Example
from tts.verifiers.numeric_answer import NumericAnswer


def grid(task: object, endpoint: object, *strategies: str, **settings: object) -> Experiment:
    return Experiment.parse({"task": task, "models": endpoint, "strategies": strategies, **settings})


def test_keys_are_taken_out_of_commands() -> None:
    words = ["run", "--models.m.api_key", "sk-1", "--models.m.headers.x=sk-2", "--models.m.api_key_env", "NAME"]
    assert redacted(words) == ["run", "--models.m.api_key", "***", "--models.m.headers.x=***", *words[-2:]]


def test_protocol_keys_and_double_settings_are_refused(task: str, endpoint: Endpoint) -> None:
    with pytest.raises(ConfigError, match="'n' is not a sampling parameter"):
        grid(task, endpoint, "single", sampling={"n": 4})
    model = {"m": {"base_url": endpoint.base_url, "params": {"temperature": 0.8}}}
    with pytest.raises(ConfigError, match=r"temperature is 0\.2 in sampling and 0\.8"):
        grid(task, model, "single", sampling={"temperature": 0.2})
    with pytest.raises(ConfigError, match="password"):
        grid(task, {"m": {"base_url": "http://user:secret@host/v1"}}, "single")


async def test_a_money_cap_needs_prices(task: str, endpoint: Endpoint, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="prompt_price_per_million"):
        await grid(task, endpoint, "single", budget=Budget(money=0.1)).run(tmp_path / "run")
    assert not (tmp_path / "run").exists()


async def test_a_money_cap_needs_prices_of_every_role_and_one_currency(
    task: str, endpoint: Endpoint, double: ModelDouble, tmp_path: Path
) -> None:
    def priced(**card: Any) -> Endpoint:
        prices = {"prompt_price_per_million": 0.2, "completion_price_per_million": 0.6}
        return endpoint.model_copy(update={"card": ModelCard(**prices, **card)})

    for judge, complaint in ((endpoint, "prices for: judge"), (priced(currency="EUR"), "EUR and USD")):
        models = {"m": {"policy": priced(), "judge": judge}}
        with pytest.raises(ConfigError, match=complaint):
            await grid(task, models, "best_of_n:verifier=judge", budget={"money": 0.1}).run(tmp_path / "run")
        with pytest.raises(ConfigError, match=complaint):
            await solve("?", "best_of_n:verifier=judge", models["m"], budget=Budget(money=0.1))
    assert double.stats.received == 0


async def test_problems_without_candidates_count_as_not_solved_in_curves_too(task: str, tmp_path: Path) -> None:
    def refuse_half(_: int, request: dict) -> Fault | None:
        odd = any(f"[[p{i}]]" in request["messages"][-1]["content"] for i in range(1, 20, 2))
        return Fault(FaultKind.BAD_REQUEST) if odd else None

    async with ModelDouble(faults=refuse_half, answer=lambda *_: "Answer: 42") as double:
        endpoint = Endpoint(model="test-model", base_url=double.base_url)
        run = await grid(task, endpoint, "self_consistency:n=4").run(tmp_path / "run")
    assert summary(run)[0]["accuracy"] == pytest.approx(0.5)
    assert all(curve.y.tolist() == pytest.approx([0.5] * len(curve.y)) for curve in curves(run))


async def test_changed_problems_and_changed_parameters_are_noticed_on_resume(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text(json.dumps({"id": "a", "prompt": "[[p1]] 6 * 7?", "answer": "42"}))
    task = {"name": "jsonl", "path": str(path)}
    hot = {"params": {"temperature": 1.5}}
    models = {name: {"model": "test-model", "base_url": endpoint.base_url} for name in ("one", "two")}
    await grid(task, models, "single").run(tmp_path / "run")
    await grid(task, {"two": models["two"]}, "single").run(tmp_path / "run", resume=True)
    with pytest.raises(RunMismatch, match=r"models\.one\.policy\.params"):
        await grid(task, {"one": models["one"] | hot}, "single").run(tmp_path / "run", resume=True)
    path.write_text(json.dumps({"id": "a", "prompt": "[[p1]] 6 * 8?", "answer": "48"}))
    with pytest.raises(RunMismatch, match="problem a has changed"):
        await grid(task, models, "single").run(tmp_path / "run", resume=True)


async def test_a_role_may_be_added_on_resume_and_not_taken_away(task: str, endpoint: Endpoint, tmp_path: Path) -> None:
    alone = {"one": {"model": "test-model", "base_url": endpoint.base_url}}
    judged = {"one": {**alone["one"], "judge": alone["one"]}}
    await grid(task, alone, "single").run(tmp_path / "run")
    run = await grid(task, judged, "single", "best_of_n:n=1,verifier=judge").run(tmp_path / "run", resume=True)
    assert [len(track.rows) for track in run.tracks] == [20, 20]
    with pytest.raises(RunMismatch, match=r"models\.one\.judge"):
        await grid(task, alone, "single").run(tmp_path / "run", resume=True)


async def test_a_start_that_failed_leaves_the_directory_usable(task: str, endpoint: Endpoint, tmp_path: Path) -> None:
    dead = Endpoint(model="test-model", base_url="http://127.0.0.1:9/v1")
    with pytest.raises(Exception, match="Is the server running"):
        await grid(task, dead, "single").run(tmp_path / "run")
    await grid(task, endpoint, "single", limit=1).run(tmp_path / "run")


class Mixed(Task):
    """One problem whose answers can be read and one whose cannot."""

    def examples(self):
        for name, answer in (("p1", "numeric_answer"), ("p2", None)):
            problem = Problem.from_prompt(f"[[{name}]] what?", id=name, answer=answer)
            yield Example(problem, NumericAnswer(reference="42"))


async def test_every_problem_is_checked_before_anything_is_spent(
    endpoint: Endpoint, double: ModelDouble, tmp_path: Path
) -> None:
    registry.register("tasks", Mixed)
    with pytest.raises(ConfigError, match="p2 does not say how its answers are read"):
        await grid("mixed", endpoint, "self_consistency:n=4").run(tmp_path / "run")
    assert double.stats.received == 0


class InGroup(Strategy):
    """Samples in a task group of its own, past every budget, and selects badly."""

    async def search(self, problem: Problem, session: Session) -> AsyncIterator[Candidate]:
        async for candidate in session.propose(n=1):
            yield candidate

        async def more() -> None:
            async for _ in session.sample(n=50):
                pass

        async with asyncio.TaskGroup() as group:
            group.create_task(more())
            group.create_task(more())

    def select(self, candidates):
        raise ZeroDivisionError("no way to choose")


async def test_a_budget_ends_a_search_in_a_task_group_and_a_bad_selection_loses_no_candidate(
    task: str, endpoint: Endpoint, tmp_path: Path
) -> None:
    registry.register("strategies", InGroup)
    run = await grid(task, endpoint, "in_group", limit=2, budget=Budget(requests=3)).run(tmp_path / "run")
    (track,) = run.tracks
    assert [len(flags) for flags in track.correct] == [1, 1]
    assert all("cannot select: ZeroDivisionError" in row.failures[-1] for row in track.rows)
    assert all(usage.requests <= 3 for row in track.rows for usage in row.spent.values())


async def test_seeds_of_a_run_are_independent_of_each_other_and_reproducible(
    task: str, endpoint: Endpoint, tmp_path: Path
) -> None:
    seeded = {"sampling": {"seed": 7}, "limit": 5}
    run = await grid(task, endpoint, "self_consistency:n=8", seeds=[0, 1], **seeded).run(tmp_path / "one")
    again = await grid(task, endpoint, "self_consistency:n=8", seeds=[0, 1], **seeded).run(tmp_path / "two")
    texts = [
        {(row["problem"], row["seed"], row["position"]): row["content"] for row in one.export()} for one in (run, again)
    ]
    assert texts[0] == texts[1]
    assert any(texts[0][name, 0, i] != texts[0][name, 1, i] for name in ("p0", "p1", "p2") for i in range(8))


async def test_one_rejected_request_does_not_end_a_search_that_goes_on(endpoint: Endpoint) -> None:
    async with ModelDouble(faults=[Fault(FaultKind.BAD_REQUEST)], answer=lambda *_: "Answer: 42") as double:
        model = Endpoint(model="test-model", base_url=double.base_url)
        result = await solve("What?", "first_pass:k=4", model, verifier=NumericAnswer(reference="42"))
    assert result.text == "Answer: 42"
    assert len(result.failures) == 1


def test_functions_of_one_name_are_told_apart(tmp_path: Path) -> None:
    """Answers are stored by the server's and the model's name: one function would be given the other's."""
    models = {"a": MockModel(lambda request: "Answer: 1"), "b": MockModel(lambda request: "Answer: 2")}
    with pytest.raises(ConfigError, match=r"two functions are called 'mock'.*model=NAME"):
        Experiment(task="gsm8k", strategies="single", models=models)
    one = MockModel(lambda request: "Answer: 1")
    Experiment(task="gsm8k", strategies="single", models={"a": one, "b": {"policy": one, "judge": one}})
