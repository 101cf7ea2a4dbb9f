"""What the gateway offers under one configuration: another takes its place when the configuration is read again."""

from __future__ import annotations

from tts.gateway.settings import GatewaySettings
from tts.sampler import Sampler


class Offer:
    """A configuration and its models, which stay open until the last request that began with it has ended."""

    def __init__(self, settings: GatewaySettings, models: dict[str, dict[str, Sampler]]) -> None:
        self.settings = settings
        self.models = models
        """By name and role."""
        self.chat_only: set[str] = set()
        """Models whose server has no Responses API."""

    @property
    def samplers(self) -> set[Sampler]:
        return {sampler for roles in self.models.values() for sampler in roles.values()}
