"""What is in a cluster: listed by asking the API server for every kind that it has."""

from __future__ import annotations

from tests.support.kubernetes.client import ApiRefusedError, Client, Manifest
from tests.support.wait import wait_until

GONE_SECONDS = 90.0
CRD = ("apiextensions.k8s.io/v1", "CustomResourceDefinition", "mailrelays.mailrelay.dev")
RELAY = ("mailrelay.dev/v1alpha1", "MailRelay")
_RBAC = "rbac.authorization.k8s.io/v1"
# What happened, and not what is there; a namespace has the last two anyway.
_NOT_COUNTED = {"events", "leases", "componentstatuses"}
_OF_ANY_NAMESPACE = {"configmaps/kube-root-ca.crt", "serviceaccounts/default"}


async def objects(admin: Client, namespace: str) -> set[str]:
    """Everything in a namespace, as `plural/name`."""
    found: set[str] = set()
    for base, plural in await _kinds(admin, namespaced=True):
        if plural in _NOT_COUNTED:
            continue
        items = await _listed(admin, f"{base}/namespaces/{namespace}/{plural}")
        found |= {f"{plural}/{each['metadata']['name']}" for each in items}
    return found - _OF_ANY_NAMESPACE


async def cluster_objects(admin: Client) -> set[str]:
    """Everything that is in no namespace and has to do with MailRelay, as `plural/name`."""
    found: set[str] = set()
    for base, plural in await _kinds(admin, namespaced=False):
        if plural in _NOT_COUNTED:
            continue
        names = (each["metadata"]["name"] for each in await _listed(admin, f"{base}/{plural}"))
        found |= {f"{plural}/{name}" for name in names if "mailrelay" in name}
    return found


async def wait_served(admin: Client) -> None:
    """Wait until relays can be used: a moment after Helm has made their definition."""
    group = f"/apis/{RELAY[0]}"

    async def is_served() -> bool:
        return await admin.answers(group) and await admin.answers(f"{group}/mailrelays")

    await wait_until(is_served, GONE_SECONDS, "relays are served", interval=0.1)


async def remove_everything(admin: Client) -> None:
    """Remove what the chart makes outside namespaces, and every relay with its definition."""
    for kind in ("ClusterRole", "ClusterRoleBinding"):
        for name in ("mailrelay-operator", "mailrelay-view", "mailrelay-edit"):
            if await admin.find(_RBAC, kind, name):
                await admin.delete(_RBAC, kind, name)
    if await admin.find(*CRD):
        await admin.delete(*CRD)

    async def is_gone() -> bool:
        return await admin.find(*CRD) is None and not await admin.answers("/apis/mailrelay.dev")

    await wait_until(is_gone, GONE_SECONDS, "the definition is gone", interval=0.1)


async def _listed(admin: Client, path: str) -> list[Manifest]:
    """The objects of a path. A kind that was defined a moment ago is "(re)initializing": 429."""
    found: list[Manifest] = []

    async def answers() -> bool:
        nonlocal found
        try:
            found = (await admin.request("GET", path))["items"]
        except ApiRefusedError as error:
            if error.status == 429:
                return False
            if error.status != 404:  # its definition was deleted a moment ago
                raise
        return True

    await wait_until(answers, GONE_SECONDS, f"{path} is listed", interval=0.1)
    return found


async def _kinds(admin: Client, *, namespaced: bool) -> set[tuple[str, str]]:
    """Each kind's path and plural, of those that can be listed."""
    groups = (await admin.request("GET", "/apis"))["groups"]
    bases = ["/api/v1", *(f"/apis/{each['preferredVersion']['groupVersion']}" for each in groups)]
    found = set()
    for base in bases:
        try:
            resources = (await admin.request("GET", base))["resources"]
        except ApiRefusedError:  # its definition was deleted a moment ago
            continue
        found |= {
            (base, each["name"])
            for each in resources
            if each["namespaced"] == namespaced and "list" in each["verbs"]
        }
    return found
