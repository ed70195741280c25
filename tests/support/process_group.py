"""A server that makes processes of its own, started and ended with all of them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from pathlib import Path

from tests.support.wait import wait_until

LIMIT_SECONDS = 15.0


class ServerGroup:
    """A server in the foreground, the leader of a process group that its children belong to."""

    def __init__(self, console: Path, *command: str | Path) -> None:
        self._console = console
        self._command = command
        self._process: asyncio.subprocess.Process | None = None

    async def start(self, port: int) -> None:
        """Start it and wait until it accepts connections on the port."""
        with self._console.open("ab") as console:
            self._process = process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                start_new_session=True,  # a signal to its group must not reach the test
            )

        def accepts() -> bool:
            if process.returncode is not None:
                msg = f"{self._command} ended:\n{self._console.read_text()}"
                raise RuntimeError(msg)
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                return True
            return False

        await wait_until(accepts, LIMIT_SECONDS, f"{self._command[0]} accepts connections")

    async def stop(self) -> None:
        """Ask it to end; wait until none of its processes is left."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.returncode is None:
            process.terminate()

        def is_empty() -> bool:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, 0)
                return False
            return True

        try:
            await asyncio.wait_for(process.wait(), LIMIT_SECONDS)
            await wait_until(is_empty, LIMIT_SECONDS, f"{self._command[0]} has ended")
        except (AssertionError, TimeoutError):
            os.killpg(process.pid, signal.SIGKILL)
            raise
