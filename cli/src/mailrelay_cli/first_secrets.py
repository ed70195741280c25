"""The secrets that a relay in a container makes itself, once: a user for clients, a token for HTTP.

Only where the configuration leaves both to the container's defaults, and only what is missing:
a file that is there is somebody's, and is left as it is. People read the password and the token in
their files, whose paths are told; the relay itself keeps no more than the password's hash.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path

from mailrelay.config.defaults import CONTAINER, TOKEN_FILE, USERS_FILE
from mailrelay.config.load import Loaded
from mailrelay.config.users import Line, hash_password, write_lines
from mailrelay_cli.data_folder import make_data_folder, write_private
from mailrelay_cli.errors import BadInputError

USER = "mailrelay"
_BYTES = 24  # 192 bits, 32 characters: what a token needs at least
_PRIVATE_FOLDER = 0o700


@dataclass(frozen=True, slots=True)
class FirstSecrets:
    """Where they lie; None where the configuration names others."""

    password_file: Path | None
    token_file: Path | None


def ensure_secrets(loaded: Loaded, data_dir: Path) -> FirstSecrets:
    """Make what is missing. Raises BadInputError."""
    users = _ours(loaded, "security.usersFile", loaded.config.security.users_file)
    token = _ours(loaded, "http.tokenFile", loaded.config.http.token_file)
    if users is not None or token is not None:
        make_data_folder(data_dir)  # it has better words for a volume that cannot be used
    password = ensure_user(users) if users is not None else None
    if token is not None:
        ensure_token(token)
    return FirstSecrets(password, token)


def ensure_user(users: Path) -> Path:
    """Make the file of users with one in it, when there is none; where the password is.

    Raises BadInputError.
    """
    password_file = users.with_name("smtp-password")
    if not users.exists():
        password = secrets.token_urlsafe(_BYTES)
        try:
            _make_folder(users.parent)
            write_private(password_file, password + "\n")  # first: a hash alone is of no use
            write_lines(users, [Line(f"{USER}:{hash_password(password)}", USER)])
        except OSError as error:
            raise _cannot_make(users, error) from error
    return password_file


def ensure_token(path: Path) -> None:
    """Make a token when there is none. Raises BadInputError."""
    if not path.exists():
        try:
            _make_folder(path.parent)
            write_private(path, secrets.token_urlsafe(_BYTES) + "\n")
        except OSError as error:
            raise _cannot_make(path, error) from error


def first_password() -> str | None:
    """Return the password of `USER` that a relay in this container made; None when there is none.

    Raises OSError when it cannot be read.
    """
    path = Path(USERS_FILE).with_name("smtp-password")
    return path.read_text(encoding="ascii").strip() if path.exists() else None


def _ours(loaded: Loaded, key: str, path: Path | None) -> Path | None:
    by_default = path in {Path(USERS_FILE), Path(TOKEN_FILE)}
    return path if by_default and loaded.sources[key] == CONTAINER.name else None


def _make_folder(folder: Path) -> None:
    folder.mkdir(mode=_PRIVATE_FOLDER, parents=True, exist_ok=True)


def _cannot_make(path: Path, error: OSError) -> BadInputError:
    return BadInputError(f"{path} cannot be made: {error.strerror}: it belongs in a data volume")
