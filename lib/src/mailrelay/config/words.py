"""Say in words what an option's value may be, and what was found instead. Pure."""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import annotated_types
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

_SHOWN = 60  # characters of a wrong value that are repeated
_NOUNS: dict[object, str] = {
    int: "a whole number",
    float: "a number",
    str: "a string",
    SecretStr: "a string",
    Path: "a path",
}


def plain_type(field: FieldInfo) -> object:
    """Return a field's type without the `None` that stands for "not set"."""
    annotation: object = field.annotation
    if isinstance(annotation, types.UnionType):
        return next(part for part in typing.get_args(annotation) if part is not type(None))
    return annotation


def item_type(field: FieldInfo) -> object:
    """Return the type of a list's items; None for a field that is no list."""
    found = plain_type(field)
    return typing.get_args(found)[0] if typing.get_origin(found) is tuple else None


def section_type(field: FieldInfo) -> type[BaseModel] | None:
    """Return what the items of a list of objects are; None for a field that is no such list."""
    found = item_type(field)
    return found if isinstance(found, type) and issubclass(found, BaseModel) else None


def allowed(field: FieldInfo) -> str:
    """Say what a field's value may be, its range included: `a whole number from 1 to 65535`."""
    found = plain_type(field)
    if found is bool:
        return "true or false"
    if typing.get_origin(found) is Literal:
        return " or ".join(json.dumps(value) for value in typing.get_args(found))
    items = item_type(field)
    if items is not None:
        kind = "objects" if section_type(field) is not None else "strings"
        return f"a list of {kind}" + "".join(_length(field.metadata))
    return _NOUNS[found] + _range(field.metadata)


def _range(constraints: Iterable[Any]) -> str:
    low = high = more = ""
    for constraint in constraints:
        match constraint:
            case annotated_types.Ge(ge):
                low = f"{ge}"
            case annotated_types.Gt(gt):
                more = f"{gt}"
            case annotated_types.Le(le):
                high = f"{le}"
            case annotated_types.MinLen():
                return " that is not empty"
            case _:
                return f" that matches {constraint.pattern}"
    if more:
        return f" greater than {more}" + (f" and at most {high}" if high else "")
    if low and high:
        return f" from {low} to {high}"
    return f" of at least {low}" if low else f" of at most {high}" if high else ""


def _length(constraints: Iterable[Any]) -> Iterable[str]:
    for constraint in constraints:
        match constraint:
            case annotated_types.MinLen(least):
                yield f", {least} or more"
            case annotated_types.MaxLen(most):
                yield f", at most {most}"


def shown(value: object, *, secret: bool = False) -> str:
    """Return a value as JSON writes it, cut when it is long; of a secret only what kind it is."""
    if secret:
        return _kind(value)
    text = json.dumps(plain(value), ensure_ascii=False, default=str)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"


def plain(value: object) -> Any:  # noqa: ANN401 — JSON
    """Return a value of the model as JSON knows it; a secret that is set as asterisks.

    Of an object in a list only what is not as by default.
    """
    if isinstance(value, SecretStr):
        return "********" if value.get_secret_value() else ""
    if isinstance(value, tuple):
        return [plain(part) for part in value]
    if isinstance(value, BaseModel):
        return {
            str(field.alias): plain(getattr(value, name))
            for name, field in type(value).model_fields.items()
            if field.is_required() or getattr(value, name) != field.default
        }
    if isinstance(value, Path):
        return str(value)
    return value


def _kind(value: object) -> str:
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    if isinstance(value, bool) or value is None:
        return "null" if value is None else "a truth value"
    return "a number" if isinstance(value, int | float) else "a string"
