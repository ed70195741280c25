"""Keep the content of accepted mail as files (`security.logAllEmails`), beside the mail's way.

A thread of its own writes; what it has not written yet is bounded by `MAX_HELD_BYTES` and beyond
that goes unkept, is counted, and told in the log. Nothing here makes a client wait or refuses mail,
and nothing is synced to disk: the queue keeps mail safe, these files are for people. The file has
its name only once the mail is safe in the queue and all of it is written.
"""

from __future__ import annotations

import contextlib
import os
import queue
import shutil
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import msgspec
from prometheus_client import Counter

from mailrelay.config.model import RelayConfig
from mailrelay.emails import FREE_FLOOR_BYTES, KeptFiles, emails_folder, kept_files
from mailrelay.mail.wire_form import DotUnstuffer
from mailrelay.runtime.logging import Logger
from mailrelay_ingress.accept import Submission

MAX_HELD_BYTES = 32 * 1024 * 1024
_LOOK_SECONDS = 1.0  # how often the free space is looked at
_TELL_SECONDS = 60.0  # how often a failure is told, at most
_PRIVATE_FILE = 0o600
_PRIVATE_FOLDER = 0o700

_kept = Counter("mailrelay_emails_kept_total", "Messages whose content was kept as a file.")
_not_kept = Counter(
    "mailrelay_emails_not_kept_total",
    "Accepted messages whose content was not kept though it should have been.",
    # `slow`: the disk did not keep up; `space`: less than 256 MB free; `error`: see the log
    ["reason"],
)


class ContentKeeper:
    """Writes what is handed to it. Costs nothing while it is off."""

    def __init__(self, data_dir: Path, log: Logger, *, is_on: bool) -> None:
        self.is_on = is_on
        self._data_dir = data_dir
        self._log = log
        self._work: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._held_bytes = 0
        self._thread: threading.Thread | None = None
        self._looked_at = -_LOOK_SECONDS
        self._has_space = True
        self._told_at = -_TELL_SECONDS

    def use(self, config: RelayConfig) -> None:
        """Keep what begins from now on, or stop doing so."""
        self.is_on = config.security.log_all_emails

    def begin(self, submission: Submission) -> Copy | None:
        """Begin to keep a submission's content; None when nothing is to be kept."""
        if not self.is_on:
            return None
        if self._thread is None:
            self._thread = threading.Thread(target=self._write_all, name="emails", daemon=True)
            self._thread.start()
        return Copy(self, submission)

    def close(self, limit_seconds: float) -> None:
        """Write what was handed over, as far as there is time."""
        if self._thread is not None:
            self._work.put(None)
            self._thread.join(limit_seconds)
            self._thread = None

    def take(self, work: _Work) -> bool:
        """Hand something to the thread; False when there is no room for it."""
        size = len(work.piece)
        with self._lock:
            if size and self._held_bytes + size > MAX_HELD_BYTES:
                return False
            self._held_bytes += size
        self._work.put(work)
        return True

    # The thread.
    def _write_all(self) -> None:
        while True:
            work = self._work.get()
            if work is None:
                return
            try:
                if work.copy.lost:
                    self._remove(work.copy)
                elif work.piece or work.end:
                    self._write(work)
            except Exception as error:  # noqa: BLE001 — the thread goes on with the next message
                self._lose(work.copy, "error", str(error))
            finally:
                with self._lock:
                    self._held_bytes -= len(work.piece)

    def _write(self, work: _Work) -> None:
        copy = work.copy
        if work.end is _End.DROP:
            self._remove(copy)
            return
        if not self._is_space():
            self._lose(copy, "space", f"less than {FREE_FLOOR_BYTES} bytes are free")
            return
        if copy.file is None:
            copy.file = self._begin(copy.submission)
        copy.file.write(work.piece)
        if work.end is _End.KEEP:
            copy.file.name_it(msgspec.json.encode(envelope(copy.submission)))
            copy.file = None
            _kept.inc()

    def _begin(self, submission: Submission) -> _File:
        files = kept_files(self._data_dir, submission.queue_id)
        try:
            return _File(files)
        except FileNotFoundError:  # the day's first, or the day was thinned out
            emails_folder(self._data_dir).mkdir(_PRIVATE_FOLDER, parents=True, exist_ok=True)
            files.content.parent.mkdir(_PRIVATE_FOLDER, exist_ok=True)
            return _File(files)

    def _remove(self, copy: Copy) -> None:
        if copy.file is not None:
            copy.file.remove()
            copy.file = None

    def _is_space(self) -> bool:
        now = time.monotonic()
        if now - self._looked_at >= _LOOK_SECONDS:
            self._looked_at = now
            self._data_dir.mkdir(_PRIVATE_FOLDER, parents=True, exist_ok=True)
            free = shutil.disk_usage(self._data_dir).free
            self._has_space = free >= FREE_FLOOR_BYTES
        return self._has_space

    def _lose(self, copy: Copy, reason: str, words: str) -> None:
        with contextlib.suppress(OSError):
            self._remove(copy)
        self.lose(copy, reason, words)

    def lose(self, copy: Copy, reason: str, words: str) -> None:
        """Count a message that is not kept, and say so now and then."""
        copy.lost = True
        _not_kept.labels(reason).inc()
        now = time.monotonic()
        if now - self._told_at >= _TELL_SECONDS:
            self._told_at = now
            self._log.error(
                "emails.not_kept", id=copy.submission.queue_id, reason=reason, error=words
            )


