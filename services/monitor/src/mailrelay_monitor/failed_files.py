"""Failed mail as files for people: `emails/failed/<queue id>-<recipient no.>.json`.

The queue is what counts; a file says what its record says, a moment later. One is written whole or
not at all and belongs to the relay's user alone. It goes when the mail was delivered or removed,
and never because a record is missing. Content is in it or beside it (`failed_content`); a file that
was written without, because the disk is nearly full, is written anew when there is room.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge

from mailrelay.emails import FREE_FLOOR_BYTES
from mailrelay.mail.job import FailedRecord
from mailrelay.queue.bodies import BodyStore, BodyUnreadableError
from mailrelay.queue.errors import QueueError
from mailrelay.queue.failed import FailedStore
from mailrelay.runtime.logging import Logger
from mailrelay.runtime.steps import passed
from mailrelay_monitor import failed_index
from mailrelay_monitor.admin_database import AdminDatabase, AdminUnwritableError
from mailrelay_monitor.failed_content import FailedContent, ShownContent, open_private, scratch
from mailrelay_monitor.failed_row import DONE, FILED, WITHOUT_CONTENT, FailedRow

_AT_ONCE = 16
_RETRY_SECONDS = 5.0
_LOOK_SECONDS = 30.0  # should a wake be missed
_TRIES = 3  # of content that cannot be read while the queue is there
_ROOM_SECONDS = 30.0  # how often it is looked whether there is room for what was left out
_TELL_SECONDS = 60.0  # how often it is told that there is not, at most
_PRIVATE_FOLDER = 0o700
_SHOWN_FIELDS = ("From", "Subject", "Message-ID", "Date")


class FileMetrics:
    """How well the files keep up."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.written = Counter(
            "mailrelay_failed_files_written", "Files of failed mail written.", registry=registry
        )
        self.fault = Gauge(
            "mailrelay_failed_files_up",
            "1 while the files of failed mail are written, 0 when that fails (the log says why).",
            registry=registry,
        )
        self.without_content = Gauge(
            "mailrelay_failed_files_without_content",
            "Files of failed mail that lack their content because the disk is nearly full.",
            registry=registry,
        )


class FailedFiles:
    """Keeps the folder as the failed store is."""

    def __init__(
        self,
        folder: Path,
        store: FailedStore,
        bodies: BodyStore,
        database: AdminDatabase,
        *,
        log: Logger,
        metrics: FileMetrics,
    ) -> None:
        self._folder = folder
        self._store = store
        self._content = FailedContent(folder, bodies)
        self._database = database
        self._log = log
        self._metrics = metrics
        self._fault = ""
        self._room_at = 0.0
        self._told_at = -_TELL_SECONDS
        # Nothing is written of a record while it is removed, or the file would outlive it.
        self._busy = asyncio.Lock()
        self._unreadable: dict[tuple[str, int], int] = {}

    def path(self, submission: str, recipient: int) -> Path:
        """Return where a record's file is."""
        return self._folder / f"{submission}-{recipient}.json"

    async def run(self, changed: asyncio.Event) -> None:
        """Write and remove files until cancelled; `changed` says that there is something to do."""
        await self._clear_scratch()
        while True:
            changed.clear()
            pause = _LOOK_SECONDS
            try:
                await self._look_for_room_when_due()
                while await self.turn():
                    pass
            except (QueueError, AdminUnwritableError, OSError) as error:
                self._fail(str(error))
                pause = _RETRY_SECONDS
            else:
                self._fail("")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await changed.wait()

    async def turn(self) -> int:
        """Bring some files up to date; return how many.

        Raises QueueError, AdminUnwritableError, OSError.
        """
        rows = await self._database.run(lambda db: failed_index.unfiled(db, _AT_ONCE))
        for row in rows:
            if row.removing == DONE:
                await self.remove(row)
                await self._forget(row)
            else:
                async with self._busy:
                    if await self._is_wanted(row):
                        await self._write_row(row)
        return len(rows)

    async def _look_for_room_when_due(self) -> None:
        now = asyncio.get_running_loop().time()
        if now >= self._room_at:
            self._room_at = now + _ROOM_SECONDS
            await self.look_for_room()

    async def look_for_room(self) -> None:
        """Have files written anew that lack their content and for which there is room by now.

        Raises AdminUnwritableError, OSError.
        """
        lacking = await self._database.run(failed_index.without_content)
        if lacking:
            await asyncio.to_thread(self._make_folder)
            room = await asyncio.to_thread(self._content.room_bytes)
            lacking -= await self._database.run(lambda db: failed_index.file_again(db, room))
        self._metrics.without_content.set(lacking)

    async def _is_wanted(self, row: FailedRow) -> bool:
        """Look again: a removal may have begun since the row was read."""
        now = await self._row(row)
        return now is not None and not now.removing

    async def _row(self, row: FailedRow) -> FailedRow | None:
        return await self._database.run(
            lambda database: failed_index.get(database, row.submission, row.recipient)
        )

    async def _forget(self, row: FailedRow) -> None:
        await self._database.run(lambda database: failed_index.delete(database, row))

    async def remove(self, row: FailedRow) -> None:
        """Remove a record's file, unless another record came into its place. Raises OSError."""
        path = self.path(row.submission, row.recipient)
        async with self._busy:
            now = await self._row(row)
            if now is None or now.sequence == row.sequence:
                await asyncio.to_thread(path.unlink, missing_ok=True)
                if not await self._database.run(lambda db: failed_index.has_others(db, row)):
                    await asyncio.to_thread(self._content.remove_unused, row.submission)
        passed("failed_file.removed")

    async def _write_row(self, row: FailedRow) -> None:
        last = await self._store.last(row.submission, row.recipient)
        if last is None or last.record is None:
            # Gone, or done: what follows the store says what that means.
            await self._database.run(
                lambda db: failed_index.set_filed(db, row, row.attempts, row.failed_at, FILED)
            )
            return
        written = last.record
        await asyncio.to_thread(self._make_folder)
        shown = await self._shown(row, written)
        described = {**describe(written, shown.head), **shown.fields}
        path = self.path(written.job.submission, written.recipient.number)
        await asyncio.to_thread(_write, described, path)
        passed("failed_file.written")
        self._metrics.written.inc()
        filed = WITHOUT_CONTENT if shown.is_left_out else FILED
        if shown.is_left_out:
            self._metrics.without_content.inc()
            self._tell_left_out(row)
        await self._database.run(
            lambda db: failed_index.set_filed(
                db, row, len(written.recipient.tries), written.failed_at, filed
            )
        )

    async def _shown(self, row: FailedRow, record: FailedRecord) -> ShownContent:
        """Return what there is to say of the content, also when it cannot be had."""
        key = (row.submission, row.recipient)
        try:
            shown = await self._content.show(record.job)
        except BodyUnreadableError as error:
            self._unreadable[key] = self._unreadable.get(key, 0) + 1
            if self._unreadable[key] < _TRIES:
                raise
            shown = ShownContent(fields={"content_error": str(error)})
        self._unreadable.pop(key, None)
        return shown

    def _tell_left_out(self, row: FailedRow) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._told_at >= _TELL_SECONDS:
            self._told_at = now
            self._log.error(
                "failed_files.content_left_out",
                id=row.submission,
                folder=str(self._folder),
                reason="the disk is nearly full",
                free_floor_bytes=FREE_FLOOR_BYTES,
            )

    def _make_folder(self) -> None:
        self._folder.mkdir(mode=_PRIVATE_FOLDER, parents=True, exist_ok=True)

    async def _clear_scratch(self) -> None:
        """Remove what a killed monitor left half written, and content that no file names."""

        def clear() -> None:
            with contextlib.suppress(OSError):
                for path in self._folder.glob(".*.new"):
                    path.unlink(missing_ok=True)
                self._content.remove_all_unused()

        await asyncio.to_thread(clear)

    def _fail(self, fault: str) -> None:
        if fault and fault != self._fault:
            self._log.error("failed_files.not_written", folder=str(self._folder), reason=fault)
        self._fault = fault
        self._metrics.fault.set(0 if fault else 1)


