"""Read a configuration for a command; what is wrong with it becomes bad input, one line a fault."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from mailrelay.config.files import check_files
from mailrelay.config.load import ConfigError, Loaded, load_with_sources
from mailrelay.config.model import RelayConfig
from mailrelay_cli.errors import BadInputError


def checked_config(path: Path | None, overrides: Sequence[str] = ()) -> RelayConfig:
    """Load a configuration; the files that it names are not looked at. Raises BadInputError."""
    return _loaded(path, overrides).config


def checked_relay(path: Path | None, overrides: Sequence[str] = ()) -> Loaded:
    """Load a configuration and look into the files that it names. Raises BadInputError."""
    loaded = _loaded(path, overrides)
    try:
        check_files(loaded)
    except ConfigError as error:
        raise BadInputError(*error.faults) from error
    return loaded


def _loaded(path: Path | None, overrides: Sequence[str]) -> Loaded:
    try:
        return load_with_sources(
            path.absolute() if path is not None else None, os.environ, overrides
        )
    except ConfigError as error:
        raise BadInputError(*error.faults) from error
