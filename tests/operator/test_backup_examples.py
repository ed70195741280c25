"""The examples for a back-up run a pod that reaches the queue as the operator's own Job does."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from mailrelay.queue.rights import Role
from mailrelay_operator.desired.inputs import Inputs
from mailrelay_operator.desired.names import ChildNames
from mailrelay_operator.desired.streams_job import streams_job
from mailrelay_operator.resource.relay import Relay
from tests.operator.relays import inputs, relay
from tests.support.command import ROOT

FOLDER = ROOT / "examples" / "backup"
ROLES = {"back-up": Role.MONITOR, "restore": Role.SENDER}


def pod_of(example: str) -> dict[str, Any]:
    """The pod's template in an example."""
    job: dict[str, Any] = list(yaml.safe_load_all((FOLDER / f"{example}.yaml").read_text()))[-1]
    if job["kind"] == "CronJob":
        job = job["spec"]["jobTemplate"]
    template: dict[str, Any] = job["spec"]["template"]
    return template


@pytest.fixture(scope="module")
def own() -> dict[str, Any]:
    """The pod's template of the operator's Job for the relay that the examples are for."""
    the_relay: Relay = relay(name="relay")
    given: Inputs = inputs()
    template: dict[str, Any] = streams_job(the_relay, given, {})["spec"]["template"]
    return template


@pytest.mark.parametrize("example", ROLES)
def test_network_policies_let_it_in_and_it_has_no_more_rights(
    example: str, own: dict[str, Any]
) -> None:
    pod = pod_of(example)
    labels = pod["metadata"]["labels"]
    assert labels.items() <= own["metadata"]["labels"].items()
    assert labels["app.kubernetes.io/component"] == "streams"
    assert (given := pod["spec"])["securityContext"] | {
        "fsGroupChangePolicy": "OnRootMismatch"
    } == own["spec"]["securityContext"]
    for key in ("automountServiceAccountToken", "enableServiceLinks"):
        assert given[key] is own["spec"][key] is False
    (container,), (own_container,) = pod["spec"]["containers"], own["spec"]["containers"]
    assert container["securityContext"] == own_container["securityContext"]


@pytest.mark.parametrize(("example", "role"), ROLES.items())
def test_it_goes_to_the_relays_nats_with_its_roles_key(
    example: str, role: Role, own: dict[str, Any]
) -> None:
    pod = pod_of(example)["spec"]
    (container,), (own_container,) = pod["containers"], own["spec"]["containers"]
    given = {each["name"]: each["value"] for each in container["env"]}
    known = {each["name"]: each.get("value") for each in own_container["env"]}
    assert given["MAILRELAY_NATS_URL"] == known["MAILRELAY_NATS_URL"]
    volumes = {each["name"]: each for each in pod["volumes"]}
    assert volumes["queue"]["secret"]["secretName"] == ChildNames("relay").key_secret(role)
    mounted = {each["name"]: each["mountPath"] for each in container["volumeMounts"]}
    assert given["MAILRELAY_NATS_SEED_FILE"] == mounted["queue"]
    assert mounted["backup"] in container["args"]
