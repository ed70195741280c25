"""A small file system of its own under the queue's folder, which can be made full.

Needs root (it mounts a tmpfs); without it a run leaves the faults of this kind out and says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psutil

from tests.support.wait import wait_until

SIZE_BYTES = 1024 * 1024 * 1024
_FILL = "fill"
_TOP_UP_SECONDS = 0.1
_UNUSED_SECONDS = 20.0
_BLOCKS = (b"\0" * 1024 * 1024, b"\0" * 4096)


def is_possible() -> bool:
    """Whether this user may mount."""
    return os.geteuid() == 0


class SmallDisk:
    """The mounted folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def wait_unused(self) -> None:
        """Wait until it can be unmounted: the last process that used it may just be ending."""

        def is_unused() -> bool:
            folder = str(self._folder)
            return not any(_uses(process, folder) for process in psutil.process_iter())

        await wait_until(is_unused, _UNUSED_SECONDS, f"nobody uses {self._folder}")

    @contextlib.asynccontextmanager
    async def full(self) -> AsyncIterator[None]:
        """Have no octet free for a `with` block, whatever is deleted meanwhile."""
        file = self._folder / _FILL
        fd = os.open(file, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            await asyncio.to_thread(_fill, fd)
            topping = asyncio.create_task(_keep_full(fd))
            try:
                yield
            finally:
                topping.cancel()
                await asyncio.gather(topping, return_exceptions=True)
        finally:
            os.close(fd)
            file.unlink()


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[SmallDisk]:
    """Mount it for a `with` block."""
    folder.mkdir(parents=True, mode=0o700)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE_BYTES},mode=0700", "mailrelay-chaos"]
    subprocess.run([*mount, folder], check=True)
    try:
        yield SmallDisk(folder)
    finally:
        subprocess.run(["umount", folder], check=True)  # noqa: S607


def _uses(process: psutil.Process, folder: str) -> bool:
    with contextlib.suppress(psutil.Error):
        return any(each.path.startswith(folder) for each in process.open_files())
    return False


def _fill(fd: int) -> None:
    os.lseek(fd, 0, os.SEEK_END)
    for block in _BLOCKS:
        try:
            while True:
                os.write(fd, block)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise


async def _keep_full(fd: int) -> None:
    while True:
        await asyncio.sleep(_TOP_UP_SECONDS)  # a sampling interval
        await asyncio.to_thread(_fill, fd)
