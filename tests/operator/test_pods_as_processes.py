"""A relay of the operator's manifests really runs: queue, streams, keys, TLS, AUTH, and mail."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import json
import smtplib
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mailrelay.queue.connection import ConnectionSettings, open_connection
from mailrelay.queue.errors import QueueUnavailableError
from mailrelay.queue.rights import Role
from mailrelay.runtime.logging import configure_logging
from mailrelay_operator.desired.children import desired
from mailrelay_operator.desired.manifest import Manifest
from mailrelay_operator.generate import generate, take_step
from mailrelay_operator.key_slots import Step, key_slots
from mailrelay_operator.resource.relay import Relay
from tests.operator.pods_as_processes import (
    SECONDS,
    Pod,
    Secrets,
    get,
    let_talk,
    nats_pods,
    owner_of,
    send,
    url_of,
)
from tests.operator.relays import inputs, relay
from tests.support.certificates import make_certificates
from tests.support.extensions import Extensions
from tests.support.otlp import collector, spans_by_name
from tests.support.upstream import ScriptedUpstream
from tests.support.wait import wait_until

PASSWORD = "open sesame"  # noqa: S105 — of a server that stands on loopback for a test
CAPTURES: dict[str, Any] = {"routes": [], "queue": {"storage": {"size": "1Gi"}}}


def made(resource: Relay, secrets: Secrets | None = None) -> tuple[tuple[Manifest, ...], Secrets]:
    """Children and Secrets, as the operator makes them."""
    found = dict(secrets or {})
    found |= {each.name: each.data for each in generate(resource, found, dt.datetime.now(dt.UTC))}
    keys = {}
    for role in Role:
        slots = key_slots(found.get(f"mail-nats-{role.value}", {}))
        if slots is not None:
            keys[role] = slots
    return desired(resource, inputs(keys=keys)), found


async def streams_made(
    children: tuple[Manifest, ...], secrets: Secrets, folder: Path, servers: list[Pod]
) -> str:
    """Run the Job to its end, as often as it takes; what it said."""
    pod = Pod(owner_of(children, "streams"), children, secrets, folder)
    for server in servers:
        host = f"{server.name}.mail-nats" if len(servers) > 1 else "mail-nats-client"
        pod.texts[f"{host}:4222"] = f"127.0.0.1:{server.ports['client']}"

    async def succeeds() -> bool:
        async with pod.running() as process:
            code = await asyncio.wait_for(process.wait(), 70)
        if code == 2:  # bad input: another try does not help
            raise RuntimeError(pod.said.read_text())
        assert code == 0, pod.said.read_text()
        return True

    await wait_until(succeeds, 120, "the streams' Job ends well", interval=0.5)
    return pod.said.read_text()


async def lets_in(url: str, role: Role, seed: bytes, folder: Path) -> bool:
    """Whether NATS takes a seed; it says no for good, or keeps silent."""
    file = folder / f"seed-{role.value}"
    file.write_bytes(seed)
    log = configure_logging("test", "text")
    try:
        async with asyncio.timeout(5):
            connection = await open_connection(ConnectionSettings(url, role.value, file), log)
    except (TimeoutError, QueueUnavailableError):
        return False
    await connection.close()
    return True


@pytest.mark.timeout(300)
async def test_one_server_takes_the_operators_configuration_and_the_job_makes_the_streams(
    tmp_path: Path,
) -> None:
    children, secrets = made(relay(CAPTURES))
    (server,) = nats_pods(children, secrets, tmp_path)
    async with server.running():
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            await server.wait_probed(probe)
        said = await streams_made(children, secrets, tmp_path / "job", [server])
        assert "stream mailrelay-in-0 created" in said
        await server.wait_probed("livenessProbe")
        _, text = await asyncio.to_thread(get, server.ports["probe"], "/jsz?config=1")
        facts = json.loads(text)
        assert facts["config"]["sync_always"] is True
        assert facts["config"]["max_storage"] == 1024**3 * 8 // 10
        _, text = await asyncio.to_thread(get, server.ports["probe"], "/varz")
        assert json.loads(text)["server_name"] == "mail-nats-0"


@pytest.mark.timeout(300)
async def test_a_server_that_listens_on_all_addresses_does_so_in_both_families(
    tmp_path: Path,
) -> None:
    children, secrets = made(relay(CAPTURES))
    (server,) = nats_pods(children, secrets, tmp_path)
    # As its pod does.
    server.texts = {"127.0.0.1:": "0.0.0.0:"}
    server.rewrite("/etc/nats/nats.conf")
    async with server.running():
        await server.wait_probed("startupProbe")
        for port, opens in (("client", b"INFO "), ("probe", b"")):
            for host in ("127.0.0.1", "::1"):
                with socket.create_connection((host, server.ports[port]), SECONDS) as connection:
                    assert connection.recv(len(opens)) == opens


@pytest.mark.timeout(300)
async def test_three_servers_find_each_other_and_keep_three_copies(tmp_path: Path) -> None:
    queue = {"replicas": 3, "storage": {"size": "1Gi"}}
    children, secrets = made(relay({**CAPTURES, "queue": queue}))
    servers = nats_pods(children, secrets, tmp_path)
    async with contextlib.AsyncExitStack() as stack:
        for server in servers:
            await stack.enter_async_context(server.running())
        for server in servers:
            await server.wait_probed("startupProbe")
        await streams_made(children, secrets, tmp_path / "job", servers)
        for server in servers:
            await server.wait_probed("readinessProbe")
        _, text = await asyncio.to_thread(
            get, servers[0].ports["probe"], "/jsz?accounts=1&streams=1&config=1"
        )
        (account,) = json.loads(text)["account_details"]
        copies = {each["config"]["num_replicas"] for each in account["stream_detail"]}
        assert copies == {3}


@pytest.mark.timeout(300)
async def test_both_keys_of_a_role_are_let_in_while_they_are_replaced(tmp_path: Path) -> None:
    resource = relay(CAPTURES)
    _, secrets = made(resource)
    name = "mail-nats-sender"
    old = secrets[name]["seed-a"]
    begun = {**secrets, name: take_step(secrets[name], Step.BEGIN, "now")}
    new = begun[name]["seed-b"]
    ended = take_step(take_step(begun[name], Step.SWITCH, "now"), Step.END, "now")
    answers = []
    for number, found in enumerate((secrets, begun, {**begun, name: ended})):
        children, kept = made(resource, found)
        folder = tmp_path / str(number)
        (server,) = nats_pods(children, kept, folder)
        async with server.running():
            await server.wait_probed("readinessProbe")
            url = url_of([server])
            answers.append([await lets_in(url, Role.SENDER, seed, folder) for seed in (old, new)])
    assert answers == [[True, False], [True, True], [False, True]]


@dataclass(frozen=True, slots=True)
class Running:
    """A whole relay: where it is reached, and its Secrets."""

    smtp: int
    http: int
    secrets: Secrets

    async def messages(self) -> str:
        """What the monitor says of mail, to who has the token."""
        token = self.secrets["mail-http-token"]["token"].decode()
        headers = {"Authorization": f"Bearer {token}"}
        _, text = await asyncio.to_thread(get, self.http, "/api/messages", headers)
        return text

    async def wait_message(self, word: str) -> None:
        """Wait until the monitor says of a message what became of it."""

        async def is_said() -> bool:
            text = await self.messages()
            assert word in text, text
            return True

        await wait_until(is_said, SECONDS, f"a message is {word}", interval=0.2)


@contextlib.asynccontextmanager
async def running_relay(
    spec: dict[str, Any], folder: Path, given: Secrets, *, listen: str = "127.0.0.1"
) -> AsyncIterator[Running]:
    """Run all pods of a relay until each has answered all its probes."""
    children, secrets = made(relay(spec))
    secrets = {**secrets, **given}
    (server,) = nats_pods(children, secrets, folder)
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(server.running())
        await server.wait_probed("startupProbe")
        await streams_made(children, secrets, folder / "job", [server])
        pods = {}
        for component in ("ingress", "sender", "monitor"):
            owner = owner_of(children, component)
            pod = pods[component] = Pod(owner, children, secrets, folder / component)
            pod.rewrite("/etc/mailrelay/config.json")
        smtp, http = let_talk(pods, url_of([server]), listen=listen)
        for pod in pods.values():
            await stack.enter_async_context(pod.running())
        for pod in pods.values():
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                await pod.wait_probed(probe)
        yield Running(smtp, http, secrets)


@pytest.mark.timeout(300)
async def test_mail_is_taken_under_tls_from_the_generated_user_and_captured(
    tmp_path: Path,
) -> None:
    # As the pods do: on every address, of both families.
    async with running_relay(CAPTURES, tmp_path, {}, listen="*") as running:
        for host in ("127.0.0.1", "::1"):
            await asyncio.to_thread(send, running.smtp, running.secrets, "mail", "apps", host)
            status, text = await asyncio.to_thread(get, running.http, "/readyz", {}, host)
            assert status == 200, text
        await running.wait_message("captured")
        status, _ = await asyncio.to_thread(get, running.http, "/api/messages")
        assert status == 401


@pytest.mark.timeout(300)
async def test_the_monitor_is_ready_where_the_relay_serves_other_networks_than_the_pods(
    tmp_path: Path,
) -> None:
    spec = {**CAPTURES, "security": {"allowedNetworks": ["192.0.2.0/24"]}}
    async with running_relay(spec, tmp_path, {}) as running:
        with pytest.raises(smtplib.SMTPConnectError, match="550"):
            await asyncio.to_thread(send, running.smtp, running.secrets, "mail", "apps")
        status, text = await asyncio.to_thread(get, running.http, "/readyz")
        assert status == 200, text


@pytest.mark.timeout(300)
async def test_mail_goes_on_with_what_named_secrets_have_and_its_spans_reach_a_collector(
    tmp_path: Path,
) -> None:
    certificates = make_certificates(tmp_path / "certificates")
    offers = Extensions(
        starttls=certificates.server.context(),
        auth=("PLAIN",),
        auth_only_with_tls=True,
        auth_required=True,
        credentials={"ada": PASSWORD},
    )
    with collector() as (endpoint, arrived, _):
        async with ScriptedUpstream(extensions=offers) as upstream:
            host = {
                "host": "127.0.0.1",
                "port": upstream.port,
                "caSecretName": "authority",
                "credentialsSecretName": "account",
            }
            spec = {
                **CAPTURES,
                "routes": [{"name": "everything", "smartHosts": [host]}],
                "tracing": {"endpoint": endpoint},
            }
            given = {
                "authority": {"ca.crt": certificates.authority.read_bytes()},
                "account": {"username": b"ada", "password": PASSWORD.encode()},
            }
            async with running_relay(spec, tmp_path, given) as running:
                await asyncio.to_thread(send, running.smtp, running.secrets, "mail", "apps")
                await running.wait_message("sent")
            (delivery,) = upstream.received
            assert delivery.tls
            assert delivery.auth == "ada"
            assert upstream.violations == []
    named = spans_by_name(arrived)
    assert set(named) == {"mailrelay accept", "mailrelay attempt"}
    told = {
        attribute.key: attribute.value.string_value
        for request in arrived
        for each in request.resource_spans
        for attribute in each.resource.attributes
    }
    assert (told["k8s.namespace.name"], told["mailrelay.relay"]) == ("apps", "mail")
