"""Several operators, an API server that goes away, others that write all the time, upgrades."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest

from mailrelay_operator.rights import OWN, RELAYS, rules
from tests.operator.operators import (
    ACCOUNT,
    SOON,
    kept_relay,
    operator,
    played_node,
    relay,
    wait_condition,
    wait_made,
    wait_replicas,
)
from tests.operator.running import RunningOperator
from tests.operator.silent_api import SilentApi
from tests.support.kubernetes.client import ApiRefusedError, Client
from tests.support.kubernetes.cluster import ApiServer
from tests.support.wait import wait_until

pytestmark = pytest.mark.operator

DEPLOYMENT = ("apps/v1", "Deployment")
LEASE = ("coordination.k8s.io/v1", "Lease")


async def holder(admin: Client) -> str:
    lease = await admin.find(*LEASE, "mailrelay-operator")
    return str((lease or {}).get("spec", {}).get("holderIdentity", ""))


async def wait_config_map(admin: Client, name: str) -> None:
    async def is_there() -> bool:
        return await admin.find("v1", "ConfigMap", name) is not None

    await wait_until(is_there, SOON, f"the ConfigMap {name} is there", interval=0.1)


@pytest.mark.parametrize("how", ["kill", "stop"])
async def test_another_operator_takes_over(
    api_server: ApiServer, admin: Client, namespace: str, tmp_path: Path, how: str
) -> None:
    async with (
        operator(api_server, namespace, tmp_path / "a") as first,
        operator(api_server, namespace, tmp_path / "b") as second,
    ):
        await admin.apply(relay())
        await wait_made(admin)

        def acts(running: RunningOperator) -> bool:
            return any(line["event"] == "operator.works" for line in running.lines())

        leader, other = (first, second) if acts(first) else (second, first)
        assert not acts(other)
        before = await holder(admin)
        if how == "kill":
            await leader.kill()
        else:
            assert await leader.stop() == 0
            # Given up in order, it is free at once.
            assert await holder(admin) != before
        await admin.apply(relay(sender={"replicas": 3}))
        await wait_replicas(admin, "relay-sender", 3)
        assert acts(other)
        assert await holder(admin) not in {before, ""}


async def test_an_operator_that_was_frozen_ends_and_writes_nothing(
    api_server: ApiServer, admin: Client, namespace: str, tmp_path: Path
) -> None:
    async with kept_relay(api_server, admin, tmp_path / "a") as frozen:
        async with operator(api_server, namespace, tmp_path / "b") as other:
            frozen.freeze()
            await other.wait_leads()
            await admin.apply(relay(sender={"replicas": 3}))
            await wait_replicas(admin, "relay-sender", 3)
            frozen.thaw()

            await wait_until(lambda: frozen.has_ended, SOON, "the frozen one ends")
        events = [line["event"] for line in frozen.lines()]
        assert "operator.lost_lease" in events


async def test_what_happens_while_the_api_server_is_away_is_seen_afterwards(
    api_server: ApiServer, admin: Client, tmp_path: Path
) -> None:
    async with kept_relay(api_server, admin, tmp_path) as running:
        await api_server.restart(kill=True)
        # At once: the operator's watches are not there again yet, as likely as not.
        await admin.delete("v1", "ConfigMap", "relay-config")
        await admin.patch(*DEPLOYMENT, "relay-sender", {"spec": {"replicas": 8}})
        await admin.apply(relay(ingress={"replicas": 4}))

        await wait_config_map(admin, "relay-config")
        await wait_replicas(admin, "relay-sender", 2)
        await wait_replicas(admin, "relay-ingress", 4)
        status, said = await running.ask("/healthz")
        assert status == 200, said


async def test_an_api_server_that_is_away_for_a_while_ends_the_leader_in_order_of_its_lease(
    api_server: ApiServer, admin: Client, tmp_path: Path
) -> None:
    async with kept_relay(api_server, admin, tmp_path) as running:
        await api_server.stop(kill=True)
        try:
            # Its pod would be started again; nothing may be done without the Lease meanwhile.
            await wait_until(lambda: running.has_ended, SOON, "the leader ends")
        finally:
            await api_server.start()
        await admin.apply(relay(sender={"replicas": 3}))
        await running.start()
        await wait_replicas(admin, "relay-sender", 3)


async def test_a_frozen_api_server_ends_the_leader_as_one_that_is_away_does(
    api_server: ApiServer, admin: Client, namespace: str, tmp_path: Path
) -> None:
    async with operator(api_server, namespace, tmp_path) as running:
        await running.wait_leads()
        await api_server.freeze()
        try:
            await wait_until(lambda: running.has_ended, SOON, "the leader ends")
        finally:
            api_server.thaw()
        assert "operator.lost_lease" in [line["event"] for line in running.lines()]
        await running.start()
        await admin.apply(relay(sender={"replicas": 3}))
        await wait_replicas(admin, "relay-sender", 3)


async def test_a_full_etcd_is_told_and_everything_is_made_once_there_is_room(
    own_api_server: ApiServer, admin: Client, namespace: str, tmp_path: Path
) -> None:
    full = "database space exceeded"
    plane = own_api_server.plane
    async with operator(own_api_server, namespace, tmp_path) as running, played_node(admin):
        await admin.apply(relay())
        await wait_condition(admin, "Progressing", "False", "Done")
        await admin.apply(relay("late"))

        async def is_begun() -> bool:
            return await admin.find("v1", "Secret", "late-smtp") is not None

        await wait_until(is_begun, SOON, "the second relay is begun", interval=0.02)
        await plane.fill_etcd()
        try:
            with pytest.raises(ApiRefusedError, match=full):
                await admin.apply(relay(sender={"replicas": 3}))
            # etcd still deletes. What is gone cannot be made again now.
            await admin.delete("v1", "ConfigMap", "relay-config")
            # Whether another one leads by now cannot be known without the Lease: it ends.
            await wait_until(lambda: running.has_ended, SOON, "the leader ends")
            lines = list(running.lines())
            assert "operator.lost_lease" in [line["event"] for line in lines]
            reasons = {line["event"] for line in lines if full in line.get("reason", "")}
            assert {"relay.pass_failed", "operator.lease_unreachable"} <= reasons
            await running.start()

            async def says_so() -> bool:
                status, said = await running.ask("/readyz")
                assert status == 503
                assert full in said, said
                return True

            await wait_until(says_so, SOON, "it says what keeps it from acting", interval=0.2)
            assert (await running.ask("/healthz"))[0] == 200
            assert await admin.find("v1", "ConfigMap", "relay-config") is None
        finally:
            await plane.empty_etcd()
        for name in ("relay", "late"):
            await wait_config_map(admin, f"{name}-config")
            await wait_condition(admin, "Ready", "True", "Ready", name)
            await wait_condition(admin, "Degraded", "False", "AsExpected", name)
        await running.wait_ready()
        await admin.apply(relay(sender={"replicas": 3}))
        await wait_replicas(admin, "relay-sender", 3)


async def test_a_silent_watch_is_unhealthy_and_what_it_does_not_tell_is_found_all_the_same(
    own_api_server: ApiServer, admin: Client, namespace: str, tmp_path: Path
) -> None:
    # Its Lease and its lists go through: only these watches stand still, their connections open.
    async with (
        SilentApi(own_api_server.kubeconfig).running() as way,
        operator(own_api_server, namespace, tmp_path, way=way, relist_seconds=10.0) as running,
    ):
        await admin.apply(relay())
        await wait_made(admin)
        assert await running.ask("/healthz") == (200, "ok\n")
        way.hold("/mailrelays", "/deployments")
        await admin.apply(relay(sender={"replicas": 3}))
        await wait_replicas(admin, "relay-sender", 3)
        await admin.patch(*DEPLOYMENT, "relay-sender", {"spec": {"replicas": 8}})
        await wait_replicas(admin, "relay-sender", 3)

        async def says_so() -> bool:
            status, said = await running.ask("/healthz")
            assert status == 503, said
            assert f"the watch of MailRelay says nothing of {namespace}/relay" in said, said
            return True

        await wait_until(says_so, SOON, "it says that a watch is silent", interval=0.2)
        way.release()

        async def is_well() -> bool:
            status, said = await running.ask("/healthz")
            assert status == 200, said
            return True

        await wait_until(is_well, SOON, "it is well once the watch goes on", interval=0.2)
        assert not running.has_ended


async def test_what_a_watch_did_not_tell_the_list_tells(
    api_server: ApiServer, admin: Client, tmp_path: Path
) -> None:
    # With a list each second or so, a watch is broken off again and again.
    async with kept_relay(api_server, admin, tmp_path, relist_seconds=1.0):
        for replicas in (3, 5, 4):
            await admin.apply(relay(sender={"replicas": replicas}))
            await wait_replicas(admin, "relay-sender", replicas)
            await admin.patch(*DEPLOYMENT, "relay-sender", {"spec": {"replicas": 9}})
            await wait_replicas(admin, "relay-sender", replicas)


async def test_somebody_who_writes_all_the_time_does_not_win(
    api_server: ApiServer, admin: Client, tmp_path: Path
) -> None:
    async with kept_relay(api_server, admin, tmp_path) as running:

        async def write() -> None:
            for number in range(100):
                with contextlib.suppress(ApiRefusedError):
                    await admin.patch(
                        *DEPLOYMENT,
                        "relay-sender",
                        {
                            "metadata": {"annotations": {"storm": str(number)}},
                            "spec": {"replicas": number, "revisionHistoryLimit": number},
                        },
                    )

        await asyncio.gather(write(), write())
        await wait_replicas(admin, "relay-sender", 2)

        async def is_calm() -> bool:
            found = await admin.get(*DEPLOYMENT, "relay-sender")
            managers = {each["manager"] for each in found["metadata"]["managedFields"]}
            assert "mailrelay-operator" in managers
            return bool(found["spec"]["replicas"] == 2)

        await wait_until(is_calm, SOON, "it is as it was", interval=0.1)
        assert not running.has_ended
        failed = [line for line in running.lines() if "exc_info" in line or "exception" in line]
        assert failed == []


async def test_an_upgrade_rolls_one_relay_and_stops_when_it_fails(
    api_server: ApiServer, admin: Client, namespace: str, tmp_path: Path
) -> None:
    newer = {"SENDER": "registry.invalid/mailrelay-sender:broken"}

    async def images() -> list[str]:
        found = [await admin.get(*DEPLOYMENT, f"{name}-sender") for name in ("a", "b", "c")]
        return [each["spec"]["template"]["spec"]["containers"][0]["image"] for each in found]

    async with played_node(admin, failing=":broken"):
        async with operator(api_server, namespace, tmp_path / "old") as running:
            await admin.apply([relay("a"), relay("b"), relay("c")])
            for name in ("a", "b", "c"):
                await wait_condition(admin, "Progressing", "False", "Done", name)
            assert await running.stop() == 0
        async with operator(api_server, namespace, tmp_path / "new", images=newer):
            rolled: list[str] = []

            async def one_is_rolled() -> bool:
                nonlocal rolled
                rolled = [image for image in await images() if image.endswith(":broken")]
                return bool(rolled)

            await wait_until(one_is_rolled, SOON, "one relay is rolled", interval=0.1)
            others = [
                name
                for name, image in zip("abc", await images(), strict=True)
                if not image.endswith(":broken")
            ]
            for name in others:
                # At first, perhaps, until all were looked at.
                waits = ("Progressing", "False", "Waits")
                await wait_condition(admin, *waits, name, words="waits for relay")
            assert len(rolled) == 1
            # What is deleted meanwhile comes back, and a relay that its owner changes rolls.
            await admin.delete("v1", "ConfigMap", f"{others[0]}-config")
            await wait_config_map(admin, f"{others[0]}-config")
            assert sum(image.endswith(":broken") for image in await images()) == 1


async def test_a_good_upgrade_reaches_all_relays(
    api_server: ApiServer, admin: Client, namespace: str, tmp_path: Path
) -> None:
    newer = {"SENDER": "registry.invalid/mailrelay-sender:newer"}
    async with played_node(admin):
        async with operator(api_server, namespace, tmp_path / "old") as running:
            await admin.apply([relay("a"), relay("b")])
            for name in ("a", "b"):
                await wait_condition(admin, "Progressing", "False", "Done", name)
            assert await running.stop() == 0
        async with operator(api_server, namespace, tmp_path / "new", images=newer):

            async def are_new() -> bool:
                for name in ("a", "b"):
                    found = await admin.get(*DEPLOYMENT, f"{name}-sender")
                    image = found["spec"]["template"]["spec"]["containers"][0]["image"]
                    assert image == newer["SENDER"], name
                return True

            await wait_until(are_new, SOON, "both are rolled", interval=0.2)
            for name in ("a", "b"):
                await wait_condition(admin, "Progressing", "False", "Done", name)


async def test_one_operator_keeps_the_relays_of_all_namespaces(
    api_server: ApiServer, admin: Client, namespace: str, tmp_path: Path
) -> None:
    other = await api_server.new_namespace()
    elsewhere = await api_server.admin(other)
    await api_server.service_account(
        namespace, ACCOUNT, rules=rules(OWN), cluster_rules=rules(RELAYS)
    )
    kubeconfig = await api_server.kubeconfig_of(namespace, ACCOUNT)
    running = RunningOperator(tmp_path, kubeconfig, namespace)
    try:
        await running.start()
        await admin.apply(relay())
        await elsewhere.apply(relay())
        await wait_made(admin)
        await wait_made(elsewhere)
        await elsewhere.delete(*DEPLOYMENT, "relay-sender")
        await wait_replicas(elsewhere, "relay-sender", 2)
    finally:
        await running.kill()


async def test_an_operator_that_is_refused_says_so_and_is_not_ready(
    api_server: ApiServer, namespace: str, tmp_path: Path
) -> None:
    await api_server.service_account(namespace, ACCOUNT, rules=rules(OWN))
    kubeconfig = await api_server.kubeconfig_of(namespace, ACCOUNT)
    running = RunningOperator(tmp_path, kubeconfig, namespace, watched=namespace)
    try:
        await running.start()

        async def says_so() -> bool:
            status, said = await running.ask("/readyz")
            assert status == 503
            refused = [each for each in running.lines() if "forbidden" in str(each).lower()]
            return "not listed yet" in said and bool(refused)

        await wait_until(says_so, SOON, "it says that it is refused", interval=0.2)
    finally:
        await running.kill()


@pytest.mark.parametrize(
    "child", [(*DEPLOYMENT, "relay-sender"), ("v1", "Secret", "relay-tls")], ids=lambda it: it[1]
)
async def test_in_a_namespace_that_is_being_deleted_no_child_is_tried_again(
    own_api_server: ApiServer, admin: Client, tmp_path: Path, child: tuple[str, str, str]
) -> None:
    async with kept_relay(own_api_server, admin, tmp_path) as running:
        # Without it nobody deletes what is in the namespace, so that we choose what goes first.
        own_api_server.plane.controller_manager.kill()
        await admin.delete("v1", "Namespace", admin.namespace)
        await admin.delete(*child)

        def is_told() -> bool:
            return any(line["event"] == "relay.namespace_ends" for line in running.lines())

        await wait_until(is_told, SOON, "it is told that the namespace ends", interval=0.1)
        assert await admin.find(*child) is None
        loud = [line for line in running.lines() if line["level"] not in {"info", "debug"}]
        assert not loud
