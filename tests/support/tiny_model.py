# pyright: reportMissingImports=false
"""Builds a tiny Llama model folder that transformers and vLLM load unchanged, for tests on a real server.

Run it with an interpreter that has torch and transformers (one that has vLLM does):

    python tests/support/tiny_model.py OUT [--gsm8k gsm8k_test.jsonl] [--humaneval HumanEval.jsonl.gz]

The model reads one byte per token and knows nothing. A short training teaches it the outer form of answers
only: some noise, "Answer: 18" with a random small number and the end token after a word problem; a fenced
block with a random one-line body after Python code. A right answer is luck, so accuracy grows with the number
of samples, as it does for a real model. The optional files supply prompts; their answers are never read.
"""

import argparse
import gzip
import json
import math
import random
import time
from functools import partial
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedTokenizerFast

END, PAD, ROLES = "<|end|>", "<|pad|>", ("<|system|>", "<|user|>", "<|assistant|>", "<|tool|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
MAX_POSITIONS = 4096
IGNORED = -100  # the label that the loss leaves out
BATCH_TOKENS = 3000
PEAK_RATE = 8e-3


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer with one id per byte, so that no text is unknown, and ids for the special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={symbol: i for i, symbol in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=list(ROLES),
        chat_template=CHAT_TEMPLATE,
        model_max_length=MAX_POSITIONS,
        clean_up_tokenization_spaces=False,
    )


def build_model(
    tokenizer: PreTrainedTokenizerFast, hidden: int, layers: int, classes: int = 0
) -> LlamaForCausalLM | LlamaForSequenceClassification:
    """Return a randomly initialised model: `hidden` wide, `layers` deep, heads of 32, a classifier if of `classes`."""
    heads = hidden // 32
    config = LlamaConfig(
        **({"num_labels": classes} if classes else {}),
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=MAX_POSITIONS,
        initializer_range=0.7 * hidden**-0.5,  # the usual 0.02 starts too slowly at this width
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=not classes,
    )
    return (LlamaForSequenceClassification if classes else LlamaForCausalLM)(config)


def read_prompts(path: Path | None, field: str) -> list[str]:
    """Return `field` of every line of a JSON Lines file, plain or gzipped; no path, no prompts."""
    if path is None:
        return []
    with gzip.open(path, "rt") if path.suffix == ".gz" else open(path) as lines:
        return [json.loads(line)[field] for line in lines]


def made_up_prompt(is_code: bool, rng: random.Random) -> str:
    """Return a function head with a docstring, or a question in words."""
    number = rng.randrange(2, 99)
    if is_code:
        name, argument = rng.choice(["count", "total", "is_valid"]), rng.choice(["x", "n", "text"])
        docstring = f'"""Return the {name} of {argument}.\n    >>> {name}({number})\n    {rng.randrange(99)}\n    """'
        return f"def {name}({argument}: int) -> int:\n    {docstring}\n"
    name, thing = rng.choice(["Ana", "Ben", "Carl"]), rng.choice(["apples", "books", "coins"])
    change = f"{rng.choice(['buys', 'sells', 'finds'])} {rng.randrange(2, 20)} {thing}"
    return f"{name} has {number} {thing}. Then {name} {change}. How many {thing} does {name} have?"


def wrap(prompt: str, is_code: bool, rng: random.Random) -> str:
    """Return the prompt with or without the kind of instruction that benchmarks put around it."""
    if is_code and rng.random() < 0.5:
        prompt = f"```python\n{prompt}```"
    before = "Complete this Python function.\n\n" if is_code else "Solve this problem step by step.\n\n"
    after = "\n\nGive the code in a fenced block." if is_code else "\n\nEnd with 'Answer: ' and a number."
    return rng.choice(["", before]) + prompt + rng.choice(["", after])


def answer(is_code: bool, rng: random.Random) -> str:
    """Return a random answer of the right form: numbers of 1 to 99, small ones more often."""
    if is_code:
        value = rng.choice(["True", "False", "None", "0", "1", "[]", "''", str(rng.randrange(10))])
        return f"```python\n    return {value}\n```"
    small = [round(math.exp(rng.uniform(0, math.log(99)))) for _ in range(3)]
    steps = [f"{small[0]} and {rng.randrange(10)} more.\n" for _ in range(rng.randrange(3))]
    return "".join(steps) + f"Answer: {small[2]}"


def batch(tokenizer: PreTrainedTokenizerFast, prompts: dict[bool, list[str]], longest: int, rng: random.Random):
    """Return (input ids, labels), each (rows, width): prompts of at most `longest` characters, labels for answers."""
    rows = []
    for _ in range(BATCH_TOKENS // longest):
        is_code = rng.random() < 0.5
        made_up = not prompts[is_code] or rng.random() < 0.3
        prompt = made_up_prompt(is_code, rng) if made_up else rng.choice(prompts[is_code])
        context = tokenizer.encode(f"<|user|>{wrap(prompt[:longest], is_code, rng)}{END}<|assistant|>")
        rows.append((context, tokenizer.encode(answer(is_code, rng) + END)))
    width = max(len(context) + len(target) for context, target in rows)
    ids = torch.full((len(rows), width), tokenizer.pad_token_id)
    labels = torch.full((len(rows), width), IGNORED)
    for row, (context, target) in enumerate(rows):
        ids[row, : len(context) + len(target)] = torch.tensor(context + target)
        labels[row, len(context) : len(context) + len(target)] = torch.tensor(target)
    return ids, labels


def train(model: LlamaForCausalLM, make_batch, steps: int, seconds: float) -> str:
    """Train for at most `steps` steps and `seconds` seconds; return a line that says how it went.

    Prompts are short at first, where answers are learnt quickly, and reach full length at the end.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_RATE, weight_decay=0.01)
    begun, step, loss = time.monotonic(), 0, math.nan
    while (done := max(step / steps, (time.monotonic() - begun) / seconds)) < 1:
        step += 1
        for group in optimizer.param_groups:
            group["lr"] = PEAK_RATE * min(1.0, step / 20) * (1.02 - done)
        ids, labels = make_batch(longest=round(60 * 25 ** min(1.0, 1.25 * done)))
        batch_loss = model(input_ids=ids, labels=labels).loss
        batch_loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        loss = batch_loss.item()
    return f"{step} steps in {time.monotonic() - begun:.0f} s, loss {loss:.3f}"


def main() -> None:
    """Build, train and save the model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--classes", type=int, default=0, help="a random classifier of so many classes instead")
    parser.add_argument("--train-steps", type=int, default=600, help="0 leaves the weights random")
    parser.add_argument("--train-seconds", type=float, default=900.0, help="training stops after this at the latest")
    parser.add_argument("--gsm8k", type=Path, help="JSON Lines with 'question': word problems to train on")
    parser.add_argument("--humaneval", type=Path, help="JSON Lines with 'prompt': code prompts to train on")
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    rng = random.Random(options.seed)
    tokenizer = build_tokenizer()
    model = build_model(tokenizer, options.hidden, options.layers, options.classes)
    print(f"{model.num_parameters():,} parameters")
    prompts = {False: read_prompts(options.gsm8k, "question"), True: read_prompts(options.humaneval, "prompt")}
    if options.train_steps and not options.classes:
        make_batch = partial(batch, tokenizer, prompts, rng=rng)
        print(train(model, make_batch, options.train_steps, options.train_seconds))
    model.save_pretrained(options.out)
    tokenizer.save_pretrained(options.out)


if __name__ == "__main__":
    main()
