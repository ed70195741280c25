"""A whole relay as people run it: `mailrelay run` in a folder and on ports of its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx

from mailrelay_cli.run_file import RunFile, read_run_file
from tests.support.ports import free_port
from tests.support.wait import wait_until

COMMAND = Path(sys.executable).with_name("mailrelay")
READY_SECONDS = 60.0  # on a quiet machine it is two
STOP_SECONDS = 40.0
LOG_SECONDS = 10.0
STORE_BYTES = 2 * 1024**3
# Retries that a test can wait for.
QUICK_RETRY = {
    "maxAttempts": 20,
    "initialIntervalSeconds": 1,
    "multiplier": 1,
    "maxIntervalSeconds": 1,
    "maxAgeSeconds": 600,
}


def relay_config(**changes: Any) -> dict[str, Any]:  # noqa: ANN401 — JSON
    """A configuration for tests: free ports, no AUTH, capture; `changes` go on top."""
    config: dict[str, Any] = {
        "smtpHost": "127.0.0.1",
        "smtpPort": free_port(),
        "healthCheckPort": free_port(),
        "hostName": "relay.test",
        "security": {"requireAuth": False, "logAllEmails": False},
        "retry": QUICK_RETRY,
        "queue": {"storeBytes": STORE_BYTES},
    }
    return config | changes


def forwarding_to(port: int, host: str = "127.0.0.1") -> dict[str, Any]:
    """The keys that send mail on to an upstream."""
    return {"forwardSMTP": True, "forwardHost": host, "forwardPort": port}


class RelayClient:
    """What a relay shows to its clients, however its processes are run."""

    config: dict[str, Any]
    data_dir: Path

    def pid(self, name: str) -> int:
        """The process id of one of its processes. Raises KeyError while there is none."""
        raise NotImplementedError

    @property
    def smtp_port(self) -> int:
        """Where it takes mail."""
        return int(self.config["smtpPort"])

    @property
    def http_url(self) -> str:
        """Where it answers HTTP."""
        return f"http://127.0.0.1:{self.config['healthCheckPort']}"

    async def get(self, path: str, **options: Any) -> httpx.Response:  # noqa: ANN401
        """GET from the relay's HTTP."""
        async with httpx.AsyncClient(base_url=self.http_url, timeout=10) as client:
            return await client.get(path, **options)

    async def post(self, path: str, **options: Any) -> httpx.Response:  # noqa: ANN401
        """POST to the relay's HTTP."""
        async with httpx.AsyncClient(base_url=self.http_url, timeout=60) as client:
            return await client.post(path, **options)

    async def wait_health(self, limit_seconds: float = 10.0, **details: object) -> dict[str, Any]:
        """Wait until /health shows all of `details`; returns its answer."""
        answer: dict[str, Any] = {}

        async def shows() -> bool:
            answer.update((await self.get("/health")).json())
            found = answer["details"]
            assert {key: found.get(key) for key in details} == details, found
            return True

        await wait_until(shows, limit_seconds, f"/health shows {details}", interval=0.05)
        return answer


class Relay(RelayClient):
    """A relay process; `start` and `stop` may alternate on the same folder."""

    def __init__(self, folder: Path, config: dict[str, Any]) -> None:
        self.folder = folder
        self.data_dir = folder / "data"
        self.config = config
        self.config_file = folder / "config.json"
        self.process: asyncio.subprocess.Process | None = None
        self.environ: dict[str, str] = {}
        self.arguments: tuple[str, ...] = ()  # of `mailrelay run`, besides file and folder

    @property
    def log_text(self) -> str:
        """All log lines so far."""
        files = sorted(self.data_dir.glob("log/mailrelay.log*"), reverse=True)
        return "".join(file.read_text() for file in files)

    def log_lines(self, event: str) -> list[dict[str, Any]]:
        """The log lines of one event, in order."""
        lines = []
        for line in self.log_text.splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                decoded = json.loads(line)
                if decoded.get("event") == event:
                    lines.append(decoded)
        return lines

    async def logged(self, event: str, count: int = 1, **fields: object) -> list[dict[str, Any]]:
        """Wait for so many log lines of one event with these fields, and return all of them.

        Lines come through the supervisor: what they tell may be seen elsewhere before.
        """
        found: list[dict[str, Any]] = []

        def there() -> bool:
            found[:] = [x for x in self.log_lines(event) if fields.items() <= x.items()]
            return len(found) >= count

        await wait_until(there, LOG_SECONDS, f"{count} lines of {event}", interval=0.05)
        return found

    def run_file(self) -> RunFile:
        """What the supervisor says of the running relay."""
        running = read_run_file(self.data_dir / "run" / "relay.json")
        assert running is not None, f"no run file; console:\n{self.console()}"
        return running

    def pid(self, name: str) -> int:
        """The process id of `supervisor`, `nats`, `ingress`, `sender` or `monitor`."""
        running = self.run_file()
        return running.pid if name == "supervisor" else running.pids[name]

    def kill(self, name: str, number: int = signal.SIGKILL) -> int:
        """Send a signal to one of the relay's processes; returns its pid."""
        pid = self.pid(name)
        os.kill(pid, number)
        return pid

    def console(self) -> str:
        """What the command printed so far."""
        file = self.folder / "console.txt"
        return file.read_text() if file.exists() else ""

    async def start(self, *, wait_ready: bool = True) -> None:
        """Start `mailrelay run` and wait until /readyz says 200."""
        self.config_file.write_text(json.dumps(self.config))
        arguments = ["run", "--config", str(self.config_file), "--data-dir", str(self.data_dir)]
        arguments += self.arguments
        with (self.folder / "console.txt").open("ab") as console:
            self.process = await asyncio.create_subprocess_exec(
                COMMAND,
                *arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                env={**os.environ, **self.environ},
                start_new_session=True,
            )
        if wait_ready:
            await self.wait_ready()

    async def wait_ready(self, limit_seconds: float = READY_SECONDS) -> None:
        """Wait until the relay takes mail and its totals are caught up."""

        async def is_ready() -> bool:
            assert self.process is not None
            if self.process.returncode is not None:
                msg = f"the relay ended with {self.process.returncode}:\n{self.console()}"
                raise RuntimeError(msg)
            with contextlib.suppress(httpx.TransportError):
                return (await self.get("/readyz")).status_code == httpx.codes.OK
            return False

        await wait_until(is_ready, limit_seconds, "the relay is ready", interval=0.05)

    async def stop(self) -> int:
        """Stop it in order; returns the exit code."""
        assert self.process is not None
        if self.process.returncode is None:
            self.process.terminate()
        return await asyncio.wait_for(self.process.wait(), STOP_SECONDS)


@contextlib.asynccontextmanager
async def running_relay(folder: Path, **changes: Any) -> AsyncIterator[Relay]:  # noqa: ANN401
    """A relay that runs for a `with` block; whatever happens, none of its processes is left."""
    relay = Relay(folder, relay_config(**changes))
    try:
        await relay.start()
        yield relay
        code = await relay.stop()
        assert code == 0, f"the relay stopped with {code}:\n{relay.console()}"
    finally:
        if relay.process is not None and relay.process.returncode is None:
            relay.process.kill()  # its children end with it
            await relay.process.wait()
