"""Grids of strategies, models and seeds over a task: run, stored, resumed and read."""

from tts.runs.run import Run
from tts.runs.runner import Experiment

__all__ = ["Experiment", "Run"]
