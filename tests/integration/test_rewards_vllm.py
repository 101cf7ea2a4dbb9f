"""Rewards from a real vLLM: a random classifier, whose opinions mean nothing and whose accounts must be right; and the
reward model that comes with the library, which must say the same there as in this process.
"""

from __future__ import annotations

import math
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.integration.conftest import BUILDER
from tests.integration.test_main_job import counted, endpoint
from tts import Endpoint, solve
from tts.confidence import LIKELIEST, LowConfidence
from tts.errors import EndpointRefused
from tts.local_vllm import LocalVLLM
from tts.prompting import problem_text
from tts.registry import make
from tts.sampler.scoring import tokenize
from tts.session import Session
from tts.solving import open_models
from tts.types import Problem, Verdict, by_role

pytestmark = pytest.mark.vllm

PROBLEM = Problem.from_prompt("Ana has 3 coins and finds 4. How many has she?", id="p")
ANSWERS = ["She has 7.", "She has 12, I think.\n\nNo: 7.\n\nAnswer: 7", "She has 7."]


@pytest.fixture(scope="session")
def classifier(vllm_python: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of two classes with random weights."""
    folder = tmp_path_factory.mktemp("models") / "classifier"
    subprocess.run([vllm_python, str(BUILDER), str(folder), "--classes", "2"], check=True)
    return folder


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def reward_server(vllm_python: str, classifier: Path) -> AsyncIterator[LocalVLLM]:
    async with LocalVLLM(classifier, name="reward", python=vllm_python, options=("--runner", "pooling")) as server:
        yield server


async def rated(server: LocalVLLM, spec: str, role: str = "reward") -> tuple[list[Verdict], Session]:
    async with open_models({role: endpoint(server)}) as samplers:
        session = Session(PROBLEM, samplers)
        verifier = make("verifiers", spec)
        return [await session.verify(session.candidate(answer), verifier) for answer in ANSWERS], session


async def test_rewards_are_probabilities_and_the_prompt_tokens_are_the_servers(reward_server: LocalVLLM) -> None:
    before, *_ = await counted(reward_server)
    (first, second, again), session = await rated(reward_server, "outcome_reward")
    after, *_ = await counted(reward_server)
    assert not session.ledger.failures
    assert first.score is not None
    assert second.score is not None
    assert 0 < first.score < 1
    assert first.score != second.score
    assert again == first
    spent = by_role(session.ledger.paid)["reward"]
    assert spent.requests == 2
    assert spent.completion_tokens == spent.estimated_tokens == 0
    assert spent.prompt_tokens == after - before > 0


async def test_raw_values_and_probabilities_agree_on_the_class(reward_server: LocalVLLM) -> None:
    (raw, *_), session = await rated(reward_server, 'outcome_reward:route=pooling,params={"task": "classify"}')
    (rating, *_), _ = await rated(reward_server, "outcome_reward")
    assert not session.ledger.failures
    assert raw.score == pytest.approx(rating.score, abs=0.02)
    (other, *_), _ = await rated(reward_server, "outcome_reward:label=0")
    assert other.score is not None
    assert rating.score is not None
    assert other.score + rating.score == pytest.approx(1, abs=0.02)


async def test_every_step_is_rated_as_its_prefix_is(reward_server: LocalVLLM) -> None:
    (_, steps, _), session = await rated(reward_server, "process_reward:aggregate=min")
    (_, whole, _), _ = await rated(reward_server, "outcome_reward")
    assert not session.ledger.failures
    assert len(steps.details["steps"]) == 3
    assert steps.details["steps"][-1] == pytest.approx(whole.score, abs=0.02)  # batched arithmetic differs
    assert steps.score == min(steps.details["steps"])
    assert by_role(session.ledger.paid)["reward"].requests == 1 + 3


async def test_a_route_that_the_server_does_not_have_ends_the_search_in_words(reward_server: LocalVLLM) -> None:
    with pytest.raises(EndpointRefused, match="404"):
        await rated(reward_server, "embedding_similarity", role="embed")


@pytest.mark.parametrize("stream", [False, True], ids=["whole answers", "streamed"])
@pytest.mark.parametrize("bias", [-100, 0, 100], ids=["none ends", "as the model likes", "all end at once"])
async def test_confidences_are_the_servers_log_probabilities(vllm_server: LocalVLLM, stream: bool, bias: int) -> None:
    async with open_models(endpoint(vllm_server, stream=stream, params={"max_tokens": 30})) as samplers:
        (end,) = await tokenize(samplers["policy"], "<|end|>", special=False)
        verifier = make("verifiers", "min_window_confidence:window=4")
        session = Session(PROBLEM, samplers, verifier=verifier)
        drawn = session.propose(n=4, logit_bias={str(end): bias})
        found = [candidate async for candidate in session.verified(drawn)]
    assert len(found) == 4
    for candidate in found:
        assert candidate.samples[-1].confidences is not None
        tokens = candidate.samples[-1].charges[1].usage.completion_tokens
        assert len(candidate.samples[-1].confidences) == tokens
        assert not bias or tokens == (1 if bias > 0 else 30)
        assert candidate.verdict is not None
        assert candidate.verdict.score is not None
        assert candidate.verdict.score > 0


async def test_abandoned_answers_end_at_the_server(vllm_server: LocalVLLM) -> None:
    _, before, _ = await counted(vllm_server)
    async with open_models(endpoint(vllm_server)) as samplers:
        session = Session(PROBLEM, samplers)
        rule = LowConfidence(threshold=1e9, window=8)
        long = {"max_tokens": 3000, "ignore_eos": True, "stop_when": rule, **LIKELIEST}
        found = [sample async for sample in session.sample(n=6, **long)]
    _, after, _ = await counted(vllm_server)
    assert [sample.finish_reason for sample in found] == ["abandoned"] * 6
    for sample in found:
        assert sample.confidences is not None
        assert 8 <= len(sample.confidences) == sample.charges[1].usage.completion_tokens
    assert after - before < 6 * 3000 / 2
    assert session.ledger.wasted == {}


@pytest.fixture(scope="session")
def untaught(vllm_python: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the tiny model was before it learnt."""
    folder = tmp_path_factory.mktemp("models") / "untaught"
    subprocess.run([vllm_python, str(BUILDER), str(folder), "--train-steps", "0"], check=True)
    return folder


async def test_what_tuning_changed_is_read_by_three_models_and_paid_for(
    vllm_server: LocalVLLM, vllm_python: str, untaught: Path
) -> None:
    async with LocalVLLM(untaught, name="untaught", python=vllm_python) as anchor:
        tuned = endpoint(vllm_server)
        # Likely answers, none of which is empty.
        likely = {"max_tokens": 40, "temperature": 0.3, "min_tokens": 8, "logprobs": True}
        policy = endpoint(vllm_server, max_n=1, params=likely)
        roles = {"base": tuned, "tuned": tuned, "anchor": endpoint(anchor)}
        before = [(await counted(server))[0] for server in (vllm_server, anchor)]
        spec = "best_of_n:n=4,verifier=logprob_contrast(beta=0.5)"
        result = await solve(PROBLEM, spec, {"policy": policy, **roles}, stop_early=False)
        after = [(await counted(server))[0] for server in (vllm_server, anchor)]
    assert not result.failures
    grown = [now - then for then, now in zip(before, after, strict=True)]
    spent = {role: usage.prompt_tokens for role, usage in result.spent.items()}
    assert grown == [spent["policy"] + spent["base"] + spent["tuned"], spent["anchor"]]
    for one in result.candidates:
        assert one.verdict is not None
        told, own = one.verdict.details, one.samples[-1].logprobs
        assert own is not None
        assert told["base"] == pytest.approx(told["tuned"], abs=0.02 * told["tokens"])
        assert told["tuned"] == pytest.approx(sum(own[: told["tokens"]]), abs=0.05 * told["tokens"])
        assert told["anchor"] < told["tuned"]  # which finds its own answers likelier than a stranger does
        contrast = told["base"] + 0.5 * (told["tuned"] - told["anchor"])
        assert one.verdict.score == pytest.approx(contrast / told["tokens"])


async def test_chances_of_labels_are_the_servers_to_the_last_token(vllm_server: LocalVLLM) -> None:
    """Also of labels that the model would not say: by what it gives each of them behind the same text."""
    spec = 'process_reward:labels=["+","-"],separator=" ki",step="\\n",exact=true'
    (_, verdict, _), session = await rated(vllm_server, spec)
    assert not session.ledger.failures
    text = f"{problem_text(PROBLEM)} " + "\n".join(f"{step} ki" for step in ANSWERS[1].split("\n") if step)
    right, wrong = [sum((await session.score(text, label, role="reward")).logprobs) for label in "+-"]
    assert len(verdict.details["steps"]) == 3
    assert verdict.score == pytest.approx(1 / (1 + math.exp(wrong - right)), abs=0.02)


SOLUTION = "37 + 58 = 95\n95 * 4 = 380\n380 - 129 = {}\nAnswer: {}"


async def test_the_reward_model_of_the_library_says_the_same_there_and_here(exact_reward_server: LocalVLLM) -> None:
    problem = Problem.from_prompt("Start with 37, add 58, multiply by 4, subtract 129.", id="p")
    verifier = make("verifiers", 'process_reward:step="\n",params={"continue_final_message": true},aggregate=min')
    found: list[list[Verdict]] = []
    for base_url in (exact_reward_server.base_url, "embedded://lab-reward"):
        async with open_models({"reward": Endpoint(model="lab-reward", base_url=base_url)}) as samplers:
            session = Session(problem, samplers)
            texts = [SOLUTION.format(value, value) for value in (251, 261)]
            found.append([await session.verify(session.candidate(text), verifier) for text in texts])
    there, here = found
    for one, other in zip(there, here, strict=True):
        assert one.details["steps"] == pytest.approx(other.details["steps"], abs=1e-3)
