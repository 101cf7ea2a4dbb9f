"""Grids of strategies, models and seeds over a task: run, stored, resumed and read."""

from tts.runs.config import Experiment
from tts.runs.run import Run

__all__ = ["Experiment", "Run"]
