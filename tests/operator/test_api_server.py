"""The ground that the operator's tests stand on is a real cluster, but for its nodes."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest

from tests.support.kubernetes.audit import AskedRequest
from tests.support.kubernetes.client import ApiRefusedError, Client, Manifest
from tests.support.kubernetes.cluster import ApiServer
from tests.support.kubernetes.programs import KUBERNETES
from tests.support.wait import wait_until

pytestmark = pytest.mark.operator

LIMIT_SECONDS = 60.0
RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}


def config_map(name: str, **data: str) -> Manifest:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


def deployment(name: str, security: Manifest) -> Manifest:
    labels = {"app": name}
    container = {"name": "main", "image": "example.invalid/main", "securityContext": security}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}},
        },
    }


@pytest.mark.usefixtures("own_api_server")
async def test_the_server_is_the_release_that_the_modules_name(admin: Client) -> None:
    version = await admin.request("GET", "/version")
    assert (version["major"], version["minor"]) == tuple(map(str, KUBERNETES.version[:2]))


async def test_namespaces_have_nothing_of_each_other(api_server: ApiServer, admin: Client) -> None:
    other = await api_server.admin(await api_server.new_namespace())
    await admin.apply(config_map("here", a="1"))
    assert await other.find("v1", "ConfigMap", "here") is None
    listed = [each["metadata"]["name"] for each in await other.list("v1", "ConfigMap")]
    assert "here" not in listed


async def test_what_is_applied_again_unchanged_is_not_written(admin: Client) -> None:
    (first,) = await admin.apply(config_map("same", a="1"))
    (second,) = await admin.apply(config_map("same", a="1"))
    assert first["metadata"]["resourceVersion"] == second["metadata"]["resourceVersion"]


async def test_text_may_hold_more_than_one_document(admin: Client) -> None:
    stored = await admin.apply(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: one}\n"
        "---\napiVersion: v1\nkind: Secret\nmetadata: {name: two}\nstringData: {a: b}\n---\n"
    )
    assert [each["kind"] for each in stored] == ["ConfigMap", "Secret"]
    assert (await admin.get("v1", "Secret", "two"))["data"] == {"a": "Yg=="}


async def test_a_service_account_may_do_what_its_rules_say_and_nothing_else(
    api_server: ApiServer, namespace: str
) -> None:
    reads = {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list"]}
    account = await api_server.service_account(namespace, "reader", rules=[reads])
    await account.list("v1", "ConfigMap")
    with pytest.raises(ApiRefusedError, match=r"cannot create resource \"configmaps\"") as refused:
        await account.create(config_map("mine"))
    assert (refused.value.status, refused.value.reason) == (403, "Forbidden")
    with pytest.raises(ApiRefusedError, match=r'in the namespace "kube-system"'):
        await account.list("v1", "ConfigMap", namespace="kube-system")


async def test_rules_for_the_cluster_hold_in_every_namespace(
    api_server: ApiServer, namespace: str
) -> None:
    reads = {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["list"]}
    account = await api_server.service_account(namespace, "reader", cluster_rules=[reads])
    await account.list("v1", "ConfigMap", namespace="kube-system")


async def test_the_server_tells_which_rights_an_account_used(
    own_api_server: ApiServer, namespace: str
) -> None:
    reads = {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["list"]}
    account = await own_api_server.service_account(namespace, "reader", rules=[reads])
    await account.list("v1", "ConfigMap")
    with pytest.raises(ApiRefusedError):
        await account.get("v1", "ConfigMap", "one")

    def asked() -> list[AskedRequest]:
        return own_api_server.requests_of(namespace, "reader")

    await wait_until(lambda: len(asked()) == 2, LIMIT_SECONDS, "both requests are told of")
    assert asked() == [
        AskedRequest("list", "", "configmaps", namespace, "", 200),
        AskedRequest("get", "", "configmaps", namespace, "one", 403),
    ]


async def test_a_pod_below_the_restricted_standard_is_refused(admin: Client) -> None:
    container = {"name": "main", "image": "example.invalid/main"}
    pod: Manifest = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "careless"},
        "spec": {"containers": [container]},
    }
    with pytest.raises(ApiRefusedError, match='violates PodSecurity "restricted'):
        await admin.create(pod)


async def test_what_makes_pods_below_the_standard_is_warned_of(admin: Client) -> None:
    await admin.apply(deployment("careful", RESTRICTED))
    assert admin.warnings == []
    await admin.apply(deployment("careless", {}))
    (warning,) = admin.warnings
    assert 'would violate PodSecurity "restricted' in warning
    assert 'container "main" must set securityContext.capabilities.drop=["ALL"]' in warning


async def test_controllers_make_pods_that_wait_for_a_node(admin: Client) -> None:
    await admin.apply(deployment("web", RESTRICTED))

    async def there_are_two() -> bool:
        return len(await admin.list("v1", "Pod", labels="app=web")) == 2

    await wait_until(there_are_two, LIMIT_SECONDS, "two Pods")
    pods = await admin.list("v1", "Pod", labels="app=web")
    assert {pod["status"]["phase"] for pod in pods} == {"Pending"}


async def test_what_belongs_to_a_deleted_object_goes_with_it(admin: Client) -> None:
    await admin.apply(deployment("web", RESTRICTED))

    async def is_there() -> bool:
        return bool(await admin.list("apps/v1", "ReplicaSet", labels="app=web"))

    async def is_gone() -> bool:
        return not await is_there()

    await wait_until(is_there, LIMIT_SECONDS, "a ReplicaSet")
    await admin.delete("apps/v1", "Deployment", "web")
    await wait_until(is_gone, LIMIT_SECONDS, "no ReplicaSet")


@pytest.mark.parametrize("kill", [False, True], ids=["in order", "killed"])
async def test_a_restart_ends_watches_and_keeps_what_was_stored(
    own_api_server: ApiServer, admin: Client, *, kill: bool
) -> None:
    (stored,) = await admin.apply(config_map("kept", a="1"))
    version = stored["metadata"]["resourceVersion"]
    told = asyncio.Event()

    async def watch() -> None:
        async for _ in admin.watch("v1", "ConfigMap", resource_version=version):
            told.set()

    watching = asyncio.create_task(watch())
    await admin.apply(config_map("new", a="1"))
    await asyncio.wait_for(told.wait(), LIMIT_SECONDS)

    await own_api_server.restart(kill=kill)

    done, _ = await asyncio.wait([watching], timeout=LIMIT_SECONDS)
    assert done, "the watch outlived the server"
    assert not watching.exception() or isinstance(watching.exception(), aiohttp.ClientError)
    assert (await admin.get("v1", "ConfigMap", "kept"))["data"] == {"a": "1"}


async def test_while_the_server_is_stopped_nobody_answers(
    own_api_server: ApiServer, admin: Client
) -> None:
    await own_api_server.stop(kill=True)
    assert not await admin.answers("/readyz")
    with pytest.raises(aiohttp.ClientError):
        await admin.list("v1", "ConfigMap")
    await own_api_server.start()
    assert await admin.answers("/readyz")


async def test_a_server_that_hangs_keeps_connections_and_says_nothing(
    own_api_server: ApiServer, admin: Client
) -> None:
    await own_api_server.freeze()
    asking = asyncio.create_task(admin.list("v1", "ConfigMap"))
    done, _ = await asyncio.wait([asking], timeout=1)
    assert not done
    own_api_server.thaw()
    await asyncio.wait_for(asking, LIMIT_SECONDS)


async def test_kubectl_works_on_the_same_server(
    api_server: ApiServer, admin: Client, namespace: str
) -> None:
    await admin.apply(config_map("seen", a="1"))
    listed = await api_server.kubectl("get", "configmaps", "-o", "name", namespace=namespace)
    assert "configmap/seen" in listed.split()
