"""A container that takes all mail and writes down what it took: where the relay sends to."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from tests.compose.docker import docker, logs_of
from tests.support.command import ROOT
from tests.support.deliveries import Delivery, read_deliveries
from tests.support.ledger import Ledger, Verdict, compare
from tests.support.wait import wait_until

HOST, PORT = "sink", 2526
_READY_SECONDS = 30.0
DELIVERED_SECONDS = 120.0  # what was claimed when a sender was killed comes back after 30 s


@dataclass(frozen=True, slots=True)
class Sink:
    """One such container, `sink:2526` to the project's others."""

    record: Path

    def deliveries(self, run: str = "") -> list[Delivery]:
        """Return what it took so far of a run of the load, or at all."""
        found = read_deliveries(self.record) if self.record.exists() else []
        return [delivery for delivery in found if delivery.ledger_id.startswith(run)]

    async def wait_kept(self, ledger: Ledger, run: str) -> Verdict:
        """Wait until every promise of a run is kept; how the two books compare then."""

        def nothing_lost() -> bool:
            verdict = compare(ledger, self.deliveries(run))
            assert not verdict.lost, f"not delivered yet: {len(verdict.lost)}\n{verdict}"
            return True

        await wait_until(nothing_lost, DELIVERED_SECONDS, "each accepted message is there", 0.2)
        verdict = compare(ledger, self.deliveries(run))
        assert verdict.nothing_lost, str(verdict)
        return verdict


@contextlib.asynccontextmanager
async def running_sink(network: str, folder: Path) -> AsyncIterator[Sink]:
    """A sink in a network that is there already."""
    name = f"mailrelay-sink-{secrets.token_hex(4)}"
    record = folder / "deliveries.jsonl"
    await docker(
        *("run", "--detach", "--rm", "--name", name, "--network", network),
        *("--network-alias", HOST, "--user", f"{os.getuid()}:{os.getgid()}"),
        *("--volume", f"{ROOT / 'tests'}:/sink/tests:ro", "--volume", f"{folder}:/record"),
        *("--workdir", "/sink", "--entrypoint", "python", "mailrelay-tools"),
        *("-m", "tests.support.upstream_process", "--host", "0.0.0.0", "--port", str(PORT)),  # noqa: S104 — inside its container
        *("--record", f"/record/{record.name}"),
    )
    try:

        async def is_ready() -> bool:
            return f"READY {PORT}" in await logs_of(name)

        await wait_until(is_ready, _READY_SECONDS, "the sink listens")
        yield Sink(record)
    finally:
        await docker("rm", "--force", name)
