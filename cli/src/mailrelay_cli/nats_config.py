"""What nats-server is started with: generated, loopback only, each role with its own rights.

New key pairs at each run: nats-server gets the public keys, the seeds lie in files of their own
that only this user may read. Written as JSON, which nats-server's format contains.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nkeys

from mailrelay.queue.names import Names
from mailrelay.queue.rights import Role, rights_of
from mailrelay_cli.data_folder import DataFolder, write_private
from mailrelay_cli.errors import BadInputError

MINIMUM_STORE_BYTES = 32 * 1024 * 1024  # below, a share of it cannot hold one large record
_SHARE_OF_FREE = 0.9  # the rest is for logs, the monitor's index and everybody else
_MEMORY_STORE_BYTES = 64 * 1024 * 1024
_MAX_PAYLOAD_BYTES = 8 * 1024 * 1024  # above, nats-server warns
_SEED_OCTETS = 32
_LOG_BYTES = 10 * 1024 * 1024
_LOG_FILES = 5
_STORE_NOTE = "store.json"
_DECIDED = "max_file_store"
_RESERVED = "reserved"


@dataclass(frozen=True, slots=True)
class NatsServerPlan:
    """One run's nats-server."""

    port: int
    prefix: str
    store_bytes: int  # what the streams share
    reserved_bytes: int  # what they share now, from the last run; 0: nothing
    public_keys: Mapping[Role, str]
    host: str = "127.0.0.1"
    logs_to_file: bool = True  # otherwise to standard error


def make_credentials(folder: DataFolder) -> dict[Role, str]:
    """Make a new key pair for every role, write the seeds, return the public keys."""
    public_keys = {}
    for role in Role:
        seed = new_seed()
        public_keys[role] = public_key_of(seed)
        write_private(folder.seed_file(role.value), seed + "\n")
    return public_keys


def new_seed() -> str:
    """Return the seed of a new key pair."""
    seed: bytes = nkeys.encode_seed(os.urandom(_SEED_OCTETS), nkeys.PREFIX_BYTE_USER)
    return seed.decode()


def public_key_of(seed: str) -> str:
    """Return the public key that belongs to a seed. Raises ValueError when it is none."""
    try:
        pair = nkeys.from_seed(bytearray(seed.encode()))
        public_key: bytes = pair.public_key
    except Exception as error:  # the library has several
        raise ValueError("no NKey seed") from error
    pair.wipe()
    return public_key.decode()


def nats_config(plan: NatsServerPlan, folder: DataFolder) -> dict[str, Any]:
    """Return the configuration of a nats-server in a relay's data folder."""
    return _server_config(plan, folder.nats) | (_log_file(folder) if plan.logs_to_file else {})


def server_config_text(plan: NatsServerPlan, store_dir: Path) -> str:
    """Return the text of the configuration of a nats-server that logs to standard error."""
    return json.dumps(_server_config(plan, store_dir), indent=2, ensure_ascii=False) + "\n"


def _server_config(plan: NatsServerPlan, store_dir: Path) -> dict[str, Any]:
    names = Names(plan.prefix)
    return {
        "server_name": plan.prefix,
        "listen": f"{plan.host}:{plan.port}",
        "jetstream": {
            "store_dir": str(store_dir),
            # A server started with less than its streams have reserved lets nobody make them
            # smaller (10047); the streams' own limits hold the smaller size once they are changed.
            "max_file_store": max(plan.store_bytes, plan.reserved_bytes),
            "max_memory_store": _MEMORY_STORE_BYTES,
            "sync_interval": "always",  # the default acks first and syncs two minutes later
        },
        "max_payload": _MAX_PAYLOAD_BYTES,
        "write_deadline": "10s",
        "authorization": {
            "timeout": 5,  # seconds; the default of 2 is short for a machine under load
            "users": _users(plan, names, of_system_account=False),
        },
        "accounts": {"$SYS": {"users": _users(plan, names, of_system_account=True)}},
    }


def _log_file(folder: DataFolder) -> dict[str, Any]:
    return {
        "log_file": str(folder.nats_log_file),
        "logfile_size_limit": _LOG_BYTES,
        "logfile_max_num": _LOG_FILES,
    }


def write_nats_config(plan: NatsServerPlan, folder: DataFolder) -> Path:
    """Write the configuration and return where."""
    path = folder.nats / "nats.conf"
    write_private(path, json.dumps(nats_config(plan, folder), indent=2, ensure_ascii=False) + "\n")
    return path


def store_bytes(folder: DataFolder, configured: int) -> int:
    """Return what the queue may use on disk. Raises BadInputError.

    Without a configured size: most of what is free and what it already holds, decided once and
    kept, so that streams made to fit go on fitting.
    """
    if configured:
        if configured < MINIMUM_STORE_BYTES:
            raise BadInputError(
                f"queue.storeBytes: must be 0 or at least {MINIMUM_STORE_BYTES}, is {configured}"
            )
        return configured
    kept = _read_store_note(folder).get(_DECIDED, 0)
    if kept:
        return kept
    held = sum(each.lstat().st_size for each in (folder.nats / "jetstream").rglob("*"))
    decided = int((shutil.disk_usage(folder.nats).free + held) * _SHARE_OF_FREE)
    if decided < MINIMUM_STORE_BYTES:
        raise BadInputError(
            f"data folder {folder.path}: too little space is free there; the queue needs "
            f"{MINIMUM_STORE_BYTES} bytes and could have {decided}"
        )
    _write_store_note(folder, _DECIDED, decided)
    return decided


def reserved_bytes(folder: DataFolder) -> int:
    """Return what the streams were last made to share; 0 when there are none yet."""
    return _read_store_note(folder).get(_RESERVED, 0)


def note_reserved(folder: DataFolder, size: int) -> None:
    """Note what the streams share from now on."""
    if reserved_bytes(folder) != size:
        _write_store_note(folder, _RESERVED, size)


def _read_store_note(folder: DataFolder) -> dict[str, int]:
    try:
        note = json.loads((folder.nats / _STORE_NOTE).read_text())
    except (OSError, ValueError):
        return {}
    if not isinstance(note, dict):
        return {}
    sizes = {key: note.get(key) for key in (_DECIDED, _RESERVED)}
    return {
        key: size
        for key, size in sizes.items()
        if isinstance(size, int) and size >= MINIMUM_STORE_BYTES
    }


def _write_store_note(folder: DataFolder, key: str, size: int) -> None:
    note = {"format": 1, **_read_store_note(folder), key: size}
    write_private(folder.nats / _STORE_NOTE, json.dumps(note) + "\n")


def _users(plan: NatsServerPlan, names: Names, *, of_system_account: bool) -> list[dict[str, Any]]:
    return [
        _user(role, plan.public_keys[role], names)
        for role in Role
        if role.is_of_system_account is of_system_account
    ]


def _user(role: Role, public_key: str, names: Names) -> dict[str, Any]:
    rights = rights_of(role, names)
    return {
        "nkey": public_key,
        "permissions": {
            "publish": {"allow": list(rights.publish)},
            "subscribe": {"allow": list(rights.subscribe)},
        },
    }
