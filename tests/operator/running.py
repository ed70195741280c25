"""The operator as its image runs it: a process with an account's kubeconfig and an environment."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.support.wait import wait_until

READY_SECONDS = 120.0
IMAGES = {
    name: f"registry.invalid/mailrelay-{name.lower()}:test"
    for name in ("INGRESS", "SENDER", "MONITOR", "NATS", "TOOLS")
}


class RunningOperator:
    """One process; it is killed when the test ends, if it has not ended before."""

    def __init__(  # noqa: PLR0913 — settings
        self,
        folder: Path,
        kubeconfig: Path,
        namespace: str,
        *,
        watched: str = "",
        relist_seconds: float = 600.0,
        monitor_url: str = "http://127.0.0.1:9/{namespace}/{name}",
        images: dict[str, str] | None = None,
        workers: int = 4,
        traces_to: str = "",
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.log_file = folder / "operator.log"
        self._environ = {
            **{key: value for key, value in os.environ.items() if not key.startswith("OTEL_")},
            "KUBECONFIG": str(kubeconfig),
            "MAILRELAY_OPERATOR_NAMESPACE": namespace,
            "MAILRELAY_OPERATOR_WATCHED": watched,
            "MAILRELAY_OPERATOR_RELIST_SECONDS": str(relist_seconds),
            "MAILRELAY_OPERATOR_MONITOR_URL": monitor_url,
            "MAILRELAY_OPERATOR_WORKERS": str(workers),
            "MAILRELAY_OPERATOR_PROBE_ADDRESS": "127.0.0.1:0",
            **{
                f"MAILRELAY_OPERATOR_IMAGE_{name}": image
                for name, image in (IMAGES | (images or {})).items()
            },
        }
        if traces_to:
            self._environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = traces_to
        self._port = 0
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def start(self) -> None:
        """Start it and wait until its face is there."""
        self._port = 0
        self.log_file.write_bytes(b"")
        with self.log_file.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",
                "-m",
                "mailrelay_operator",
                env=self._environ,
                stdout=log,
                stderr=log,
                stdin=asyncio.subprocess.DEVNULL,
            )
        await wait_until(self._has_face, READY_SECONDS, f"the operator starts\n{self.tail()}")

    async def wait_ready(self) -> None:
        async def is_ready() -> bool:
            status, said = await self.ask("/readyz")
            assert status == 200, said
            return True

        await wait_until(is_ready, READY_SECONDS, "the operator is ready")

    async def wait_leads(self) -> None:
        def leads() -> bool:
            return any(line["event"] == "operator.works" for line in self.lines())

        await wait_until(leads, READY_SECONDS, "the operator works")

    async def stop(self) -> int:
        """End it in order; its exit code."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return await asyncio.wait_for(self._process.wait(), 60)

    async def kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    def freeze(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    @property
    def has_ended(self) -> bool:
        return self._process is not None and self._process.returncode is not None

    @property
    def address(self) -> str:
        """Where its face is: host:port."""
        return f"127.0.0.1:{self._port}"

    async def ask(self, path: str) -> tuple[int, str]:
        """Status and text of its face."""
        return await asyncio.to_thread(_get, f"http://127.0.0.1:{self._port}{path}")

    async def metric(self, name: str) -> float:
        """The sum of a metric's samples."""
        _, text = await self.ask("/metrics")
        lines = (line for line in text.splitlines() if line.partition("{")[0].split()[0] == name)
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines)

    def lines(self) -> Iterator[dict[str, Any]]:
        """What it logged."""
        for line in self.log_file.read_text().splitlines():
            if line.startswith("{"):
                yield json.loads(line)

    def tail(self) -> str:
        return "\n".join(self.log_file.read_text().splitlines()[-40:])

    def _has_face(self) -> bool:
        assert not self.has_ended, self.tail()
        for line in self.lines():
            if line["event"] == "operator.started":
                self._port = line["probe"]
        return self._port > 0


def _get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=20) as answer:  # noqa: S310 — loopback
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
