"""What a draft and a target model have in common, found out once in a run and before anything is generated."""

from __future__ import annotations

import asyncio
import hashlib
import json
from dataclasses import dataclass
from typing import Any

from tts.errors import ConfigError
from tts.sampler.scoring import tokenize
from tts.session import Session

ROLES = ("draft", "target")
GREETING = [{"role": "user", "content": "Hello?"}]
WORDS = "Let x_1 = 12.5 + é;\n\tüber 数 \\frac{3}{4} isn't"
"""Two tokenizers that agree on it are taken to be the same."""


@dataclass(frozen=True, slots=True)
class Pair:
    """What a draft and a target model have in common."""

    same_tokens: bool
    templates: dict[str, str]
    """By role: a digest of what its chat template makes of a greeting; empty where the server does not tell."""


class Pairs:
    """The pairs of a run, each looked at once."""

    def __init__(self) -> None:
        self._known: dict[tuple[Any, ...], Pair] = {}
        self._looking = asyncio.Lock()

    async def get(self, session: Session, *, scoring: bool) -> Pair:
        """The pair of the session's models. Raises `ConfigError` if there is `scoring` to do and the target cannot."""
        models = (*(session.sampler(role) for role in ROLES), scoring)
        async with self._looking:
            if models not in self._known:
                if scoring:  # it is paid for, but no search is charged for what the run finds out
                    scores = await session.score(WORDS[:12], WORDS[12:])
                    session.ledger.forgive(scores.charges)
                self._known[models] = await _look(session)
        return self._known[models]


async def _look(session: Session) -> Pair:
    samplers = {role: session.sampler(role) for role in ROLES}
    try:
        words = [await tokenize(sampler, WORDS, special=False) for sampler in samplers.values()]
        greetings = {role: await tokenize(sampler, GREETING) for role, sampler in samplers.items()}
    except ConfigError:
        return Pair(False, dict.fromkeys(ROLES, ""))
    digests = {role: hashlib.blake2b(json.dumps(ids).encode(), digest_size=6) for role, ids in greetings.items()}
    return Pair(words[0] == words[1], {role: digest.hexdigest() for role, digest in digests.items()})
