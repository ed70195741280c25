"""The token that clients of other machines show at the monitor; kept in a file, never in text."""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path

from mailrelay.config.load import ConfigError
from mailrelay.config.private_file import read_private_file

MIN_CHARACTERS = 32  # 128 bits in hexadecimal: not to be guessed
_MAX_BYTES = 4096


class Token:
    """A token's digest: comparing takes the same time for every wrong one, and nothing shows it."""

    def __init__(self, text: str) -> None:
        self._digest = _digest(text)

    def matches(self, text: str) -> bool:
        """Tell whether `text` is the token."""
        return hmac.compare_digest(_digest(text), self._digest)


def read_token(path: Path | None) -> Token | None:
    """Read the file of `http.tokenFile`. Raises ConfigError."""
    if path is None:
        return None
    try:
        text = read_private_file(path, _MAX_BYTES).decode("ascii").strip()
    except ConfigError as error:
        raise ConfigError([f"http.tokenFile: {fault}" for fault in error.faults]) from error
    except UnicodeDecodeError:
        # The cause would repeat what the file holds.
        raise ConfigError(
            [f"http.tokenFile: {path}: it holds other characters than ASCII"]
        ) from None
    if len(text) < MIN_CHARACTERS or any(character.isspace() for character in text):
        fault = (
            f'http.tokenFile: "{path}" must hold one token of {MIN_CHARACTERS} or more '
            "characters without spaces, such as `openssl rand -hex 32` prints"
        )
        raise ConfigError([fault])
    return Token(text)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
