"""The drawing world put together: a painter, a judge that sees, a model that rewrites, and problems for them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar
from zlib import crc32

import numpy as np

from tests.support.double import ModelDouble
from tests.support.judges import roles
from tests.support.painter import Painter, met
from tests.support.scenes import any_scene, measured
from tests.support.vision import Vision
from tts.base import Verifier
from tts.files import pictures_in
from tts.prompting import problem_text
from tts.sampler import Endpoint
from tts.types import Candidate, Problem, Scale


def scenes(count: int, size: int = 6, seed: int = 0) -> list[Problem]:
    """Problems that ask for a picture of `size` things each."""
    rng = np.random.default_rng(seed)
    texts = [f"Draw {', '.join(map(str, any_scene(rng, size)))}." for _ in range(count)]
    return [Problem.from_prompt(text, id=f"scene/{i}") for i, text in enumerate(texts)]


@asynccontextmanager
async def drawing_world(painter: Painter, vision: Vision, **image: Any) -> AsyncIterator[Mapping[str, Endpoint]]:
    """Endpoints for the roles policy (who rewrites), judge, image and embed."""
    served: dict[str, Any] = {"models": ("policy", "judge"), "answer": vision.answer, "log": 0}
    async with painter, ModelDouble(**served, seed=painter.seed) as double:
        drawn = {"model": "painter", "base_url": painter.base_url, "retry_wait": 0.005, "api_key_env": "NO_KEY"}
        yield {**roles(double), "image": Endpoint(**(drawn | image)), "embed": Endpoint(**drawn)}


class Measured(Verifier):
    """Scores by the share of what is asked for that is in the last picture, and some noise, the same for each film."""

    rates_partial: ClassVar[bool] = True
    scale: ClassVar[Scale | None] = "positive"

    folder: Path = Path()
    """Where the pictures are."""
    sigma: float = 0.0
    """Standard deviation of the noise."""

    def check(self, problem: Problem, candidate: Candidate) -> float:
        noise = np.random.default_rng(crc32(candidate.content.encode())).normal()
        return max(0.0, accuracy(problem, candidate, self.folder) + self.sigma * float(noise))


def accuracy(problem: Problem, candidate: Candidate | None, folder: Path) -> float:
    """The share of what the problem asks for that is in the candidate's (last) picture, by its pixels."""
    if candidate is None:
        return 0.0
    return met(problem_text(problem), measured((folder / pictures_in(candidate.content)[-1]).read_bytes()))
