"""The embedded engine against transformers and real vLLM, on the same weights."""

import json
import re
import subprocess
from collections import Counter
from contextlib import aclosing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from yarl import URL

from tests.integration.test_main_job import endpoint
from tts import Endpoint, LocalVLLM, Sampler
from tts.lab.engine.engine import Engine
from tts.lab.engine.models import model_place
from tts.lab.engine.tokenizer import Tokenizer
from tts.lab.engine.transport import EmbeddedTransport
from tts.lab.lab_code import LabCode
from tts.lab.lab_math import LabMath
from tts.sampler.endpoint import joined
from tts.sampler.scoring import score
from tts.sampler.transport import Network, Request

pytestmark = pytest.mark.vllm

TEXTS = [
    "the bell and the hand = 12 + 7\nAnswer: 19",
    "def total(numbers):\n    return sum(x for x in numbers if x > 3)  # über 3€\n",
    "  spaces   and\ttabs, 100 digits_and_names <|end|> twice",
]
REFERENCE = """
import json, sys, torch
from transformers import AutoTokenizer, AutoModelForCausalLM
folder, texts = sys.argv[1], json.loads(sys.argv[2])
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
ids = [tokenizer.encode(text, add_special_tokens=False) for text in texts]
with torch.no_grad():
    logprobs = [torch.log_softmax(model(torch.tensor([one])).logits[0].float(), -1).tolist() for one in ids]
messages = [{"role": "user", "content": texts[0]}]
chat = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
print(json.dumps({"ids": ids, "logprobs": logprobs, "chat": chat}))
"""


HERE = Endpoint(model="lab-target", base_url="embedded://lab-target")


@pytest.fixture(scope="session")
def shared_model() -> Path:
    """The largest model of the library that generates."""
    return model_place("lab-target")


@pytest.fixture(scope="session")
def both(target_server: LocalVLLM) -> tuple[Endpoint, Endpoint]:
    """The model in this process, and on real vLLM in bfloat16."""
    return HERE, endpoint(target_server)


def test_tokens_and_log_probabilities_are_those_of_transformers(vllm_python: str, shared_model: Path):
    command = [vllm_python, "-c", REFERENCE, str(shared_model), json.dumps(TEXTS)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    truth = json.loads(done.stdout.splitlines()[-1])
    tokenizer = Tokenizer(shared_model)
    assert [tokenizer.encode(text) for text in TEXTS] == truth["ids"]
    assert tokenizer.render([{"role": "user", "content": TEXTS[0]}], open_turn=True) == truth["chat"]
    engine, worst = Engine(shared_model), 0.0
    cache = engine.model.cache(1)
    for ids, expected in zip(truth["ids"], truth["logprobs"], strict=True):
        states = engine.model.forward(np.array([ids]), np.zeros(1, np.int64), cache)[0]
        logits = engine.model.logits(states).astype(np.float64)
        found = (
            logits
            - np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1, keepdims=True))
            - logits.max(1)[:, None]
        )
        worst = max(worst, float(np.abs(found - np.array(expected)).max()))
    print(f"greatest difference to transformers in float32: {worst:.1e}")
    assert worst <= 1e-3


Answers = list[tuple[Any, tuple[int, ...], tuple[float, ...]]]
"""A prompt, tokens that follow it, and their log-probabilities on the engine."""


async def scored_texts(endpoint: Endpoint) -> Answers:
    """Texts unlike anything that the model was trained on."""
    prompts: list[Any] = [[{"role": "user", "content": text}] for text in TEXTS]
    async with Sampler(endpoint) as sampler:
        scores = [await score(sampler, prompt, text) for prompt, text in zip(prompts, TEXTS, strict=True)]
    return [(prompt, one.token_ids, one.logprobs) for prompt, one in zip(prompts, scores, strict=True)]


async def own_answers(endpoint: Endpoint, temperature: float) -> Answers:
    """What the model answers to problems of its own tasks."""
    params: dict[str, Any] = {"temperature": temperature, "max_tokens": 200, "seed": 1}
    params |= {"logprobs": True, "return_token_ids": True}
    answers: Answers = []
    async with Sampler(endpoint) as sampler:
        for task in (LabMath(size=10), LabCode(size=10)):
            for example in task.examples():
                prompt = example.problem.messages
                async for sample in sampler.sample(prompt, 2, **params):
                    answers.append((prompt, sample.token_ids or (), sample.logprobs or ()))
    return answers


