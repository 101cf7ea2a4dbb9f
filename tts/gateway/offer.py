"""What the gateway offers under one configuration: another takes its place when the configuration is read again."""

from __future__ import annotations

from dataclasses import dataclass, field

from tts.gateway.settings import GatewaySettings
from tts.sampler import Sampler


@dataclass(eq=False)
class Offer:
    """A configuration and its models, which stay open until the last request that began with it has ended."""

    settings: GatewaySettings
    models: dict[str, dict[str, Sampler]] = field(default_factory=dict)
    """By name and role."""
    chat_only: set[str] = field(default_factory=set)
    """Models whose server has no Responses API."""

    @property
    def samplers(self) -> set[Sampler]:
        return {sampler for roles in self.models.values() for sampler in roles.values()}
