"""A set of policies: several models where one would be, each under a role of its own, `policy.small`, `policy.large`.

So whatever is accounted by role is accounted by model, and a set of one is no different from a policy. A set is listed
from the cheapest model to the strongest; a model of it whose server is down is left out as long as another is there.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator, PlainSerializer

from tts import registry
from tts.accounts import Ledger
from tts.errors import ConfigError, EndpointRefused
from tts.types import Problem, Sample

if TYPE_CHECKING:
    from tts.base import Strategy, Verifier
    from tts.sampler import Endpoint, Sampler

PolicyNames = Annotated[
    tuple[str, ...],
    BeforeValidator(lambda given: (given,) if isinstance(given, str) else given),
    PlainSerializer(lambda given: given[0] if len(given) == 1 else given, return_type=str | tuple[str, ...]),
]
"""A parameter that names policies of a set: `small`, `[small,large]`."""


def is_policy(role: str) -> bool:
    """Whether a role is the policy, or one of several."""
    return role.partition(".")[0] == "policy"


def verifier_of(strategy: Strategy, problem: Problem, named: Verifier | None = None) -> Verifier | None:
    """What verifies for `strategy`: its own verifier, else the one that is `named`, else the problem's, if any."""
    if (found := strategy.verifier or named) is not None or problem.verifier is None:
        return found
    return registry.make("verifiers", problem.verifier)


def shared_sampling(strategies: Iterable[Strategy], problem: Problem, named: Verifier | None) -> dict[str, Any]:
    """What the policy's samples must be drawn with for the verifiers of all `strategies`, so that one pool of samples
    serves them all.
    """
    verifiers = (verifier_of(strategy, problem, named) for strategy in strategies)
    return dict(ChainMap({}, *(dict(verifier.sampling) for verifier in verifiers if verifier is not None)))


def policies_of(models: Iterable[str]) -> tuple[str, ...]:
    """The roles of the policies among the roles of `models`, in their order; none where a strategy has other roles."""
    return tuple(filter(is_policy, models))


def short(role: str) -> str:
    """The name of a policy within its set; `policy` for one alone."""
    return role.removeprefix("policy.")


def under(role: str, sample: Sample) -> Sample:
    """A stored sample under the role of who asks, which may not be that of who paid for it."""
    if sample.role == role and all(charge.role == role for charge in sample.charges):
        return sample
    return replace(sample, role=role, charges=tuple(replace(charge, role=role) for charge in sample.charges))


def as_roles(members: Mapping[str, Any], shared: Mapping[str, Any]) -> dict[str, Any]:
    """The tables of a set's members as tables of roles; what is `shared` stands in each, and their names are models."""
    return {
        f"policy.{name}": {"model": name, **shared, **one} if isinstance(one, Mapping) else one
        for name, one in members.items()
    }


def drawn_from(strategy: Strategy, models: Mapping[str, Endpoint]) -> tuple[str, ...]:
    """The roles of the policies that `strategy` draws from: those it names, in its order, else all.

    Raises `ConfigError` where it names one that is not there, or cannot choose among them.
    """
    there = policies_of(models)
    named = tuple(f"policy.{name}" for name in strategy.policies)
    if unknown := [role for role in named if role not in there]:
        names = ", ".join(short(role) for role in there if role != "policy")
        known = f"there are: {names}" if names else "this model is no set of policies, [models.NAME.policies.NAME]"
        raise ConfigError(f"{strategy.spec}: no policy '{short(unknown[0])}'; {known}")
    chosen = named or there
    if len(chosen) > 1 and not strategy.several:
        each = ", ".join(f"{strategy.name}:policies={short(role)}" for role in chosen)
        raise ConfigError(f"{strategy.spec} draws from one policy; say from which: {each}")
    strategy.check_policies({role: models[role].model for role in chosen})
    return chosen


def why_down(sampler: Sampler) -> str:
    """Why requests are not worth sending: the endpoint is given up, or down and not waited for; empty: they are."""
    health, pool = sampler.connection.health, sampler.connection.pool
    return health.lost or (pool.ailments if health.impatient and pool.down else "")


def up(roles: Sequence[str], models: Mapping[str, Sampler], ledger: Ledger) -> tuple[str, ...]:
    """Those of `roles` that are not left out, because their servers are down, which is noted; all where all are."""
    if len(roles) == 1:
        return tuple(roles)
    down = {role: why for role in roles if (why := why_down(models[role]))}
    there = tuple(role for role in roles if role not in down and role not in ledger.left_out)
    if there:
        for role, why in down.items():
            ledger.leave_out(role, why)
    return there or tuple(roles)


def others(role: str, models: Mapping[str, Sampler], left_out: Sequence[str] = ()) -> list[str]:
    """The policies besides `role`, if it is one, that are not left out and whose servers are not down."""
    besides = [other for other in policies_of(models) if is_policy(role) and other not in (role, *left_out)]
    return [other for other in besides if not why_down(models[other])]


def dispensable(role: str, models: Mapping[str, Sampler]) -> bool:
    """Whether a policy is down and another of its set is not."""
    return bool(others(role, models)) and bool(why_down(models[role]))


async def check_models(models: Mapping[str, Sampler]) -> None:
    """Raise `EndpointRefused` if a server cannot be reached or rejects the key; see the module for what is left out."""
    for role, sampler in models.items():
        try:
            await sampler.check()
        except EndpointRefused as error:
            if error.status is not None or not others(role, models):
                raise
            sampler.connection.health.leave_out(str(error))