class Copy:
    """One message's content on its way to a file. Made by `ContentKeeper.begin`."""

    def __init__(self, keeper: ContentKeeper, submission: Submission) -> None:
        self.submission = submission
        self.file: _File | None = None  # the thread's
        self.lost = False
        self._keeper = keeper
        self._ended = False

    def add(self, piece: bytes) -> None:
        """Take the next octets, in wire form."""
        if not self.lost and not self._keeper.take(_Work(self, piece)):
            self._keeper.lose(self, "slow", "the disk does not keep up")

    def keep(self, last: bytes) -> None:
        """The mail is safe in the queue: write the last octets, then the file has its name."""
        self._ended = True
        if not self.lost and not self._keeper.take(_Work(self, last, _End.KEEP)):
            self._keeper.lose(self, "slow", "the disk does not keep up")
        if self.lost:
            self._keeper.take(_Work(self, b"", _End.DROP))

    def drop(self) -> None:
        """The mail was not taken; after `keep` this does nothing."""
        if not self._ended:
            self._ended = True
            self._keeper.take(_Work(self, b"", _End.DROP))


def envelope(submission: Submission) -> Mapping[str, Any]:
    """Return what stands beside the content."""
    client = submission.client
    return {
        "id": submission.queue_id,
        "accepted_at": submission.accepted_at,
        "sender": submission.reverse_path,
        "recipients": submission.recipients,
        "client": client.address,
        "helo": client.helo.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace"),
        "user": client.user,
        "tls": client.tls,
    }


class _End(Enum):
    KEEP = "keep"
    DROP = "drop"


@dataclass(frozen=True, slots=True)
class _Work:
    copy: Copy
    piece: bytes
    end: _End | None = None


class _File:
    """A file that is written under another name. Raises OSError."""

    def __init__(self, files: KeptFiles) -> None:
        self._files = files
        self._scratch = scratch_of(files)
        self._descriptor = _create(self._scratch)
        self._unstuffer = DotUnstuffer()

    def write(self, piece: bytes) -> None:
        _write_whole(self._descriptor, self._unstuffer.feed(piece))

    def name_it(self, envelope: bytes) -> None:
        """Write the envelope, and give the content its name."""
        descriptor = _create(os.fspath(self._files.envelope))
        try:
            _write_whole(descriptor, envelope)
        finally:
            os.close(descriptor)
        self._close()
        os.rename(self._scratch, self._files.content)  # noqa: PTH104 — a string, for its speed

    def remove(self) -> None:
        self._close()
        Path(self._scratch).unlink(missing_ok=True)

    def _close(self) -> None:
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)


def scratch_of(files: KeptFiles) -> str:
    """Return under which name content is written."""
    folder, name = os.path.split(files.content)
    return f"{folder}/.{name}.new"


def _create(path: str) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, _PRIVATE_FILE)


def _write_whole(descriptor: int, octets: bytes) -> None:
    left = memoryview(octets)
    while left:
        left = left[os.write(descriptor, left) :]
