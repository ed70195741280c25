"""What happens to a relay under load: each scenario ends when the relay is as it should be."""

from __future__ import annotations

from typing import Final

from tests.chart.left import CRD, cluster_objects, objects
from tests.cluster import install
from tests.cluster.changes import (
    smart_host_password_changed,
    users_changed,
    without_room,
)
from tests.cluster.clusters import namespaces_of_tests
from tests.cluster.mail import RATE
from tests.cluster.relays import (
    KIND,
    NAMESPACE,
    delete_pod,
    evict,
    kill_in_pod,
    pods,
    wait_component,
    wait_gone,
    wait_ready,
)
from tests.cluster.scene import (
    SECONDS,
    Scenario,
    Scene,
    generation,
    is_newer,
    patch,
    wait_replicas,
)
from tests.support.kubernetes.client import Manifest
from tests.support.wait import wait_until

COMPONENTS: Final = ("ingress", "sender", "monitor", "nats")
SERVED: Final = "v1alpha1.mailrelay.dev"  # the API server's own record of a definition
_MINUTE: Final = int(RATE * 60)  # messages


def killed(component: str) -> Scenario:
    """SIGKILL for the first process of a component's first pod."""

    async def scenario(scene: Scene) -> None:
        await kill_in_pod(scene.cluster, scene.client, NAMESPACE, component)
        await wait_component(scene.client, NAMESPACE, component)
        await wait_ready(scene.client, NAMESPACE)

    return scenario


def deleted(component: str) -> Scenario:
    """The first pod of a component is deleted, and ends in order."""

    async def scenario(scene: Scene) -> None:
        await delete_pod(scene.client, NAMESPACE, component)
        await wait_ready(scene.client, NAMESPACE)

    return scenario


def streams_are_made_again(after: Scenario) -> Scenario:
    """A stream in NATS' memory goes with its process: the Job that makes it runs again."""

    async def scenario(scene: Scene) -> None:
        before = await _streams_jobs(scene)
        await after(scene)

        async def is_done_again() -> bool:
            jobs = await _streams_jobs(scene)
            return bool(jobs - before)

        await wait_until(is_done_again, SECONDS, "another Job has made the streams", 0.5)

    return scenario


async def evicted(scene: Scene) -> None:
    """Everything that has a budget is evicted as by `kubectl drain`; a budget refuses meanwhile."""
    refusals = 0
    for component in ("ingress", "sender"):
        first, *others = await pods(scene.client, NAMESPACE, component)
        assert others, f"one {component} pod alone shows no budget at work"
        assert await evict(scene.client, first)
        for pod in others:

            async def is_let_go(pod: Manifest = pod) -> bool:
                nonlocal refusals
                is_gone = await evict(scene.client, pod)
                refusals += not is_gone
                return is_gone

            await wait_until(is_let_go, SECONDS, f"a budget lets the next {component} go", 0.2)
        for pod in (first, *others):
            await wait_gone(scene.client, pod)
        await wait_component(scene.client, NAMESPACE, component)
    assert refusals, "no budget ever refused"
    for component in ("monitor", "nats"):  # one pod each, without a budget
        (pod,) = await pods(scene.client, NAMESPACE, component)
        assert await evict(scene.client, pod)
        await wait_gone(scene.client, pod)
        await wait_component(scene.client, NAMESPACE, component)


async def changed(scene: Scene) -> None:
    """One option that processes follow, and one that rolls the senders."""
    await patch(scene, {"failed": {"maxRecords": 5000}})
    before = await generation(scene, "Deployment", "mail-sender")
    await patch(scene, {"sender": {"workerCount": 7}})
    await wait_until(
        lambda: is_newer(scene, "Deployment", "mail-sender", before), SECONDS, "senders roll"
    )
    await wait_component(scene.client, NAMESPACE, "sender")
    await wait_ready(scene.client, NAMESPACE)


async def certificate_lost(scene: Scene) -> None:
    """The Secret of the certificate is deleted: another is made, and shown without a restart."""
    name = "mail-tls"
    old = await scene.client.get("v1", "Secret", name, namespace=NAMESPACE)
    await scene.client.delete("v1", "Secret", name, namespace=NAMESPACE)

    async def is_made_again() -> bool:
        found = await scene.client.find("v1", "Secret", name, namespace=NAMESPACE)
        return found is not None and found["data"]["tls.crt"] != old["data"]["tls.crt"]

    await wait_until(is_made_again, SECONDS, "there is another certificate", 0.2)
    await wait_ready(scene.client, NAMESPACE)


