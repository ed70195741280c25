"""What tools and tests may know of the running relay: `data/run/relay.json`.

Written whole or not at all, again after each restart of a process, and removed by an orderly stop.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from mailrelay_cli.data_folder import write_private


class RunFile(msgspec.Struct, forbid_unknown_fields=False):
    """The file's content."""

    pid: int  # the supervisor's
    started_at: float
    smtp: list[str]  # host:port, [host]:port
    http: str | None  # null: switched off
    nats: str
    credentials: str  # the folder of the roles' seeds
    upstream: str | None  # host:port; null: mail is captured
    probes: dict[str, str] = {}
    pids: dict[str, int] = {}
    smtps: list[str] = []  # as `smtp`, with TLS from the first octet
    is_ready: bool = False  # whether everything had been ready once
    prefix: str = "mailrelay"  # `queue.prefix`
    token_file: str | None = None  # `http.tokenFile`, for who may read it


def write_run_file(path: Path, running: RunFile) -> None:
    """Write the file."""
    write_private(path, msgspec.json.format(msgspec.json.encode(running)).decode() + "\n")


def read_run_file(path: Path) -> RunFile | None:
    """Read the file; None when there is none that can be read."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=RunFile)
    except (OSError, msgspec.MsgspecError):
        return None
