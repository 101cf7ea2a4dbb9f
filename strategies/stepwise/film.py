"""Answers that grow picture by picture: films, and pictures that are drawn coarse first and finer from there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tts.calls import digest
from tts.continuation import Continuation
from tts.prompting import filled
from tts.types import Drawing


@dataclass(frozen=True, slots=True, kw_only=True)
class Film(Continuation):
    """Pictures, each drawn from the one before it. Its text has their names, one a line."""

    asked: str
    """What is asked of the server, with `$problem`, and `$number` and `$count` of the picture."""
    heads: Mapping[str, Any] = field(default_factory=lambda: {"image": ""}, repr=False)
    ids: tuple[int, ...] | None = None
    frames: int
    """Pictures of a whole film."""

    async def branch(
        self,
        n: int,
        *,
        role: str | None = None,
        tokens: int | None = None,
        stop: str | Sequence[str] = (),
        **params: Any,
    ) -> list[Continuation]:
        """Up to `n` different next pictures; without a limit (`tokens` or `stop`) up to `n` whole films.

        The server gets the picture before as `image`, a data URI, and a seed that no other branch has.
        """
        number = len(self.samples) + 1
        seed = {**self.session.sampler("image").endpoint.params, **params}.get("seed", 0)
        options: dict[str, Any] = {**params, "seed": int.from_bytes(digest([seed, self.path])[:4], "big")}
        if self.samples:
            options["image"] = await self.session.images.inline(self.samples[-1].text)
        words = await filled(self.asked, problem=self.session.problem, number=number, count=self.frames)
        grown: list[Continuation] = [
            replace(
                self,
                path=(*self.path, place),
                text="\n".join(one.text for one in (*self.samples, sample)),
                samples=(*self.samples, sample),
                ended="stop" if number == self.frames else "",
                before=self,
            )
            for place, sample in enumerate(await self._drawn(Drawing(words), n, "image", options))
        ]
        if tokens is not None or stop or number == self.frames:
            return grown
        return [whole for (whole,) in await self.session.together(one.branch(1, **params) for one in grown)]
