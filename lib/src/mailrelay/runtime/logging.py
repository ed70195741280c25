"""One line per event, as JSON or readable; no content and no credential ever goes in.

A line's `event` is `<what>.<happened>`; whatever concerns a message carries its queue id as `id`,
so that one grep tells the message's story. A line that cannot be written is dropped: who reads the
lines may be gone, and no mail is refused for that.

The lines of one turn of the event loop are written together (docs/decisions/0031): a process that
is killed loses those of its last turn.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import logging
import sys
from collections import deque
from typing import IO, Any, BinaryIO, TextIO, cast

import msgspec
import structlog

Logger = structlog.typing.FilteringBoundLogger

FORMATS = ("json", "text")


def configure_logging(service: str, fmt: str = "json", level: int = logging.INFO) -> Logger:
    """Send all of this process's lines to standard output and return its logger."""
    timestamper = structlog.processors.TimeStamper(fmt="iso", utc=True, key="time")
    renderer: Any
    factory: Any
    if fmt == "json":
        renderer = structlog.processors.JSONRenderer(serializer=_to_json)
        factory = structlog.BytesLoggerFactory(cast("BinaryIO", _Lines(sys.stdout.buffer, b"")))
    else:
        renderer = structlog.dev.ConsoleRenderer(colors=sys.stdout.isatty(), timestamp_key="time")
        factory = structlog.WriteLoggerFactory(cast("TextIO", _Lines(sys.stdout, "")))
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            timestamper,
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=factory,
        cache_logger_on_first_use=True,
    )
    log: Logger = structlog.get_logger().bind(service=service)
    _take_over_standard_logging(log)
    return log


def _to_json(line: dict[str, Any], **_: object) -> bytes:
    # What people look for comes first: they read these lines too.
    ordered = {key: line.pop(key) for key in _FIRST if key in line}
    return msgspec.json.encode({**ordered, **line}, enc_hook=str)


_FIRST = ("time", "level", "service", "event", "id")


class _Lines:
    """Writes the lines of a turn to a file at once; drops what it cannot write.

    A broken pipe must not break what is told of. Lines of threads, and of a process that runs no
    event loop, are written as they come.
    """

    def __init__(self, file: IO[Any], nothing: bytes | str) -> None:
        """`nothing` is empty, and of the kind that the file takes."""
        self._file = file
        self._nothing: Any = nothing
        self._waiting: deque[Any] = deque()
        self._is_due = False  # whether the turn of the loop ends with writing; its thread's alone
        atexit.register(self._write_all)

    def write(self, line: Any) -> None:  # noqa: ANN401 — text or octets, as the file takes it
        self._waiting.append(line)
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self._write_all()
            return
        if not self._is_due:
            self._is_due = True
            loop.call_soon(self._end_turn)

    def _end_turn(self) -> None:
        self._is_due = False
        self._write_all()

    def _write_all(self) -> None:
        lines = []
        with contextlib.suppress(IndexError):  # a thread may take some meanwhile
            while True:
                lines.append(self._waiting.popleft())
        if not lines:
            return
        with contextlib.suppress(OSError, ValueError):  # ValueError: the file is closed
            self._file.write(self._nothing.join(lines))
            self._file.flush()

    def flush(self) -> None:
        """Nothing: each turn ends with it."""


class _Forward(logging.Handler):
    """Hands the libraries' own warnings on as lines of ours."""

    def __init__(self, log: Logger) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        fields: dict[str, Any] = {"logger": record.name, "message": record.getMessage()}
        if record.exc_info and record.exc_info[1] is not None:
            fields["exc_info"] = record.exc_info[1]
        self._log.warning("library.warning", **fields)


def _take_over_standard_logging(log: Logger) -> None:
    logging.basicConfig(handlers=[_Forward(log)], level=logging.WARNING, force=True)
