"""A field of the resource that is an option of the relay: described, bounded, defaulted once.

The option's own field in `mailrelay.config.model` says what it means; here stands only where it is
in the resource, and what a cluster needs otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, Literal, get_args, get_origin

import annotated_types
from pydantic import BaseModel, Field
from pydantic.fields import FieldInfo

from mailrelay.config.load import Option, options

OPTIONS: Final = {found.key: found for found in options()}
_OPTION = "relayOption"  # where a field remembers which option it is
_SAME: Final = object()


def option(
    key: str,
    *,
    default: object = _SAME,
    description: str = "",
    max_length: int | None = None,
) -> Any:  # noqa: ANN401 — as pydantic's Field: the value of any field
    """Return the field of the resource for the relay's option `key` (`rateLimits.maxPerHour`).

    `description` and `default` replace the option's own where a cluster differs; `max_length` is
    for lists that have none at the relay (the API server wants to know what a rule over them may
    cost). Raises KeyError when the relay has no such option.
    """
    found = OPTIONS[key].field
    value = found.default if default is _SAME else default
    if is_choice(found):
        value = as_choice(value)
    bounds: dict[str, Any] = {"max_length": max_length}
    for constraint in found.metadata:
        match constraint:
            case annotated_types.Ge(ge):
                bounds["ge"] = ge
            case annotated_types.Gt(gt):
                bounds["gt"] = gt
            case annotated_types.Le(le):
                bounds["le"] = le
            case annotated_types.MinLen(min_length):
                bounds["min_length"] = min_length
            case annotated_types.MaxLen(most) if max_length is None:
                bounds["max_length"] = most
            case _ if getattr(constraint, "pattern", None):
                bounds["pattern"] = constraint.pattern
    return Field(
        default=value,
        description=description or found.description,
        json_schema_extra={_OPTION: key},
        **{name: bound for name, bound in bounds.items() if bound is not None},
    )


def option_of(field: FieldInfo) -> Option | None:
    """Return the option that a field of the resource is; None for a field of its own."""
    extra = field.json_schema_extra
    key = extra.get(_OPTION) if isinstance(extra, dict) else None
    return OPTIONS[str(key)] if key is not None else None


def option_values(section: BaseModel) -> Iterator[tuple[Option, Any]]:
    """Yield every option that a section or one below it has, with its value, as the relay has it.

    A section that is left out, and one in a list, yields none.
    """
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        found = option_of(field)
        if found is not None:
            if value is not None:
                yield found, from_choice(value) if is_choice(found.field) else value
        elif isinstance(value, BaseModel):
            yield from option_values(value)


def is_choice(field: FieldInfo) -> bool:
    """Tell whether an option is one of some words."""
    return get_origin(field.annotation) is Literal


def choices(field: FieldInfo) -> tuple[str, ...]:
    """Return the words of an option as the resource has them."""
    return tuple(as_choice(word) for word in get_args(field.annotation))


def as_choice(word: object) -> str:
    """Return a word of the relay's as Kubernetes writes such words: `dropOldest`, `DropOldest`."""
    text = str(word)
    return text[:1].upper() + text[1:]


def from_choice(word: str) -> str:
    """Return what `as_choice` was given."""
    return word[:1].lower() + word[1:]