async def differences(answers: Answers, there: Endpoint) -> np.ndarray:
    """How far the log-probabilities of all tokens are from those that `there` gives them."""
    apart: list[float] = []
    async with Sampler(there) as sampler:
        for prompt, tokens, logprobs in answers:
            scores = await score(sampler, prompt, list(tokens))
            assert scores.token_ids == tuple(tokens)
            apart += [abs(a - b) for a, b in zip(logprobs, scores.logprobs, strict=True)]
    return np.array(apart)


async def test_log_probabilities_are_those_of_vllm_in_float32_for_any_text(exact_target_server: LocalVLLM):
    answers = [*await scored_texts(HERE), *await own_answers(HERE, 1.0)]
    apart = await differences(answers, endpoint(exact_target_server))
    print(f"greatest difference to vLLM in float32: {apart.max():.1e} of {len(apart)} tokens")
    assert apart.max() <= 1e-3


async def test_log_probabilities_of_answers_are_nearly_those_of_vllm_in_bfloat16(both: tuple[Endpoint, Endpoint]):
    here, there = both
    apart = await differences(await own_answers(here, 1.0), there)
    parts = [0.5, 0.98, 0.99, 1]
    print(f"differences to vLLM in bfloat16 at {parts}: {np.quantile(apart, parts).round(4)} of {len(apart)} tokens")
    assert apart.mean() <= 0.005
    assert np.quantile(apart, 0.98) <= 0.05  # bfloat16 rounds that of an undecided place by up to 0.2, in vLLM itself


async def first_tokens(endpoint: Endpoint, temperature: float, seed: int = 0) -> Counter[int]:
    """How often each token follows an open beginning, in 2000 samples."""
    params: dict[str, Any] = {"max_tokens": 1, "temperature": temperature, "top_p": 0.95, "return_token_ids": True}
    params["seed"] = seed  # what one engine draws by it is independent of what the other does
    async with Sampler(endpoint.model_copy(update={"max_n": 100})) as sampler:
        ids = [sample.token_ids async for sample in sampler.sample(" ", 2000, **params)]
    return Counter(one[0] for one in ids if one)


def excess(here: Counter[int], there: Counter[int]) -> float:
    """Chi-square of equal frequencies above its mean, in standard deviations; rare tokens are one class."""
    common = [token for token in here.keys() | there.keys() if here[token] + there[token] >= 10]
    rest = [sum(counts.values()) - sum(counts[token] for token in common) for counts in (here, there)]
    pairs = [*((here[token], there[token]) for token in common), *([tuple(rest)] if sum(rest) >= 10 else [])]
    chi_square = sum((a - b) ** 2 / (a + b) for a, b in pairs)
    freedom = len(pairs) - 1
    assert freedom > 2, "too few tokens to tell anything"
    print(f"chi-square {chi_square:.1f} with {freedom} degrees of freedom")
    return (chi_square - freedom) / (2 * freedom) ** 0.5


async def test_next_tokens_are_as_frequent_as_vllms(both: tuple[Endpoint, Endpoint]):
    here, there = both
    theirs = await first_tokens(there, 1.5)
    assert excess(await first_tokens(here, 1.5), theirs) < 5
    assert excess(await first_tokens(here, 1.2), theirs) > 5  # so the test can fail


CHAT, TEXT = "/chat/completions", "/completions"
QUESTION = "Start with 37, add 58."
BEGUN = ["37 + 58 = 95\n", "37 +  ", "37\t\n\n", "\n", "", " 37"]
TRIMMING = "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] | trim }}<|end|>{% endfor %}"


async def post(endpoint: Endpoint, path: str, body: dict[str, Any]) -> tuple[int, Any]:
    """The status and the body of the answer to a request below /v1."""
    url = joined(endpoint.base_url.removesuffix("/v1") + "/v1", path)
    content = json.dumps({"model": endpoint.model, **body}).encode()
    request = Request("POST", URL(url), {"content-type": "application/json"}, content)
    async with aclosing(EmbeddedTransport(endpoint.base_url) if endpoint.embedded else Network()) as transport:
        reply = await transport(request)
        return reply.status, json.loads(await reply.read())


