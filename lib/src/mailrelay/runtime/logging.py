"""One line per event, as JSON or readable; no content and no credential ever goes in.

A line's `event` is `<what>.<happened>`; whatever concerns a message carries its queue id as `id`,
so that one grep tells the message's story. A line that cannot be written is dropped: who reads the
lines may be gone, and no mail is refused for that.
"""

from __future__ import annotations

import contextlib
import logging
import sys
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
        factory = structlog.BytesLoggerFactory(cast("BinaryIO", _Dropping(sys.stdout.buffer)))
    else:
        renderer = structlog.dev.ConsoleRenderer(colors=sys.stdout.isatty(), timestamp_key="time")
        factory = structlog.WriteLoggerFactory(cast("TextIO", _Dropping(sys.stdout)))
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


class _Dropping:
    """A file that drops what it cannot write: a broken pipe must not break what is told of."""

    def __init__(self, file: IO[Any]) -> None:
        self._file = file

    def write(self, text: Any) -> None:  # noqa: ANN401 — text or octets, as the file takes it
        with contextlib.suppress(OSError):
            self._file.write(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._file.flush()


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
