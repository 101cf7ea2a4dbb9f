"""Inference-time scaling: sample, verify, select, and see accuracy against compute.

The names below are loaded when they are first used, so that importing the package costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from os.path import isdir
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tts import curves
    from tts.base import AnswerVerifier, Strategy, Verifier
    from tts.compute import ModelCard
    from tts.continuation import Continuation
    from tts.errors import TTSError
    from tts.local_vllm import LocalVLLM
    from tts.runs import Experiment, Run
    from tts.sampler import Endpoint, Sampler
    from tts.sampler.mock import MockModel
    from tts.session import Session
    from tts.solving import solve, solve_sync
    from tts.tasks import Example, Task
    from tts.trajectories import EndState, Environment, Episode, Observation, ToolCall
    from tts.types import Budget, Candidate, Problem, Result, Sample, Usage, Verdict

_HOMES = {
    "tts.base": ("AnswerVerifier", "Strategy", "Verifier"),
    "tts.compute": ("ModelCard",),
    "tts.continuation": ("Continuation",),
    "tts.errors": ("TTSError",),
    "tts.runs": ("Experiment", "Run"),
    "tts.local_vllm": ("LocalVLLM",),
    "tts.sampler": ("Endpoint", "Sampler"),
    "tts.sampler.mock": ("MockModel",),
    "tts.session": ("Session",),
    "tts.solving": ("solve", "solve_sync"),
    "tts.tasks": ("Example", "Task"),
    "tts.trajectories": ("Environment", "Episode", "EndState", "Observation", "ToolCall"),
    "tts.types": ("Budget", "Candidate", "Problem", "Result", "Sample", "Usage", "Verdict"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "AnswerVerifier",
    "Budget",
    "Candidate",
    "Continuation",
    "EndState",
    "Endpoint",
    "Environment",
    "Episode",
    "Example",
    "Experiment",
    "LocalVLLM",
    "MockModel",
    "ModelCard",
    "Observation",
    "Problem",
    "Result",
    "Run",
    "Sample",
    "Sampler",
    "Session",
    "Strategy",
    "TTSError",
    "Task",
    "ToolCall",
    "Usage",
    "Verdict",
    "Verifier",
    "curves",
    "solve",
    "solve_sync",
]


if not isdir(f"{__path__[0]}/strategies"):
    raise ImportError(
        f"{__path__[0]}/strategies must be a link to the folder strategies at the top of the checkout, like verifiers, "
        "but this checkout has no links. Clone it with links (git config core.symlinks true), or install the wheel"
    )


def __getattr__(name: str) -> Any:
    if name == "curves":
        return import_module("tts.curves")
    if name not in _HOME_OF:
        raise AttributeError(f"module 'tts' has no attribute '{name}'")
    globals()[name] = value = getattr(import_module(_HOME_OF[name]), name)
    return value
