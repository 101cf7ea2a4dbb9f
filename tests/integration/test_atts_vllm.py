"""ATTS against real vLLM: exact accounts, continuations from the prefix cache, token ids and texts that agree."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.integration.test_main_job import counted, endpoint
from tts import Experiment, Problem, solve
from tts.local_vllm import LocalVLLM
from tts.sampler import Sampler
from tts.sampler.scoring import score, tokenize
from tts.strategies.speculation import steps
from tts.types import Result, sum_usage

pytestmark = pytest.mark.vllm

STORY = "Ana has 7 coins, finds 5 and then says: é! " * 12  # several blocks of the prefix cache
PROBLEM = Problem.from_prompt(f"{STORY}How many has she?", answer="numeric_answer")
ATTS = "atts:n=8,draft_tokens=12,target_tokens=10,rounds=6,rejection_rate=0.5"


async def solved(server: LocalVLLM, strategy: str = ATTS, **params: object) -> Result:
    models = {role: endpoint(server, params={"temperature": 1.0, **params}) for role in ("draft", "target")}
    return await solve(PROBLEM, strategy, models, stop_early=False)


@pytest.mark.parametrize("strategy", [ATTS, ATTS.replace("atts", "atts_sync", 1)])
async def test_the_account_is_the_growth_of_the_servers_counters(vllm_server: LocalVLLM, strategy: str):
    before = await counted(vllm_server)
    result = await solved(vllm_server, strategy)
    after = await counted(vllm_server)
    usage = sum_usage(result.spent.values())
    grown = [now - then for now, then in zip(after, before, strict=True)]
    assert grown == [usage.prompt_tokens, usage.completion_tokens, usage.requests]
    assert not result.failures
    assert any(turn["rejected"] for candidate in result.candidates for turn in candidate.notes["turns"])


@pytest.mark.parametrize("bias", [-100, 0, 4], ids=["no draft ends", "as the model likes", "most drafts end"])
async def test_a_sample_is_the_same_as_token_ids_and_as_text_and_is_continued_from_the_cache(
    vllm_server: LocalVLLM, bias: int
):
    """The target goes on behind a draft as if the model had not ended it: without its end token."""
    async with Sampler(endpoint(vllm_server)) as sampler:
        head = await tokenize(sampler, PROBLEM.messages)
        (end,) = await tokenize(sampler, "<|end|>", special=False)
        result = await solved(
            vllm_server, ATTS.replace("rejection_rate=0.5", "rejection_rate=1"), logit_bias={str(end): bias}
        )
        ended = 0
        for candidate in result.candidates:
            ids: list[int] = []
            drafts = iter(candidate.notes["turns"])
            for sample in candidate.samples:
                if ids[-1:] == [end]:
                    ids.pop()
                    ended += 1
                assert sample.token_ids
                turn = next(drafts, None) if sample.role == "draft" else None
                if turn is not None:
                    again = await score(sampler, [*head, *ids], sample.token_ids)
                    assert again.mean == pytest.approx(turn["score"], abs=2e-2)  # batched arithmetic differs
                    assert turn["tokens"] == len(sample.token_ids)
                ids += sample.token_ids
    assert not bias or (ended > 0) == (bias > 0)
    continued = [s for candidate in result.candidates for s in candidate.samples if s.role == "target"]
    assert continued
    prompts = [sample.charges[0].usage for sample in continued]
    assert sum(usage.cached_tokens for usage in prompts) > 0.5 * sum(usage.prompt_tokens for usage in prompts)


async def test_different_tokenizers_work_on_the_rendered_text(vllm_server: LocalVLLM, monkeypatch: pytest.MonkeyPatch):
    async def strangers(session: object) -> steps.Pair:
        return steps.Pair(False, {"draft": "", "target": ""})

    monkeypatch.setattr(steps, "_look", strangers)
    result = await solved(vllm_server)
    assert not result.failures
    async with Sampler(endpoint(vllm_server)) as sampler:
        head = await tokenize(sampler, PROBLEM.messages)
        first = [c.samples[0].text for c in result.candidates if c.notes["turns"]]
        scores = [c.notes["turns"][0] for c in result.candidates if c.notes["turns"]]
        assert first
        for text, turn in zip(first, scores, strict=True):
            apart = await score(sampler, head, text)
            assert turn["tokens"] == len(apart.logprobs)
            assert turn["score"] == pytest.approx(apart.mean, abs=2e-2)


async def test_steps_are_graded_by_a_real_model(vllm_server: LocalVLLM):
    result = await solved(vllm_server, "spec_reason:n=2,rounds=3,draft_tokens=20,target_tokens=20")
    assert not result.failures
    assert all(turn.keys() == {"grade", "rejected"} for c in result.candidates for turn in c.notes["turns"])


@pytest.mark.parametrize("stop_early", [False, True])
async def test_what_a_run_stores_of_both_models_is_what_their_server_counted(
    vllm_server: LocalVLLM, tmp_path: Path, stop_early: bool
):
    """To the token: the search's own charges, and the text by which the run finds out whether the target can score."""
    lines = [
        {"id": f"p{i}", "prompt": f"Ana has {i} coins and finds 5. How many?", "answer": str(i + 5)} for i in range(3)
    ]
    (tmp_path / "problems.jsonl").write_text("\n".join(map(json.dumps, lines)))
    models = {role: endpoint(vllm_server, params={"temperature": 1.0}) for role in ("draft", "target")}
    strategies = [ATTS, f"{ATTS.replace('atts', 'atts_best', 1)},verifier=oracle"]
    settings = {"task": f'jsonl:path="{tmp_path}/problems.jsonl"', "models": {"pair": models}, "strategies": strategies}
    before = await counted(vllm_server)
    run = await Experiment.parse({**settings, "stop_early": stop_early}).run(tmp_path / "run")
    after = await counted(vllm_server)
    prompt, completion, requests = (now - then for now, then in zip(after, before, strict=True))
    paid = sum_usage(usage for track in run.tracks for usage in track.paid().values())
    wasted = sum_usage(track.wasted() for track in run.tracks)
    assert paid.prompt_tokens <= prompt <= paid.prompt_tokens + wasted.prompt_tokens
    assert paid.completion_tokens <= completion
    if not wasted.requests:
        assert (prompt, completion, requests) == (paid.prompt_tokens, paid.completion_tokens, paid.requests)
    probe = len(steps.WORDS.encode())  # a byte is a token
    needed = run.tracks[0].usage()
    first = sum_usage(run.tracks[0].paid().values())
    assert first.prompt_tokens - needed.prompt_tokens == probe
    assert first.completion_tokens - needed.completion_tokens == 1
