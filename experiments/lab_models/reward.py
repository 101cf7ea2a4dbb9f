"""lab-reward: the target's trunk with further layers, trained to tell after each token whether all is right so far.

First the trunk continues to learn arithmetic, then the layers on top learn to score. They learn from right solutions
and from ones that go wrong where, and as, lab-target does: every token of a right solution is redrawn from what
lab-target predicts there, and the first that differs is kept. That is how lab-target's own samples first go wrong, at
the price of reading a solution instead of writing one. The rest of the solution uses the wrong result, or is cut off
if the line is not a step of the problem.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import numpy as np
import torch
from batches import Row, batched, encode, grouped
from corpus import Dialogue, gone_wrong, random_question, slipped
from evaluate import prompt_of
from lab_tokenizer import END_ID, PAD_ID, asking
from model import LanguageModel, RewardModel
from pretrain import LOG_EVERY, MICROBATCH_TOKENS, Optimizer, rate_scale
from sampling import sample
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from tts.lab.lab_math import LabMath, Operation, SteppedAnswer, solution, step_labels
from tts.studies.judging import auroc, aurocs, within_problems

LAYERS = 3
"""Layers added on top of the target's."""
TRUNK_TOKENS, TOKENS = 12_000_000, 6_000_000
"""For the trunk to learn more arithmetic, and for the layers above it to learn to score."""
TEMPERATURE = 0.8
SLIPS = 0.15
"""Fraction of the solutions that contain an invented slip and go on with it."""
ENDS = 5.0
"""Weight of the end of a line, where scores are read; other tokens weigh 1."""
POOL = 2048
"""Solutions sorted by length at a time."""

Losses = Callable[..., tuple[Tensor, ...]]


class Solution(NamedTuple):
    """A solution in tokens, with a label for each from `start` on: right up to and with it; lines end at `ends`."""

    ids: list[int]
    start: int
    labels: list[bool]
    ends: list[int]

    @property
    def right(self) -> bool:
        """Whether the whole solution is right."""
        return self.labels[-1]


def labelled(tokenizer: PreTrainedTokenizerFast, question: str, tree: Operation, text: str, cut: bool) -> Solution:
    """A solution with its labels; the first wrong line goes wrong where it departs from the line that was due.

    With `cut`, nothing follows that line.
    """
    ids = encoded(tokenizer, asking(question))
    start, labels, ends = len(ids), [], []
    lines, due = [line for line in text.split("\n") if line.strip()], solution(tree).split("\n")
    before = True
    for number, (line, sound) in enumerate(zip(lines, step_labels(tree, text), strict=True)):
        ending = encoded(tokenizer, "\n") if number < len(lines) - 1 or (cut and not sound) else [END_ID]
        new = encoded(tokenizer, line) + ending
        shared = len(new) if sound else 0
        if before and not sound and number < len(due):
            shared = _alike(new, encoded(tokenizer, due[number]))
        labels += [place < shared for place in range(len(new))]
        ids += new
        ends.append(len(ids) - 1)
        before = sound
        if cut and not sound:
            break
    return Solution(ids, start, labels, ends)


