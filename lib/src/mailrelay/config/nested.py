"""What is wrong inside a list of objects, in the words that other options get. Pure.

Values of secrets are never repeated, so of an object or a list only what it is.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from mailrelay.config.words import allowed, item_type, section_type, shown


def has_type(field: FieldInfo, value: object) -> bool:
    """Tell whether JSON gave a field's own type: `"25"` for a number is not guessed at."""
    wanted = field.annotation
    if wanted is bool:
        return isinstance(value, bool)
    if wanted is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if wanted is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if item_type(field) is not None:
        if value is None:
            return field.default is None
        return isinstance(value, list) and all(isinstance(part, str) for part in value)
    return isinstance(value, str) or (value is None and field.default is None)


def wrong_types(key: str, section: type[BaseModel], value: object) -> Iterator[str]:
    """Yield a line for each value that JSON typed wrongly in a list of objects."""
    if not isinstance(value, list):
        yield f"{key}: must be a list of objects, is {_kind(value)}"
        return
    by_alias = {str(field.alias): field for field in section.model_fields.values()}
    for number, item in enumerate(value):
        place = f"{key}[{number}]"
        if not isinstance(item, dict):
            yield f"{place}: must be an object, is {_kind(item)}"
            continue
        for name, found in item.items():
            field = by_alias.get(name)
            if field is None:
                continue  # an unknown key has words of its own
            inner = section_type(field)
            if inner is not None:
                yield from wrong_types(f"{place}.{name}", inner, found)
            elif not has_type(field, found):
                yield _words(f"{place}.{name}", field, found)


def outer_faults(errors: Sequence[Any]) -> Iterator[Any]:
    """Yield what pydantic found, without what only follows from a fault further inside.

    It counts an object with a fault as missing from its list.
    """
    for details in errors:
        loc = details["loc"]
        is_length = details["type"] == "too_short"
        if not is_length or not any(
            len(other["loc"]) > len(loc) and other["loc"][: len(loc)] == loc for other in errors
        ):
            yield details


def nested_fault(
    key: str, field: FieldInfo, section: type[BaseModel], details: Mapping[str, Any]
) -> str:
    """Say what pydantic found wrong in the list of objects `key`."""
    place, known = key, section
    inner: FieldInfo | None = field
    for part in details["loc"][1:]:
        if isinstance(part, int):
            place += f"[{part}]"
            inner = None
            continue
        if details["type"] == "extra_forbidden" and part == details["loc"][-1]:
            return f"unknown key {place}.{part}{_hint(part, known)}"
        place += f".{part}"
        inner = next(each for each in known.model_fields.values() if each.alias == part)
        known = section_type(inner) or known
    if details["type"] == "missing":
        return f"{place}: must be set"
    if details["type"] == "value_error" or inner is None:
        return f"{place}: {str(details['msg']).removeprefix('Value error, ')}"
    return _words(place, inner, details["input"])


def _words(place: str, field: FieldInfo, value: object) -> str:
    is_secret = field.annotation is SecretStr
    is_plain = not isinstance(value, dict | list | tuple) and not is_secret
    return f"{place}: must be {allowed(field)}, is {shown(value) if is_plain else _kind(value)}"


def _kind(value: object) -> str:
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    return shown(value, secret=True)


def _hint(key: str, section: type[BaseModel]) -> str:
    known = {str(field.alias).lower(): field.alias for field in section.model_fields.values()}
    close = difflib.get_close_matches(key.lower(), known, 1)
    return f"; did you mean {known[close[0]]}?" if close else ""
