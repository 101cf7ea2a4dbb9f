"""The gateway: any strategy behind an OpenAI-compatible endpoint.

A request names a model, a strategy on a model (`best_of_n:n=8@qwen`) or a preset. A plain model's requests and answers
pass through byte for byte; a strategy's are worked out here, within the operator's limits. `Settings` says what there
is and who may use it, `gateway_app(settings)` is the ASGI app.
"""

from tts.gateway.settings import Key, Limits, Preset, Settings

__all__ = ["Key", "Limits", "Preset", "Settings"]