def encoded(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    """The tokens of a text, without the rest of what `tokenizer(text)` does, which is slower."""
    return tokenizer.backend_tokenizer.encode(text).ids


def _alike(one: list[int], other: list[int]) -> int:
    """Length of the common prefix, in tokens."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


class Asked(NamedTuple):
    """A problem, alone and in tokens with its right solution."""

    tree: Operation
    question: str
    row: Row


def pools(tokenizer: PreTrainedTokenizerFast, rng: Random) -> Iterator[list[Asked]]:
    """Endless problems of the part `train`, many at a time."""
    while True:
        steps, digits = (2, 3, 4, 4, 5, 5, 5, 6), (1, 2, 2, 2, 2, 3)
        made = [random_question(rng, rng.choice(steps), rng.choice(digits)) for _ in range(POOL)]
        rows = encode(tokenizer, [Dialogue(question, solution(tree)) for tree, question in made])
        yield [Asked(tree, question, row) for (tree, question), row in zip(made, rows, strict=True)]


@torch.inference_mode()
def derailed(
    model: LanguageModel, tokenizer: PreTrainedTokenizerFast, asked: list[Asked], rng: Random
) -> list[Solution]:
    """The solutions, each up to the line where a token drawn by `model` would have made it wrong, if any."""
    ids = padded([one.row.ids for one in asked])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model.logits(model.model(ids[:, :-1])).float()
    noise = -torch.empty_like(logits).exponential_().log()
    drawn = (logits / TEMPERATURE + noise).argmax(-1).tolist()
    found = []
    for (tree, question, row), own in zip(asked, drawn, strict=True):
        if rng.random() < SLIPS:
            found.append(labelled(tokenizer, question, tree, slipped(rng, tree), cut=False))
            continue
        ids = list(row.ids)
        places = range(row.start, len(ids))
        if place := next((place for place in places if own[place - 1] != ids[place]), None):
            ids[place] = own[place - 1]
        text = tokenizer.decode(ids[row.start :], skip_special_tokens=True)
        whole = carried_on(tree, text)
        found.append(labelled(tokenizer, question, tree, whole or text, cut=whole is None))
    return found


def carried_on(tree: Operation, text: str) -> str | None:
    """The solution that goes on with the result of the first wrong line of `text`; None if that line is not a step."""
    for place, (line, due) in enumerate(zip(text.split("\n"), tree.steps(), strict=False)):
        step, _, result = line.partition(" = ")
        if line != due:
            if step != due.partition(" = ")[0] or not result.isdigit():
                return None
            value = int(result)
            return gone_wrong(tree, place, lambda _, value=value: value)
    return None


def padded(rows: list[list[int]]) -> Tensor:
    """Token ids (rows, length)."""
    width = max(map(len, rows))
    return torch.tensor([row + [PAD_ID] * (width - len(row)) for row in rows])


def masks(rows: list[Solution], width: int) -> tuple[Tensor, Tensor]:
    """`right` and `counted` for `RewardModel.loss`."""
    right, counted = (torch.zeros(len(rows), width) for _ in range(2))
    for i, row in enumerate(rows):
        place = slice(row.start, len(row.ids))
        right[i, place] = torch.tensor(row.labels, dtype=torch.float32)
        counted[i, place] = 1.0
        counted[i, row.ends] = ENDS
    return right, counted


def fit(
    name: str, part: nn.Module, batched: Iterator[tuple[Tensor, ...]], loss_of: Losses, tokens: int, folder: Path
) -> None:
    """Train `part` on `tokens` tokens and log to `folder`; the first tensor of each batch holds the ids."""
    optimizer, losses, seen, begun = Optimizer(part), [], 0, time.monotonic()
    for step, batch in enumerate(batched, 1):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = torch.stack(loss_of(*batch))
        found.sum().backward()
        torch.nn.utils.clip_grad_norm_(part.parameters(), 1.0)
        seen += batch[0].numel()
        optimizer.step(rate_scale(seen / tokens))
        losses.append(found.detach())
        if step % LOG_EVERY == 0:
            mean = [round(one, 4) for one in torch.stack(losses).mean(0).tolist()]
            line = {"step": step, "tokens": seen, "loss": mean, "seconds": round(time.monotonic() - begun)}
            with (folder / f"{name}.jsonl").open("a") as file:
                file.write(json.dumps(line) + "\n")
            losses = []
        if seen >= tokens:
            break


def train_trunk(model: LanguageModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> LanguageModel:
    """A copy of `model` that was trained further, on arithmetic alone."""
    trunk, checkpoint = deepcopy(model), folder / "lab-reward-trunk.pt"
    if checkpoint.exists():
        trunk.load_state_dict(torch.load(checkpoint))
        return trunk

    rng = Random("lab reward trunk")
    made = (
        batch for pool in pools(tokenizer, rng) for batch in batched([one.row for one in pool], MICROBATCH_TOKENS, rng)
    )
    fit(checkpoint.stem, trunk, made, lambda *batch: (trunk.loss(*batch),), TRUNK_TOKENS, folder)
    torch.save(trunk.state_dict(), checkpoint)
    return trunk


def train_reward(model: LanguageModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> RewardModel:
    """Add layers to a trunk that knows more arithmetic than `model`, and train them to score what `model` writes."""
    torch.manual_seed(0)
    trunk = train_trunk(model, tokenizer, folder)
    reward, checkpoint = RewardModel(trunk.requires_grad_(False).model, LAYERS), folder / "lab-reward.pt"
    if checkpoint.exists():
        reward.load_state_dict(torch.load(checkpoint))
        return reward
    rng = Random("lab reward")

    def batches() -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        for pool in pools(tokenizer, rng):
            for group in grouped([len(one.row.ids) for one in pool], MICROBATCH_TOKENS, rng):
                rows = derailed(model, tokenizer, [pool[i] for i in group], rng)
                ids = padded([row.ids for row in rows])
                yield ids, *masks(rows, ids.shape[1])

    reward.look_back(next(batches())[0])
    fit(checkpoint.stem, reward.added, batches(), reward.loss, TOKENS, folder)
    torch.save(reward.state_dict(), checkpoint)
    return reward


@torch.inference_mode()
def evaluate_reward(
    reward: RewardModel, model: LanguageModel, tokenizer: PreTrainedTokenizerFast, task: LabMath, problems: int, n: int
) -> dict[str, Any]:
    """How often a right solution scores above a wrong one of the same problem, by the lowest and by the last score at
    the ends of its lines; and a right line above a wrong one, and above a first wrong one, of any problem.
    """
    generator = torch.Generator().manual_seed(2)
    examples = list(task.model_copy(update={"size": problems}).examples())
    questions = [prompt_of(example) for example in examples]
    right, lowest, last = list[list[bool]](), list[list[float]](), list[list[float]]()
    labels_of, scores_of = list[bool](), list[float]()  # of all lines
    first = list[bool]()  # whether a line is right or the first wrong one
    found = sample(model, tokenizer, questions, n, TEMPERATURE, generator)
    for example, question, texts in zip(examples, questions, found, strict=True):
        assert isinstance(example.truth, SteppedAnswer)
        rows = [labelled(tokenizer, question, example.truth.tree, text, cut=False) for text in texts if text.strip()]
        scores = reward(padded([row.ids for row in rows]))
        of_lines = [scores[i, row.ends].tolist() for i, row in enumerate(rows)]
        for row, of_row in zip(rows, of_lines, strict=True):
            labels = [row.labels[place - row.start] for place in row.ends]
            scores_of += of_row
            labels_of += labels
            first += [label or before for label, before in zip(labels, [True, *labels], strict=False)]
        right.append([row.right for row in rows])
        lowest.append([min(one) for one in of_lines])
        last.append([one[-1] for one in of_lines])
    problem = np.repeat(np.arange(len(right)), [len(part) for part in right])
    by_lowest, by_last = (
        within_problems(aurocs, np.concatenate(scores), np.concatenate(right), problem) for scores in (lowest, last)
    )
    shown = np.flatnonzero(first)
    figures = {
        "with right and wrong solutions": by_lowest[1],
        "AUROC of solutions within a problem, by the lowest line": by_lowest[0],
        "by the last line": by_last[0],
        "AUROC of lines": auroc(scores_of, labels_of),
        "of right and first wrong lines": auroc(np.array(scores_of)[shown], np.array(labels_of)[shown]),
    }
    rounded = {name: value if value is None else round(value, 4) for name, value in figures.items()}
    return {"task": task.spec, "problems": problems, **rounded}
