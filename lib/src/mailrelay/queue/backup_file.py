"""The file of a back-up: what lay in the queue, record by record.

A gzip stream (whose check sum tells a damaged or truncated file) of frames, each four octets of
length and MessagePack: first `Head`, then records and chunks of large content in the order in which
they were read, last `End`. Records are kept as they were stored, with their own format version, and
without the relay's prefix: they can be put into another queue. Each record has its content in front
of it, also what another one before it named: while the file is restored, senders and the monitor
are done with the first one, and what it named is gone.

Of one recipient two records may be in a file that was written while mail flowed: the job, and what
followed it. The one that was read last counts; behind each record that may be such a one stands a
`Late` for each recipient.
"""

from __future__ import annotations

import contextlib
import fcntl
import gzip
import os
import struct
import zlib
from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import msgspec

FORMAT: Final = 1
_LENGTH: Final = struct.Struct(">I")
_MAX_FRAME: Final = 64 * 1024 * 1024  # records are at most nats-server's max_payload, 8 MiB
_PART: Final = ".part"
_LEVEL: Final = 1  # mail compresses well enough, and the processor is the relay's


class BackupError(Exception):
    """A back-up cannot be written or read; says the file and why."""


class Kind(Enum):
    """Where a record lay."""

    NEW = "new"
    LANE = "lane"
    FAILED = "failed"
    CAPTURED = "captured"


class Head(msgspec.Struct, tag="head", frozen=True):
    """What the file is."""

    format: int
    made_at: float  # seconds since the epoch, by the queue's clock
    prefix: str


class Chunk(msgspec.Struct, tag="chunk", frozen=True):
    """A piece of large content, which the record behind it names."""

    submission: str
    number: int
    content: bytes
    is_again: bool = False  # another record of the submission is before it


class Kept(msgspec.Struct, tag="kept", frozen=True):
    """A record; `place` is the last part of its subject, or the last two of a failed one's."""

    kind: Kind
    place: str
    payload: bytes
    headers: dict[str, str]


class Late(msgspec.Struct, tag="late", frozen=True):
    """That the record before it was stored while the back-up was made, and a recipient in it."""

    submission: str
    recipient: int
    release: str  # the id of a release; empty: none


class End(msgspec.Struct, tag="end", frozen=True):
    """That the file is whole."""

    records: int


Frame = Head | Chunk | Kept | Late | End
_DAMAGED: Final = (
    EOFError,
    gzip.BadGzipFile,
    zlib.error,
    struct.error,
    msgspec.MsgspecError,
    UnicodeDecodeError,  # which msgspec lets through
)
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Frame)


class BackupWriter:
    """Writes a file that has its name only once it is whole; nobody else may read it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._part = path.with_name(f".{path.name}{_PART}")
        self.records = 0

    def __enter__(self) -> Self:
        """Begin. Raises BackupError."""
        try:
            _remove_left_overs(self._path.parent)
            descriptor = os.open(self._part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            self._raw = os.fdopen(descriptor, "wb")
            # For as long as this process lives. Where a volume has no locks nobody gets one.
            with contextlib.suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as error:
            raise _cannot("written", self._path, error) from error
        self._packed = gzip.GzipFile("", "wb", _LEVEL, self._raw)
        return self

    def write(self, frame: Frame) -> None:
        """Write a frame. Raises BackupError."""
        payload = _encoder.encode(frame)
        if len(payload) > _MAX_FRAME:
            raise BackupError(f"{self._path} cannot have a record of {len(payload)} octets")
        try:
            self._packed.write(_LENGTH.pack(len(payload)))
            self._packed.write(payload)
        except OSError as error:
            raise _cannot("written", self._path, error) from error
        self.records += isinstance(frame, Kept)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give the file its name, or remove it when something went wrong. Raises BackupError."""
        try:
            self._packed.close()
            self._raw.flush()
            os.fsync(self._raw.fileno())
            self._raw.close()
            if kind is None:
                self._part.rename(self._path)
                _sync_folder(self._path.parent)
        except OSError as failure:
            raise _cannot("written", self._path, failure) from failure
        finally:
            with contextlib.suppress(OSError):  # told already: a full disk is full once more
                self._raw.close()
            self._part.unlink(missing_ok=True)


def read_backup(path: Path) -> Iterator[Frame]:
    """Yield the frames. Raises BackupError: no such file, damaged, of another version."""
    try:
        with gzip.open(path, "rb") as packed:
            while octets := packed.read(_LENGTH.size):
                (length,) = _LENGTH.unpack(octets)
                if length > _MAX_FRAME:
                    raise BackupError(f"{path} is damaged: a record of {length} octets")
                payload = packed.read(length)
                yield _decoder.decode(payload)
    except _DAMAGED as error:
        raise BackupError(f"{path} is damaged or no back-up: {error}") from error
    except OSError as error:
        raise _cannot("read", path, error) from error


class Checked(msgspec.Struct, frozen=True):
    """What a whole file says of itself."""

    head: Head
    records: int
    # The last record of a recipient, by its position in the file, from 1: submission, recipient,
    # release.
    late: Mapping[tuple[str, int, str], int]


def check_backup(path: Path) -> Checked:
    """Read a file to its end before anything of it is used. Raises BackupError."""
    head: Head | None = None
    checked: Checked | None = None
    records = 0
    late: dict[tuple[str, int, str], int] = {}
    for frame in read_backup(path):  # to the end, where the sum is that tells of a changed octet
        if checked is not None:
            raise BackupError(f"{path} is damaged: something follows its end")
        match frame:
            case Head() if frame.format == FORMAT:
                head = frame
            case Head():
                raise BackupError(
                    f"{path} has format {frame.format}, and this version reads {FORMAT}: "
                    "restore it with the version that wrote it, or a later one"
                )
            case Kept():
                records += 1
            case Late():
                late[frame.submission, frame.recipient, frame.release] = records
            case End() if head is not None and frame.records == records:
                checked = Checked(head, records, late)
            case _:
                pass
    if checked is None:
        raise BackupError(f"{path} is damaged: its end is missing")
    return checked


def _cannot(what: str, path: Path, error: OSError) -> BackupError:
    return BackupError(f"{path} cannot be {what}: {error.strerror or error}")


def _remove_left_overs(folder: Path) -> None:
    """Remove what killed processes left: they have mail, and nobody holds them any more."""
    for part in folder.glob(f".*{_PART}"):
        with contextlib.suppress(OSError), part.open("rb") as found:
            fcntl.flock(found, fcntl.LOCK_EX | fcntl.LOCK_NB)
            part.unlink()


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
