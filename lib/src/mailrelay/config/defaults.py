"""The one table of defaults that differ from the model's, by where a relay runs.

Applied below file, environment and command line, above the model's own. Each difference has its
reason here; docs/decisions/0005 and 0023 say how they came about.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, Final

CONTAINER_VARIABLE: Final = "MAILRELAY_CONTAINER"  # the images set it to 1; nobody types it

# Read without being named when it is there, or anything by that name (the guide's volume).
CONFIG_FILE: Final = PurePosixPath("/app/config.json")

# In the images' data volume. `mailrelay run` makes both files there when they are missing.
SECRETS_FOLDER: Final = PurePosixPath("/app/data/secrets")
USERS_FILE: Final = SECRETS_FOLDER / "users"
TOKEN_FILE: Final = SECRETS_FOLDER / "http-token"

# Where a container's own host, its neighbours and its own loopback come from.
_PRIVATE_NETWORKS: Final = (
    "127.0.0.0/8",
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "::1/128",
    "fc00::/7",
)


@dataclass(frozen=True, slots=True)
class Differing:
    """The defaults of one place."""

    name: str  # as `mailrelay config check` shows it
    tree: Mapping[str, Any]
    # A default steps back when one of these options is set: it would contradict it.
    steps_back: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


# `mailrelay run` without a configuration: safe to start anywhere, useful at once, nothing leaves
# the machine.
DEVELOPMENT: Final = Differing(
    "development defaults",
    {
        "smtpHost": "localhost",
        "smtpPort": 2525,
        "security": {"requireAuth": False, "logAllEmails": False},
        "capture": {"maxMessages": 1000, "whenFull": "dropOldest"},
    },
)

# In a container, with a configuration or without. An address tells nothing of a client there:
# the host's own programs and strangers both come from the engine's gateway, and loopback may be a
# sidecar that hands strangers on. So nobody has rights by an address, and AUTH decides.
CONTAINER: Final = Differing(
    "container defaults",
    {
        "smtpHost": "0.0.0.0",  # noqa: S104 — loopback reaches nobody there; `ports` say who may
        "smtpPort": 2525,  # no port below 1024 without rights; published as what one likes
        "security": {
            "trustLoopback": False,
            "allowLocalOnly": False,
            "usersFile": str(USERS_FILE),
        },
        "tls": {"selfSigned": True},  # a password is taken under TLS only
        "http": {
            "listen": ("0.0.0.0",),  # noqa: S104 — as above
            # Only for what names nobody; all else needs the token.
            "allowedNetworks": _PRIVATE_NETWORKS,
            "tokenFile": str(TOKEN_FILE),
        },
    },
    {
        "security.allowLocalOnly": ("security.allowedNetworks",),
        "security.usersFile": ("defaultUsername",),
        "tls.selfSigned": ("tls.certFile", "tls.keyFile"),
    },
)


def is_container(environ: Mapping[str, str]) -> bool:
    """Tell whether an image of ours says that this is a container. Raises ValueError."""
    said = environ.get(CONTAINER_VARIABLE, "")
    if said not in {"", "0", "1"}:
        raise ValueError(f"{CONTAINER_VARIABLE}: must be 1 in a container, or 0, is {said!r}")
    return said == "1"


def differing(*, has_file: bool, in_container: bool) -> Differing | None:
    """Return the defaults of a place that differ, if any do."""
    if in_container:
        return CONTAINER
    return None if has_file else DEVELOPMENT
