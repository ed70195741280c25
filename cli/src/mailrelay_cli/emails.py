"""`mailrelay emails`: the content that `security.logAllEmails` keeps, read from the data folder.

No relay needs to run. An export is written whole or not at all, readable by its owner alone, and
holds one message in memory at a time.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import tarfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import typer

from mailrelay.emails import KeptFiles, days, emails_folder, is_day, kept_files, kept_of_day
from mailrelay.mail.ids import QueueId, accepted_seconds
from mailrelay.runtime.lifecycle import EXIT_FAILED, EXIT_OK
from mailrelay_cli.console import complain, say
from mailrelay_cli.errors import BadInputError

emails_app = typer.Typer(help="The content that security.logAllEmails keeps.")

DataDirOption = Annotated[Path, typer.Option("--data-dir", help="Where the relay keeps its data.")]

_PRIVATE_FILE = 0o600
_FROM = re.compile(rb"^(>*From )", re.MULTILINE)


@emails_app.command("list")
def list_command(data_dir: DataDirOption = Path("data")) -> int:
    """List the days of which content is kept, and how many messages each has."""
    for day in days(data_dir):
        say(f"{day}  {sum(1 for _ in kept_of_day(data_dir, day))}")
    return EXIT_OK


@emails_app.command("export")
def export_command(
    file: Annotated[Path, typer.Argument(help="FILE.mbox or FILE.tar.", show_default=False)],
    day: Annotated[str, typer.Option(help="The day (UTC) of acceptance, YYYY-MM-DD.")],
    data_dir: DataDirOption = Path("data"),
) -> int:
    """Write all content that is kept of a day into one file."""
    if not is_day(day):
        raise BadInputError(f"--day: {day!r} is no day; write YYYY-MM-DD")
    write = {".mbox": _write_mbox, ".tar": _write_tar}.get(file.suffix)
    if write is None:
        raise BadInputError(f"{file}: the name must end in .mbox or .tar")
    if day not in days(data_dir):
        complain(f"nothing is kept of {day} in {emails_folder(data_dir)}")
        return EXIT_FAILED
    try:
        written = _whole(file, lambda out: write(out, data_dir, day))
    except OSError as error:
        complain(f"cannot write {file}: {error.strerror}")
        return EXIT_FAILED
    say(f"{file}: {written} messages")
    return EXIT_OK


def _whole(file: Path, write: Callable[[BinaryIO], int]) -> int:
    scratch = file.with_name(f".{file.name}.{os.getpid()}.new")
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _PRIVATE_FILE)
    try:
        with os.fdopen(descriptor, "wb") as out:
            written = write(out)
        scratch.replace(file)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise
    return written


def _write_mbox(out: BinaryIO, data_dir: Path, day: str) -> int:
    """Write the format "mboxrd": `>` before each `From ` at a line's beginning, line feeds."""
    written = 0
    for queue_id, files in _kept(data_dir, day):
        content = _read(files.content)
        if content is None:
            continue
        sender = _envelope(files.envelope).get("sender") or "MAILER-DAEMON"
        at = datetime.fromtimestamp(accepted_seconds(queue_id), UTC)
        out.write(f"From {sender.replace(' ', '_')} {at:%a %b %d %H:%M:%S %Y}\n".encode())
        text = _FROM.sub(rb">\1", content.replace(b"\r\n", b"\n"))
        out.write(text if text.endswith(b"\n") else text + b"\n")
        out.write(b"\n")
        written += 1
    return written


def _write_tar(out: BinaryIO, data_dir: Path, day: str) -> int:
    written = 0
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for queue_id, files in _kept(data_dir, day):
            content = _read(files.content)
            if content is None:
                continue
            for path, octets in ((files.content, content), (files.envelope, _read(files.envelope))):
                if octets is not None:
                    _add(archive, f"{day}/{path.name}", octets, accepted_seconds(queue_id))
            written += 1
    return written


def _add(archive: tarfile.TarFile, name: str, octets: bytes, at: float) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(octets)
    member.mode = _PRIVATE_FILE
    member.mtime = int(at)
    archive.addfile(member, io.BytesIO(octets))


def _kept(data_dir: Path, day: str) -> Iterator[tuple[QueueId, KeptFiles]]:
    for queue_id in kept_of_day(data_dir, day):
        yield queue_id, kept_files(data_dir, queue_id)


def _read(path: Path) -> bytes | None:
    """Return the file's octets; None when it was thinned out meanwhile."""
    with contextlib.suppress(FileNotFoundError):
        return path.read_bytes()
    return None


def _envelope(path: Path) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError):
        found = json.loads(path.read_bytes())
        if isinstance(found, dict):
            return found
    return {}