def describe(record: FailedRecord, head: bytes = b"") -> dict[str, Any]:
    """Return what people may know of a failed record, but for its content."""
    job, recipient = record.job, record.recipient
    described: dict[str, Any] = {
        "id": job.submission,
        "recipient_number": recipient.number,
        "recipient": recipient.address,
        "sender": job.reverse_path,
        "disposition": record.disposition.value,
        "accepted_at": rfc3339(job.accepted_at),
        "failed_at": rfc3339(record.failed_at),
        "batch": job.batch,
        "batches": job.batches,
        "total_recipients": job.total_recipients,
        "size_bytes": job.size_bytes,
        "smtputf8": job.smtputf8,
        "body_8bitmime": job.body_8bitmime,
        "traceparent": job.traceparent,
        "tries": [
            {
                "attempt": one.attempt,
                "at": rfc3339(one.at),
                "next_hop": one.next_hop,
                "code": one.reply.code,
                "enhanced_code": one.reply.enhanced,
                "text": one.reply.text,
            }
            for one in recipient.tries
        ],
    }
    if job.release is not None:
        described["released_at"] = rfc3339(job.release.at)
        described["released_to"] = job.release.next_hop
    if head:
        described["headers"] = _fields(head)
    return described


def rfc3339(at: float) -> str:
    """Write a time in UTC, to the millisecond."""
    text = datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


def _fields(head: bytes) -> dict[str, str]:
    """Return the first of each field that people look for, unfolded and as found otherwise."""
    found: dict[str, str] = {}
    wanted = {name.lower().encode(): name for name in _SHOWN_FIELDS}
    section = head.partition(b"\r\n\r\n")[0]
    for line in section.replace(b"\r\n ", b" ").replace(b"\r\n\t", b" ").split(b"\r\n"):
        name, colon, value = line.partition(b":")
        key = wanted.get(name.strip().lower())
        if colon and key is not None and key not in found:
            found[key] = value.strip().decode("utf-8", "replace")
    return found


def _write(described: dict[str, Any], path: Path) -> None:
    """Write a file, whole or not at all."""
    new = scratch(path)
    text = json.dumps(described, ensure_ascii=False, indent=2)
    try:
        with open_private(new) as out:
            out.write(text.encode("utf-8", "replace") + b"\n")
            out.flush()
            os.fdatasync(out.fileno())
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)
