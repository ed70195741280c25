"""Kills a process of the relay right after a step, once, where a test has ordered it.

Python imports a module of this name by itself when its folder is on PYTHONPATH, and only the tests
put it there (docs/decisions/0012). The relay's code neither knows this file nor looks for it.

The order is a file that is replaced whole, so that one running relay serves many orders; who kills
makes the order's marker first (O_EXCL), so that nothing is killed twice.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from pathlib import Path

from mailrelay.runtime import clock, steps


class _Listener:
    """Counts the steps that are passed under the order of the moment."""

    def __init__(self, folder: Path, process: str) -> None:
        self._folder = folder
        self._process = process
        self._seen = (0, 0)  # inode and time of the order that is known
        self._order: dict[str, object] = {}
        self._counts: dict[str, int] = {}

    def __call__(self, step: str) -> None:
        self._look()
        if not self._order:
            return
        count = self._counts[step] = self._counts.get(step, 0) + 1
        self._note(step)
        wanted = self._order
        if (wanted["process"], wanted["step"], wanted["nth"]) == (self._process, step, count):
            self._after_turns(int(str(wanted["turns"])), dict(wanted))

    def _look(self) -> None:
        """Take over the order when it is another one."""
        try:
            found = (self._folder / "order").stat()
            seen = (found.st_ino, found.st_mtime_ns)
            if seen == self._seen:
                return
            order = json.loads((self._folder / "order").read_bytes())
        except FileNotFoundError:
            seen, order = (0, 0), {}
        self._seen, self._order = seen, order
        self._counts.clear()

    def _note(self, step: str) -> None:
        """Append to the order's book; one write, so that processes do not mix their lines."""
        book = self._folder / f"passed-{self._order['cell']}"
        line = f"{time.time():.6f} {self._process} {os.getpid()} {step}\n"
        fd = os.open(book, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(fd, line.encode())
        finally:
            os.close(fd)

    def _after_turns(self, turns: int, order: dict[str, object]) -> None:
        """Let the event loop turn, so that what was handed to a socket has left, then kill."""
        if turns > 0:
            asyncio.get_running_loop().call_soon(self._after_turns, turns - 1, order)
            return
        marker = self._folder / f"killed-{order['cell']}"
        try:
            fd = os.open(marker, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return
        os.write(fd, f"{time.time():.6f}".encode())
        os.close(fd)
        os.kill(int(str(order["victim"])) or os.getpid(), signal.SIGKILL)


def _shift_clock(file: Path) -> None:
    """Have the relay's clock go ahead, for walks that last an hour."""
    try:
        seconds = float(file.read_text())
    except FileNotFoundError:
        return
    clock.system_clock = lambda: time.time() + seconds


def _listen() -> None:
    folder = os.environ.get("MAILRELAY_TEST_ORDERS")
    module = sys.orig_argv[-1]
    if folder and module.startswith("mailrelay_"):
        process = module.removeprefix("mailrelay_")
        steps.listen(_Listener(Path(folder), process))
        _shift_clock(Path(folder) / f"clock-{process}")


_listen()
