"""docker-compose.split.yml: the relay's processes in containers of their own, killed under load."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.compose.clients import ask, load_plan
from tests.compose.conftest import table
from tests.compose.docker import (
    QUICK_SPLIT,
    SPLIT,
    V2,
    Project,
    docker,
    inspect,
    project,
    run,
    seconds_to,
)
from tests.compose.sink import HOST, PORT, Sink, running_sink
from tests.support.ledger import Ledger
from tests.support.load import run_load
from tests.support.load_plan import LoadPlan
from tests.support.ports import free_port
from tests.support.wait import wait_until

pytestmark = [pytest.mark.compose, pytest.mark.timeout(400)]

SENDERS = 4
FLOWS_SECONDS = 90.0  # until mail flows again behind a kill: starting takes 10 s on a busy machine
SECRETS = {
    "ingress": {"ingress"},
    "sender": {"sender"},
    "monitor": {"monitor"},
    "nats": {"nats-config"},
    "queue": {"admin"},
}


def options() -> dict[str, str]:
    return {
        "SMTP_PORT": str(free_port()),
        "HEALTH_CHECK_PORT": str(free_port()),
        "FORWARD_SMTP": "true",
        "FORWARD_HOST": HOST,
        "FORWARD_PORT": str(PORT),
        "QUEUE_STORE_BYTES": str(1024**3),
    }


async def test_up_with_more_senders_delivers_and_keeps_keys_apart(
    older_compose: tuple[str, ...], tmp_path: Path
) -> None:
    chosen = options()
    async with project([SPLIT, QUICK_SPLIT], older_compose, **chosen) as relay:
        await relay.up()
        assert len(await relay.containers("sender")) == 2
        await relay.up("--scale", f"sender={SENDERS}")
        assert len(await relay.containers("sender")) == SENDERS
        for service in ("ingress", "sender", "monitor"):
            took = await seconds_to((await relay.containers(service))[-1], f"{service}.ready")
            table.append(f"{service}: ready {took:.1f} s")
        await no_role_can_read_anothers_key(relay)
        await the_queue_is_reached_by_the_relay_alone(relay)
        ready = await ask(int(chosen["HEALTH_CHECK_PORT"]), "GET", "/readyz")
        assert ready.status_code == 200, ready.text
        ledger = Ledger()
        async with running_sink(relay.network, tmp_path) as sink:
            await run_load(await plan_for(relay, "scaled-", count=100), ledger)
            assert len(ledger.accepted) == 100
            verdict = await sink.wait_kept(ledger, "scaled-")
        assert verdict.exactly_once, str(verdict)


async def no_role_can_read_anothers_key(relay: Project) -> None:
    secrets = {relay.volume(name) for names in SECRETS.values() for name in names}
    for service, own in SECRETS.items():
        mounts = (await inspect((await relay.containers(service))[0]))["Mounts"]
        seen = {mount["Name"] for mount in mounts if mount["Type"] == "volume"} & secrets
        assert seen == {relay.volume(name) for name in own}, service
        assert not any(mount["RW"] for mount in mounts if mount.get("Name") in secrets), service


async def the_queue_is_reached_by_the_relay_alone(relay: Project) -> None:
    asking = "import socket; socket.create_connection(('nats', 4222), 3)"
    python = ("--entrypoint", "python", "mailrelay-tools", "-c", asking)
    inside = await run("docker", "run", "--rm", "--network", f"{relay.name}_queue", *python)
    assert inside.code == 0, inside.stderr
    outside = await run("docker", "run", "--rm", "--network", relay.network, *python)
    assert outside.code != 0
    published = (await inspect(await relay.container("nats")))["HostConfig"]["PortBindings"]
    assert not published


async def test_nothing_accepted_is_lost_when_a_sender_and_nats_are_killed_under_load(
    tmp_path: Path,
) -> None:
    async with project([SPLIT, QUICK_SPLIT], V2, **options()) as relay:
        await relay.up("--scale", f"sender={SENDERS}")
        ledger, stop = Ledger(), asyncio.Event()
        async with running_sink(relay.network, tmp_path) as sink:
            plan = await plan_for(relay, "split-", duration_seconds=240.0, patience_seconds=120.0)
            load = asyncio.create_task(run_load(plan, ledger, stop))
            await more_delivered(sink)
            await docker("kill", (await relay.containers("sender"))[0])
            await more_delivered(sink)  # by the others
            await relay.up("--scale", f"sender={SENDERS}")  # brings the killed one back
            await docker("kill", await relay.container("nats"))
            await relay.up("--scale", f"sender={SENDERS}")
            await more_delivered(sink)
            stop.set()
            await load
            await relay.down()
            await relay.up()  # two of them are enough for what is left
            verdict = await sink.wait_kept(ledger, "split-")
        table.append(
            "split, docker kill of a sender and of NATS under load, then down and up: "
            f"{verdict.accepted_messages} accepted, {len(verdict.lost)} lost, "
            f"{len(verdict.duplicated)} twice"
        )


async def more_delivered(sink: Sink, count: int = 100) -> None:
    before = len(sink.deliveries())
    await wait_until(
        lambda: len(sink.deliveries()) >= before + count, FLOWS_SECONDS, "mail flows", 0.1
    )


async def plan_for(relay: Project, name: str, **changes: Any) -> LoadPlan:  # noqa: ANN401
    password = (await relay.exec("ingress", "cat", "/secrets/smtp-password")).strip()
    return load_plan(int(relay.options["SMTP_PORT"]), password, name, **changes)
