"""The gateway: any strategy behind an OpenAI-compatible endpoint.

A request names a model, a strategy on a model (`best_of_n:n=8@qwen`) or a preset. Requests to a plain model, and their
answers, pass through byte for byte; those to a strategy are answered here, within the operator's limits.
`GatewaySettings` says what is offered and to whom, `tts.gateway.app.gateway_app(settings)` is the ASGI app.
"""

from tts.gateway.settings import GatewayLimits, GatewaySettings, Key, Preset

__all__ = ["GatewayLimits", "GatewaySettings", "Key", "Preset"]
