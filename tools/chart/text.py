"""What the models say, as text: comments, values, and the rows of a table."""

from __future__ import annotations

import inspect
import json
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml
from pydantic import BaseModel

from tools.chart.values import Image, Values

_WIDTH = 100


@dataclass(frozen=True, slots=True)
class Row:
    """One value that somebody may set, or a section of them."""

    path: str  # operator.replicas
    default: Any
    meaning: str
    is_section: bool


def rows(section: Values, above: str = "") -> Iterator[Row]:
    """Yield all values below a section, sections before what is in them."""
    for name, field in type(section).model_fields.items():
        key = f"{above}{field.alias}"
        value = getattr(section, name)
        if isinstance(value, Values) and not isinstance(value, Image):
            yield Row(key, None, field.description or meaning_of(type(value)), is_section=True)
            yield from rows(value, f"{key}.")
        else:
            yield Row(key, plain(value), field.description or "", is_section=False)


def plain(value: Any) -> Any:  # noqa: ANN401 — any value of a chart
    """Return a value as YAML knows it."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", by_alias=True)
    return value


def meaning_of(model: type[Values]) -> str:
    """Return a section's docstring, as one line."""
    return " ".join(inspect.cleandoc(model.__doc__ or "").split())


def comment(text: str, indent: str) -> list[str]:
    """Return a text as lines of comment."""
    width = _WIDTH - len(indent)
    return [f"{indent}# {line}" for line in textwrap.wrap(text, width - 2)] if text else []


def inline(value: Any) -> str:  # noqa: ANN401 — any value of a chart
    """Return a value as it stands behind its key: in flow style, quoted only when it must be."""
    if isinstance(value, str):
        return json.dumps(value) if value == "" or _needs_quotes(value) else value
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10_000)
    return text.removesuffix("\n").removesuffix("\n...")


def _needs_quotes(value: str) -> bool:
    return yaml.safe_load(value) != value or value.startswith(("$", "."))
