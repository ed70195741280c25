"""Relays in the cluster, and what happens to their pods."""

from __future__ import annotations

from typing import Any, Final

import yaml

from tests.cluster.clusters import Cluster
from tests.cluster.install import namespace, wait_deployment
from tests.cluster.names import RELAY
from tests.cluster.sinks import PASSWORD, PORT, USER, WILLING, Sink, sink_host
from tests.support.kubernetes.client import ApiRefusedError, Client, Manifest
from tests.support.wait import wait_until

KIND: Final = ("mailrelay.dev/v1alpha1", "MailRelay")
NAMESPACE: Final = RELAY
NAME: Final = "mail"
# What the issue asks for is less; this is for a machine that is busy.
READY_SECONDS: Final = 300.0
MANAGED: Final = "app.kubernetes.io/managed-by=mailrelay-operator"
MINIMAL: Final = f"""\
apiVersion: mailrelay.dev/v1alpha1
kind: MailRelay
metadata:
  name: mail
spec:
  routes:
    - name: default
      smartHosts:
        - host: {sink_host(WILLING)}
          port: {PORT}
          tls: Opportunistic
"""
# What relays that send to a strict sink need of it.
AUTHORITY: Final = "sink-authority"
LOGIN: Final = "sink-login"


async def make_relay(
    client: Client,
    in_namespace: str,
    sink: Sink,
    name: str = NAME,
    **spec: Any,  # noqa: ANN401 — JSON
) -> None:
    """Apply the minimal relay, with these fields more, into a restricted namespace.

    A sink that speaks TLS gets mail over that alone, its certificate checked by its authority.
    """
    await client.apply(namespace(in_namespace))
    relay = yaml.safe_load(MINIMAL)
    relay["metadata"] = {"name": name, "namespace": in_namespace}
    if sink.authority:
        await put_secret(client, in_namespace, AUTHORITY, {"ca.crt": sink.authority})
        await put_secret(client, in_namespace, LOGIN, {"username": USER, "password": PASSWORD})
        smart_host = {
            "host": sink_host(sink.name),
            "port": PORT,
            "tls": "StartTLS",
            "caSecretName": AUTHORITY,
            "credentialsSecretName": LOGIN,
        }
        relay["spec"]["routes"] = [{"name": "default", "smartHosts": [smart_host]}]
    relay["spec"] |= spec
    await client.apply(relay)


async def put_secret(client: Client, in_namespace: str, name: str, data: dict[str, str]) -> None:
    """Make a Secret, or change it."""
    metadata = {"name": name, "namespace": in_namespace}
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": data}
    await client.apply(secret)


async def wait_ready(client: Client, in_namespace: str, name: str = "mail") -> None:
    """Wait until the operator says so of the newest spec, and every pod is rolled out."""

    async def is_ready() -> bool:
        found = await client.get(*KIND, name, namespace=in_namespace)
        told = {each["type"]: each for each in found.get("status", {}).get("conditions", ())}
        words = {kind: (each["status"], each["reason"]) for kind, each in told.items()}
        assert {"Ready", "Progressing"} <= told.keys(), words
        assert told["Ready"]["status"] == "True", words
        assert told["Progressing"]["status"] == "False", words
        generation = found["metadata"]["generation"]
        assert told["Ready"]["observedGeneration"] == generation, words
        return True

    await wait_until(is_ready, READY_SECONDS, f"{in_namespace}/{name} is ready", interval=0.2)


async def delete_relay(client: Client, in_namespace: str, name: str = NAME) -> None:
    """Delete a relay, and wait until nothing of it runs any more; its volumes stay."""
    await client.delete(*KIND, name, namespace=in_namespace)
    # A back-up's pod is let to NATS by the relay's labels, and is nobody's of the operator.
    labels = f"app.kubernetes.io/instance={name},{MANAGED}"

    async def is_gone() -> bool:
        left = [
            f"{kind} {each['metadata']['name']}"
            for version, kind in (
                *(("v1", kind) for kind in ("Pod", "Service")),
                *(("apps/v1", kind) for kind in ("Deployment", "StatefulSet")),
                ("batch/v1", "Job"),
            )
            for each in await client.list(version, kind, namespace=in_namespace, labels=labels)
        ]
        assert not left, left
        return True

    await wait_until(is_gone, READY_SECONDS, f"the pods of {name} are gone", 0.5)


async def pods(client: Client, in_namespace: str, component: str) -> list[Manifest]:
    """The running pods of a component."""
    labels = f"app.kubernetes.io/component={component}"
    found = await client.list("v1", "Pod", namespace=in_namespace, labels=labels)
    return [
        pod
        for pod in found
        if pod["status"].get("phase") == "Running"
        and "deletionTimestamp" not in pod["metadata"]
        and pod["status"].get("containerStatuses")
    ]


async def kill_in_pod(cluster: Cluster, client: Client, in_namespace: str, what: str) -> None:
    """Send SIGKILL to the first process of a component's first pod; wait for its next start."""
    pod = (await pods(client, in_namespace, what))[0]
    before = pod["status"]["containerStatuses"][0]
    await cluster.kill_container(client, pod)
    name = pod["metadata"]["name"]

    async def is_started_again() -> bool:
        found = await client.get("v1", "Pod", name, namespace=in_namespace)
        (now,) = found["status"]["containerStatuses"]
        return bool(now["restartCount"] > before["restartCount"] and now["ready"])

    await wait_until(is_started_again, READY_SECONDS, f"{name} is ready again", interval=0.2)


async def delete_pod(client: Client, in_namespace: str, what: str) -> None:
    """Delete a component's first pod in order, and wait until its successor is ready."""
    pod = (await pods(client, in_namespace, what))[0]
    await client.delete("v1", "Pod", pod["metadata"]["name"], namespace=in_namespace)
    await wait_gone(client, pod)
    await wait_component(client, in_namespace, what)


async def wait_gone(client: Client, pod: Manifest) -> None:
    """Wait until a pod is gone; another one of the same name may be there."""
    metadata = pod["metadata"]

    async def is_gone() -> bool:
        found = await client.find("v1", "Pod", metadata["name"], namespace=metadata["namespace"])
        return found is None or found["metadata"]["uid"] != metadata["uid"]

    await wait_until(is_gone, READY_SECONDS, f"{metadata['name']} is gone", interval=0.2)


async def wait_component(client: Client, in_namespace: str, component: str) -> None:
    """Wait until all pods of a component are ready."""
    name = f"mail-{component}"
    if component in {"ingress", "sender"}:
        await wait_deployment(client, in_namespace, name, READY_SECONDS)
        return

    async def is_ready() -> bool:
        found = await client.get("apps/v1", "StatefulSet", name, namespace=in_namespace)
        return bool(found["status"].get("readyReplicas", 0) == found["spec"]["replicas"])

    await wait_until(is_ready, READY_SECONDS, f"{name} is ready", interval=0.2)


async def evict(client: Client, pod: Manifest) -> bool:
    """Ask for a pod's eviction; whether the disruption budget let it go."""
    metadata = pod["metadata"]
    path = await client.path(
        "v1", "Pod", metadata["name"], namespace=metadata["namespace"], subresource="eviction"
    )
    body = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": metadata["name"], "namespace": metadata["namespace"]},
    }
    try:
        await client.request("POST", path, body)
    except ApiRefusedError as error:
        if error.status != 429:  # what the API says of a budget that is used up
            raise
        return False
    return True
