"""Several models in one search: each is a role, so that whatever is accounted by role is accounted by model."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.double import ModelDouble
from tests.support.solving import PROBLEM, check_account, endpoint
from tts import Candidate, Endpoint, Experiment, Problem, Session, Strategy, registry, solve
from tts.errors import ConfigError, EndpointError
from tts.runs.analysis import curves, summary
from tts.runs.config import Grid
from tts.runs.measures import usual_measure
from tts.types import sum_usage


class EachOnce(Strategy):
    """A sample of each policy, one after the other; the last one's answer counts."""

    several = True

    async def search(self, problem: Problem, session: Session) -> AsyncIterator[Candidate]:
        for role in session.policies:
            async for candidate in session.propose(role=role):
                yield candidate

    def select(self, candidates: Any) -> Candidate | None:
        return candidates[-1] if candidates else None


registry.register("strategies", EachOnce)


@pytest.fixture
def task(tmp_path: Path) -> str:
    path = tmp_path / "problems.jsonl"
    path.write_text("\n".join(json.dumps({"prompt": f"[[p{i}]] six times seven?", "answer": "42"}) for i in range(3)))
    return f'jsonl:path="{path}"'


@asynccontextmanager
async def several(**settings: Any) -> AsyncIterator[tuple[ModelDouble, dict[str, Any]]]:
    """A double of two models, and the table of a set of both."""
    async with ModelDouble(models=("small", "large"), **settings) as double:
        common = {"base_url": double.base_url, "retry_wait": 0.005, "params": {"max_tokens": 40, "seed": 3}}
        cards = {"small": {"parameters": 1e6}, "large": {"parameters": 1e7}}
        yield double, {**common, "policies": {name: {"card": card} for name, card in cards.items()}}


_taken = socket.socket()
_taken.bind(("127.0.0.1", 0))


def closed_port() -> int:
    """A port where nobody listens, nor can anybody."""
    return _taken.getsockname()[1]


def grid(task: str, table: Any, *strategies: str, **settings: Any) -> Experiment:
    return Experiment.parse({"task": task, "models": {"mixed": table}, "strategies": strategies, **settings})


def test_a_set_is_a_role_for_each_member_and_what_stands_beside_it_holds_for_all(task: str):
    table = {
        "base_url": "http://a/v1",
        "policies": {"small": {}, "large": {"model": "big", "base_url": "http://b/v1"}},
        "judge": {"base_url": "http://c/v1"},
    }
    roles = grid(task, table, "each_once", sampling={"temperature": 0.5}).endpoints("mixed")
    assert list(roles) == ["policy.small", "policy.large", "judge"]
    assert [one.model for one in roles.values()] == ["small", "big", "judge"]
    assert [one.base_url for one in roles.values()] == ["http://a/v1", "http://b/v1", "http://c/v1"]
    assert [one.params for one in roles.values()] == [{"temperature": 0.5}] * 2 + [{}]
    again = Grid.parse(grid(task, table, "each_once").model_dump(mode="json"))
    assert again.models == grid(task, table, "each_once").models
    with pytest.raises(ConfigError, match="a policy and a set of policies"):
        grid(task, {**table, "policy": {"model": "x", "base_url": "http://a/v1"}}, "each_once")


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("single", "say from which: single:policies=small, single:policies=large"),
        ("single:policies=[small,large]", "say from which"),
        ("each_once:policies=tiny", "no policy 'tiny'; there are: small, large"),
    ],
)
async def test_a_strategy_that_cannot_tell_whom_to_ask_is_refused_before_anything_is_sent(
    spec: str, words: str, task: str, tmp_path: Path
):
    async with several() as (double, table):
        with pytest.raises(ConfigError, match=words):
            await grid(task, table, spec).run(tmp_path / "run")
        with pytest.raises(ConfigError, match="this model is no set of policies"):
            await solve(PROBLEM, "single:policies=small", endpoint(double, model="small"))
        assert not double.stats.received


async def test_compute_is_by_role_and_model_to_the_token_and_resumes(task: str, tmp_path: Path):
    specs = ("single:policies=large", "self_consistency:policies=small,n=5", "each_once")
    async with several() as (double, table):
        run = await grid(task, table, *specs).run(tmp_path / "run")
        for track, roles in zip(run.tracks, ({"large"}, {"small"}, {"small", "large"}), strict=True):
            assert set(track.by_role()) == {f"policy.{name}" for name in roles}
        paid: dict[str, list[Any]] = {}
        for track in run.tracks:
            for role, usage in track.paid().items():
                paid.setdefault(role.removeprefix("policy."), []).append(usage)
        for model, stats in double.by_model.items():
            assert sum_usage(paid[model]).completion_tokens == stats.completion_tokens
            assert sum_usage(paid[model]).prompt_tokens == stats.prompt_tokens
        flops = [float(sum(part[-1] for part in track.cost("flops"))) for track in run.tracks]
        priced = {role: usage.total_tokens for role, usage in run.tracks[2].by_role().items()}
        assert flops[2] == pytest.approx(2 * (1e6 * priced["policy.small"] + 1e7 * priced["policy.large"]))
        before, received = summary(run), double.stats.received
        run.db.close()
        again = await grid(task, table, *specs).run(tmp_path / "run", resume=True)
        assert double.stats.received == received
        assert summary(again) == before


