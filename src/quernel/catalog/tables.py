"""Dataclasses from tables of TOML: every key known, every value of its field's type, or an error that says where.

A field's annotation is all there is to declare: `str`, `int`, `bool`, an enum of words, another dataclass, a tuple of
any of these, or one of them or `None` for a key that may be missing.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from datetime import date, datetime
from enum import StrEnum
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from quernel.errors import SettingsError
from quernel.settings import check_keys

T = TypeVar("T")

NAMES: Mapping[type, str] = {str: "a text", int: "a whole number", bool: "true or false"}
"""Type of a value to what an error calls it."""


def read_table(path: Path, shape: type[T]) -> T:
    """What a file says, as a dataclass.

    Raises:
        SettingsError: It cannot be read, is not TOML, or is not of this shape.
    """
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"{path} cannot be read: {error}.", param=str(path)) from error
    return parse_table(raw, shape, place=str(path))


def parse_table(raw: object, shape: type[T], *, place: str) -> T:
    """A table as a dataclass.

    Args:
        raw: The table.
        shape: The dataclass.
        place: Where it stands, for messages.

    Raises:
        SettingsError: An unknown key, a missing one, or a value of another type.
    """
    if not isinstance(raw, Mapping):
        raise SettingsError(f"{place} is {raw!r}, which is no table.", param=place)
    declared = fields(shape)  # type: ignore[arg-type]
    check_keys(raw, [field.name for field in declared], place=place)
    annotations = get_type_hints(shape)
    values = {}
    for field in declared:
        if field.name in raw:
            values[field.name] = _value(raw[field.name], annotations[field.name], place, field.name)
        elif field.default is MISSING and field.default_factory is MISSING:
            raise SettingsError(f"{place}: {field.name} is missing.", param=field.name)
    try:
        return shape(**values)
    except SettingsError as error:  # of the dataclass itself, which does not know where it stands
        raise SettingsError(f"{place}: {error.message}", param=error.param, hint=error.hint) from error


def _value(raw: object, annotation: Any, place: str, key: str) -> Any:
    if get_origin(annotation) in (Union, UnionType):
        (annotation,) = (member for member in get_args(annotation) if member is not NoneType)
    if get_origin(annotation) is tuple:
        if not isinstance(raw, list):
            raise _wrong(raw, place, key, "a list")
        return tuple(
            _value(element, get_args(annotation)[0], place, f"{key}[{number}]") for number, element in enumerate(raw)
        )
    if isinstance(annotation, type) and is_dataclass(annotation):
        return parse_table(raw, annotation, place=f"{place}, {key}")
    if annotation is str and isinstance(raw, date) and not isinstance(raw, datetime):
        return raw.isoformat()  # TOML has days of its own; here they are text
    if issubclass(annotation, StrEnum):
        if not isinstance(raw, str) or raw not in set(annotation):
            raise SettingsError(f"{place}: {key} is {raw!r}.", param=key, hint=f"One of {', '.join(annotation)}.")
        return annotation(raw)
    # In Python a bool is an int; in a file it is a mistake.
    if not isinstance(raw, annotation) or (isinstance(raw, bool) and annotation is not bool):
        raise _wrong(raw, place, key, NAMES[annotation])
    if isinstance(raw, str) and not raw.strip():
        raise SettingsError(f"{place}: {key} is empty.", param=key, hint="Write something, or leave it out.")
    return raw.strip() if isinstance(raw, str) else raw


def _wrong(raw: object, place: str, key: str, wanted: str) -> SettingsError:
    return SettingsError(f"{place}: {key} is {raw!r}, which is not {wanted}.", param=key)
