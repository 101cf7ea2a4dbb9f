"""What all tables of settings have in common: experiments, endpoints, budgets, gateways, and every plug-in."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, field_validator

LARGEST = 2**63 - 1
"""The largest whole number that files, clocks and arrays take."""


class Settings(BaseModel):
    """An immutable table of settings. The string under a field documents it."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid")

    @field_validator("*")
    @classmethod
    def _has_bounds(cls, value: Any) -> Any:
        for number in value if isinstance(value, tuple | list) else (value,):
            if isinstance(number, int) and abs(number) > LARGEST:
                raise ValueError("must be less than 2^63")
        return value
