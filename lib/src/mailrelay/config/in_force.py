"""The configuration in force, handed on to a process that is started again (docs/decisions/0020).

The file may say something else by then: a slip, or a value that a restart of the whole relay would
bring. A process that died and read the file would stay away because of the one, and be at odds with
the others because of the other. It starts with this, and then follows the file as they do.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
from pydantic import SecretStr, ValidationError

from mailrelay.config.load import ConfigError
from mailrelay.config.model import RelayConfig


def write_in_force(path: Path, config: RelayConfig) -> None:
    """Write it whole or not at all, for this user alone: secrets are in it. Raises OSError."""
    new = path.with_name(f"{path.name}.new")
    new.unlink(missing_ok=True)
    text = msgspec.json.encode(config.model_dump(by_alias=True), enc_hook=_plain)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(text)
    new.replace(path)


def read_in_force(path: Path) -> RelayConfig:
    """Read it. Raises OSError, or ConfigError when another version wrote it."""
    try:
        return RelayConfig.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise ConfigError([f"{path} is of another version"]) from error


def _plain(value: object) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(type(value))
