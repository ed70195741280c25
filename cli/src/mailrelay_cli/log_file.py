"""The log file: whole lines only, a bounded size, and never in the way of the mail.

A disk that is full loses lines, which are counted, and nothing else; the count is written as soon
as there is space again. Rotation is by size, older files are `….1` (newest) and up.

In a container the lines go to standard output instead, where a reader that is slow is what a full
disk is to a file.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import MutableMapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import structlog

from mailrelay.runtime.logging import Logger

MAX_BYTES = 50 * 1024 * 1024
MAX_FILES = 5  # in all
_PIPE_BYTES = 1024 * 1024  # lines that may wait for a slow reader


class LogFile:
    """Appends lines to `path`."""

    def __init__(
        self,
        path: Path,
        fmt: str = "json",
        *,
        max_bytes: int = MAX_BYTES,
        max_files: int = MAX_FILES,
    ) -> None:
        """`fmt` is `json` or `text`, for the lines that are written here and not by a process."""
        self._path = path
        self._fmt = fmt
        self._max_bytes = max_bytes
        self._max_files = max_files
        self._fd = -1
        self._size = 0
        self.dropped = 0  # lines not yet told of

    def write_lines(self, lines: bytes) -> None:
        """Append whole lines, each with its line feed."""
        if self.dropped:
            note = self._line("log.dropped", "warning", {"lines": self.dropped})
            if not self._append(note):
                self.dropped += lines.count(b"\n")
                return
            self.dropped = 0
        if not self._append(lines):
            self.dropped += lines.count(b"\n")

    def tell(self, event: str, level: str = "info", **fields: object) -> None:
        """Append a line of the supervisor's own."""
        self.write_lines(self._line(event, level, fields))

    def close(self) -> None:
        """Close the file; the next line opens it again."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _line(self, event: str, level: str, fields: dict[str, Any]) -> bytes:
        time = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        if self._fmt == "json":
            line = {"time": time, "level": level, "event": event, "service": "supervisor"}
            return msgspec.json.encode({**line, **fields}, enc_hook=str) + b"\n"
        shown = " ".join(
            f"{key}={value}" for key, value in {"service": "supervisor", **fields}.items()
        )
        return f"{time} [{level:<9}] {event:<30} {shown}\n".encode(errors="replace")

    def _append(self, lines: bytes) -> bool:
        try:
            if self._fd < 0:
                self._open()
            elif self._size and self._size + len(lines) > self._max_bytes:
                self._rotate()
            written = os.write(self._fd, lines)
            if written < len(lines):  # the disk is full: no half line stays
                os.ftruncate(self._fd, self._size)
                return False
        except OSError:
            return False
        self._size += written
        return True

    def _open(self) -> None:
        self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._size = os.fstat(self._fd).st_size
        if self._size and os.pread(self._fd, 1, self._size - 1) != b"\n":
            self._size += os.write(self._fd, b"\n")  # the last writer was killed in mid-line

    def _rotate(self) -> None:
        self.close()
        with contextlib.suppress(OSError):
            for number in range(self._max_files - 1, 0, -1):
                older = self._numbered(number)
                newer = self._numbered(number - 1) if number > 1 else self._path
                if newer.exists():
                    newer.replace(older)
        self._open()

    def _numbered(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")


class LogStream(LogFile):
    """The same on a descriptor that somebody reads, such as standard output."""

    def __init__(self, fd: int, fmt: str = "json") -> None:
        super().__init__(Path(f"/dev/fd/{fd}"), fmt)
        self._stream = fd
        self._rest = b""  # of a line that has begun
        os.set_blocking(fd, False)
        with contextlib.suppress(OSError):  # no pipe
            fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)

    def close(self) -> None:
        """Write what is left; the descriptor is not ours to close."""
        self._append(b"")

    def _append(self, lines: bytes) -> bool:
        rest = self._rest
        try:
            written = os.write(self._stream, rest + lines)
        except OSError:
            return False
        if written < len(rest):
            self._rest = rest[written:]
            return not lines
        self._rest = (rest + lines)[written:]
        return True


class _Writer:
    """What structlog hands its finished events to."""

    def __init__(self, file: LogFile) -> None:
        self._file = file

    def _write(self, level: str, event: MutableMapping[str, Any]) -> None:
        self._file.tell(str(event.pop("event", "")), level, **event)

    def info(self, **event: object) -> None:
        self._write("info", event)

    def warning(self, **event: object) -> None:
        self._write("warning", event)

    def error(self, **event: object) -> None:
        self._write("error", event)

    debug = info
    critical = error
    exception = error


def logger_into(file: LogFile) -> Logger:
    """Return a logger for the library's pieces that want one."""
    log: Logger = structlog.wrap_logger(
        _Writer(file),
        processors=[structlog.processors.format_exc_info, lambda _, __, event: event],
        wrapper_class=structlog.make_filtering_bound_logger("info"),
        cache_logger_on_first_use=False,
    )
    return log
