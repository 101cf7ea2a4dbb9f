"""`tts init`: a commented experiment file to start from."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Annotated

import typer

from tts.cli.common import BaseUrl, plugin_option, say
from tts.errors import ConfigError

EPILOG = """\
\b
Examples:
  tts init
  tts init gsm8k.toml --task gsm8k --model Qwen/Qwen2.5-1.5B-Instruct --base-url http://127.0.0.1:8000/v1
"""

TEMPLATE = """\
# An experiment: every strategy on every problem, with every model and seed. Run it, or continue it, with
#   tts run {path} --out runs/{name}          (later: tts run --resume --out runs/{name})
# Options override what stands here: tts run {path} --limit 5 --sampling.temperature 1.0

# Problems with their truth; `tts list tasks`. Your own: "jsonl:path=FILE,answer_verifier=numeric_answer", a file with a
# line {{"id": "1", "prompt": "...", "answer": "42"}} for each, or a table (docs/data.md).
# Tasks with data of their own take path=FILE as well.
task = {task}

# What is compared; `tts list strategies`, and `tts list NAME` for parameters. They share the samples of a prompt, so
# that all together cost as much as the most expensive one.
strategies = ["single", {vote}]

# What rates candidates where a strategy needs it; by default the problem's own way, if any (`tts list verifiers`).
# verifier = "judge"

limit = 50        # the first so many problems; leave it out for all
# seeds = [0, 1]  # each is an independent repetition

[sampling]        # as the server takes them
temperature = 0.8
max_tokens = 1024

# [budget]        # caps for each problem and strategy
# completion_tokens = 20000

[models.{model}]
base_url = {base_url}
# api_key_env = "OPENAI_API_KEY"   # the variable that holds the key
# max_concurrency = 256            # requests at once, at most

# [models.{model}.card]            # for costs: money per million tokens, FLOPs by size
# parameters = 1.5e9
# prompt_price_per_million = 0.15
# completion_price_per_million = 0.60

# [models.{model}.judge]           # a model for a further role; its name is the role's unless it says model = "..."
# model = "a-larger-model"
# base_url = {base_url}
"""


def init(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="The file to write.")] = Path("experiment.toml"),
    task: Annotated[
        str,
        plugin_option("tasks", "Problems to solve; see: tts list tasks."),
    ] = "lab_math",
    model: Annotated[str, typer.Option("--model", metavar="NAME", help="The model's name.")] = "lab-target",
    base_url: BaseUrl = None,
) -> None:
    """Write a commented experiment file to start from.

    Without options it is for a model that runs in this process, so that it can be run as it is.
    """
    from tts import registry

    programs = "unit_tests" in str(next(iter(registry.make("tasks", task).examples())).problem.verifier)
    content = TEMPLATE.format(
        path=shlex.quote(str(path)),
        name=path.stem,
        task=json.dumps(task),
        vote=json.dumps("best_of_n:n=8" if programs else "self_consistency:n=8"),
        model=json.dumps(model),
        base_url=json.dumps(
            base_url or ("embedded://lab-target" if model == "lab-target" else "http://127.0.0.1:8000/v1")
        ),
    )
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(content)
    except FileExistsError:
        raise ConfigError(f"{path} is there already; name another file") from None
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from None
    say(f"wrote {path}; look at it, then: tts run {shlex.quote(str(path))} --dry-run")
