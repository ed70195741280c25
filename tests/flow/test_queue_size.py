"""`queueSize` counts jobs in flight too, and whoever is killed, the count stays right."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.flow.test_trouble import submit
from tests.support.relay import Relay, forwarding_to, running_relay
from tests.support.scripting import Stage, Stall
from tests.support.scripts import accept_all, fail_at
from tests.support.upstream import ScriptedUpstream
from tests.support.wait import wait_until

SIZE = 6
RIGHT_AGAIN_SECONDS = 10.0


async def take_until_full(relay: Relay) -> int:
    """Send until the relay says 452; return how many it took."""
    for taken in range(SIZE + 2):
        submitted = await submit(relay, f"r{taken}@example.com")
        if not submitted.accepted:
            assert str(submitted.final).startswith("452 4.3.1")
            return taken
    raise AssertionError(f"more than {SIZE} jobs were taken")


@pytest.mark.timeout(180)
async def test_jobs_in_flight_count_and_a_killed_sender_or_ingress_gives_no_place_away(
    tmp_path: Path,
) -> None:
    async with (
        ScriptedUpstream(fail_at(Stage.MAIL, Stall(None))) as upstream,
        running_relay(
            tmp_path,
            queueSize=SIZE,
            workerCount=2,
            queue={"storeBytes": 2 * 1024**3, "ackWaitSeconds": 2},
            **forwarding_to(upstream.port),
        ) as relay,
    ):
        assert await take_until_full(relay) == SIZE
        for name in ("sender", "ingress", "nats"):
            old = relay.kill(name)

            def is_back(name: str = name, old: int = old) -> bool:
                return relay.run_file().pids.get(name, old) != old

            await wait_until(is_back, 30, f"{name} is back")
            await relay.wait_ready()
            ends_at = time.monotonic() + RIGHT_AGAIN_SECONDS / 10
            while time.monotonic() < ends_at:
                refused = await submit(relay, "more@example.com")
                assert str(refused.final).startswith("452 4.3.1"), name
        upstream.script = accept_all
        upstream.drop_connections()
        await relay.wait_health(60, queued_emails=0)
        assert (await submit(relay, "after@example.com")).accepted
