"""A whole relay, started as people start it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil

from mailrelay_cli.run_file import RunFile, read_run_file
from tests.support.ports import free_port
from tests.support.wait import wait_until

COMMAND = str(Path(sys.executable).with_name("mailrelay"))
START_SECONDS = 40.0
STOP_SECONDS = 30.0


class Relay:
    """One data folder, two ports, and the supervisor of the moment."""

    def __init__(self, folder: Path, **variables: str) -> None:
        self.data = folder / "data"
        self.smtp_port, self.http_port = free_port(), free_port()
        self.variables = variables
        self.supervisor: subprocess.Popen[str] | None = None

    @property
    def environ(self) -> dict[str, str]:
        ports = {"SMTP_PORT": str(self.smtp_port), "HEALTH_CHECK_PORT": str(self.http_port)}
        return {**os.environ, **ports, **self.variables}

    @property
    def running(self) -> RunFile | None:
        return read_run_file(self.data / "run" / "relay.json")

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start it without waiting."""
        self.supervisor = subprocess.Popen(
            [COMMAND, "run", "--data-dir", str(self.data), *arguments],
            env=self.environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        return self.supervisor

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run another command against it, or a `run` that is to fail, to its end."""
        return run_command(*arguments, "--data-dir", str(self.data), env=self.environ)

    async def wait_ready(self) -> RunFile:
        """Wait until this very supervisor has everything ready."""
        supervisor = self.supervisor
        assert supervisor is not None

        def is_ready() -> bool:
            assert supervisor.poll() is None, supervisor.communicate()
            running = self.running
            return running is not None and running.is_ready and running.pid == supervisor.pid

        await wait_until(is_ready, START_SECONDS, "the relay is ready")
        running = self.running
        assert running is not None
        return running

    def stop(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, str, str]:
        """Send a signal; the exit code, what it printed, what it complained of."""
        assert self.supervisor is not None
        self.supervisor.send_signal(number)
        out, err = self.supervisor.communicate(timeout=STOP_SECONDS)
        return self.supervisor.returncode, out, err

    def close(self) -> None:
        """End whatever is left."""
        if self.supervisor is not None and self.supervisor.returncode is None:
            self.supervisor.kill()
            self.supervisor.communicate(timeout=STOP_SECONDS)

    def processes(self) -> list[psutil.Process]:
        """Return every living process that works on this data folder."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.status() == psutil.STATUS_ZOMBIE:
                    continue
                words = (*process.cmdline(), process.environ().get("MAILRELAY_DATA_DIR", ""))
                if any(str(self.data) in word for word in words):
                    found.append(process)
        return found


def run_command(
    *arguments: str, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run `mailrelay` to its end."""
    return subprocess.run(
        [COMMAND, *arguments],
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
