"""Watches the nats-server of this machine, which can be broken without ending.

A write that failed once leaves a stream that takes no more records, however much room there is
again. So the server is asked how it is; when it says that it is broken, and there is room, it is
started again (a restart is as safe as a crash), and not before: without room it cannot start.
Beside that, what a full disk has left behind in the streams is removed.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

from mailrelay.queue.connection import ConnectionSettings, QueueConnection, open_connection
from mailrelay.queue.errors import QueueError
from mailrelay.queue.orphans import remove_orphans
from mailrelay.queue.server_health import server_fault
from mailrelay.runtime.lifecycle import wait_first
from mailrelay.runtime.logging import Logger
from mailrelay_cli.errors import BadInputError

LOOK_SECONDS = 2.0
ORPHANS_SECONDS = 30.0
# Looks in a row: while it starts or stops it may say of a stream that it is not there.
_FAULTS_BELIEVED = 2
# What a restart needs to write, and some time before the disk is full again.
ROOM_BYTES = 32 * 1024 * 1024


def has_room(folder: Path) -> bool:
    """Whether a nats-server whose files are in `folder` can start."""
    return shutil.disk_usage(folder).free >= ROOM_BYTES


def check_room(folder: Path) -> None:
    """Raise BadInputError when there is no room."""
    if not has_room(folder):
        raise BadInputError(
            f"data folder {folder}: the disk is full; the queue needs {ROOM_BYTES} free bytes to "
            f"start, and there are {shutil.disk_usage(folder).free}"
        )


async def wait_room(folder: Path, tell: Callable[[str, str], None]) -> None:
    """Wait until there is room; `tell(text, event)` says that it is waited for."""
    if has_room(folder):
        return
    tell(f"nats: the disk is full; waiting for room in {folder}", "queue.disk_full")
    while not has_room(folder):  # noqa: ASYNC110 — nobody tells when there is
        await asyncio.sleep(LOOK_SECONDS)


class NatsWatch:
    """One watch, for as long as one process of nats-server lives."""

    def __init__(
        self,
        *,
        health: ConnectionSettings,
        admin: ConnectionSettings,
        folder: Path,
        tell: Callable[[str, str], None],
        log: Logger,
    ) -> None:
        """`folder` is where the server's files are; `tell(text, event)` is for people."""
        self._health = health
        self._admin = admin
        self._folder = folder
        self._tell = tell
        self._log = log
        self._fault = ""

    async def wait_broken(self) -> str:
        """Return why the server must be started again, as soon as that will help."""
        while True:
            try:
                await wait_first(
                    self._with_connection(self._health, self._look), self._keep_removing_orphans()
                )
            except Exception as error:  # noqa: BLE001 — a bug here must not end a relay that works
                self._log.error("nats.watch_failed", exc_info=error)
                await asyncio.sleep(LOOK_SECONDS)
            else:
                return self._fault

    async def _with_connection(
        self, settings: ConnectionSettings, use: Callable[[QueueConnection], Awaitable[None]]
    ) -> None:
        """Use a connection; one that cannot be had is tried again."""
        while True:
            try:
                connection = await open_connection(settings, self._log)
            except QueueError as error:
                self._log.warning("nats.not_asked", role=settings.role, reason=str(error))
                await asyncio.sleep(LOOK_SECONDS)
                continue
            try:
                return await use(connection)
            finally:
                await connection.close()

    async def _look(self, connection: QueueConnection) -> None:
        """Return once the server has said that it is broken, and there is room."""
        faults = 0
        was_told = False
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                self._fault = await server_fault(connection)
            except QueueError:
                continue  # it hangs, or is ending: that is not what is looked for here
            faults = faults + 1 if self._fault else 0
            if faults < _FAULTS_BELIEVED:
                continue
            if has_room(self._folder):
                return
            if not was_told:
                was_told = True
                self._tell(
                    f"nats: {self._fault}; no mail is taken until there is room in {self._folder}",
                    "queue.disk_full",
                )

    async def _keep_removing_orphans(self) -> None:
        async def remove(connection: QueueConnection) -> None:
            for name in await remove_orphans(connection):
                self._log.warning("queue.orphan_removed", record=name)

        while True:
            await asyncio.sleep(ORPHANS_SECONDS)
            try:
                await self._with_connection(self._admin, remove)
            except QueueError as error:
                self._log.warning("queue.orphans_not_looked_for", reason=str(error))
