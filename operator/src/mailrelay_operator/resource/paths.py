"""Where the relay's pods see their files, and where they listen.

The configuration names these paths, and the pods mount what lies there: each Secret as a folder of
its own, so that a changed one is seen without a restart.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Final

CONFIG_FOLDER: Final = PurePosixPath("/etc/mailrelay")
CONFIG_FILE: Final = CONFIG_FOLDER / "config.json"

_SECRETS: Final = PurePosixPath("/secrets")
TLS_FOLDER: Final = _SECRETS / "tls"  # of ingress: tls.crt, tls.key
USERS_FOLDER: Final = _SECRETS / "users"  # of ingress: users
HTTP_FOLDER: Final = _SECRETS / "http"  # of the monitor: token
QUEUE_FOLDER: Final = _SECRETS / "queue"  # of each pod: its role's seed
_UPSTREAM_FOLDER: Final = _SECRETS / "upstream"  # of senders: a folder for each Secret

# Keys of Secrets, which are file names in the folders.
CERTIFICATE_KEY: Final = "tls.crt"
PRIVATE_KEY_KEY: Final = "tls.key"
AUTHORITIES_KEY: Final = "ca.crt"
USERS_KEY: Final = "users"
TOKEN_KEY: Final = "token"  # noqa: S105 — the name of a key
SEED_KEY: Final = "seed"
USERNAME_KEY: Final = "username"
PASSWORD_KEY: Final = "password"  # noqa: S105 — the name of a key

# Ports below 1024 need rights that the pods do not have.
SMTP_PORT: Final = 2525
SMTPS_PORT: Final = 2465
HTTP_PORT: Final = 8025
PROBE_PORT: Final = 8026


def upstream_folder(secret_name: str) -> PurePosixPath:
    """Return where senders see a Secret that a smart host names.

    An object's name is no path: it has no slash, and is neither `.` nor `..`.
    """
    return _UPSTREAM_FOLDER / secret_name
