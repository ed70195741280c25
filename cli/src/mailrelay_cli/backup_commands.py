"""`mailrelay queue backup` and `mailrelay queue restore`.

They connect as the monitor, who may read everything, and as a sender, who may store what a restored
queue needs: nobody gets more rights for a back-up.
"""

import asyncio
import contextlib
import datetime as dt
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated

import typer

from mailrelay.queue.backup import Backup, back_up
from mailrelay.queue.backup_file import BackupError, BackupWriter, check_backup
from mailrelay.queue.connection import ConnectionSettings, QueueConnection, open_connection
from mailrelay.queue.errors import QueueError, QueueUnavailableError
from mailrelay.queue.names import Names
from mailrelay.queue.restore import NotEmptyError, Restore, RestoreBrokenError, restore
from mailrelay.queue.rights import Role
from mailrelay.runtime.lifecycle import EXIT_FAILED, EXIT_OK
from mailrelay.runtime.logging import configure_logging
from mailrelay_cli.console import complain, say
from mailrelay_cli.errors import BadInputError

_ENDING = ".mailrelay"
_NAME_LENGTH = len("20261126T103000123Z" + _ENDING)  # behind the prefix
_SLOT = "slot"  # beside the seeds of an operator's Secret: which of them is in use

Nats = Annotated[
    str,
    typer.Option(
        help="Where NATS is: nats://host:port, of a cluster several with commas.",
        envvar="MAILRELAY_NATS_URL",
    ),
]
Seed = Annotated[
    Path,
    typer.Option(
        help="The role's NKey seed, or the folder of its whole Secret.",
        envvar="MAILRELAY_NATS_SEED_FILE",
    ),
]
Timeout = Annotated[float, typer.Option(min=0.1, help="Seconds to wait for NATS at the start.")]
Prefix = Annotated[
    str, typer.Option(help="First part of all names at NATS.", envvar="QUEUE_PREFIX")
]


def backup_command(
    nats: Nats,
    seed_file: Seed,
    folder: Annotated[Path, typer.Option(help="Where the file is to lie; its name is the time.")],
    keep: Annotated[
        int | None, typer.Option(min=1, help="Remove all but so many of the newest back-ups there.")
    ] = None,
    prefix: Prefix = "mailrelay",
    timeout: Timeout = 30.0,
) -> int:
    """Write all mail that is queued, failed or captured into a file, with the monitor's key."""
    settings = _settings(nats, Role.MONITOR, seed_file, prefix)
    if not folder.is_dir():
        raise BadInputError(f"--folder: {folder} is not a folder")
    at = dt.datetime.now(dt.UTC)
    path = folder / f"{prefix}-{at:%Y%m%dT%H%M%S}{at.microsecond // 1000:03}Z{_ENDING}"
    try:
        done = asyncio.run(_back_up(settings, path, timeout))
    except (QueueError, BackupError) as error:
        complain(f"nothing was backed up: {error}")
        return EXIT_FAILED
    parts = ", ".join(f"{count} {kind.value}" for kind, count in done.records.items())
    say(f"{path}: {parts}, {path.stat().st_size} octets")
    if done.without_content:
        complain(f"{done.without_content} records have lost their content in the queue before")
    for old in _found(folder, prefix)[: -keep if keep else 0]:
        old.unlink()
        say(f"{old}: removed, older than the newest {keep}")
    return EXIT_OK


def restore_command(
    nats: Nats,
    seed_file: Seed,
    path: Annotated[
        Path, typer.Argument(help="A file that `backup` wrote, or a folder: its newest.")
    ],
    add: Annotated[  # noqa: FBT002 — a flag
        bool, typer.Option("--add", help="Although the queue holds mail already.")
    ] = False,
    skip: Annotated[
        int, typer.Option(min=0, help="Records of the file that are in the queue already.")
    ] = 0,
    prefix: Prefix = "mailrelay",
    timeout: Timeout = 30.0,
) -> int:
    """Put what a back-up has into a queue, with a sender's key; senders begin at once."""
    settings = _settings(nats, Role.SENDER, seed_file, prefix)
    if path.is_dir():
        found = _found(path, prefix) or _found(path, "*")
        if not found:
            raise BadInputError(f"{path} has no file that ends with {_ENDING}")
        path = found[-1]
    try:
        what = Restore(path, check_backup(path), skip, add)
        asyncio.run(_restore(settings, what, timeout))
    except BackupError as error:
        raise BadInputError(str(error)) from error
    except NotEmptyError as error:
        complain(
            f"{error}: restored once more, mail would be sent twice. Nothing was changed; --add "
            "restores all the same"
        )
        return EXIT_FAILED
    except RestoreBrokenError as error:
        complain(
            f"{path}: {error.restored} records are restored, then: {error}. To go on: the same "
            f"command with --skip {error.restored}"
        )
        return EXIT_FAILED
    except QueueError as error:
        complain(f"nothing was restored: {error}")
        return EXIT_FAILED
    say(f"{path}: all {what.checked.records} records restored")
    return EXIT_OK


async def _back_up(settings: ConnectionSettings, path: Path, seconds: float) -> Backup:
    async with _connected(settings, seconds) as connection:
        with BackupWriter(path) as writer:
            return await back_up(connection, writer)


async def _restore(settings: ConnectionSettings, what: Restore, seconds: float) -> None:
    async with _connected(settings, seconds) as connection:
        await restore(
            connection, what, time.time, lambda done, of: say(f"{done} of {of} records restored")
        )


@contextlib.asynccontextmanager
async def _connected(
    settings: ConnectionSettings, seconds: float
) -> AsyncIterator[QueueConnection]:
    """Connect within so many seconds. Raises QueueError."""
    try:
        async with asyncio.timeout(seconds):
            connection = await open_connection(settings, configure_logging("queue", "text"))
    except TimeoutError as error:
        msg = f"the queue at {settings.url} did not answer within {seconds:g} s"
        raise QueueUnavailableError(msg) from error
    try:
        yield connection
    finally:
        await connection.close()


def _settings(nats: str, role: Role, seed: Path, prefix: str) -> ConnectionSettings:
    """Look at what was asked for. Raises BadInputError."""
    try:
        names = Names(prefix)
    except ValueError as error:
        raise BadInputError(f"--prefix: {error}") from error
    slot = seed / _SLOT
    if slot.is_file():
        seed /= f"seed-{slot.read_text(encoding='ascii').strip()}"
    elif seed.is_dir():
        seed /= "seed"
    if not seed.is_file():
        raise BadInputError(f"--seed-file: {seed} is not a file")
    return ConnectionSettings(nats, role.value, seed, names.prefix)


def _found(folder: Path, prefix: str) -> list[Path]:
    """Return the back-ups of a folder, the oldest first."""
    times = "[0-9]" * 8 + "T" + "[0-9]" * 9 + "Z"
    return sorted(
        folder.glob(f"{prefix}-{times}{_ENDING}"), key=lambda path: path.name[-_NAME_LENGTH:]
    )
