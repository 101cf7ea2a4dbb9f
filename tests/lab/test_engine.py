"""Continuous batching: what a sequence is given depends on itself alone, and rows are free as soon as they can be."""

import asyncio
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from tests.lab.conftest import generate, held, until
from tts.lab.engine.engine import Engine, GenerationRequest
from tts.lab.engine.sampling import SamplingParams, ScoredToken

PROMPT = [4, *range(80, 110), 5]


async def test_a_seeded_sequence_is_the_same_whatever_else_is_in_the_batch(engine: Engine, folder: Path):
    alone = await generate(engine, PROMPT, 3, seed=11, max_tokens=60)
    others = [generate(engine, PROMPT[: 3 + 2 * i], 2, seed=i, max_tokens=5 + 7 * i) for i in range(12)]
    crowd = await asyncio.gather(*others[:6], generate(engine, PROMPT, 3, seed=11, max_tokens=60), *others[6:])
    assert [one.tokens for one in crowd[6]] == [one.tokens for one in alone]
    fresh = await generate(Engine(folder, threads=1, rows=2), PROMPT, 3, seed=11, max_tokens=60)
    assert [one.tokens for one in fresh] == [one.tokens for one in alone]
    assert len({tuple(one.tokens) for one in alone}) == 3


async def test_choice_i_of_a_seed_is_choice_0_of_the_seed_plus_i(engine: Engine):
    together = await generate(engine, PROMPT, 4, seed=20)
    for index, choice in enumerate(together):
        (alone,) = await generate(engine, PROMPT, 1, seed=20 + index)
        assert alone.tokens == choice.tokens


async def test_without_a_seed_samples_differ(engine: Engine):
    choices = await generate(engine, PROMPT, 4, seed=None, max_tokens=30)
    assert len({tuple(one.tokens) for one in choices}) == 4


async def test_many_more_sequences_than_rows_are_all_answered(engine: Engine):
    answers = await asyncio.gather(*(generate(engine, PROMPT, 8, seed=i, ignore_eos=True) for i in range(10)))
    assert all(len(one.tokens) == 16 for answer in answers for one in answer)
    await until(lambda: engine.running == engine.waiting == 0)


async def test_a_prompt_that_begins_like_an_earlier_one_is_read_from_there(engine: Engine, folder: Path):
    async def ask(engine: Engine, prompt: list[int]) -> tuple[int, list[int], list[ScoredToken]]:
        request = GenerationRequest(np.array(prompt), SamplingParams(max_tokens=20, seed=1, logprobs=0))
        (delta,) = [delta async for delta in engine.generate(request)]
        return request.cached_tokens, delta.tokens, delta.scores

    long = [*PROMPT, *range(60, 180)]
    one = Engine(folder, threads=1)
    assert (await ask(one, long))[0] == 0
    for prompt, known in ((long, 128), (long[:128], 64), ([*long[:100], 7, 8, 9], 64), (long[:60], 0)):
        cached, tokens, scores = await ask(one, prompt)
        assert cached == known  # whole blocks, and never the last token
        assert (0, tokens, scores) == await ask(Engine(folder), prompt)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_stop_strings_end_the_text_wherever_tokens_are_cut(engine: Engine, stream: bool):
    params = SamplingParams(max_tokens=80, seed=5, ignore_eos=True)
    (full,) = [delta async for delta in engine.generate(GenerationRequest(np.array(PROMPT), params))]
    pieces = [engine.tokenizer.pieces[token] for token in full.tokens]
    i = next(i for i, (a, b) in enumerate(pairwise(pieces)) if i > 20 and (a[-1:] + b[:1]).isascii())
    stop = (pieces[i][-1:] + pieces[i + 1][:1]).decode()  # it lies across two tokens
    expected = full.text[: full.text.index(stop)]
    ends = SamplingParams(max_tokens=80, seed=5, ignore_eos=True, stop=("never there", stop))
    deltas = [delta async for delta in engine.generate(GenerationRequest(np.array(PROMPT), ends, 1, stream))]
    assert "".join(delta.text for delta in deltas) == expected
    assert (deltas[-1].finish_reason, deltas[-1].stop_reason) == ("stop", stop)
    assert all(delta.finish_reason is None for delta in deltas[:-1])
    assert (len(deltas) > 1) == stream
    kept = SamplingParams(max_tokens=80, seed=5, ignore_eos=True, stop=(stop,), include_stop_str_in_output=True)
    (delta,) = [delta async for delta in engine.generate(GenerationRequest(np.array(PROMPT), kept))]
    assert delta.text == expected + stop


