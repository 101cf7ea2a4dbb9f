"""A pydantic-ai agent whose every step is a vote: the tool call that most of five samples make.

    tts serve --base-url http://127.0.0.1:8000/v1 --model qwen          # a server with tool calling
    export OPENAI_BASE_URL=http://127.0.0.1:8080/v1
    python examples/agents/tool_agent.py "Which of our parts is heaviest, and how many are left?" --model qwen

Only the model's name differs: `tool_vote:n=5,verifier=tool_call@qwen` instead of `qwen`. Calls that violate a tool's
schema have no vote, and calls with equal arguments count as one answer however these are written.
"""

from __future__ import annotations

import argparse
import os

from pydantic import BaseModel
from pydantic_ai import Agent, ModelRetry
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

PARTS = {
    "bolt": {"grams": 12, "stock": 940},
    "bracket": {"grams": 310, "stock": 41},
    "hinge": {"grams": 145, "stock": 0},
}


class Finding(BaseModel):
    """What the agent finds out."""

    part: str
    stock: int


def list_parts() -> list[str]:
    """The names of all parts."""
    return list(PARTS)


def look_up(part: str) -> dict[str, int]:
    """A part's weight in grams and number in stock."""
    if part not in PARTS:
        raise ModelRetry(f"there is no part {part!r}; there are: {', '.join(PARTS)}")
    return PARTS[part]


def agent_on(model: str) -> Agent[None, Finding]:
    """The agent, with every step voted on by samples of `model`."""
    provider = OpenAIProvider(os.environ["OPENAI_BASE_URL"], os.environ.get("OPENAI_API_KEY", "none"))
    voting = OpenAIChatModel(f"tool_vote:n=5,verifier=tool_call@{model}", provider=provider)
    return Agent(voting, output_type=Finding, tools=[list_parts, look_up], instructions="Look things up; never guess.")


def main() -> None:
    """Ask the question on the command line."""
    parser = argparse.ArgumentParser(description="Answer a question about parts with tools.")
    parser.add_argument("question")
    parser.add_argument("--model", required=True, help="one that the gateway serves")
    options = parser.parse_args()
    done = agent_on(options.model).run_sync(options.question)
    print(done.output.model_dump_json())
    print(done.usage)


if __name__ == "__main__":
    main()
