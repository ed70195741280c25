"""A model as a structural OpenAPI schema, which is what the API server wants.

Every reference is written out, and nothing is null: what is not set is left out. A default stands
whole at each level, because the server checks it against the rules before it fills in what is
below.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Iterable
from typing import Annotated, Any, Final, TypeGuard

import annotated_types
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from mailrelay_operator.resource.schema import (
    Format,
    IntOrString,
    ListType,
    Opaque,
    Rule,
    Section,
    Shape,
)

Schema = dict[str, Any]

_INT32_MOST: Final = 2**31 - 1
_PLAIN: Final[dict[object, Schema]] = {
    bool: {"type": "boolean"},
    int: {"type": "integer"},
    float: {"type": "number"},
    str: {"type": "string"},
}
_LENGTHS: Final[dict[object, str]] = {tuple: "Items", dict: "Properties"}


def section_schema(model: type[Section], *, defaults: bool = True) -> Schema:
    """Return the schema of one section; with its defaults, as a spec has them, or without."""
    fields = model.model_fields
    schema: Schema = {
        "type": "object",
        "properties": {
            str(field.alias): _field(field, defaults=defaults) for field in fields.values()
        },
    }
    required = [str(field.alias) for field in fields.values() if field.is_required()]
    if required:
        schema["required"] = required
    if model.RULES:
        schema["x-kubernetes-validations"] = rules_schema(model.RULES)
    return schema


def rules_schema(rules: Iterable[Rule]) -> list[Schema]:
    """Return rules as the API server reads them."""
    return [
        {"rule": rule.rule, "message": rule.message}
        | ({"fieldPath": rule.field} if rule.field else {})
        | ({"reason": rule.reason} if rule.reason else {})
        for rule in rules
    ]


def _field(field: FieldInfo, *, defaults: bool) -> Schema:
    schema: Schema = {"description": field.description}
    schema |= _type(field.annotation, field.metadata, defaults=defaults)
    if defaults and not field.is_required():
        default = _plain(field.get_default(call_default_factory=True))
        if default is not None:
            schema["default"] = default
    return schema


def _type(annotation: object, metadata: Iterable[object] = (), *, defaults: bool) -> Schema:
    """Return the schema of a type; `metadata` is what stood beside it in `Annotated`."""
    bare, found = _unwrapped(annotation, metadata)
    rules = [each.rule if isinstance(each, Shape) else each for each in found if _is_rule(each)]
    schema = _bare_type(bare, found, defaults=defaults)
    if "x-kubernetes-int-or-string" not in schema:  # lengths would be a string's alone
        for each in found:
            schema |= _constraint(bare, each)
        if bare is int:
            is_short = schema.get("maximum", 2**63) <= _INT32_MOST
            schema["format"] = "int32" if is_short else "int64"
    if rules:
        schema["x-kubernetes-validations"] = rules_schema(rules)
    return schema


def _is_rule(said: object) -> TypeGuard[Rule | Shape]:
    return isinstance(said, Rule | Shape)


def _unwrapped(annotation: object, metadata: Iterable[object]) -> tuple[Any, list[object]]:
    """Return a type without what is around it, and everything that was said of it."""
    found = [each for each in metadata if not isinstance(each, FieldInfo)]
    for each in metadata:
        found += each.metadata if isinstance(each, FieldInfo) else ()
    origin = typing.get_origin(annotation)
    if origin is Annotated:
        inner, *more = typing.get_args(annotation)
        return _unwrapped(inner, [*more, *found])
    if origin in {typing.Union, types.UnionType}:
        (inner,) = (part for part in typing.get_args(annotation) if part is not type(None))
        return _unwrapped(inner, found)
    return annotation, found


def _bare_type(bare: Any, metadata: list[object], *, defaults: bool) -> Schema:  # noqa: ANN401 — a type
    if any(isinstance(each, Opaque) for each in metadata):
        return {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    if any(isinstance(each, IntOrString) for each in metadata):
        return {"x-kubernetes-int-or-string": True}
    if isinstance(bare, type) and issubclass(bare, Section):
        return section_schema(bare, defaults=defaults)
    arguments = typing.get_args(bare)
    origin = typing.get_origin(bare)
    if origin is tuple:
        return {"type": "array", "items": _type(arguments[0], defaults=defaults)}
    if origin is dict:
        values = _type(arguments[1], defaults=defaults)
        return {"type": "object", "additionalProperties": values}
    if origin is typing.Literal:
        kind = "integer" if isinstance(arguments[0], int) else "string"
        return {"type": kind, "enum": list(arguments)}
    return dict(_PLAIN[bare])


def _constraint(bare: Any, said: object) -> Schema:  # noqa: ANN401 — a type
    """Return what one piece of metadata means to the API server."""
    lengths = _LENGTHS.get(typing.get_origin(bare) or object, "Length")
    match said:
        case ListType(kind, keys):
            schema: Schema = {"x-kubernetes-list-type": kind}
            return schema | ({"x-kubernetes-list-map-keys": list(keys)} if keys else {})
        case Format(name):
            return {"format": name}
        case annotated_types.MinLen(least):
            return {f"min{lengths}": least}
        case annotated_types.MaxLen(most):
            return {f"max{lengths}": most}
        case annotated_types.Ge() | annotated_types.Gt() | annotated_types.Le():
            return _bound(bare, said)
        case Shape():
            return {}  # it is a rule
    pattern = getattr(said, "pattern", None)
    return {"pattern": pattern} if pattern else {}


def _bound(bare: Any, said: object) -> Schema:  # noqa: ANN401 — a type
    if typing.get_origin(bare) is typing.Literal:  # the words say it
        return {}
    match said:
        case annotated_types.Ge(least):
            return {"minimum": least}
        case annotated_types.Le(most):
            return {"maximum": most}
        case annotated_types.Gt(below):
            whole = {"minimum": typing.cast("int", below) + 1}
            return whole if bare is int else {"minimum": below, "exclusiveMinimum": True}
    raise AssertionError(said)


def _plain(value: object) -> object:
    """Return a default as YAML knows it; None for nothing."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", by_alias=True, exclude_none=True)
    return list(value) if isinstance(value, tuple) else value
