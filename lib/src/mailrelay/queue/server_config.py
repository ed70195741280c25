"""What a nats-server is configured with, wherever it runs: durable, and each role with its rights.

A mapping that is written as JSON, which nats-server's format contains. Who starts the server adds
what only it knows: logs on one machine, routes in a cluster.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mailrelay.queue.names import Names
from mailrelay.queue.rights import Role, rights_of

# Below, a share of the store cannot hold one large record.
MINIMUM_STORE_BYTES = 32 * 1024 * 1024
_MEMORY_STORE_BYTES = 64 * 1024 * 1024
_MAX_PAYLOAD_BYTES = 8 * 1024 * 1024  # above, nats-server warns
_AUTHORIZATION_SECONDS = 5  # the default of 2 is short for a machine under load


def server_config(
    names: Names,
    public_keys: Mapping[Role, Sequence[str]],
    *,
    listen: str,
    store_dir: str,
    max_file_store: int,
) -> dict[str, Any]:
    """Return the configuration of one nats-server.

    `public_keys` has the keys of each role that may connect; several while they are rotated.
    `listen` is host:port, `max_file_store` in bytes.
    """
    return {
        "listen": listen,
        "jetstream": {
            "store_dir": store_dir,
            "max_file_store": max_file_store,
            "max_memory_store": _MEMORY_STORE_BYTES,
            "sync_interval": "always",  # the default acks first and syncs two minutes later
        },
        "max_payload": _MAX_PAYLOAD_BYTES,
        "write_deadline": "10s",
        "authorization": {
            "timeout": _AUTHORIZATION_SECONDS,
            "users": _users(names, public_keys, of_system_account=False),
        },
        "accounts": {"$SYS": {"users": _users(names, public_keys, of_system_account=True)}},
    }


def _users(
    names: Names, public_keys: Mapping[Role, Sequence[str]], *, of_system_account: bool
) -> list[dict[str, Any]]:
    return [
        _user(names, role, public_key)
        for role in Role
        if role.is_of_system_account is of_system_account
        for public_key in public_keys.get(role, ())
    ]


def _user(names: Names, role: Role, public_key: str) -> dict[str, Any]:
    rights = rights_of(role, names)
    return {
        "nkey": public_key,
        "permissions": {
            "publish": {"allow": list(rights.publish)},
            "subscribe": {"allow": list(rights.subscribe)},
        },
    }
