"""Trains the lab models: `python experiments/lab_models/train.py` does everything and resumes where it stopped.

In order: the tokenizer; lab-draft and lab-target, exported to tts/lab/engine/models and evaluated; lab-reward. See
README.md in this folder.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from itertools import islice
from pathlib import Path

import torch
from corpus import dialogues
from evaluate import evaluate
from export import export
from lab_tokenizer import train_tokenizer
from model import DRAFT, TARGET, LanguageModel
from pretrain import pretrain
from reward import evaluate_reward, train_reward
from roles import evaluate_roles
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from tts.lab.lab_math import LabMath

HERE = Path(__file__).parent
MODELS = HERE.parents[1] / "tts" / "lab" / "engine" / "models"
TOKENS = {"lab-draft": 20_000_000, "lab-target": 32_000_000}
SHAPES = {"lab-draft": DRAFT, "lab-target": TARGET}
ROLE_PROBLEMS = 60


def tokenizer_in(folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer of all models, trained on the first call."""
    if not (folder / "tokenizer").exists():
        texts = (f"{one.prompt}\n{one.answer}" for one in islice(dialogues("tokenizer"), 6000))
        train_tokenizer(texts, TARGET.positions).save_pretrained(folder / "tokenizer")
    return AutoTokenizer.from_pretrained(folder / "tokenizer")


def record(results: Path, name: str, found: object) -> None:
    """Add the figures `found` for a model to `results`."""
    known = json.loads(results.read_text()) if results.exists() else {}
    results.write_text(json.dumps(known | {name: found}, indent=1) + "\n")
    print(name, json.dumps(found), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("runs/lab_models"), help="checkpoints and logs")
    parser.add_argument("--only", choices=SHAPES, help="train only this model, then stop")
    parser.add_argument("--tokens", type=int, help="train on this many tokens")
    parser.add_argument("--threads", type=int, default=1, help="more than 1 helps only on an idle machine")
    parser.add_argument("--compile", action="store_true", help="compile the model first: a third faster, minutes later")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.work.mkdir(parents=True, exist_ok=True)
    tokenizer = tokenizer_in(options.work)
    models: dict[str, LanguageModel] = {}
    for name in [options.only] if options.only else SHAPES:
        models[name] = pretrain(
            name, SHAPES[name], tokenizer, options.tokens or TOKENS[name], options.work, options.compile
        )
    if options.only:
        return
    results = HERE / "results.json"
    for name, model in models.items():
        export(model, tokenizer, MODELS / name)
        figures = asyncio.run(evaluate_roles(model, tokenizer, ROLE_PROBLEMS))
        record(results, name, {"parameters": parameters(model), "tokens": TOKENS[name], "roles, greedily": figures})
    for task in ("lab_math", "lab_code"):
        record(results, task, evaluate(HERE / f"{task}.toml", options.work / task))
    reward = train_reward(models["lab-target"], tokenizer, options.work)
    export(reward, tokenizer, MODELS / "lab-reward")
    figures = evaluate_reward(reward, models["lab-target"], tokenizer, LabMath(), problems=120, n=16)
    record(results, "lab-reward", {"parameters": parameters(reward.model) + parameters(reward.score), **figures})
    for log in options.work.glob("*.jsonl"):
        (HERE / "logs" / log.name).parent.mkdir(exist_ok=True)
        (HERE / "logs" / log.name).write_text(log.read_text())


def parameters(model: torch.nn.Module) -> int:
    """The number of a model's parameters."""
    return sum(p.numel() for p in model.parameters())


if __name__ == "__main__":
    main()
