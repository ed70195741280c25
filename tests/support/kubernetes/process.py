"""A server in the foreground that cannot outlive the process that started it."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import psutil

from tests.support.wait import wait_until

END_SECONDS = 60.0
_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
_TAIL_BYTES = 4000
_libc = ctypes.CDLL(None)


def dies_with_this_process() -> Callable[[], None]:
    """What a child calls between fork and exec; fork in the main thread.

    The kernel sends the signal when the *thread* that forked ends.
    """
    parent = os.getpid()

    def arrange() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != parent:  # it died before the line above
            os._exit(1)

    return arrange


class Daemon:
    """One program with its arguments and its log; started and ended as often as a test likes."""

    def __init__(self, *command: str | Path, log: Path) -> None:
        self._command = [str(part) for part in command]
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def name(self) -> str:
        """The program's name."""
        return Path(self._command[0]).name

    @property
    def pid(self) -> int:
        """The running program's process id."""
        assert self._process is not None, f"{self.name} does not run"
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether it was started and has not been ended, by us or by itself."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it; that it is ready is for the caller to find out."""
        assert not self.is_running, f"{self.name} runs already"
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is the test's, which ends it in order
                preexec_fn=dies_with_this_process(),  # noqa: PLW1509 — see there
            )

    def check(self) -> None:
        """Fail with what it said last when it has ended by itself."""
        if self._process is not None and (code := self._process.poll()) is not None:
            raise RuntimeError(f"{self.name} ended with {code}; its log ends:\n{self.tail()}")

    def tail(self) -> str:
        """The end of its log."""
        with self._log.open("rb") as log:
            log.seek(max(0, self._log.stat().st_size - _TAIL_BYTES))
            return log.read().decode(errors="replace")

    async def freeze(self) -> None:
        """Let it hang: connections stand and nothing is answered."""
        process = psutil.Process(self.pid)
        process.suspend()
        await wait_until(
            lambda: process.status() == psutil.STATUS_STOPPED,
            END_SECONDS,
            f"{self.name} stands still",
        )

    def thaw(self) -> None:
        """Let it go on, if it runs and hangs."""
        if self.is_running:
            psutil.Process(self.pid).resume()

    def kill(self) -> None:
        """End it by SIGKILL, if it runs."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    async def stop(self) -> None:
        """Ask it to end and wait until it has."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            await wait_until(
                lambda: process.poll() is not None, END_SECONDS, f"{self.name} has ended"
            )
        except BaseException:
            process.kill()
            process.wait()
            raise