async def prompt_of(endpoint: Endpoint, begun: str, **changes: Any) -> list[int]:
    """The token ids that a chat request makes the model continue, the same as those of /tokenize."""
    messages = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": begun}]
    body: dict[str, Any] = {"messages": messages, "continue_final_message": True, "add_generation_prompt": False}
    _, tokenized = await post(endpoint, "/../tokenize", {**body, **changes})
    _, answered = await post(endpoint, CHAT, {**body, **changes, "max_tokens": 1, "return_token_ids": True})
    assert tokenized["tokens"] == answered["prompt_token_ids"]
    return tokenized["tokens"]


@pytest.mark.parametrize("begun", BEGUN, ids=repr)
async def test_a_continued_message_keeps_its_white_space_here_and_in_vllm(
    both: tuple[Endpoint, Endpoint], shared_model: Path, begun: str
):
    here, there = both
    expected = Tokenizer(shared_model).encode(f"<|user|>{QUESTION}<|end|><|assistant|>{begun}")
    assert await prompt_of(here, begun) == expected
    assert await prompt_of(there, begun) == expected


@pytest.mark.parametrize("begun", BEGUN, ids=repr)
async def test_vllm_drops_the_white_space_at_both_ends_where_the_template_trims_messages(
    both: tuple[Endpoint, Endpoint], shared_model: Path, begun: str
):
    """So where a template trims, only token ids or a rendered prompt continue such a text exactly."""
    expected = Tokenizer(shared_model).encode(f"<|user|>{QUESTION}<|end|><|assistant|>{begun.strip()}")
    assert await prompt_of(both[1], begun, chat_template=TRIMMING) == expected


HELLO = [{"role": "user", "content": "x"}]
REQUESTS: dict[str, tuple[str, dict[str, Any]]] = {
    "unknown model": (CHAT, {"model": "nope", "messages": HELLO}),
    "too long": (TEXT, {"prompt": [9] * 5000}),
    "no room to answer": (TEXT, {"prompt": [9] * 1024}),
    "too much": (TEXT, {"prompt": "x", "max_tokens": 10**6}),
    "nothing to say": (TEXT, {"prompt": "x", "max_tokens": 0}),
    "more than there may be": (TEXT, {"prompt": "x", "min_tokens": 5, "max_tokens": 1}),
    "a word for a number": (TEXT, {"prompt": "x", "temperature": "hot"}),
    "a word for a count": (CHAT, {"messages": HELLO, "n": "two"}),
    "no messages": (CHAT, {}),
    "a text for messages": (CHAT, {"messages": "hi"}),
    "a message without a role": (CHAT, {"messages": [{"content": "x"}]}),
    "no prompt": (TEXT, {}),
    "a number for a prompt": (TEXT, {"prompt": 5}),
    "out of the vocabulary": (TEXT, {"prompt": [10**6]}),
    "negative": (TEXT, {"prompt": "x", "temperature": -1}),
    "top_p": (TEXT, {"prompt": "x", "top_p": 0}),
    "top_k": (CHAT, {"messages": HELLO, "top_k": -5}),
    "min_p": (CHAT, {"messages": HELLO, "min_p": 2}),
    "no choices": (CHAT, {"messages": HELLO, "n": 0}),
    "greedy and several": (TEXT, {"prompt": "x", "temperature": 0, "n": 2}),
    "logprobs": (TEXT, {"prompt": "x", "logprobs": 1000}),
    "tops without logprobs": (CHAT, {"messages": HELLO, "top_logprobs": 2}),
    "prompt_logprobs of a stream": (TEXT, {"prompt": "x", "prompt_logprobs": 1, "stream": True}),
    "stream_options": (TEXT, {"prompt": "x", "stream_options": {"include_usage": True}}),
    "an empty stop": (TEXT, {"prompt": "x", "stop": ""}),
    "a number for a stop": (TEXT, {"prompt": "x", "stop": 5}),
    "another kind of model": ("/../pooling", {"input": "x"}),
    "no such route": ("/nowhere", {}),
}


@pytest.mark.parametrize(("path", "body"), REQUESTS.values(), ids=REQUESTS)
async def test_bad_requests_get_the_same_status_and_error(
    both: tuple[Endpoint, Endpoint], path: str, body: dict[str, Any]
):
    async def ask(endpoint: Endpoint) -> tuple[int, Any]:
        status, answer = await post(endpoint, path, body)
        print(status, answer)
        if "error" in answer:
            assert answer["error"].pop("message")
            answer["error"]["param"] = re.sub(r"\.\w+Param\b", "", answer["error"]["param"] or "")  # vLLM's own classes
        return status, answer

    here, there = both
    assert await ask(here) == await ask(there)
