"""What all sections of a configuration have in common: strictness, and types of values."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ByteSize, ConfigDict, TypeAdapter

Auto = Literal["auto"]
StorageOptions = dict[str, Any]
_BYTE_SIZE: TypeAdapter[ByteSize] = TypeAdapter(ByteSize)


def _byte_count(value: object) -> object:
    return int(_BYTE_SIZE.validate_python(value)) if isinstance(value, str) else value


def _one_or_many(value: object) -> object:
    return [value] if isinstance(value, str) else value


ByteCount = Annotated[int, BeforeValidator(_byte_count)]
"""Bytes, or text with a unit: 64MiB, 1GB."""
Names = Annotated[list[str], BeforeValidator(_one_or_many)]


class Section(BaseModel):
    """Base of all sections. Strict and frozen: an unknown key or a wrong type is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)
