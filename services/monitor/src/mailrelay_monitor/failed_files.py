"""Failed mail as files for people: `emails/failed/<queue id>-<recipient no.>.json`.

The queue is what counts; a file says what its record says, a moment later. One is written whole or
not at all and belongs to the relay's user alone. It goes when the mail was delivered or removed,
and never because a record is missing. Content is never whole in memory: it goes through a scratch
file once, to see whether it is text.
"""

from __future__ import annotations

import asyncio
import base64
import codecs
import contextlib
import json
import os
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from prometheus_client import CollectorRegistry, Counter, Gauge

from mailrelay.mail.header import MAX_HEADER_BYTES
from mailrelay.mail.job import FailedRecord
from mailrelay.queue.bodies import BodyStore, BodyUnreadableError
from mailrelay.queue.errors import QueueError
from mailrelay.queue.failed import FailedStore
from mailrelay.runtime.logging import Logger
from mailrelay.runtime.steps import passed
from mailrelay_monitor import failed_index
from mailrelay_monitor.admin_database import AdminDatabase, AdminUnwritableError
from mailrelay_monitor.failed_row import DONE, FailedRow
from mailrelay_monitor.held_content import message_pieces

_AT_ONCE = 16
_RETRY_SECONDS = 5.0
_LOOK_SECONDS = 30.0  # should a wake be missed
_TRIES = 3  # of content that cannot be read while the queue is there
_PIECE_BYTES = 96 * 1024  # a multiple of three, so that base64 goes on without padding
_PRIVATE_FILE = 0o600
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
        self._bodies = bodies
        self._database = database
        self._log = log
        self._metrics = metrics
        self._fault = ""
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
        passed("failed_file.removed")

    async def _write_row(self, row: FailedRow) -> None:
        last = await self._store.last(row.submission, row.recipient)
        if last is None or last.record is None:
            # Gone, or done: what follows the store says what that means.
            await self._database.run(
                lambda db: failed_index.set_filed(db, row, row.attempts, row.failed_at)
            )
            return
        key = (row.submission, row.recipient)
        try:
            await self._write(last.record)
        except BodyUnreadableError as error:
            self._unreadable[key] = self._unreadable.get(key, 0) + 1
            if self._unreadable[key] < _TRIES:
                raise
            await self._write(last.record, content_error=str(error))
        self._unreadable.pop(key, None)
        passed("failed_file.written")
        self._metrics.written.inc()
        written = last.record
        await self._database.run(
            lambda db: failed_index.set_filed(
                db, row, len(written.recipient.tries), written.failed_at
            )
        )

    async def _write(self, record: FailedRecord, content_error: str = "") -> None:
        path = self.path(record.job.submission, record.recipient.number)
        await asyncio.to_thread(self._make_folder)
        pieces = None if content_error else message_pieces(self._bodies, record.job)
        raw = path.with_name(f".{path.name}.raw")
        new = path.with_name(f".{path.name}.new")
        try:
            head, is_text = await _spool(pieces, raw)
            described = describe(record, head)
            if content_error:
                described["content_error"] = content_error
            await asyncio.to_thread(_compose, described, raw if pieces else None, new, is_text)
            await asyncio.to_thread(new.replace, path)
        finally:
            await asyncio.to_thread(_unlink, raw, new)

    def _make_folder(self) -> None:
        self._folder.mkdir(mode=_PRIVATE_FOLDER, parents=True, exist_ok=True)

    async def _clear_scratch(self) -> None:
        """Remove what a killed monitor left half written."""

        def clear() -> None:
            with contextlib.suppress(OSError):
                _unlink(*self._folder.glob(".*.raw"), *self._folder.glob(".*.new"))

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


async def _spool(pieces: AsyncIterator[bytes] | None, raw: Path) -> tuple[bytes, bool]:
    """Write the message to a scratch file; return its beginning, and whether it is UTF-8."""
    if pieces is None:
        return b"", True
    decoder, is_text, head = codecs.getincrementaldecoder("utf-8")(), True, b""
    scratch = await asyncio.to_thread(_open_private, raw)
    try:
        async for piece in pieces:
            if len(head) < MAX_HEADER_BYTES:
                head = (head + piece)[:MAX_HEADER_BYTES]
            is_text = is_text and _decodes(decoder, piece, final=False)
            await asyncio.to_thread(scratch.write, piece)
    finally:
        await asyncio.to_thread(scratch.close)
    return head, is_text and _decodes(decoder, b"", final=True)


def _decodes(decoder: codecs.IncrementalDecoder, piece: bytes, *, final: bool) -> bool:
    try:
        decoder.decode(piece, final)
    except UnicodeDecodeError:
        return False
    return True


def _compose(
    described: dict[str, Any],
    raw: Path | None,
    new: Path,
    is_text: bool,  # noqa: FBT001 — a plain yes or no
) -> None:
    """Write the file: what is described, then the content, a piece at a time."""
    with _open_private(new) as out:
        text = json.dumps(described, ensure_ascii=False, indent=2)
        if raw is None:
            out.write(text.encode("utf-8", "replace") + b"\n")
        else:
            out.write(text[: -len("\n}")].encode("utf-8", "replace") + b",\n")
            with raw.open("rb") as message:
                write = _write_text if is_text else _write_base64
                write(message, out)
            out.write(b'"\n}\n')
        out.flush()
        os.fdatasync(out.fileno())


def _write_text(message: IO[bytes], out: IO[bytes]) -> None:
    out.write(b'  "content": "')
    decoder = codecs.getincrementaldecoder("utf-8")()
    pieces: Callable[[], bytes] = lambda: message.read(_PIECE_BYTES)  # noqa: E731 — one of two of a shape
    for piece in iter(pieces, b""):
        out.write(json.dumps(decoder.decode(piece), ensure_ascii=False)[1:-1].encode())


def _write_base64(message: IO[bytes], out: IO[bytes]) -> None:
    out.write(b'  "content_base64": "')
    pieces: Callable[[], bytes] = lambda: message.read(_PIECE_BYTES)  # noqa: E731 — one of two of a shape
    for piece in iter(pieces, b""):
        out.write(base64.b64encode(piece))


def _open_private(path: Path) -> IO[bytes]:
    path.unlink(missing_ok=True)
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _PRIVATE_FILE), "wb")


def _unlink(*paths: Path) -> None:
    for path in paths:
        path.unlink(missing_ok=True)
