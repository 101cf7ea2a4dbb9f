"""Talking to models: which server, how many requests at once, and what comes back."""

from tts.sampler.endpoint import Endpoint
from tts.sampler.sampler import Sampler

__all__ = ["Endpoint", "Sampler"]
