"""Read a configuration for a command; what is wrong with it becomes bad input, one line a fault."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from mailrelay.config.defaults import CONFIG_FILE, is_container
from mailrelay.config.files import check_files
from mailrelay.config.load import ConfigError, Loaded, load_with_sources
from mailrelay.config.model import RelayConfig
from mailrelay_cli.errors import BadInputError


def config_file(path: Path | None) -> Path | None:
    """Return the configuration file to read: the one named, or in a container the guide's.

    Raises ConfigError.
    """
    if path is not None:
        return path.absolute()
    try:
        in_container = is_container(os.environ)
    except ValueError as error:
        raise ConfigError([str(error)]) from error
    return Path(CONFIG_FILE) if in_container and Path(CONFIG_FILE).exists() else None


def checked_config(path: Path | None, overrides: Sequence[str] = ()) -> RelayConfig:
    """Load a configuration; the files that it names are not looked at. Raises BadInputError."""
    return _loaded(path, overrides).config


def checked_relay(
    path: Path | None,
    overrides: Sequence[str] = (),
    before_files: Callable[[Loaded], None] = lambda _: None,
) -> Loaded:
    """Load a configuration and look into the files that it names. Raises BadInputError.

    `before_files` may make those that are missing.
    """
    loaded = _loaded(path, overrides)
    before_files(loaded)
    try:
        check_files(loaded)
    except ConfigError as error:
        raise BadInputError(*error.faults) from error
    return loaded


def _loaded(path: Path | None, overrides: Sequence[str]) -> Loaded:
    try:
        return load_with_sources(config_file(path), os.environ, overrides)
    except ConfigError as error:
        raise BadInputError(*error.faults) from error
