"""What cannot work is told in words that lead to the reason."""

from __future__ import annotations

import pytest

from tests.cluster.clusters import Cluster
from tests.cluster.names import PREFIX
from tests.cluster.relays import KIND, NAME, make_relay
from tests.cluster.sinks import Sink
from tests.support.kubernetes.client import Client
from tests.support.wait import wait_until

pytestmark = pytest.mark.cluster
NAMESPACE = f"{PREFIX}unpullable"
IMAGE = "mailrelay.invalid/sender:none"
SOON_SECONDS = 120.0


async def test_the_command_that_is_named_shows_an_image_that_cannot_be_pulled(
    cluster: Cluster, admin: Client, sink: Sink
) -> None:
    await make_relay(admin, NAMESPACE, sink, images={"sender": IMAGE})
    command: list[str] = []

    async def names_a_command() -> bool:
        found = await admin.get(*KIND, NAME, namespace=NAMESPACE)
        told = {each["type"]: each for each in found.get("status", {}).get("conditions", ())}
        assert "SendersAvailable" in told, "no status yet"
        _, _, said = told["SendersAvailable"]["message"].partition("kubectl ")
        command[:] = said.split()
        return bool(command)

    await wait_until(names_a_command, SOON_SECONDS, "a condition names a command", 0.2)

    async def shows_the_reason() -> bool:
        shown = await cluster.kubectl("--namespace", NAMESPACE, *command)
        assert f'Failed to pull image "{IMAGE}"' in shown, shown
        return True

    await wait_until(shows_the_reason, SOON_SECONDS, "the command shows why", 0.5)
    await admin.delete("v1", "Namespace", NAMESPACE)
