"""Alerts that a real relay makes fire, and those that it must not."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.prometheus.observed import (
    CLUSTER,
    MESSAGE,
    ONE_MACHINE,
    Observed,
    running_prometheus,
)
from tests.support.ports import free_port
from tests.support.prometheus import Labels, Prometheus
from tests.support.relay import Relay, forwarding_to, running_relay
from tests.support.smtp_client import SmtpDialogue
from tests.support.wait import wait_until

pytestmark = [
    pytest.mark.prometheus,
    pytest.mark.timeout(420),
    pytest.mark.asyncio(loop_scope="session"),
]
LIMIT_SECONDS = 120.0
# What the relay of `observed` has: it dropped failed mail, its smart host is dead, its certificate
# ends in three days.
WRONG = {
    "MailRelayFailedStoreNearlyFull",
    "MailRelayFailedMailDiscarded",
    "MailRelaySmartHostDown",
    "MailRelayCertificateEndsSoon",
}
# Neither wanted nor surprising: of the machine; and of mail that is put off each second.
MAY_FIRE = {"MailRelayDiskNearlyFull", "MailRelayDeliveriesDeferred"}


async def fired(prometheus: Prometheus, relay: Labels) -> set[str]:
    """The alerts of a relay."""
    return {
        labels["alertname"]
        for labels in await prometheus.alerts()
        if {key: labels.get(key) for key in CLUSTER} == {key: relay.get(key) for key in CLUSTER}
    }


async def wait_fired(prometheus: Prometheus, *names: str) -> None:
    """Wait until they fire, whichever way the relay is labelled."""

    async def do_fire() -> bool:
        for relay in (ONE_MACHINE, CLUSTER):
            found = await fired(prometheus, relay)
            assert set(names) <= found, f"of {relay} only {sorted(found)}"
        return True

    await wait_until(do_fire, LIMIT_SECONDS, f"{names} fire", interval=0.5)


async def wait_quiet(prometheus: Prometheus, *names: str) -> None:
    """Wait until none of them fires."""

    async def are_quiet() -> bool:
        for relay in (ONE_MACHINE, CLUSTER):
            found = await fired(prometheus, relay)
            assert not set(names) & found, f"of {relay} {sorted(found)}"
        return True

    await wait_until(are_quiet, LIMIT_SECONDS, f"{names} end", interval=0.5)


async def test_a_full_failed_store_a_dead_smart_host_and_an_old_certificate_are_told(
    observed: Observed,
) -> None:
    async def do_these_and_no_others() -> bool:
        for relay in (ONE_MACHINE, CLUSTER):
            found = await fired(observed.prometheus, relay)
            assert found - MAY_FIRE == WRONG, sorted(found ^ WRONG)
        return True

    await wait_until(do_these_and_no_others, LIMIT_SECONDS, f"{WRONG} fire", interval=0.5)


async def test_stopped_senders_ingress_and_queue_are_told_until_they_go_on(tmp_path: Path) -> None:
    absent = ("MailRelayNotReady", "MailRelaySenderAbsent", "MailRelayIngressAbsent")
    async with (
        running_relay(tmp_path, **forwarding_to(free_port())) as relay,
        running_prometheus(tmp_path, relay) as prometheus,
    ):
        pids = {name: relay.pid(name) for name in ("sender", "ingress", "nats")}
        os.kill(pids["sender"], signal.SIGSTOP)
        try:
            await submit_one(relay)  # a sender is missed only while jobs wait
            os.kill(pids["ingress"], signal.SIGSTOP)
            await wait_fired(prometheus, *absent)
        finally:
            for name in ("sender", "ingress"):
                os.kill(pids[name], signal.SIGCONT)
        await wait_quiet(prometheus, *absent)

        os.kill(pids["nats"], signal.SIGSTOP)
        try:
            await wait_fired(prometheus, "MailRelayQueueDown")
        finally:
            os.kill(pids["nats"], signal.SIGCONT)
        await wait_quiet(prometheus, "MailRelayQueueDown")


async def submit_one(relay: Relay) -> None:
    async with SmtpDialogue.connect("127.0.0.1", relay.smtp_port, limit_seconds=60) as client:
        await client.expect(220)
        await client.ehlo()
        assert (await client.submit("a@b.test", ["c@d.test"], MESSAGE)).accepted
