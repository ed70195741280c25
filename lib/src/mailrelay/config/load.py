"""Put a configuration together: command line over environment over file over default.

Every fault is one line: source, key, what is allowed, what was found. Values of secrets are never
repeated.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_origin

from pydantic import BaseModel, SecretStr, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from mailrelay.config.defaults import Differing, differing, is_container
from mailrelay.config.model import RelayConfig
from mailrelay.config.nested import has_type, nested_fault, outer_faults, wrong_types
from mailrelay.config.text import ConfigTextError, parse_config_text
from mailrelay.config.words import allowed, item_type, section_type, shown

COMMAND_LINE = "command line"
DEFAULT = "default"
_MISSING_MOUNT = (
    " (a container engine makes a folder when the file is missing where it was mounted from)"
)


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
    def is_sections(self) -> bool:
        """Whether it is a list of objects, which only the file can hold."""
        return section_type(self.field) is not None

    @property
    def is_reloadable(self) -> bool:
        """Whether a change is taken over without a restart."""
        extra = self.field.json_schema_extra
        return isinstance(extra, dict) and extra.get("reloadable") is True

    def value_in(self, config: RelayConfig) -> Any:  # noqa: ANN401 — any option's
        """Return the option's value in a configuration."""
        node: BaseModel = config
        for key in self.path:
            fields = type(node).model_fields
            name = next(name for name, field in fields.items() if field.alias == key)
            node = getattr(node, name)
        return node


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration, and where each option's value came from."""

    config: RelayConfig
    sources: Mapping[str, str]  # by key: COMMAND_LINE, a variable, the file, a place, DEFAULT


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


def load_config(
    path: Path | None, environ: Mapping[str, str], overrides: Sequence[str] = ()
) -> RelayConfig:
    """Read a relay's configuration; without a file the development defaults hold.

    In a container those of `mailrelay.config.defaults` for it do, with a file or without.
    `overrides` are `key=value` of the command line. Raises ConfigError.
    """
    return load_with_sources(path, environ, overrides).config


def load_with_sources(
    path: Path | None, environ: Mapping[str, str], overrides: Sequence[str] = ()
) -> Loaded:
    """Read a configuration and say of each value where it came from. Raises ConfigError."""
    try:
        in_container = is_container(environ)
    except ValueError as error:
        raise ConfigError([str(error)]) from error
    place = differing(has_file=path is not None, in_container=in_container)
    where = str(path) if path is not None else place.name if place is not None else DEFAULT
    merged: dict[str, Any] = {}
    faults = []
    if path is not None:
        merged = _read_file(path)
        faults = [f"{where}: {fault}" for fault in _take_out_wrong_types(merged)]
    sources = {option.key: where for option in options() if _get(merged, option.path)[0]}
    texts = [
        (option, option.variable, environ[option.variable])
        for option in options()
        if option.variable in environ
    ]
    for override in overrides:
        found = _override(override)
        if isinstance(found, Option):
            texts.append((found, COMMAND_LINE, override.partition("=")[2]))
        else:
            faults.append(f"{COMMAND_LINE}: {found}")
    faults += _take_texts(texts, merged, sources, path)
    if place is not None:
        _put_below(merged, place, sources)
    try:
        config = RelayConfig.model_validate(merged)
    except ValidationError as error:
        faults += [
            _fault(details, where, sources)
            for details in outer_faults(error.errors())
            # With values taken out, what contradicts what is anybody's guess.
            if not faults or details["type"] != "value_error"
        ]
    if faults:
        raise ConfigError(faults)
    return Loaded(config, {option.key: sources.get(option.key, DEFAULT) for option in options()})


def _take_texts(
    texts: Sequence[tuple[Option, str, str]],
    merged: dict[str, Any],
    sources: dict[str, str],
    path: Path | None,
) -> Iterator[str]:
    """Put values that are written as plain text, and yield what is wrong with them."""
    for option, source, text in texts:
        if option.is_sections:
            yield f"{source}: {_file_only(option, path)}"
            continue
        try:
            value = _value_of_text(option, text)
        except ValidationError:
            yield f"{source}: {_words(option, text)}"
            continue
        sources[option.key] = source
        _put(merged, option.path, value)


def _file_only(option: Option, path: Path | None) -> str:
    where = str(path) if path is not None else "a configuration file (--config FILE)"
    return (
        f"{option.key} is a list of objects, which neither a variable nor --set can hold; "
        f"set it in {where}"
    )


