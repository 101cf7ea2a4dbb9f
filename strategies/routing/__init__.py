"""What `cascade` and `route` share: another strategy that works on one policy at a time, and who solved what elsewhere.

A calibration is a file of stored problems: how each policy did on each with the inner strategy, what that cost, and how
sure it was. `tts calibrate RUN FILE` makes it. What is decided by it is chosen for a target, an accuracy or a cost, as
FrugalGPT chooses thresholds (Chen et al. 2023, arXiv 2305.05176, section 3); never on the problems to be solved.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable, Hashable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveFloat

from tts.base import tally
from tts.calls import digest
from tts.errors import ConfigError
from tts.policies import short
from tts.session import Session
from tts.strategies.wrapping import Wrapping
from tts.types import Candidate, Problem

T = TypeVar("T")
Floats = NDArray[np.float64]

HOW = (
    "Make one, over other problems: tts run ... --strategy {inner}policies=NAME for each policy --out RUN, then tts "
    "calibrate RUN FILE, then {name}:calibration=FILE"
)


class OnPolicies(Wrapping):
    """A strategy whose work another one does, on one policy of a set at a time."""

    several = True

    calibration: Path | None = None
    """How the policies did on other problems: the file that `tts calibrate RUN FILE` writes."""
    accuracy: float | None = Field(default=None, gt=0, le=1)
    """The mean accuracy to reach as cheaply as the calibration allows; left out, the most accurate is chosen."""
    cost: PositiveFloat | None = None
    """The mean cost of a problem that may not be exceeded, in the calibration's measure (money, FLOPs or tokens)."""

    @property
    def needs_calibration(self) -> bool:
        """Whether it decides by a calibration."""
        return True

    def ready(self, problem: Problem) -> None:
        super().ready(problem)
        if self.calibration is not None and digest_of(problem) in self.known.digests:
            raise ConfigError(f"{self.calibration} was made of {problem.id} itself; calibrate on other problems")

    @property
    def known(self) -> Profile:
        """The calibration. Raises `ConfigError` if there is none, it was made otherwise, or it cannot be read."""
        if self.calibration is None:
            raise self.lacking(f"{self.spec} needs a calibration")
        try:
            profile = load(self.calibration)
        except ConfigError as error:
            raise self.lacking(str(error)) from error
        if profile.strategy != self.strategy.spec:
            raise self.lacking(f"{self.calibration} was made with {profile.strategy}, not with {self.strategy.spec}")
        return profile

    def lacking(self, what: str, inner: str = "") -> ConfigError:
        """An error that says `what` is wrong, and how to make a calibration with the strategy `inner`, or its own."""
        inner = inner or self.strategy.spec
        inner += "," if ":" in inner else ":"
        return ConfigError(f"{what}. {HOW.format(inner=inner, name=self.name)}")

    def check_policies(self, policies: Mapping[str, str]) -> None:
        if len(policies) > 1 and self.needs_calibration:
            self.decided(policies)

    def decided(self, policies: Mapping[str, str]) -> tuple[list[int], Any]:
        """The calibration's columns for `policies` (roles and models), and what `decide` makes of them.

        Raises `ConfigError` for a policy that the calibration lacks, or that was another model.
        """
        known = self.known
        for role, model in policies.items():
            if (before := known.models.get(short(role))) != model:
                words = "knows no policy" if before is None else f"knows {before}, not {model}, as policy"
                raise self.lacking(f"{self.calibration} {words} {short(role)}")
        columns = [list(known.models).index(short(role)) for role in policies]
        return columns, known.once((self.spec, *columns), lambda: self.decide(known, columns))

    def decide(self, known: Profile, columns: Sequence[int]) -> Any:
        """What it goes by for its target among the policies in `columns`. Raises `ConfigError` if none reaches it."""
        raise NotImplementedError

    async def work(self, problem: Problem, session: Session, role: str, stage: int) -> AsyncGenerator[Candidate, None]:
        """The inner strategy's candidates with the policy of `role`, after those of earlier stages."""
        on = session.at((stage,)).on(role)
        async with aclosing(cast(Any, self.strategy.search(problem, on))) as found:
            async for one in found:
                notes = {**one.notes, "stage": stage, "policy": short(role)}
                yield replace(one, spawned=(stage, *one.spawned), notes=notes)

    def select(self, candidates: Sequence[Candidate]) -> Candidate | None:
        """What the inner strategy selects among the candidates of the last policy of which it selects any."""
        return next((one for part in latest(candidates) if (one := self.strategy.select(part)) is not None), None)


