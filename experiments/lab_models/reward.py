"""lab-reward: the target's trunk, fine-tuned to tell after each token of a calculation whether all is right so far.

It learns from lab-target's own solutions and from right ones with a slip. The score of a prefix is a logit at its last
token; it is read at the ends of lines, but taught everywhere, so that what is wrong is shown where it comes in.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from copy import deepcopy
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from corpus import random_question, slipped
from evaluate import prompt_of
from lab_tokenizer import END_ID, PAD_ID
from model import LanguageModel, RewardModel
from pretrain import LOG_EVERY, Optimizer, rate_scale
from sampling import sample
from transformers import PreTrainedTokenizerFast

from tts.tasks.lab_math import LabMath, Operation, SteppedAnswer, solution, step_labels

PROBLEMS, SAMPLES, TEMPERATURE = 800, 8, 0.8
STEPS, ROWS, OWN = 1200, 32, 0.4
"""Batches, their rows, and the share of lab-target's own solutions; half of the rest, made up, have a slip."""


class Solution(NamedTuple):
    """A solution in tokens; from `begin` on, whether it is right up to and with each; `ends` are the ends of lines."""

    ids: list[int]
    begin: int
    labels: list[bool]
    ends: list[int]

    @property
    def right(self) -> bool:
        """Whether the whole is."""
        return self.labels[-1]


def labelled(tokenizer: PreTrainedTokenizerFast, question: str, tree: Operation, text: str) -> Solution:
    """A solution with its labels; the first wrong line goes wrong where it leaves the line that was due."""
    ids = tokenizer(f"<|user|>{question}<|end|><|assistant|>")["input_ids"]
    begin, labels, ends = len(ids), [], []
    lines, due = [line for line in text.split("\n") if line.strip()], solution(tree).split("\n")
    before = True
    for number, (line, sound) in enumerate(zip(lines, step_labels(tree, text), strict=True)):
        ending = tokenizer("\n")["input_ids"] if number < len(lines) - 1 else [END_ID]
        new = tokenizer(line)["input_ids"] + ending
        shared = len(new) if sound else 0
        if before and not sound and number < len(due):
            shared = _alike(new, tokenizer(due[number])["input_ids"])
        labels += [place < shared for place in range(len(new))]
        ids += new
        ends.append(len(ids) - 1)
        before = sound
    return Solution(ids, begin, labels, ends)


def _alike(one: list[int], other: list[int]) -> int:
    """How many tokens both begin with."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def solutions(model: LanguageModel, tokenizer: PreTrainedTokenizerFast) -> list[Solution]:
    """Solutions by lab-target to problems of the part `train`."""
    rng, generator = Random("lab reward"), torch.Generator().manual_seed(1)
    asked = [random_question(rng, rng.randint(1, 6), rng.choice((1, 2, 2, 2, 3))) for _ in range(PROBLEMS)]
    found = sample(model, tokenizer, [question for _, question in asked], SAMPLES, TEMPERATURE, generator)
    return [
        labelled(tokenizer, question, tree, text)
        for (tree, question), texts in zip(asked, found, strict=True)
        for text in dict.fromkeys(texts)
        if text.strip()
    ]


def made_up(tokenizer: PreTrainedTokenizerFast, rng: Random) -> Solution:
    """A right solution, or one with a slip."""
    tree, question = random_question(rng, rng.randint(1, 6), rng.choice((1, 2, 2, 2, 3)))
    return labelled(tokenizer, question, tree, slipped(rng, tree) if rng.random() < 0.5 else solution(tree))


def batches(own: list[Solution], tokenizer: PreTrainedTokenizerFast, rng: Random) -> Iterator[list[Solution]]:
    """Random batches of similar length, without end."""
    while True:
        many = [rng.choice(own) if rng.random() < OWN else made_up(tokenizer, rng) for _ in range(50 * ROWS)]
        many.sort(key=lambda one: len(one.ids))
        groups = [many[i : i + ROWS] for i in range(0, len(many), ROWS)]
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
    own = solutions(model, tokenizer)
    right = np.mean([one.right for one in own])
    print(f"{len(own)} solutions, {right:.1%} right, in {time.monotonic() - begun:.0f} s", flush=True)
    optimizer, losses = Optimizer(reward), []
    for step, rows in enumerate(islice(batches(own, tokenizer, Random(0)), STEPS), 1):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            scores = reward(padded(rows))
        picked = torch.cat([scores[i, row.begin : len(row.ids)] for i, row in enumerate(rows)]).float()
        labels = torch.tensor([float(label) for row in rows for label in row.labels])
        loss = F.binary_cross_entropy_with_logits(picked, labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(reward.parameters(), 1.0)
        optimizer.step(0.5 * rate_scale(step / STEPS))
        losses.append(loss.item())
        if step % LOG_EVERY == 0:
            line = {"step": step, "loss": round(float(np.mean(losses)), 4)}
            with (folder / "lab-reward.jsonl").open("a") as file:
                file.write(json.dumps(line | {"seconds": round(time.monotonic() - begun)}) + "\n")
            losses = []
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
            last[row.right].append(float(scores[i, row.ends[-1]]))
            for place in row.ends:
                steps[row.labels[place - row.begin]].append(float(scores[i, place]))
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
