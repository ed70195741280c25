"""The relay's processes as signals meet them: never another process that got a dead one's id."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from tests.support.relay import RelayClient
from tests.support.wait import wait_until

THERE_SECONDS = 60.0


@contextlib.contextmanager
def _held(relay: RelayClient, name: str) -> Iterator[int | None]:
    """A descriptor of the process of that name, None while there is none."""
    try:
        pid = relay.pid(name)
        fd = os.pidfd_open(pid)
    except (KeyError, OSError, AssertionError):  # between two lives
        yield None
        return
    try:
        # Asked after the descriptor is held: from here on the id cannot become somebody else's.
        yield fd if _belongs_to(pid, relay.data_dir) else None
    finally:
        os.close(fd)


def _belongs_to(pid: int, data_dir: Path) -> bool:
    try:
        words = (
            Path(f"/proc/{pid}/cmdline").read_bytes() + Path(f"/proc/{pid}/environ").read_bytes()
        )
    except OSError:
        return False
    return str(data_dir).encode() in words


async def signal_when_there(relay: RelayClient, name: str, number: int) -> tuple[float, int]:
    """Send a signal as soon as there is such a process; when it was sent, and a descriptor.

    The caller closes the descriptor.
    """
    sent: list[tuple[float, int]] = []

    def send() -> bool:
        with _held(relay, name) as fd:
            if fd is None:
                return False
            at = time.time()
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(fd, number)
                sent.append((at, os.dup(fd)))
            return bool(sent)

    await wait_until(send, THERE_SECONDS, f"there is a {name} to signal")
    return sent[0]


def go_on(fd: int) -> None:
    """Send SIGCONT by a descriptor, and close it."""
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(fd, signal.SIGCONT)
    os.close(fd)