def latest(candidates: Sequence[Candidate]) -> list[list[Candidate]]:
    """The candidates of each stage, the last stage first; what is of no stage comes last."""
    stages: dict[int, list[Candidate]] = {}
    for one in candidates:
        stages.setdefault(one.notes.get("stage", -1), []).append(one)
    return [stages[stage] for stage in sorted(stages, reverse=True)]


def sureness(candidates: Sequence[Candidate], selected: Candidate | None) -> dict[str, float]:
    """How sure what is selected among `candidates` is, from -inf (there is nothing, or it was refused) on.

    `refusal`: 1 if the verifier accepted it, `agreement`: the share of the candidates that give the commonest answer,
    `score`: that of the verifier.
    """
    verdict, votes = selected and selected.verdict, tally(candidates)
    if selected is None or (verdict and verdict.passed is False):
        return dict.fromkeys(("refusal", "agreement", "score"), -np.inf)
    return {
        "refusal": float(selected.passed),
        "agreement": max(votes.values()) / len(candidates) if votes else -np.inf,
        "score": verdict.score if verdict and verdict.score is not None else -np.inf,
    }


# -- who solved what ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Profile:
    """How each policy did on each stored problem: arrays are problems x policies."""

    strategy: str
    """The spec of what they did it with."""
    measure: str
    """What costs are in: money, flops or completion_tokens."""
    models: dict[str, str]
    """The models by the names of the policies."""
    digests: frozenset[str]
    texts: list[str]
    solved: Floats
    cost: Floats
    agreement: Floats
    """How sure what was selected was, see `sureness`; -inf: not at all."""
    score: Floats
    """The same by the verifier's score."""
    made: dict[Any, Any] = field(default_factory=dict, init=False, compare=False)
    """What was derived from it."""

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """`make()`, made once."""
        if key not in self.made:
            self.made[key] = make()
        return self.made[key]


def aimed(accuracies: Floats, costs: Floats, accuracy: float | None, cost: float | None) -> int:
    """The place of the best of several ways to decide, in order: where an accuracy is asked for the cheapest that has
    it, else the most accurate that is cheap enough; of equals the middle one, which is the farthest from deciding
    otherwise. Raises `ConfigError` where no way reaches the target.
    """
    enough = (accuracies >= (accuracy or 0) - 1e-12) & (costs <= (np.inf if cost is None else cost) * (1 + 1e-12))
    if not enough.any():
        top = int(np.argmax(accuracies))
        raise ConfigError(
            f"no way to decide reaches accuracy {accuracy} at cost {cost} on the calibration: the most accurate has "
            f"{accuracies[top]:.3f} at {costs[top]:.4g}, the cheapest costs {costs.min():.4g}"
        )
    values = list(
        zip(costs, -accuracies, strict=True) if accuracy is not None else zip(-accuracies, costs, strict=True)
    )
    least = min(values[i] for i in np.flatnonzero(enough))
    equals = [i for i in np.flatnonzero(enough).tolist() if values[i] == least]
    return equals[(len(equals) - 1) // 2]


def digest_of(problem: Problem) -> str:
    """What tells a problem from others, whatever it is called."""
    return digest(problem.messages).hex()


def load(path: Path) -> Profile:
    """The calibration in a file: the fields of `Profile` as JSON, None for -inf. Raises `ConfigError` if it is none."""
    try:
        return _load(path, path.stat().st_mtime_ns)
    except OSError as error:
        raise ConfigError(f"cannot read the calibration {path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} is no calibration of policies: {error}") from None


@lru_cache(maxsize=8)
def _load(path: Path, changed: int) -> Profile:
    content = json.loads(path.read_text(encoding="utf-8"))
    tables = {name: np.array(content.pop(name), dtype=float) for name in ("solved", "cost", "agreement", "score")}
    tables = {name: np.where(np.isnan(table), -np.inf, table) for name, table in tables.items()}
    shape = len(content["texts"]), len(content["models"])
    if {table.shape for table in tables.values()} != {shape} or not all(shape):
        raise ValueError(f"its tables are not of {shape[0]} problems by {shape[1]} policies")
    if not np.isfinite([tables["solved"], tables["cost"]]).all():
        raise ValueError("who solved what, or a cost, is missing")
    return Profile(digests=frozenset(content.pop("digests")), **tables, **content)
