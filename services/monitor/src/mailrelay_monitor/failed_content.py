"""The content of failed mail, for the files of its recipients (`failed_files`).

Small content stands in each file. Larger content lies beside them once a submission, however many
of its recipients failed, as `<queue id>.eml`: written with the first file that names it, gone with
the last. Both only while enough of the disk is free, for what is left the queue needs more, and it
has the content. Large content is never whole in memory.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from mailrelay.emails import CONTENT_SUFFIX, FREE_FLOOR_BYTES
from mailrelay.mail.header import MAX_HEADER_BYTES
from mailrelay.mail.job import Job
from mailrelay.queue.bodies import BodyStore
from mailrelay_monitor.held_content import message_pieces

INLINE_BYTES = 64 * 1024  # of content as it is stored; as much as a record itself may carry
_PRIVATE_FILE = 0o600


@dataclass(frozen=True, slots=True)
class ShownContent:
    """What a file says of the content, and the content's beginning."""

    head: bytes = b""
    fields: dict[str, Any] = field(default_factory=dict)
    is_left_out: bool = False


class FailedContent:
    """Puts content into the folder, and takes it away. One caller at a time."""

    def __init__(self, folder: Path, bodies: BodyStore) -> None:
        self._folder = folder
        self._bodies = bodies

    def path(self, submission: str) -> Path:
        """Return where a submission's content lies, when it is large."""
        return self._folder / f"{submission}{CONTENT_SUFFIX}"

    def room_bytes(self) -> int:
        """Return how much may be written before the disk is too full for it. Raises OSError."""
        return max(0, shutil.disk_usage(self._folder).free - FREE_FLOOR_BYTES)

    async def show(self, job: Job) -> ShownContent:
        """Return what the file of a recipient says, and write what lies beside it.

        Raises BodyUnreadableError, QueueError, OSError.
        """
        size = job.body.size_bytes if job.body is not None else len(job.content)
        path = self.path(job.submission)
        pieces = message_pieces(self._bodies, job)
        if size > INLINE_BYTES and await asyncio.to_thread(path.exists):
            head = await asyncio.to_thread(_head_of, path)
            return ShownContent(head, {"content_file": path.name})
        if size >= await asyncio.to_thread(self.room_bytes):
            head = (await anext(pieces, b""))[:MAX_HEADER_BYTES]
            why = (
                f"with it less than {FREE_FLOOR_BYTES // 1024**2} MB of the disk would be free; "
                "the queue has it, and it is written here when there is room"
            )
            return ShownContent(head, {"content_left_out": why}, is_left_out=True)
        if size <= INLINE_BYTES:
            content = b"".join([piece async for piece in pieces])
            return ShownContent(content[:MAX_HEADER_BYTES], _inline(content))
        return ShownContent(await _write(pieces, path), {"content_file": path.name})

    def remove_unused(self, submission: str) -> None:
        """Remove a submission's content unless a file names it. Raises OSError."""
        path = self.path(submission)
        if path.exists() and not any(
            each.name.startswith(f"{submission}-") for each in self._folder.iterdir()
        ):
            path.unlink(missing_ok=True)

    def remove_all_unused(self) -> None:
        """Remove all content that no file names. Raises OSError."""
        with contextlib.suppress(FileNotFoundError):
            files = list(self._folder.iterdir())
            named = {file.name.partition("-")[0] for file in files if file.suffix == ".json"}
            for file in files:
                if file.suffix == CONTENT_SUFFIX and file.stem not in named:
                    file.unlink(missing_ok=True)


def open_private(path: Path) -> IO[bytes]:
    """Make a file anew that is its owner's alone. Raises OSError."""
    path.unlink(missing_ok=True)
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _PRIVATE_FILE), "wb")


def scratch(path: Path) -> Path:
    """Return under which name a file is written."""
    return path.with_name(f".{path.name}.new")


def _inline(content: bytes) -> dict[str, Any]:
    """Return the field that has the content: as it is when it is UTF-8."""
    try:
        return {"content": content.decode("utf-8")}
    except UnicodeDecodeError:
        return {"content_base64": base64.b64encode(content).decode("ascii")}


async def _write(pieces: AsyncIterator[bytes], path: Path) -> bytes:
    """Write the message, whole or not at all; return its beginning."""
    new, head = scratch(path), b""
    try:
        out = await asyncio.to_thread(open_private, new)
        try:
            async for piece in pieces:
                if len(head) < MAX_HEADER_BYTES:
                    head = (head + piece)[:MAX_HEADER_BYTES]
                await asyncio.to_thread(out.write, piece)
            await asyncio.to_thread(_sync, out)
        finally:
            await asyncio.to_thread(out.close)
        await asyncio.to_thread(new.replace, path)
    finally:
        await asyncio.to_thread(new.unlink, missing_ok=True)
    return head


def _sync(out: IO[bytes]) -> None:
    out.flush()
    os.fdatasync(out.fileno())


def _head_of(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MAX_HEADER_BYTES)
