"""`tts solve`: one prompt, one strategy, the answer on stdout."""

from __future__ import annotations

import asyncio
import itertools
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tts.cli.common import (
    AsJson,
    BaseUrl,
    EnvironmentSpec,
    MaxTokens,
    Model,
    N,
    Temperature,
    Verifier,
    checked,
    dotted,
    model_or_default,
    place,
    plugin_option,
    say,
    show_json,
    tree,
    with_n,
)
from tts.errors import ConfigError
from tts.text import counted, visible

if TYPE_CHECKING:
    from tts.sampler import Endpoint
    from tts.types import Candidate, Result

EPILOG = """\
\b
Examples:
  tts solve "What is 17 * 23?" --strategy self_consistency:n=8
  git diff | tts solve - --system "Write a commit message." > message.txt
  tts solve "The tests fail. Repair the fault." --environment workspace:folder=. --verifier folder_command \\
      --strategy first_pass:k=4 > repair.patch

\b
Other sampling parameters:  --sampling.top_k 20 --sampling.stop '["END"]'
Caps on the cost:           --budget.completion_tokens 2000 --budget.seconds 30
Prices, for --budget.money: --models.policy.card.prompt_price_per_million 0.2 (and completion_price_per_million)
Settings of the endpoint:   --models.policy.max_concurrency 16
Models for other roles:     --models.judge.model NAME --models.judge.base_url URL
                            --models.image.model NAME (images are written to images/)

\b
Exit code: 0 answered, 1 the endpoint failed, 2 invalid usage or settings, 3 no answer found (abstained).
"""

ABSTAINED = 3
ENDED = {
    "complete": "complete",
    "settled": "settled early",
    "budget": "budget spent",
    "deadline": "out of time",
    "failed": "failed",
}


def solve(
    ctx: typer.Context,
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="The question, or - to read it from stdin.")],
    strategy: Annotated[
        str,
        plugin_option("strategies", "How to search; see: tts list strategies."),
    ] = "single",
    verifier: Verifier = None,
    environment: EnvironmentSpec = None,
    model: Model = None,
    base_url: BaseUrl = None,
    temperature: Temperature = None,
    max_tokens: MaxTokens = None,
    n: N = None,
    system: Annotated[str | None, typer.Option(metavar="TEXT", help="System message.")] = None,
    seed: Annotated[
        int, typer.Option(metavar="S", help="Repetition, as in a run; --sampling.seed is the server's.")
    ] = 0,
    stop_early: Annotated[bool, typer.Option(help="Stop when the selection is settled.")] = True,
    as_json: AsJson = False,
) -> None:
    """Answer one prompt with a strategy.

    Only the answer goes to stdout: the final one where the strategy reads it, else the whole text, which --json has
    in either case. A line on the cost goes to stderr.
    """
    from tts import registry
    from tts.types import Budget, Problem

    question = sys.stdin.read() if prompt == "-" else prompt
    if not question.strip():
        raise ConfigError('the prompt is empty: tts solve "QUESTION", or - to read it from stdin')
    options = tree(dotted(ctx), ("sampling", "budget", "models"))
    given = {"temperature": temperature, "max_tokens": max_tokens}
    sampling = {**options["sampling"], **{key: value for key, value in given.items() if value is not None}}
    budget = checked(Budget, **options["budget"])
    chosen = with_n([registry.make("strategies", strategy)], n)[0]
    problem = Problem.from_prompt(question, system=system)

    async def work() -> Result:
        from rich.console import Console

        from tts.solving import open_models, solve

        models = await _models(model, base_url, sampling, options["models"])
        async with open_models(models) as samplers:
            for sampler in set(samplers.values()):
                await sampler.check()  # an unreachable server is reported at once, not after many attempts
            count = itertools.count(1)
            with Console(stderr=True).status("sampling") as status:  # drawn on terminals only
                return await solve(
                    problem,
                    chosen,
                    samplers,
                    verifier=verifier,
                    environment=environment,
                    budget=budget,
                    seed=seed,
                    stop_early=stop_early,
                    on_candidate=lambda _: status.update(counted(next(count), "candidate")),
                )

    result = asyncio.run(work())
    if as_json:
        show_json(as_table(result))
    elif result.answer is not None:
        typer.echo(visible(result.answer) if sys.stdout.isatty() else result.answer)
    for line in (summary_line(result), *result.warnings):
        say(line)
    if result.selected is None:
        raise typer.Exit(1 if result.ended == "failed" else ABSTAINED)


