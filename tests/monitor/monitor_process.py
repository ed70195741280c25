"""The monitor as a process of its own, on a real queue."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from pathlib import Path

from mailrelay.queue.rights import Role
from tests.support.nats import NatsServer


class MonitorProcess:
    """`python -m mailrelay_monitor`, on one listening socket for all of its lives."""

    def __init__(self, server: NatsServer, folder: Path) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.folder = folder
        self._server = server
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process

    def start(self, **environ: str) -> None:
        ready, write = os.pipe()
        with (self.folder / "monitor.log").open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "mailrelay_monitor"],
                env=os.environ
                | {
                    "MAILRELAY_NATS_URL": self._server.url,
                    "MAILRELAY_NATS_SEED_FILE": str(self._server.seed_file(Role.MONITOR)),
                    "MAILRELAY_DATA_DIR": str(self.folder / "data"),
                    "MAILRELAY_LISTEN_FDS": str(self.listener.fileno()),
                    "MAILRELAY_READY_FD": str(write),
                }
                | environ,
                pass_fds=(self.listener.fileno(), write),
                stdout=output,
                stderr=output,
            )
        os.close(write)
        self._ready = ready

    async def wait_ready(self) -> None:
        said = await asyncio.to_thread(os.read, self._ready, 100)
        os.close(self._ready)
        assert said == b"ready\n", (self.folder / "monitor.log").read_text()

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
