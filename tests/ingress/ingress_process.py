"""A real ingress process on ports of its own, at a real nats-server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil

from mailrelay.queue.rights import Role
from tests.support.nats import NatsServer
from tests.support.ports import free_port

USER, PASSWORD = "ada", "pässword"
STOP_SECONDS = 20.0


class Ingress:
    """The process, and where to reach it."""

    def __init__(
        self, folder: Path, port: int, probe_port: int, process: subprocess.Popen[bytes]
    ) -> None:
        self._log_file = folder / "log"
        self.port = port
        self.probe_port = probe_port
        self.process = process

    @property
    def log_text(self) -> str:
        """What it said so far."""
        return self._log_file.read_text()

    def log_lines(self, event: str) -> list[dict[str, Any]]:
        """The log lines of one event, in order."""
        lines = [json.loads(line) for line in self.log_text.splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == event]

    def metric(self, name: str) -> float:
        """A metric, with its labels as they are written; 0 while it is not there."""
        url = f"http://127.0.0.1:{self.probe_port}/metrics"
        for line in httpx.get(url).text.splitlines():
            if line.startswith(f"{name} "):
                return float(line.rpartition(" ")[2])
        return 0.0

    @property
    def rss_bytes(self) -> int:
        """Its memory now."""
        return int(psutil.Process(self.process.pid).memory_info().rss)


@contextmanager
def running_ingress(
    folder: Path,
    server: NatsServer,
    *,
    data_dir: Path | None = None,
    **changes: Any,  # noqa: ANN401
) -> Iterator[Ingress]:
    """Run an ingress; whatever the tests did to it, it said nothing of a fault of its own."""
    folder.mkdir(parents=True)
    port = free_port()
    config = {
        "smtpHost": "127.0.0.1",
        "smtpPort": port,
        "hostName": "relay.test",
        "security": {"requireAuth": False, "logAllEmails": False},
        **changes,
    }
    (folder / "config.json").write_text(json.dumps(config))
    probe_port = free_port()
    ready, tell = os.pipe()
    environ = {
        **os.environ,
        "MAILRELAY_CONFIG": str(folder / "config.json"),
        "MAILRELAY_NATS_URL": server.url,
        "MAILRELAY_NATS_SEED_FILE": str(server.seed_file(Role.INGRESS)),
        "MAILRELAY_READY_FD": str(tell),
        "MAILRELAY_PROBE_ADDRESS": f"127.0.0.1:{probe_port}",
        "MAILRELAY_DATA_DIR": str(data_dir or folder / "data"),
    }
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "mailrelay_ingress"],
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=(tell,),
        )
    os.close(tell)
    try:
        with open(ready, "rb") as pipe:  # noqa: PTH123 — a descriptor
            assert pipe.readline() == b"ready\n", (folder / "log").read_text()
        ingress = Ingress(folder, port, probe_port, process)
        yield ingress
        if process.poll() == -signal.SIGKILL:  # the test's doing
            return
        process.terminate()
        assert process.wait(STOP_SECONDS) == 0, ingress.log_text
        text = ingress.log_text
        assert "Traceback" not in text, text
        assert "smtp.exception" not in text, text
        assert PASSWORD not in text
    finally:
        process.kill()
        process.wait()