async def scaled(scene: Scene) -> None:
    """Senders and ingress up, then down again."""
    for senders, ingress in ((4, 3), (2, 2)):
        await patch(scene, {"sender": {"replicas": senders}, "ingress": {"replicas": ingress}})
        await wait_replicas(scene, "mail-sender", senders)
        await wait_replicas(scene, "mail-ingress", ingress)
        await scene.load.wait_accepted(50)


async def without_senders(scene: Scene) -> None:
    """No sender for a while: mail is taken and waits."""
    await patch(scene, {"sender": {"replicas": 0}})
    await wait_replicas(scene, "mail-sender", 0)
    await scene.load.wait_accepted(200)
    await patch(scene, {"sender": {"replicas": 2}})
    await wait_replicas(scene, "mail-sender", 2)


async def operator_killed(scene: Scene) -> None:
    """The operator's process is killed, then its pod deleted."""
    (pod,) = await _operator_pods(scene)
    await scene.cluster.kill_container(scene.client, pod)
    await scene.client.delete("v1", "Pod", pod["metadata"]["name"], namespace=install.NAMESPACE)
    await wait_gone(scene.client, pod)
    await scene.release.wait_ready(scene.client)


async def without_api_server(scene: Scene) -> None:
    """No API server for a minute of mail; the operator then leads again."""
    plane = scene.cluster.plane
    await plane.api_server.stop()
    try:
        await scene.load.wait_accepted(_MINUTE, SECONDS)
    finally:
        await plane.start_api_server()
    await scene.release.wait_ready(scene.client)
    await wait_ready(scene.client, NAMESPACE)


async def drifted(scene: Scene) -> None:
    """People edit and delete what the operator made; it is undone."""
    deployment = await scene.client.get("apps/v1", "Deployment", "mail-sender", namespace=NAMESPACE)
    await scene.client.patch(
        "apps/v1", "Deployment", "mail-sender", {"spec": {"replicas": 1}}, namespace=NAMESPACE
    )
    for kind, version, name in (
        ("ConfigMap", "v1", "mail-config"),
        ("PodDisruptionBudget", "policy/v1", "mail-ingress"),
        ("NetworkPolicy", "networking.k8s.io/v1", "mail-ingress"),
        ("Service", "v1", "mail-ingress"),
    ):
        found = await scene.client.get(version, kind, name, namespace=NAMESPACE)
        await scene.client.delete(version, kind, name, namespace=NAMESPACE)

        async def is_made_again(
            found: Manifest = found, version: str = version, kind: str = kind, name: str = name
        ) -> bool:
            now = await scene.client.find(version, kind, name, namespace=NAMESPACE)
            return now is not None and now["metadata"]["uid"] != found["metadata"]["uid"]

        await wait_until(is_made_again, SECONDS, f"{kind} {name} is made again", 0.2)
    await wait_replicas(scene, "mail-sender", deployment["spec"]["replicas"])
    await wait_ready(scene.client, NAMESPACE)


async def upgraded(scene: Scene) -> None:
    """The chart is upgraded to another version and rolled back: every pod is another each time."""
    before = await _image_ids(scene)
    await scene.release.upgrade(scene.client)
    await _wait_images(scene, scene.cluster.images.next_tag)
    assert not before & await _image_ids(scene), "the other version has other images"
    await scene.release.roll_back(scene.client)
    await _wait_images(scene, scene.cluster.images.tag)


async def uninstalled(scene: Scene) -> None:
    """The chart is uninstalled: relays stay, and the next one takes care of them again."""
    operators = await _operator_pods(scene)
    relays = await _of_relays(scene)
    await scene.release.uninstall()
    for pod in operators:
        await wait_gone(scene.client, pod)
        assert not scene.cluster.has_container(pod), "the node still runs the operator"

    async def is_empty() -> bool:
        found = await objects(scene.client, install.NAMESPACE)
        assert not found, f"left in the operator's namespace: {sorted(found)}"
        return True

    await wait_until(is_empty, SECONDS, "nothing is left beside the namespace", 0.5)
    outside = await cluster_objects(scene.client)
    ours = {f"namespaces/{name}" for name in await namespaces_of_tests(scene.client)}
    assert outside - ours == {f"customresourcedefinitions/{CRD[2]}", f"apiservices/{SERVED}"}
    await scene.load.wait_accepted(100)
    assert await _of_relays(scene) == relays, "no relay noticed it"
    for pod in [each for part in COMPONENTS for each in await pods(scene.client, NAMESPACE, part)]:
        assert scene.cluster.has_container(pod), pod["metadata"]["name"]
    await scene.release.install(scene.client)
    await patch(scene, {"failed": {"maxRecords": 6000}})
    await wait_ready(scene.client, NAMESPACE)