async def _models(
    model: str | None, base_url: str | None, sampling: dict[str, Any], roles: dict[str, Any]
) -> dict[str, Endpoint]:
    """Endpoints by role, those of a set of policies included; other roles default to the policy's model and server."""
    from tts.policies import as_roles
    from tts.sampler import Endpoint

    if wrong := [role for role, fields in roles.items() if not isinstance(fields, dict)]:
        meant = f"policy.{wrong[0]} VALUE" if wrong[0] in Endpoint.model_fields else f"{wrong[0]}.model NAME"
        raise ConfigError(f"write --models.{meant}")
    at, named = place(base_url), roles.get("policies", {})
    if wrong := [name for name, fields in named.items() if not isinstance(fields, dict)]:
        raise ConfigError(f"write --models.policies.{wrong[0]}.model NAME")
    policies = as_roles(named, at)
    if not policies:
        policy = {**at, **roles.get("policy", {})}
        policies = {
            "policy": {**policy, "model": await model_or_default(policy.get("model", model), policy.get("base_url"))}
        }
    endpoints = {
        role: checked(Endpoint, **{**fields, "params": {**fields.get("params", {}), **sampling}})
        for role, fields in policies.items()
    }
    for role, fields in roles.items():
        if role not in ("policy", "policies"):
            strongest = list(endpoints.values())[-1].model
            endpoints[role] = checked(Endpoint, **{"model": strongest, **at, **fields})
    return endpoints


def summary_line(result: Result) -> str:
    """How the search ended and what it cost, in one line."""
    from tts.lacks import lacking, lacks_of

    usage, count = result.usage, len(result.candidates)
    parts = [
        counted(count, "candidate"),
        f"{counted(usage.total_tokens, 'token')} ({usage.completion_tokens:,.0f} generated)",
        counted(usage.requests, "request"),
        f"{result.seconds:.1f} s",
        ENDED[result.ended],
    ]
    if result.selected is None:
        parts.append("no answer")
    parts += lacking(lacks_of(result.candidates))
    if result.failures:
        parts.append(f"{len(result.failures)} lost: {result.failures[0]}")
    return ", ".join(parts)


def as_table(result: Result) -> dict[str, Any]:
    """The result as plain data for JSON."""
    return {
        **{name: getattr(result, name) for name in ("answer", "text", "strategy", "ended", "oracle", "seconds")},
        "usage": result.usage.as_dict(),
        "spent": {role: usage.as_dict() for role, usage in result.spent.items()},
        "unused": {role: usage.as_dict() for role, usage in result.unused.items()},
        "wasted": {role: usage.as_dict() for role, usage in result.wasted.items()},
        "failures": list(result.failures),
        "warnings": list(result.warnings),
        "candidates": [_candidate(candidate, result) for candidate in result.candidates],
    }


def _candidate(candidate: Candidate, result: Result) -> dict[str, Any]:
    verdict = candidate.verdict
    return {
        **{name: getattr(candidate, name) for name in ("id", "content", "tool_calls", "parents", "spawned", "elapsed")},
        "selected": result.selected is not None and candidate.id == result.selected.id,
        "score": verdict and verdict.score,
        "passed": verdict and verdict.passed,
        "feedback": verdict.feedback if verdict else "",
        "notes": dict(candidate.notes),
        "usage": candidate.usage.as_dict(),
    }