async def test_end_tokens_end_a_text_but_not_before_min_tokens(engine: Engine, folder: Path):
    drawn = (await generate(engine, PROMPT, seed=2, ignore_eos=True))[0].tokens
    end = drawn[4]
    first = drawn.index(end)
    (stopped,) = await generate(engine, PROMPT, seed=2, stop_token_ids=(end,), ignore_eos=True)
    assert stopped.tokens == drawn[: first + 1]
    assert (stopped.finish_reason, stopped.stop_reason) == ("stop", end)
    assert stopped.text == engine.tokenizer.decode(drawn[:first])
    late = await generate(engine, PROMPT, 8, seed=2, stop_token_ids=(end,), min_tokens=12, max_tokens=40)
    for one in late:
        assert len(one.tokens) >= 12
        assert not {end, 1} & set(one.tokens[:12])


async def test_log_probabilities_of_a_prompt_are_those_it_was_generated_with(engine: Engine):
    (choice,) = await generate(engine, PROMPT, max_tokens=40, logprobs=2, ignore_eos=True)
    request = GenerationRequest(np.array(PROMPT + choice.tokens), SamplingParams(max_tokens=1, prompt_logprobs=2))
    _ = [delta async for delta in engine.generate(request)]
    again = request.prompt_scores[len(PROMPT) - 1 :]
    assert [one.token for one in again] == choice.tokens
    assert [one.logprob for one in again] == pytest.approx([one.logprob for one in choice.scores], abs=1e-4)
    assert [[i for i, _ in one.tops] for one in again] == [[i for i, _ in one.tops] for one in choice.scores]


async def test_a_closed_request_frees_its_rows_and_its_place_in_the_queue(engine: Engine):
    params = SamplingParams(max_tokens=200, ignore_eos=True)
    drawn = [engine.generate(GenerationRequest(np.array(PROMPT), params, 12, stream=True)) for _ in range(2)]
    with held(engine, 30) as gate:
        for one in drawn:
            await anext(one)
        await until(gate.reached.is_set)
        assert engine.running > 0
        assert engine.running + engine.waiting >= 16
        for one in drawn:
            await one.aclose()
    await until(lambda: engine.running == engine.waiting == 0)
    assert len((await generate(engine, PROMPT))[0].tokens) > 0


async def test_the_event_loop_runs_while_the_engine_computes(engine: Engine):
    with held(engine, 2) as gate:
        work = asyncio.create_task(generate(engine, PROMPT))
        await until(gate.reached.is_set)  # a forward pass is under way, and this loop still runs
        assert not work.done()
        gate.open.set()
        assert await work


async def test_an_error_of_the_computation_reaches_whoever_waits_and_the_engine_goes_on(engine: Engine):
    forward, calls = engine.model.forward, []

    def broken(*args: object) -> None:
        calls.append(args)
        raise FloatingPointError("out of order")

    engine.model.forward = broken  # type: ignore[method-assign]
    with pytest.raises(FloatingPointError, match="out of order"):
        await generate(engine, PROMPT, 3)
    assert calls
    engine.model.forward = forward  # type: ignore[method-assign]
    assert await generate(engine, PROMPT)


async def test_no_thread_is_left_when_nothing_is_to_do(engine: Engine):
    await generate(engine, PROMPT)
    await until(lambda: all(batch._thread is None for batch in engine.batches))


def test_an_engine_serves_one_event_loop_after_another(engine: Engine):
    texts = {asyncio.run(generate(engine, PROMPT))[0].text for _ in range(2)}
    assert len(texts) == 1