def _put_below(merged: dict[str, Any], place: Differing, sources: dict[str, str]) -> None:
    """Put a place's defaults where nothing is set, and nothing that they would contradict."""
    given = set(sources)
    for option in options():
        present, value = _get(dict(place.tree), option.path)
        stands_back = given.intersection((option.key, *place.steps_back.get(option.key, ())))
        if present and not stands_back:
            sources[option.key] = place.name
            _put(merged, option.path, value)


def _read_file(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except IsADirectoryError as error:
        raise ConfigError(
            [f"{path} is a folder; give a configuration file{_MISSING_MOUNT}"]
        ) from error
    except PermissionError as error:
        raise ConfigError(
            [f"cannot read {path}: {error.strerror}; this is user {os.geteuid()}"]
        ) from error
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
            faults.append(f"{section}: must be an object, is {shown(value)}")
    for option in options():
        present, value = _get(found, option.path)
        inner = section_type(option.field)
        if present and inner is not None:
            wrong = list(wrong_types(option.key, inner, value))
            if wrong:
                faults += wrong
                _take_out(found, option.path)
        elif present and not has_type(option.field, value):
            faults.append(_words(option, value))
            _take_out(found, option.path)
    return faults


def _override(text: str) -> Option | str:
    """Return the option that a `key=value` of the command line means, or what is wrong with it."""
    key, has_value, _ = text.partition("=")
    option = next((option for option in options() if option.key == key), None)
    if not has_value:
        return f"--set {key}: must be key=value"
    if option is None:
        return f"unknown key {key}{_hint(key)}"
    if option.is_secret:
        # Every user of the machine can read another process's arguments.
        return (
            f"{key}: a secret does not belong on a command line; set it in the file or by "
            f"{option.variable}"
        )
    return option


def _value_of_text(option: Option, text: str) -> Any:  # noqa: ANN401 — any option's
    """Read a value written as plain text; a list has commas. Raises ValidationError."""
    constraints = tuple(option.field.metadata)
    kind: Any = option.field.annotation
    adapter = TypeAdapter[Any](Annotated[(kind, *constraints)] if constraints else kind)
    if item_type(option.field) is None:
        return adapter.validate_strings(text)
    return adapter.validate_python([part for part in re.split(r"[,\s]+", text) if part])


def _fault(details: Mapping[str, Any], where: str, sources: Mapping[str, str]) -> str:
    for option in options():
        section = section_type(option.field)
        if section is not None and details["loc"][: len(option.path)] == option.path:
            source = sources.get(option.key, where)
            return f"{source}: {nested_fault(option.key, option.field, section, details)}"
    path = tuple(part for part in details["loc"] if isinstance(part, str))
    key = ".".join(path)
    if details["type"] == "extra_forbidden":
        return f"{sources.get(key, where)}: unknown key {key}{_hint(key)}"
    found = next((option for option in options() if option.path == path), None)
    if found is not None and details["type"] != "value_error":  # that has words of its own
        return f"{sources.get(key, where)}: {_words(found, details['input'])}"
    words = str(details["msg"]).removeprefix("Value error, ")
    prefix = f"{key}: " if key else ""
    source = sources.get(key, where)
    return f"{source}: {prefix}{words}{_origins(words, path, sources, source)}"


def _origins(words: str, section: tuple[str, ...], sources: Mapping[str, str], where: str) -> str:
    """Say where the values that contradict each other came from, unless all came from `where`."""
    concerned = {
        option.key: sources.get(option.key, DEFAULT)
        for option in options()
        if re.search(rf"(?<![\w.]){re.escape(option.key)}(?!\w)", words)
        or (section and option.path[:-1] == section and option.path[-1] in words)
    }
    if not any(source not in {where, DEFAULT} for source in concerned.values()):
        return ""
    return f" ({', '.join(f'{key}: {source}' for key, source in concerned.items())})"


def _hint(key: str) -> str:
    known = {option.key.lower(): option.key for option in options()}
    close = difflib.get_close_matches(key.lower(), known, 1)
    return f"; did you mean {known[close[0]]}?" if close else ""


def _words(option: Option, value: object) -> str:
    """Say of an option what is allowed and what was found."""
    found = shown(value, secret=option.is_secret)
    return f"{option.key}: must be {allowed(option.field)}, is {found}"


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
