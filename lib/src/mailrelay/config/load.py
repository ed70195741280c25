"""Put a configuration together: environment over file over default.

Every fault is one line that names the key, what is wrong with its value, and where it came from.
Values of secrets are never repeated.
"""

from __future__ import annotations

import copy
import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_origin

from pydantic import BaseModel, SecretStr, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from mailrelay.config.model import DEVELOPMENT_DEFAULTS, RelayConfig
from mailrelay.config.text import ConfigTextError, parse_config_text

_SHOWN = 60  # characters of a wrong value that are repeated


class ConfigError(ValueError):
    """A configuration that cannot be used; `faults` has one line for each thing wrong."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("; ".join(faults))
        self.faults = faults


@dataclass(frozen=True, slots=True)
class Option:
    """One option: its path of keys, its environment variable and its field."""

    path: tuple[str, ...]
    variable: str
    field: FieldInfo

    @property
    def key(self) -> str:
        """The path as people write it."""
        return ".".join(self.path)

    @property
    def is_secret(self) -> bool:
        """Whether the value must not be shown."""
        return self.field.annotation is SecretStr

    @property
    def is_list(self) -> bool:
        """Whether the value is a list of strings; in a variable, with commas between them."""
        return get_origin(self.field.annotation) is tuple


def options(model: type[BaseModel] = RelayConfig, above: tuple[str, ...] = ()) -> Iterator[Option]:
    """Yield every option of a model, in the model's order."""
    for field in model.model_fields.values():
        path = (*above, str(field.alias))
        annotation = field.annotation
        is_plain = get_origin(annotation) is None and isinstance(annotation, type)
        if is_plain and issubclass(annotation, BaseModel):  # type: ignore[arg-type]
            yield from options(annotation, path)  # type: ignore[arg-type]
        else:
            yield Option(path, "_".join(_screaming_snake(key) for key in path), field)


def load_config(path: Path | None, environ: Mapping[str, str]) -> RelayConfig:
    """Read a relay's configuration; without a file the development defaults hold.

    Raises ConfigError.
    """
    where = str(path) if path is not None else "development defaults"
    if path is None:
        merged: dict[str, Any] = copy.deepcopy(DEVELOPMENT_DEFAULTS)
        faults = []
    else:
        merged = _read_file(path)
        faults = [f"{where}: {fault}" for fault in _take_out_wrong_types(merged)]
    variables = {}
    for option in options():
        text = environ.get(option.variable)
        if text is None:
            continue
        try:
            value = (
                _listed(text)
                if option.is_list
                else TypeAdapter[Any](_type(option)).validate_strings(text)
            )
        except ValidationError as error:
            faults.append(f"{option.variable}: {_words(error.errors()[0], option)}")
            continue
        variables[option.path] = option.variable
        _put(merged, option.path, value)
    try:
        config = RelayConfig.model_validate(merged)
    except ValidationError as error:
        faults += [
            _fault(details, where, variables)
            for details in error.errors()
            # With values taken out, what contradicts what is anybody's guess.
            if not faults or details["type"] != "value_error"
        ]
    if faults:
        raise ConfigError(faults)
    return config


def _read_file(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except IsADirectoryError as error:
        raise ConfigError([f"{path} is a folder; give a configuration file"]) from error
    except OSError as error:
        raise ConfigError([f"cannot read {path}: {error.strerror}"]) from error
    except UnicodeDecodeError as error:
        raise ConfigError([f"{path} is not UTF-8 text (octet {error.start})"]) from error
    try:
        return parse_config_text(text)
    except ConfigTextError as error:
        raise ConfigError([f"{path}: {error}"]) from error


def _take_out_wrong_types(found: dict[str, Any]) -> list[str]:
    """Take out what JSON typed wrongly, and say so: `"25"` for a number is not guessed at."""
    faults = []
    for section in dict.fromkeys(option.path[0] for option in options() if option.path[1:]):
        if not isinstance(found.get(section, {}), dict):
            value = found.pop(section)
            faults.append(f"{section}: must be an object, is {_json_words(value)}")
    for option in options():
        present, value = _get(found, option.path)
        if present and not _has_type(option, value):
            faults.append(f"{option.key}: must be {_type_words(option)}, is {_json_words(value)}")
            _take_out(found, option.path)
    return faults


def _type(option: Option) -> Any:  # noqa: ANN401 — a type form, which has no type of its own
    """Return what the option's value must be, with its range."""
    constraints = tuple(option.field.metadata)
    return (
        Annotated[(option.field.annotation, *constraints)]
        if constraints
        else (option.field.annotation)
    )


def _listed(text: str) -> tuple[str, ...]:
    return tuple(part for part in re.split(r"[,\s]+", text) if part)


def _has_type(option: Option, value: object) -> bool:
    wanted = option.field.annotation
    if option.is_list:
        return isinstance(value, list) and all(isinstance(each, str) for each in value)
    if wanted is bool:
        return isinstance(value, bool)
    if wanted is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if wanted is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, str) or (value is None and option.field.default is None)


def _type_words(option: Option) -> str:
    if option.is_list:
        return "a list of strings"
    names = {bool: "true or false", int: "a whole number", float: "a number"}
    return names.get(option.field.annotation, "a string")  # type: ignore[arg-type]


def _json_words(value: object) -> str:
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    if isinstance(value, str):
        return "a string"
    if isinstance(value, bool):
        return "true" if value else "false"
    return "null" if value is None else "a number"


def _fault(details: Mapping[str, Any], where: str, variables: Mapping[tuple[str, ...], str]) -> str:
    path = tuple(str(part) for part in details["loc"])
    source = variables.get(path, where)
    if details["type"] == "extra_forbidden":
        known = {option.key.lower(): option.key for option in options()}
        close = difflib.get_close_matches(".".join(path).lower(), known, 1)
        hint = f"; did you mean {known[close[0]]}?" if close else ""
        return f"{source}: unknown key {'.'.join(path)}{hint}"
    prefix = f"{'.'.join(path)}: " if path else ""
    found = next((option for option in options() if option.path == path), None)
    return f"{source}: {prefix}{_words(details, found)}"


def _words(details: Mapping[str, Any], option: Option | None) -> str:
    """Say what is allowed, and what was found unless that is a secret."""
    words = str(details["msg"]).removeprefix("Value error, ")
    words = words.replace("Input should", "must", 1).partition(", unable to")[0]
    value = details.get("input")
    if option is None or option.is_secret or not isinstance(value, str | int | float):
        return words
    return (
        f"{words}, is {str(value)[:_SHOWN]!r}"
        if isinstance(value, str)
        else (f"{words}, is {value}")
    )


def _get(tree: dict[str, Any], path: tuple[str, ...]) -> tuple[bool, Any]:
    node: Any = tree
    for key in path:
        if not isinstance(node, dict) or key not in node:
            return False, None
        node = node[key]
    return True, node


def _take_out(tree: dict[str, Any], path: tuple[str, ...]) -> None:
    for key in path[:-1]:
        tree = tree[key]
    del tree[path[-1]]


def _put(tree: dict[str, Any], path: tuple[str, ...], value: object) -> None:
    for key in path[:-1]:
        tree = tree.setdefault(key, {})
    tree[path[-1]] = value


def _screaming_snake(key: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", key).upper()
