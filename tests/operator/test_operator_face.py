from __future__ import annotations

import pytest

from mailrelay.config.load import ConfigError
from mailrelay_operator.conditions import StreamsJob
from mailrelay_operator.face import Pulse, unhealthy_reason, unready_reason
from mailrelay_operator.observe import CertificateState, observe
from mailrelay_operator.rights import OWN, RELAYS, cluster_wide
from mailrelay_operator.settings import operator_settings

ENVIRON = {
    "MAILRELAY_OPERATOR_NAMESPACE": "mailrelay-system",
    **{
        f"MAILRELAY_OPERATOR_IMAGE_{name}": f"mailrelay-{name.lower()}:1"
        for name in ("INGRESS", "SENDER", "MONITOR", "NATS", "TOOLS")
    },
}


@pytest.mark.parametrize(
    ("pulse", "reason"),
    [
        (Pulse(leads=True), ""),
        (Pulse(longest_work_seconds=181), "a pass over a relay takes 181 s"),
        (Pulse(leads=True, longest_wait_seconds=901), "a relay waits 901 s for its pass"),
        (Pulse(leads=False, longest_wait_seconds=9999), ""),
        (Pulse(silent_seconds=(("Job", 1.0), ("Secret", 241.0))), "the watch of Secret is silent"),
        (Pulse(untold=(("a", "b"), 121.0)), "the watch of MailRelay says nothing of a/b for 121 s"),
    ],
)
def test_stuck_work_and_a_silent_watch_are_unhealthy(pulse: Pulse, reason: str) -> None:
    assert unhealthy_reason(pulse).startswith(reason)
    assert bool(unhealthy_reason(pulse)) == bool(reason)


def test_an_operator_is_ready_once_everything_was_listed() -> None:
    assert unready_reason([]) == ""
    assert unready_reason(["Service", "Job"]) == "not listed yet: Job, Service"


def test_an_operator_that_cannot_write_the_lease_is_not_ready_and_says_why() -> None:
    assert unready_reason([], "500: full") == "the Lease cannot be had: 500: full"


def test_what_must_be_set_is_named_all_at_once() -> None:
    with pytest.raises(ConfigError) as raised:
        operator_settings({"MAILRELAY_OPERATOR_WORKERS": "0"})
    assert "MAILRELAY_OPERATOR_NAMESPACE must be set" in raised.value.faults
    assert "MAILRELAY_OPERATOR_WORKERS: must be from 1 to 64, is '0'" in raised.value.faults
    assert len(raised.value.faults) == 7


def test_each_process_has_an_identity_of_its_own() -> None:
    assert operator_settings(ENVIRON).identity != operator_settings(ENVIRON).identity


def test_other_default_images_are_another_maker_and_other_settings_are_not() -> None:
    first = operator_settings(ENVIRON)
    other = operator_settings(ENVIRON | {"MAILRELAY_OPERATOR_IMAGE_SENDER": "mailrelay-sender:2"})
    watched = operator_settings(ENVIRON | {"MAILRELAY_OPERATOR_WATCHED": "a, b"})
    assert first.made_by != other.made_by
    assert first.made_by == watched.made_by
    assert watched.watched == ("a", "b")


def test_no_right_is_a_wildcard_and_none_is_over_nodes_roles_or_what_runs_in_pods() -> None:
    for grant in (*RELAYS, *OWN):
        assert "*" not in {grant.group, grant.resource, *grant.verbs}
        assert grant.resource != "pods" or grant.verbs == ("list",)
        assert grant.resource not in {"pods/exec", "nodes", "roles", "clusterroles", "namespaces"}


def test_the_roles_are_bound_to_the_account() -> None:
    manifests = cluster_wide("mailrelay-operator", "mailrelay-system")
    assert [each["kind"] for each in manifests] == [
        "ClusterRole",
        "ClusterRoleBinding",
        "Role",
        "RoleBinding",
    ]


def condition(kind: str, status: str = "True", message: str = "m") -> dict[str, str]:
    return {"type": kind, "status": status, "message": message}


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ([], StreamsJob("j")),
        ([condition("Complete")], StreamsJob("j", done=True)),
        ([condition("Failed", message="no")], StreamsJob("j", fault="no")),
        ([condition("Failed", "False")], StreamsJob("j")),
    ],
)
def test_a_job_is_done_failed_or_neither(
    conditions: list[dict[str, str]], expected: StreamsJob
) -> None:
    found = {"metadata": {"name": "j"}, "status": {"conditions": conditions}}
    assert observe("Job", found) == expected


def test_a_certificate_is_issued_when_cert_manager_says_so() -> None:
    found = {"metadata": {"name": "c"}, "status": {"conditions": [condition("Ready")]}}
    assert observe("Certificate", found) == CertificateState()
    late = {"metadata": {"name": "c"}, "status": {"conditions": [condition("Ready", "False", "x")]}}
    assert observe("Certificate", late) == CertificateState("x")


def test_a_deployment_that_cannot_make_pods_says_why() -> None:
    found = {
        "metadata": {"name": "d", "generation": 2},
        "spec": {"replicas": 2},
        "status": {
            "observedGeneration": 1,
            "readyReplicas": 1,
            "updatedReplicas": 2,
            "conditions": [condition("ReplicaFailure", message="quota exceeded")],
        },
    }
    workload = observe("Deployment", found)
    assert workload is not None
    assert (workload.fault, workload.is_observed, workload.summary) == (  # type: ignore[union-attr] # it is one
        "quota exceeded",
        False,
        "1/2",
    )
