"""What objects hold: dataclasses, pydantic and attrs objects as dicts of their fields."""

from __future__ import annotations

import dataclasses
from typing import Any


def fields_of(value: Any) -> Any:
    """Return an object's fields as a dict; anything else as it is."""
    cls = type(value)
    if cls in (dict, list, str, int, float, bool, type(None), bytes, tuple):
        return value
    if dataclasses.is_dataclass(cls):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if hasattr(cls, "__pydantic_core_schema__") and hasattr(cls, "model_fields"):
        return {**value.__dict__, **(value.__pydantic_extra__ or {})}
    if hasattr(cls, "__attrs_attrs__"):
        return {field.name: getattr(value, field.name) for field in cls.__attrs_attrs__}
    return value
