"""What lies where in the data folder, and who may use it.

Two locks, because the supervisor can be killed while its children are still ending. The
supervisor's says that a relay is alive here: a second one is refused at once. The children's is
inherited by every child, nats-server among them, and so is free only when the last one is gone: a
new run waits for it. Both are the kernel's and cannot be left behind.
"""

from __future__ import annotations

import fcntl
import os
import stat
import time
from dataclasses import dataclass
from pathlib import Path

from mailrelay.emails import emails_folder
from mailrelay_cli.errors import BadInputError

# A nats-server that was killed is gone in milliseconds; one that is stopping may take seconds.
CHILDREN_SECONDS = 15.0
_POLL_SECONDS = 0.05
_PRIVATE_FOLDER = 0o700
_PRIVATE_FILE = 0o600


@dataclass(frozen=True, slots=True)
class DataFolder:
    """The layout below one absolute path."""

    path: Path

    @property
    def nats(self) -> Path:
        """The queue's files, nats-server's configuration and the store's size."""
        return self.path / "nats"

    @property
    def run(self) -> Path:
        """What is true of this run only."""
        return self.path / "run"

    @property
    def credentials(self) -> Path:
        """One seed file a role, made anew at each run."""
        return self.run / "credentials"

    @property
    def run_file(self) -> Path:
        """See `run_file`; it is there while a relay runs, and after one that was killed."""
        return self.run / "relay.json"

    @property
    def config_in_force(self) -> Path:
        """What a process that is started again begins with."""
        return self.run / "config.json"

    @property
    def log(self) -> Path:
        """The processes' lines, and nats-server's own."""
        return self.path / "log"

    @property
    def log_file(self) -> Path:
        """Every line of every process but nats-server."""
        return self.log / "mailrelay.log"

    @property
    def nats_log_file(self) -> Path:
        """Nats-server's lines."""
        return self.log / "nats.log"

    @property
    def tls(self) -> Path:
        """The certificate that the relay made itself."""
        return self.path / "tls"

    @property
    def supervisor_lock(self) -> Path:
        """Held by a supervisor while it lives."""
        return self.run / "supervisor.lock"

    @property
    def children_lock(self) -> Path:
        """Held by the supervisor and every child: free when the last of them is gone."""
        return self.nats / "server.lock"

    def seed_file(self, role: str) -> Path:
        """Return where a role's NKey seed lies."""
        return self.credentials / f"{role}.seed"


def make_data_folder(path: Path) -> DataFolder:
    """Make the folders that are missing. Raises BadInputError."""
    folder = DataFolder(path.absolute())
    monitor = folder.path / "monitor"
    parts = [folder.path, folder.nats, folder.run, folder.credentials, folder.log, monitor]
    emails = emails_folder(folder.path)
    if emails.parent != folder.path:  # a volume of its own; in the data folder ingress makes it
        parts.append(emails)
    for part in parts:
        try:
            part.mkdir(mode=_PRIVATE_FOLDER, parents=part == folder.path, exist_ok=True)
        except FileExistsError:
            raise BadInputError(f"data folder {folder.path}: {part} is not a folder") from None
        except OSError as error:
            raise BadInputError(
                f"data folder {folder.path}: cannot make {part}: {error.strerror}"
                f"{_what_to_do(part.parent)}"
            ) from error
        if not os.access(part, os.R_OK | os.W_OK | os.X_OK):
            raise BadInputError(
                f"data folder {folder.path}: {part} is not writable{_what_to_do(part)}"
            )
    return folder


def _what_to_do(part: Path) -> str:
    """Say why `part` cannot be written to and what helps, as far as that can be seen."""
    try:
        if os.statvfs(part).f_flag & os.ST_RDONLY:
            return ": it is mounted read-only; mount it so that it can be written to"
        owner, mode = part.stat().st_uid, stat.S_IMODE(part.stat().st_mode)
    except OSError:
        return ""
    us = os.geteuid()
    if owner != us:
        return f": it belongs to user {owner}, and this is user {us}: `chown -R {us}` it"
    return f" (mode {mode:04o})"


def lock_as_supervisor(folder: DataFolder) -> int:
    """Take the folder for this process's life; the descriptor. Raises BadInputError."""
    fd = _open_lock(folder, folder.supervisor_lock)
    if not _try_lock(fd):
        holder = os.pread(fd, 32, 0).decode(errors="replace").strip()
        os.close(fd)
        owner = f" (pid {holder})" if holder.isdigit() else ""
        raise BadInputError(f"data folder {folder.path} is in use by another relay{owner}")
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    return fd


def lock_for_children(folder: DataFolder, limit_seconds: float = CHILDREN_SECONDS) -> int:
    """Wait until no child of an earlier run is left; a descriptor to pass on to all of ours.

    Raises BadInputError.
    """
    fd = _open_lock(folder, folder.children_lock)
    deadline = time.monotonic() + limit_seconds
    while not _try_lock(fd):
        if time.monotonic() >= deadline:
            os.close(fd)
            raise BadInputError(
                f"data folder {folder.path} is in use by processes of an earlier relay that have "
                f"not ended within {limit_seconds:g} s (they hold {folder.children_lock})"
            )
        time.sleep(_POLL_SECONDS)
    return fd


def write_private(path: Path, text: str) -> None:
    """Write a file that nobody else may read; a reader sees the old text or the new one."""
    scratch = path.with_name(f".{path.name}.new")
    scratch.unlink(missing_ok=True)  # one of a run that was killed may have another mode
    with os.fdopen(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _PRIVATE_FILE), "w") as f:
        f.write(text)
    scratch.replace(path)


def _open_lock(folder: DataFolder, path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _PRIVATE_FILE)
    except OSError as error:
        raise BadInputError(
            f"data folder {folder.path}: cannot open {path}: {error.strerror}"
        ) from error


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