SCENARIOS: Final[dict[str, Scenario]] = {
    "nothing happens": lambda scene: scene.load.wait_accepted(300),
    "kill -9 in an ingress pod": killed("ingress"),
    "kill -9 in a sender pod": killed("sender"),
    "kill -9 in the monitor's pod": killed("monitor"),
    "kill -9 in the NATS pod, its volume kept": streams_are_made_again(killed("nats")),
    "an ingress pod is deleted": deleted("ingress"),
    "a sender pod is deleted": deleted("sender"),
    "the monitor's pod is deleted": deleted("monitor"),
    "the NATS pod is deleted, its volume kept": streams_are_made_again(deleted("nats")),
    "every pod is evicted": evicted,
    "options are changed": changed,
    "users are changed": users_changed,
    "the smart host's password is changed": smart_host_password_changed,
    "the certificate is lost": certificate_lost,
    "more pods, then fewer": scaled,
    "no senders, then two again": without_senders,
    "no senders, and no more room": without_room,
    "the operator is killed": operator_killed,
    "the chart is upgraded, and rolled back": upgraded,
    "the chart is uninstalled and installed": uninstalled,
    "no API server for a minute": without_api_server,
    "drift is undone": drifted,
}


# Left to the whole form of the tier: what the others show, too, or what takes a minute or more.
LONG: Final = {
    "nothing happens",
    "kill -9 in an ingress pod",
    "kill -9 in the monitor's pod",
    "a sender pod is deleted",
    "the monitor's pod is deleted",
    "the NATS pod is deleted, its volume kept",
    "options are changed",
    "users are changed",
    "the certificate is lost",
    "more pods, then fewer",
    "the operator is killed",
    "the chart is uninstalled and installed",
    "no API server for a minute",
    "drift is undone",
}


async def _wait_images(scene: Scene, tag: str) -> None:
    """Wait until all pods of the relay are of a version, and the relay is ready."""

    async def have_rolled() -> bool:
        for component in COMPONENTS:
            for pod in await pods(scene.client, NAMESPACE, component):
                image = pod["spec"]["containers"][0]["image"]
                assert image.endswith(f":{tag}"), f"{component}: {image}"
        return True

    await wait_until(have_rolled, SECONDS, f"all pods are of version {tag}", 0.5)
    for component in COMPONENTS:
        await wait_component(scene.client, NAMESPACE, component)
    await wait_ready(scene.client, NAMESPACE)


async def _streams_jobs(scene: Scene) -> set[str]:
    """The finished Jobs that made the streams."""
    labels = "app.kubernetes.io/component=streams"
    found = await scene.client.list("batch/v1", "Job", namespace=NAMESPACE, labels=labels)
    return {job["metadata"]["uid"] for job in found if job["status"].get("succeeded")}


async def _image_ids(scene: Scene) -> set[str]:
    """What the relay's and the operator's pods run; nats-server is the same in both versions."""
    found = await _operator_pods(scene)
    for component in ("ingress", "sender", "monitor"):
        found += await pods(scene.client, NAMESPACE, component)
    return {each["imageID"] for pod in found for each in pod["status"]["containerStatuses"]}


async def _of_relays(scene: Scene) -> dict[str, str]:
    """The relay, its volumes and its pods, each with what it is known by for its lifetime."""
    found = {}
    for version, kind in (
        KIND,
        ("v1", "PersistentVolumeClaim"),
        ("v1", "Pod"),
        ("apps/v1", "Deployment"),
        ("apps/v1", "StatefulSet"),
    ):
        for each in await scene.client.list(version, kind, namespace=NAMESPACE):
            name = f"{kind} {each['metadata']['name']}"
            found[name] = each["metadata"]["uid"]
            if kind == "PersistentVolumeClaim":
                volume = each["spec"]["volumeName"]
                bound = await scene.client.get("v1", "PersistentVolume", volume)
                assert bound["status"]["phase"] == "Bound", f"{name}: {bound['status']}"
                found[f"volume of {name}"] = bound["metadata"]["uid"]
    return found


async def _operator_pods(scene: Scene) -> list[Manifest]:
    found = await scene.client.list(
        "v1",
        "Pod",
        namespace=install.NAMESPACE,
        labels=f"app.kubernetes.io/name={install.NAME}",
    )
    return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]
