"""What nats-server is started with: generated, loopback only, each role with its own rights.

New key pairs at each run: nats-server gets the public keys, the seeds lie in files of their own
that only this user may read. Written as JSON, which nats-server's format contains.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mailrelay.queue.names import Names
from mailrelay.queue.nkey import new_seed, public_key_of
from mailrelay.queue.rights import Role
from mailrelay.queue.server_config import MINIMUM_STORE_BYTES, server_config
from mailrelay_cli.data_folder import DataFolder, write_private
from mailrelay_cli.errors import BadInputError

_SHARE_OF_FREE = 0.9  # the rest is for logs, the monitor's index and everybody else
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


def nats_config(plan: NatsServerPlan, folder: DataFolder) -> dict[str, Any]:
    """Return the configuration of a nats-server in a relay's data folder."""
    return _server_config(plan, folder.nats) | (_log_file(folder) if plan.logs_to_file else {})


def server_config_text(plan: NatsServerPlan, store_dir: Path) -> str:
    """Return the text of the configuration of a nats-server that logs to standard error."""
    return json.dumps(_server_config(plan, store_dir), indent=2, ensure_ascii=False) + "\n"


def _server_config(plan: NatsServerPlan, store_dir: Path) -> dict[str, Any]:
    return {
        "server_name": plan.prefix,
        **server_config(
            Names(plan.prefix),
            {role: (key,) for role, key in plan.public_keys.items()},
            listen=f"{plan.host}:{plan.port}",
            store_dir=str(store_dir),
            # A server started with less than its streams have reserved lets nobody make them
            # smaller (10047); the streams' own limits hold the smaller size once they are changed.
            max_file_store=max(plan.store_bytes, plan.reserved_bytes),
        ),
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
