"""What an endpoint can do, with the reason for each thing that it cannot."""

from __future__ import annotations

from dataclasses import dataclass, fields

from tts.types import Usage


@dataclass(frozen=True, slots=True)
class Finding:
    """Whether something works: yes, no, or None where it could not be found out. True only for yes."""

    ok: bool | None
    why: str = ""
    """The reason for anything but yes, in the server's words where it gave some; else what was seen."""

    def __bool__(self) -> bool:
        return self.ok is True


YES = Finding(True)
NOTHING = Usage()
NOT_TRIED = Finding(None, "not tried: the endpoint does not get that far")


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What one endpoint can do, with the reason for each no."""

    reachable: Finding
    key_accepted: Finding = NOT_TRIED
    model_served: Finding = NOT_TRIED
    chat: Finding = NOT_TRIED
    completions: Finding = NOT_TRIED
    """Raw text in, text out: what step-wise strategies continue with."""
    n: Finding = NOT_TRIED
    """Several samples from one request."""
    logprobs: Finding = NOT_TRIED
    """Log-probabilities of generated tokens."""
    prompt_logprobs: Finding = NOT_TRIED
    """Log-probabilities of given text, to score with."""
    seed: Finding = NOT_TRIED
    """The same seed gives the same sample, another seed another one."""
    token_ids: Finding = NOT_TRIED
    stream_usage: Finding = NOT_TRIED
    """Answers token by token, with the token count at the end."""
    continuation: Finding = NOT_TRIED
    """A partial assistant message is continued (`continue_final_message`)."""
    tools: Finding = NOT_TRIED
    structured_output: Finding = NOT_TRIED
    """`response_format` with a JSON schema is obeyed."""
    tokenize: Finding = NOT_TRIED
    models: tuple[str, ...] = ()
    """What the endpoint lists."""
    server: str = "unknown"
    """vLLM, with its version where it tells, or who else says to own the model."""
    cost: Usage = NOTHING
    """What the probe itself took: all requests that may generate, and the tokens that the server counted."""

    def findings(self) -> dict[str, Finding]:
        """All findings by name, in the order above."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Finding)}
