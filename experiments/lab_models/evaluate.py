"""pass@k and majority@k of a lab model on held-out problems of a task."""

from __future__ import annotations

from itertools import islice
from typing import Any

import torch
from model import LanguageModel
from sampling import sample
from transformers import PreTrainedTokenizerFast

from tts.curves import majority_at_k, pass_at_k
from tts.registry import make
from tts.session import Session
from tts.shared import Shared
from tts.tasks import Example, Task
from tts.verifiers.unit_tests import UnitTests

KS = [1, 2, 4, 8, 16, 32, 64]


async def evaluate(
    model: LanguageModel, tokenizer: PreTrainedTokenizerFast, task: Task, problems: int, n: int, temperature: float
) -> dict[str, Any]:
    """Estimates from `n` samples of each of the first `problems`; a vote counts answers, or texts where it is code."""
    generator = torch.Generator().manual_seed(0)
    examples = list(islice(task.examples(), problems))
    sampled = sample(model, tokenizer, [prompt_of(example) for example in examples], n, temperature, generator)
    correct, answers, falsely_passed, passed = [], [], 0, 0
    async with Shared() as shared:
        for example, texts in zip(examples, sampled, strict=True):
            right = await _graded(example, texts, shared)
            correct.append([right[text] for text in texts])
            answers.append([_answer(example, text) for text in texts])
            if example.problem.verifier:
                public = await _graded(example, texts, shared, public=True)
                passed += sum(public[text] for text in texts)
                falsely_passed += sum(public[text] and not right[text] for text in texts)
    ks = [k for k in KS if k <= n]
    coverage = pass_at_k([n] * problems, [sum(row) for row in correct], ks).mean(0)
    majority = majority_at_k(answers, correct, ks)
    found = {
        "task": task.spec,
        "problems": problems,
        "samples": n,
        "temperature": temperature,
        "pass@k": {k: round(float(value), 4) for k, value in zip(ks, coverage, strict=True)},
        "majority@k": {k: round(float(value), 4) for k, value in zip(ks, majority.values.mean(0), strict=True)},
    }
    return found | ({"false positives of public tests": round(falsely_passed / passed, 4)} if passed else {})


def prompt_of(example: Example) -> str:
    """What the user of a lab problem says."""
    (message,) = example.problem.messages
    return message["content"] if isinstance(message, dict) else message


async def _graded(example: Example, texts: list[str], shared: Shared, public: bool = False) -> dict[str, bool]:
    session = Session(example.problem, {}, shared=shared)
    verifier = UnitTests() if public else example.truth
    return {
        text: bool((await verifier.verify(example.problem, session.candidate(text), session)).passed)
        for text in dict.fromkeys(texts)
    }


def _answer(example: Example, text: str) -> str | None:
    return make("verifiers", example.problem.answer).parse(text) if example.problem.answer else text
