"""lab-reward: the target's trunk, fine-tuned to tell after each line of a calculation whether all is right so far.

It learns from lab-target's own solutions, whose lines have exact labels. The score of a prefix is a logit at its last
token: the last one of a line, its line break, or the end of the answer.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from corpus import random_question
from evaluate import prompt_of
from lab_tokenizer import END_ID, PAD_ID
from model import LanguageModel, RewardModel
from sampling import sample
from transformers import PreTrainedTokenizerFast

from tts.tasks.lab_math import LabMath, Operation, SteppedAnswer, step_labels

PROBLEMS, SAMPLES, TEMPERATURE = 2400, 6, 1.0
EPOCHS, ROWS, RATE = 2, 32, 1e-3


class Solution(NamedTuple):
    """A sampled solution in tokens, with the places at which the reward is taught and what it is there."""

    ids: list[int]
    places: list[int]
    labels: list[bool]


def labelled(tokenizer: PreTrainedTokenizerFast, question: str, tree: Operation, text: str) -> Solution:
    """The tokens of a solution; labels at the end of every line, at its line break, and at the end."""
    ids = tokenizer(f"<|user|>{question}<|end|><|assistant|>")["input_ids"]
    places, labels = [], []
    lines = [line for line in text.split("\n") if line.strip()]
    for number, (line, sound) in enumerate(zip(lines, step_labels(tree, text), strict=True)):
        ids += tokenizer(line)["input_ids"]
        ids += tokenizer("\n")["input_ids"] if number < len(lines) - 1 else [END_ID]
        places += [len(ids) - 2, len(ids) - 1]
        labels += [sound, sound]
    return Solution(ids, places, labels)


def solutions(model: LanguageModel, tokenizer: PreTrainedTokenizerFast) -> list[Solution]:
    """Solutions by lab-target to problems of the part `train`."""
    rng, generator = Random("lab reward"), torch.Generator().manual_seed(1)
    asked = [random_question(rng, rng.randint(2, 7), rng.choice((2, 2, 3))) for _ in range(PROBLEMS)]
    found = sample(model, tokenizer, [question for _, question in asked], SAMPLES, TEMPERATURE, generator)
    return [
        labelled(tokenizer, question, tree, text)
        for (tree, question), texts in zip(asked, found, strict=True)
        for text in dict.fromkeys(texts)
        if text.strip()
    ]


def batches(made: list[Solution], rng: Random) -> Iterator[list[Solution]]:
    """All solutions, in random batches of similar length."""
    ordered = sorted(made, key=lambda one: (len(one.ids), rng.random()))
    groups = [ordered[i : i + ROWS] for i in range(0, len(ordered), ROWS)]
    rng.shuffle(groups)
    yield from groups


def padded(rows: list[Solution]) -> torch.Tensor:
    """Token ids (rows, length)."""
    width = max(len(row.ids) for row in rows)
    return torch.tensor([row.ids + [PAD_ID] * (width - len(row.ids)) for row in rows])


def train_reward(model: LanguageModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> RewardModel:
    """Fine-tune a copy of the trunk of `model`, or load what was fine-tuned before."""
    reward = RewardModel(deepcopy(model.model))
    if (folder / "lab-reward.pt").exists():
        reward.load_state_dict(torch.load(folder / "lab-reward.pt"))
        return reward
    begun = time.monotonic()
    made = solutions(model, tokenizer)
    right = np.mean([one.labels[-1] for one in made])
    print(f"{len(made)} solutions, {right:.1%} right, in {time.monotonic() - begun:.0f} s", flush=True)
    optimizer = torch.optim.AdamW(reward.parameters(), lr=RATE, betas=(0.9, 0.98), weight_decay=0.01)
    steps, step, rng = EPOCHS * -(-len(made) // ROWS), 0, Random(0)
    for _ in range(EPOCHS):
        losses = []
        for rows in batches(made, rng):
            for group in optimizer.param_groups:
                group["lr"] = RATE * min(1.0, step / 50) * (1 - step / steps)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                scores = reward(padded(rows))
            picked = torch.cat([scores[i, row.places] for i, row in enumerate(rows)]).float()
            labels = torch.tensor([float(label) for row in rows for label in row.labels])
            loss = F.binary_cross_entropy_with_logits(picked, labels)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(reward.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
            step += 1
        line = {"step": step, "loss": round(float(np.mean(losses)), 4), "seconds": round(time.monotonic() - begun)}
        with (folder / "lab-reward.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
    torch.save(reward.state_dict(), folder / "lab-reward.pt")
    return reward


@torch.inference_mode()
def evaluate_reward(
    reward: RewardModel, model: LanguageModel, tokenizer: PreTrainedTokenizerFast, task: LabMath, problems: int, n: int
) -> dict[str, Any]:
    """How often a right solution is scored above a wrong one of the same held-out problem, and a right step above a
    wrong one of any problem.
    """
    generator = torch.Generator().manual_seed(2)
    examples = list(task.model_copy(update={"size": problems}).examples())
    questions = [prompt_of(example) for example in examples]
    won: list[float] = []
    steps: dict[bool, list[float]] = {True: [], False: []}
    found = sample(model, tokenizer, questions, n, TEMPERATURE, generator)
    for example, question, texts in zip(examples, questions, found, strict=True):
        assert isinstance(example.truth, SteppedAnswer)
        rows = [labelled(tokenizer, question, example.truth.tree, text) for text in texts if text.strip()]
        scores = reward(padded(rows))
        last: dict[bool, list[float]] = {True: [], False: []}
        for i, row in enumerate(rows):
            last[row.labels[-1]].append(float(scores[i, row.places[-1]]))
            for place, label in zip(row.places[::2], row.labels[::2], strict=True):
                steps[label].append(float(scores[i, place]))
        if last[True] and last[False]:
            won.append(auroc(last[True], last[False]))
    return {
        "task": task.spec,
        "problems": problems,
        "with right and wrong solutions": len(won),
        "AUROC of solutions within a problem": round(float(np.mean(won)), 4),
        "AUROC of steps": round(auroc(steps[True], steps[False]), 4),
    }


def auroc(right: list[float], wrong: list[float]) -> float:
    """Probability that a right one has the higher score, ties counted half."""
    above = np.array(right)[:, None] - np.array(wrong)[None, :]
    return float(np.mean((above > 0) + 0.5 * (above == 0)))
