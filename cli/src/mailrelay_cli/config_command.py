"""`mailrelay config`: each value and where it came from, and the schema of the file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from mailrelay.config.load import DEFAULT, Loaded, options
from mailrelay.config.model import RelayConfig
from mailrelay.config.words import allowed, plain

_VALUE_COLUMNS = 40  # a longer value pushes its own source only


def table(loaded: Loaded) -> Iterator[str]:
    """Yield a line for each option: key, value, source; a secret that is set is asterisks."""
    rows = [
        (
            option.key,
            json.dumps(plain(option.value_in(loaded.config)), ensure_ascii=False),
            loaded.sources[option.key],
        )
        for option in options()
    ]
    key_width = max(len(key) for key, _, _ in rows)
    value_width = min(_VALUE_COLUMNS, max(len(value) for _, value, _ in rows))
    for key, value, source in rows:
        yield f"{key:<{key_width}}  {value:<{value_width}}  {source}"


def explained(loaded: Loaded) -> list[dict[str, Any]]:
    """Return the same for programs."""
    return [
        {
            "key": option.key,
            "value": plain(option.value_in(loaded.config)),
            "source": loaded.sources[option.key],
            "is_default": loaded.sources[option.key] == DEFAULT,
            "default": plain(option.field.default),
            "allowed": allowed(option.field),
            "variable": None if option.is_sections else option.variable,
            "secret": option.is_secret,
            "reloadable": option.is_reloadable,
        }
        for option in options()
    ]


def schema() -> dict[str, Any]:
    """Return the JSON Schema of `config.json`."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **RelayConfig.model_json_schema(by_alias=True),
        "title": "MailRelay config.json",
    }
