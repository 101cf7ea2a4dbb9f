"""Grids of strategies, models and seeds over a task: run, stored, resumed and read."""

from tts.experiment.config import Experiment
from tts.experiment.run import Run

__all__ = ["Experiment", "Run"]
