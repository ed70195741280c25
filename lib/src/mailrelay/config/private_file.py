"""Read a file of secrets: not one that others on the machine can read or write."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from mailrelay.config.load import ConfigError

_FOR_OTHERS = stat.S_IROTH | stat.S_IWOTH


def read_private_file(path: Path, most_bytes: int) -> bytes:
    """Return what it holds. Raises ConfigError, whose fault names the path and what to do."""
    if "\0" in str(path):
        raise ConfigError([f"{str(path)!r} is no path: it has a NUL"])
    try:
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
            if found.st_mode & _FOR_OTHERS:
                mode = stat.S_IMODE(found.st_mode)
                words = f"{path}: others can read or write it (mode {mode:04o}): chmod 600"
                raise ConfigError([words])
            octets = file.read(most_bytes + 1)
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read: {error.strerror}"]) from error
    if len(octets) > most_bytes:
        raise ConfigError([f"{path}: has more than {most_bytes} bytes"])
    return octets
