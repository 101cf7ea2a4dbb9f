"""Conformal rejection of drafts: whether the target model takes over (ATTS, arXiv 2509.15148, section 3)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tts.strategies.speculation import conformal
from tts.strategies.speculation.conformal import Calibration, Stratum
from tts.strategies.speculation.steps import Chain, Speculation


class Growing(dict[str, Calibration]):
    """The calibrations of a run that grow while it goes, by what their scores are made with."""


class Rejection:
    """Compares the score of a draft with calibration scores, and rejects those that are too poor at the rate."""

    def __init__(self, speculation: Speculation, calibration: Calibration, rate: float) -> None:
        self.calibration = calibration
        self.rate = rate
        self._speculation = speculation

    @classmethod
    def open(
        cls,
        speculation: Speculation,
        path: Path | None,
        rate: float,
        *,
        owner: str,
        made_with: dict[str, Any],
        by: Sequence[Stratum] = (),
        window: int | None = None,
    ) -> Rejection:
        """With the calibration in the file `path`, or one that grows with the drafts of `owner`, a strategy of the run.

        Raises `ConfigError` if the file was made with anything else, naming what differs.
        """
        speculation.provenance = made_with
        if path is not None:
            return cls(speculation, conformal.load(path, made_with, better="higher", by=by), rate)
        growing, key = speculation.session.resources.get(Growing), json.dumps([owner, made_with, rate, by, window])
        if key not in growing:
            growing[key] = Calibration(better="higher", by=by, window=window)
        return cls(speculation, growing[key], rate)

    async def rejects(self, chain: Chain) -> bool:
        """Whether the target should go on from the chain's last draft. One without a score is never kept."""
        scored = await self._speculation.scored(chain)
        if scored is None:
            chain.turns.append({"rejected": True})
            return True
        chance = self._speculation.chance(chain)
        p = self.calibration.p_value(scored, chance)
        if self.calibration.grows:  # what it is compared with depends on what came before
            p = self.calibration.balanced(scored, p, self.rate)
            p = float(await self._speculation.session.remember(["p", chance], repr(p)))
            self.calibration.add(scored)
        rejected = bool(conformal.rejects(p, self.rate))
        chain.turns.append({"score": scored.score, "tokens": scored.tokens, "p": p, "rejected": rejected})
        return rejected

    async def presample(self, count: int, tokens: int) -> None:
        """Add the scores of `count` drafts of the problem that become no sample."""

        async def one(chain: Chain) -> None:
            with self._speculation.alone(chain):
                await self._speculation.extend(chain, "draft", tokens)
                scored = await self._speculation.scored(chain)
                if scored is not None:
                    self.calibration.add(scored)

        chains = [self._speculation.chain(number) for number in range(count)]
        await self._speculation.session.together(one(chain) for chain in chains)
        self._speculation.shared.update(*(self._speculation.candidate(chain).charges for chain in chains))