async def test_what_another_model_of_the_run_has_paid_for_is_charged_to_who_uses_it(task: str, tmp_path: Path):
    async with several() as (double, table):
        alone = {key: value for key, value in table.items() if key != "policies"}
        models = {"small": alone, "mixed": table}
        config = {"task": task, "models": models, "strategies": ["single"], "sampling": {"temperature": 0.5}}
        with pytest.raises(ConfigError, match="say from which"):
            await Experiment.parse(config).run(tmp_path / "refused")
        await Experiment.parse({**config, "models": {"small": alone}}).run(tmp_path / "run")
        received = double.stats.received
        config |= {"models": {"mixed": table}, "strategies": ["single:policies=small"]}
        run = await Experiment.parse(config).run(tmp_path / "run", resume=True)
        assert double.stats.received == received
        one, other = run.tracks
        assert {role: usage.total_tokens for role, usage in other.by_role().items()} == {
            "policy.small": one.usage().total_tokens
        }


async def test_the_axis_is_money_or_flops_where_policies_are_different_models(task: str, tmp_path: Path):
    async with several() as (_, table):
        run = await grid(task, table, "each_once").run(tmp_path / "a")
        assert usual_measure(run.tracks) == "flops"
        assert curves(run)[0].x_name == "flops"
        prices = {"prompt_price_per_million": 1, "completion_price_per_million": 2}
        priced = {**table, "policies": {name: {"card": prices} for name in ("small", "large")}}
        run = await grid(task, priced, "each_once").run(tmp_path / "b")
        assert curves(run)[0].x_name == "money"
        bare = {**table, "policies": {"small": {}, "large": {"card": prices}}}
        run = await grid(task, bare, "each_once").run(tmp_path / "c")
        assert curves(run)[0].x_name == "completion tokens"
        alone = {**table, "policies": {"small": {"card": prices}}}
        assert usual_measure((await grid(task, alone, "single").run(tmp_path / "d")).tracks) == "completion_tokens"


# -- a model that is down ---------------------------------------------------------------------------------------------


async def test_a_model_that_is_down_from_the_start_is_left_out_and_said_so_and_tried_again(task: str, tmp_path: Path):
    async with several() as (double, table):
        gone = {"base_url": f"http://127.0.0.1:{closed_port()}/v1", "identity": "the-large"}
        broken = {**table, "policies": {"small": {}, "large": gone}}
        run = await grid(task, broken, "each_once").run(tmp_path / "run")
        (track,) = run.tracks
        for row in track.rows:
            assert [words.partition(":")[0] for words in row.failures] == ["policy.large is left out"]
            assert "cannot" in row.failures[0] or "connect" in row.failures[0].lower()
        assert set(track.by_role()) == {"policy.small"}
        assert summary(run)[0]["lost_samples"] == 3
        mended = {**table, "policies": {"small": {}, "large": {"identity": "the-large"}}}
        run = await grid(task, mended, "each_once").run(tmp_path / "run", resume=True)
        assert set(run.tracks[0].by_role()) == {"policy.small", "policy.large"}
        assert not any(row.failures for row in run.tracks[0].rows)
        assert double.by_model["small"].received == 3


async def test_a_model_that_goes_down_halfway_is_left_out_and_the_run_goes_on(task: str, tmp_path: Path):
    async with several() as (double, _), ModelDouble(models=["large"]) as other:
        away = asyncio.create_task(_leave(other))
        options = {"base_url": other.base_url, "outage_timeout": 0.6, "params": {"max_tokens": 40}}
        small = {"base_url": double.base_url, "params": {"max_tokens": 40}}
        broken = {"policies": {"small": small, "large": options}}
        async with asyncio.timeout(120):
            run = await grid(task, broken, "each_once", seeds=list(range(40))).run(tmp_path / "run")
        await away
        rows = run.tracks[0].rows
        assert len(rows) == 120
        assert all(row.ended == "complete" and row.selected is not None for row in rows)
        left_out = [row for row in rows if any("policy.large is left out" in words for words in row.failures)]
        assert left_out
        assert all(len(run.tracks[0].candidates(row)) == 1 for row in left_out)


async def _leave(double: ModelDouble) -> None:
    while double.stats.served < 2:
        await asyncio.sleep(0.001)
    double._listener.close()
    await double._server.shutdown(timeout=0.01)


async def test_a_wrong_key_of_one_is_an_error_and_so_is_it_when_all_are_down():
    async with ModelDouble() as double, ModelDouble(api_key="right") as locked:
        gone = Endpoint(model="x", base_url=f"http://127.0.0.1:{closed_port()}/v1")
        models = {"policy.small": endpoint(double), "policy.large": endpoint(locked, api_key_env="NO_KEY")}
        with pytest.raises(EndpointError, match="API key"):
            await solve(PROBLEM, EachOnce(), models)
        with pytest.raises(EndpointError):
            await solve(PROBLEM, EachOnce(), {"policy.small": gone, "policy.large": gone.model_copy()})
        result = await solve(PROBLEM, EachOnce(), {"policy.small": endpoint(double), "policy.large": gone})
        assert result.text is not None
        assert result.failures[0].startswith("policy.large is left out: ")
        check_account(result, double.stats)


async def test_a_verifier_that_asks_the_policy_asks_the_one_that_wrote_the_answer():
    def answer(request: dict[str, Any], rng: Any) -> str:
        return "Answer: 42" if len(str(request["messages"])) < 200 else '{"correct": true, "grade": 1}'

    async with ModelDouble(models=("small", "large"), answer=answer) as double:
        models = {f"policy.{name}": endpoint(double, model=name) for name in ("small", "large")}
        result = await solve(PROBLEM, "best_of_n:n=2,policies=small", models, verifier="self_check", stop_early=False)
        assert set(result.spent) == {"policy.small"}
        result = await solve(PROBLEM, EachOnce(), models, verifier="self_check", stop_early=False)
        assert set(result.spent) == {"policy.small", "policy.large"}
