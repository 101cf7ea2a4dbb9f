"""What all tables of settings have in common: experiments, endpoints, budgets, gateways, and every plug-in."""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cache
from itertools import pairwise
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler, field_validator
from pydantic_core import CoreSchema

LARGEST = 2**63 - 1
"""The largest whole number that files, clocks and arrays take."""
TOO_LARGE = "must be less than 2^63"
"""What is said of a larger one."""


class Documented(BaseModel):
    """A model whose fields are documented by the strings under them.

    They are read where they are shown: pydantic's `use_attribute_docstrings` reads them whenever a class is made, which
    takes longer than all the rest.
    """

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        made = handler(core_schema)
        properties = handler.resolve_ref_schema(made).get("properties", {})
        told = documents(cls)
        for name, field in cls.model_fields.items():
            if name in told and (shown := field.alias or name) in properties:
                properties[shown].setdefault("description", told[name])
        return made


class Settings(Documented):
    """An immutable table of settings. The string under a field documents it. It shows what is not as by default."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid")

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        for name, value in super().__repr_args__():
            field = type(self).model_fields.get(name or "")
            if field is None or field.is_required() or value != field.get_default(call_default_factory=True):
                yield name, value

    @field_validator("*")
    @classmethod
    def _has_bounds(cls, value: Any) -> Any:
        for number in value if isinstance(value, tuple | list) else (value,):
            if isinstance(number, int) and abs(number) > LARGEST:
                raise ValueError(TOO_LARGE)
        return value


def documents(model: type) -> dict[str, str]:
    """The strings under the fields of a class and of those that it comes from."""
    return {field: text for kind in reversed(model.__mro__) for field, text in _under_fields(kind).items()}


def _under_fields(kind: type) -> dict[str, str]:
    with suppress(OSError, TypeError, SyntaxError, KeyError):  # it has no source
        return {
            ast.unparse(field.target): inspect.cleandoc(text.value.value)
            for field, text in pairwise(_classes_in(kind.__module__)[kind.__name__].body)
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr)
            if isinstance(text.value, ast.Constant) and isinstance(text.value.value, str)
        }
    return {}


@cache
def _classes_in(module: str) -> Mapping[str, ast.ClassDef]:
    tree = ast.parse(inspect.getsource(sys.modules[module]))
    return {found.name: found for found in tree.body if isinstance(found, ast.ClassDef)}
